"""What a stage of the pipeline is: a function from a job to a report. Rules only; `pipeline.py` runs them.

A stage reads the recipe and the folders of the stages before it, leaves its files in `out`, and returns its report, a
JSON object. It knows nothing of resuming: the pipeline moves `out` into place when the stage is done, and skips it
next time unless something that it reads has changed. So an interrupted stage leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.pipeline.recipe import Recipe

CHECKPOINT, ADAPTER = "checkpoint", "adapter"
"""Folders that `prepare` and `finetune` leave."""

Report = dict[str, Any]
Progress = Callable[[str, int, int], None]
"""Called with what is going on, how much of it is done, and how much there is (0 = not known)."""


@dataclass(frozen=True)
class StageJob:
    """One run of one stage."""

    recipe: Recipe
    out: Path
    """An empty directory."""
    done: Mapping[str, Path]
    """Stage name: the directory it left."""
    progress: Progress


Stage = Callable[[StageJob], Report]


def checkpoint(job: StageJob) -> Path:
    """Return the checkpoint that a stage after `prepare` means: the fine-tuned one, else the prepared one."""
    tuned = job.done.get("finetune")
    if tuned is not None and (tuned / CHECKPOINT).is_dir():
        return tuned / CHECKPOINT
    return job.done["prepare"] / CHECKPOINT


def adapter(job: StageJob) -> Path | None:
    """Return the PEFT adapter over `checkpoint`, if there is one; a tuned checkpoint has the source's adapter in it."""
    for stage in ("finetune", "prepare"):
        left = job.done.get(stage)
        if left is not None and (left / ADAPTER).is_dir():
            return left / ADAPTER
        if left is not None and (left / CHECKPOINT).is_dir():
            return None
    return None
