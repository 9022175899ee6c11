"""Temporary bundles: the files of a candidate with a manifest, so that it can be run and measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convert.package import bundle_assembly
from convert.pipeline import task_file
from convert.pipeline.stage import StageJob
from edge_agent.errors import FileMissing
from edge_agent.formats.manifest import Role

CHOSEN_NAME = "chosen"
CONFIDENCE_NAME, QUESTIONS_NAME = "confidence.json", "question_confidence.json"
"""Written by the calibrate stage: sections of the manifest; the second one for decide only."""
REDACTION_NAME = "redaction.json"
"""Written by the calibrate stage if it proved a cut-off: keys of the manifest's section `redaction`."""
CANDIDATES = "candidates"
_UNCALIBRATED = {"policy": "always_escalate"}
# Written by the export stage next to the weights.
_BESIDE: dict[Role, str] = {"adapter": "adapter.gguf", "tokenizer": "tokenizer.json"}


def files(job: StageJob, weights: Path) -> dict[Role, Path]:
    """Return the files of a bundle with these weights, by role."""
    export = job.done["export"]
    beside = {role: export / name for role, name in _BESIDE.items() if (export / name).is_file()}
    return {"weights": weights, **beside}


def bundle(job: StageJob, weights: Path, out: Path) -> Path:
    """Make a bundle in a new folder, and return it.

    Its confidence section is that of the calibrate stage; before that stage, temperature 1 and no threshold.

    Raises what `assemble` raises.
    """
    sections = confidence_sections(job)
    task = job.recipe.path(job.recipe.task)
    return bundle_assembly.assemble(
        bundle_assembly.AssembleRequest(task, files(job, weights), out, sections=sections)
    ).path


def confidence_sections(job: StageJob) -> dict[str, Any]:
    """Return the sections of the manifest with the confidence: those of the calibrate stage, or uncalibrated ones
    before it. A decide task has a second one, `question_confidence`, and a redact task can have `redaction`."""
    task, folder = task_file.of(job.recipe.path(job.recipe.task)), job.done.get("calibrate")
    if folder is None:
        found: dict[str, Any] = {"confidence": _UNCALIBRATED}
        if task.kind == "decide":
            found["question_confidence"] = {question.name: _UNCALIBRATED for question in task.questions_asked}
        return found
    names = {"confidence": CONFIDENCE_NAME, "question_confidence": QUESTIONS_NAME, "redaction": REDACTION_NAME}
    files = {section: folder / name for section, name in names.items() if (folder / name).is_file()}
    return {section: json.loads(path.read_text(encoding="utf-8")) for section, path in files.items()}


def chosen(job: StageJob) -> Path:
    """Return the weights that the quantize stage chose. Raises FileMissing."""
    folder = job.done["quantize"]
    name = (folder / CHOSEN_NAME).read_text(encoding="utf-8").strip()
    return weights_in(folder / CANDIDATES / name)


def weights_in(candidate: Path) -> Path:
    """Return the model file of a candidate's folder. Raises FileMissing."""
    found = sorted(candidate.glob("model.*"))
    if not found:
        raise FileMissing(f"{candidate} has no model file", remedy="Run 'edge-convert quantize' again.")
    return found[0]
