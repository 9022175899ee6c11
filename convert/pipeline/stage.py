"""The interface of a stage: a function from a job to a report. `execution.py` runs the stages.

A stage reads the recipe and the folders of earlier stages, writes its files to `out`, and returns its report, a JSON
object. The pipeline handles resuming: it moves `out` into place when the stage is done, and skips the stage next time
unless an input has changed. So an interrupted stage leaves no results.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.pipeline.recipe import Recipe
from edge_agent.errors import RequirementUnmet

CHECKPOINT, ADAPTER = "checkpoint", "adapter"
"""Folders that `prepare` and `finetune` write."""

Report = dict[str, Any]
Progress = Callable[[str, int, int], None]
"""Called with a description of the step, the amount done, and the total (0 = unknown)."""


@dataclass(frozen=True)
class StageJob:
    """One run of one stage."""

    recipe: Recipe
    out: Path
    """An empty directory."""
    folders: Mapping[str, Path]
    """Stage name: the directory of its results."""
    progress: Progress


Stage = Callable[[StageJob], Report]


def checkpoint(job: StageJob) -> Path:
    """Return the checkpoint for the stages after `finetune`: the fine-tuned one, else the prepared one."""
    tuned = job.folders.get("finetune")
    if tuned is not None and (tuned / CHECKPOINT).is_dir():
        return tuned / CHECKPOINT
    return job.folders["prepare"] / CHECKPOINT


def adapter(job: StageJob) -> Path | None:
    """Return the PEFT adapter of `checkpoint`, or None; a fine-tuned checkpoint includes the source's adapter."""
    for stage in ("finetune", "prepare"):
        folder = job.folders.get(stage)
        if folder is not None and (folder / ADAPTER).is_dir():
            return folder / ADAPTER
        if folder is not None and (folder / CHECKPOINT).is_dir():
            return None
    return None


def load_module(module: str) -> Any:
    """Import a module of the conversion toolkit that needs the convert extra. Raises RequirementUnmet.

    The only late import of convert: a command loads these modules when it runs.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("convert", "edge_agent"):
            raise
        raise RequirementUnmet(
            f"{module} needs the package {error.name}, which is not installed",
            remedy="Install the extra 'convert': in a clone, pip install '.[convert]'; from a release, see"
            " docs/first-steps.md",
        ) from None
