"""The pipeline: the stages in order with their inputs; runs those that are not up to date.

A stage is skipped while its inputs are unchanged: sections of the recipe, files by content, the task, the results of
earlier stages, and the versions of the libraries that make its results. So a stopped run continues where it was, and a
change runs only the stages that depend on it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from convert.data import row_files
from convert.pipeline import task_file as tasks
from convert.pipeline.recipe import PrivacySection, Recipe
from convert.pipeline.stage import Progress, Stage, StageJob, load_module
from convert.pipeline.workspace import (
    StageRecord,
    Workspace,
    changed_inputs,
    fingerprint_output,
    fingerprint_path,
    fingerprint_source,
    fingerprint_text,
    library_versions,
)
from convert.report.run_summary import RunSummary
from edge_agent import __version__
from edge_agent.errors import InvalidRequest
from edge_agent.process_resources import resident_bytes

_TORCH = ("torch", "transformers", "safetensors", "numpy")
_SAMPLE_SECONDS = 0.05
_SERVING = ("onnxruntime", "llama-cpp-python", "llguidance", "tokenizers", "scipy", "numpy")
_ROWS = ("Faker", "python-stdnum", "phonenumbers")
"""Libraries that find personal values in imported rows, and make up others in their place."""


@dataclass(frozen=True)
class PipelineStage:
    """One stage of the table below."""

    module: str
    """Module with `run`, a Stage. Imported when the stage runs, so that `assemble` on files needs no torch."""
    after: tuple[str, ...] = ()
    """Stages whose folders or reports it reads."""
    sections: tuple[str, ...] = ()
    """Sections of the recipe."""
    files: tuple[str, ...] = ()
    """source, converter (llama.cpp's, of a checkout that the recipe names), task (what it does, not its provenance),
    cutoff (what the task redacts), task.yaml (all of it, and samples.txt), and names of splits."""
    libraries: tuple[str, ...] = ()
    """Python distributions whose version changes the result."""
    function: str = "run"


# In order. Every input of a stage must be listed here, or a change to it goes unnoticed. ENTRIES in tests/architecture
# lists the modules.
STAGES: dict[str, PipelineStage] = {
    "prepare": PipelineStage(
        "convert.prepare.prepare_stage", (), (), ("source",), (*_TORCH, "tokenizers", "gguf", "llama-cpp-python")
    ),
    "finetune": PipelineStage(
        "convert.training.finetune_stage",
        ("prepare",),
        ("finetune",),
        ("train", "outliers", "task"),
        (*_TORCH, *_ROWS, "tokenizers", "peft", "scipy"),
    ),
    "export": PipelineStage(
        "convert.export.export_stage",
        ("prepare", "finetune"),
        ("export",),
        ("task", "converter"),
        (*_TORCH, "peft", "optimum-onnx", "onnx", "llama-cpp-python"),
    ),
    "verify": PipelineStage(
        "convert.verify.verify_stage",
        ("prepare", "finetune", "export"),
        (),
        ("calibration", "task"),
        (*_TORCH, *_ROWS, "tokenizers", "peft", "onnxruntime", "llama-cpp-python"),
    ),
    "quantize": PipelineStage(
        "convert.quantize.quantize_stage",
        ("prepare", "finetune", "export"),
        ("quantize", "budget"),
        ("importance", "train", "calibration", "task"),
        (*_TORCH, *_SERVING, *_ROWS, "peft", "onnx", "gguf"),
    ),
    "calibrate": PipelineStage(
        "convert.calibrate.calibrate_stage",
        ("export", "quantize"),
        ("risk", "redaction"),
        ("calibration", "task", "cutoff"),
        (*_SERVING, *_ROWS),
    ),
    "evaluate": PipelineStage(
        "convert.evaluate.evaluate_stage",
        ("export", "quantize", "calibrate"),
        (),
        ("train", "calibration", "test", "task", "cutoff"),
        (*_SERVING, *_ROWS),
    ),
    "assemble": PipelineStage(
        "convert.package.assemble_stage",
        ("export", "quantize", "calibrate", "evaluate"),
        ("budget", "privacy"),
        ("source", "train", "outliers", "importance", "calibration", "test", "task.yaml"),
        (*_TORCH, *_SERVING, *_ROWS),
    ),
}


@dataclass(frozen=True)
class RunDisplay:
    """Receives the progress of a run."""

    note: Callable[[str, str], None] = lambda _stage, _message: None
    """Called with a stage and a message about it."""
    progress: Progress = lambda _what, _done, _total: None


def work_folder(recipe: Recipe) -> Path:
    """Return the folder for the results of a recipe's stages: `work`, or build/NAME of the task."""
    if recipe.work:
        return recipe.path(recipe.work)
    return Path("build", tasks.of(recipe.path(recipe.task)).name)


def run(
    recipe: Recipe,
    until: str = "",
    *,
    again: bool = False,
    display: RunDisplay | None = None,
    stages: Mapping[str, PipelineStage] = STAGES,
) -> list[StageRecord]:
    """Run every stage that is not up to date, in order, up to and including `until`; with `again`, `until` in any case.

    Returns the records of all stages up to `until`.

    Raises:
        InvalidRequest: no such stage; what `row_files.check` refuses; the work folder has other content.
        RequirementUnmet: a package is missing.
        StateDirInUse: another process works in the same folder.
        DiskFull: the disk is full, even if a library reported another error.
        EdgeAgentError: a stage failed. Results of earlier stages are kept.
    """
    display = display or RunDisplay()
    names = list(stages)
    last = until or names[-1]
    if last not in stages:
        raise InvalidRequest(f"there is no stage '{last}'", remedy=f"The stages are: {', '.join(names)}.")
    summary = row_files.check(recipe)
    for warning in summary.warnings:
        display.note("data", warning)
    for copies in summary.near_copies:
        display.note("data", f"{copies.sentence()}.")
    workspace = Workspace(work_folder(recipe))
    records: dict[str, StageRecord] = {}
    with workspace.locked():
        workspace.require_own(names)
        for name in names[: names.index(last) + 1]:
            force = again and name == last
            records[name] = _run_stage(name, stages[name], recipe, workspace, display, records, force=force)
        display.progress("report", 0, 0)
        plain = tasks.read(tasks.find(recipe.path(recipe.task)))
        task, version = plain["task"]["name"], str(plain.get("version", ""))
        run_summary = RunSummary(recipe, task, version, summary, list(records.values()))
        with workspace.staging("report") as out:
            load_module("convert.report.report_files").write_report(out, run_summary)
            workspace.publish(out)
    return list(records.values())


def inputs_of(
    step: PipelineStage, recipe: Recipe, earlier: Mapping[str, StageRecord], progress: Progress
) -> dict[str, str]:
    """Return everything that a stage reads, by name and hash. Raises FileMissing, ManifestInvalid."""
    inputs = {"version of edge-convert": __version__, **library_versions(step.libraries)}
    for section in step.sections:
        value = getattr(recipe, section)
        plain = value.model_dump(mode="json") if value is not None else None
        inputs[f"recipe: {section}"] = json.dumps(plain, sort_keys=True)
    for stage in filter(earlier.__contains__, step.after):
        inputs[f"stage {stage}"] = earlier[stage].output
    for file in step.files:
        inputs |= _file_inputs(file, recipe, progress)
    return inputs


def _run_stage(
    name: str,
    step: PipelineStage,
    recipe: Recipe,
    workspace: Workspace,
    display: RunDisplay,
    earlier: Mapping[str, StageRecord],
    *,
    force: bool,
) -> StageRecord:
    """Run the stage unless it is up to date; return its record."""
    inputs = inputs_of(step, recipe, earlier, display.progress)
    old = workspace.record(name)
    if old is not None and not force and old.inputs == inputs:
        display.note(name, "up to date")
        return old
    changed = changed_inputs(old.inputs, inputs) if old else []
    display.note(name, f"runs again because of changes: {', '.join(changed)}" if changed else "runs")
    run_stage = cast(Stage, getattr(load_module(step.module), step.function))
    with workspace.staging(name) as out:
        folders = {stage: workspace.folder(stage) for stage in earlier}
        with ResourceMeter() as meter:
            report = run_stage(StageJob(recipe, out, folders, display.progress))
        output = fingerprint_output(out, report, display.progress)
        record = StageRecord(name, inputs, round(meter.seconds, 3), meter.memory_peak_bytes, report, output)
        workspace.keep(record, out)
    display.note(name, f"done in {record.seconds:.1f} s, peak memory {record.memory_peak_bytes / 1e6:.0f} MB")
    return record


def _file_inputs(file: str, recipe: Recipe, progress: Progress) -> dict[str, str]:
    task = tasks.find(recipe.path(recipe.task))
    if file == "source":
        extra = {"source.onnx is": "taken as it is"} if recipe.takes_ready_graph else {}
        return fingerprint_source(recipe, progress) | extra
    if file == "converter":
        return _converter_inputs(recipe, progress)
    if file in ("task", "cutoff"):
        return _task_inputs(file, tasks.read(task))
    if file == "task.yaml":
        files = [path for path in (task, task.with_name("samples.txt")) if path.is_file()]
        return {path.name: fingerprint_path(path, progress) for path in files}
    split_path = getattr(recipe.data, file) or (recipe.data.train if file == "importance" else "")
    content_hash = fingerprint_path(recipe.path(split_path), progress) if split_path else "none"
    return {f"data.{file}": f"{recipe.data.format} {content_hash}{_imported_row_settings(recipe, progress)}"}


def _converter_inputs(recipe: Recipe, progress: Progress) -> dict[str, str]:
    """Return the hash of llama.cpp's converter in the checkout that the recipe names, if any."""
    if not recipe.export.llama_cpp:
        return {}
    checkout = recipe.path(recipe.export.llama_cpp)
    parts = (*sorted(checkout.glob("*.py")), checkout / "conversion", checkout / "gguf-py")
    hashes = {path.name: fingerprint_path(path, progress) for path in parts if path.exists()}
    return {"export.llama_cpp": fingerprint_text(json.dumps(hashes))}


def _task_inputs(part: str, plain: Mapping[str, Any]) -> dict[str, str]:
    if part == "cutoff":
        redaction = plain.get("redaction")
        return {"task.redaction": json.dumps(redaction, sort_keys=True, default=str)} if redaction else {}
    behaviour = {key: plain.get(key) for key in ("task", "runtime", "engine")}
    return {"task": json.dumps(behaviour, sort_keys=True, default=str)}


def _imported_row_settings(recipe: Recipe, progress: Progress) -> str:
    """Return the recipe's settings for imported rows; empty for the defaults."""
    privacy, default = recipe.privacy, PrivacySection()
    settings = (privacy.imported_data, privacy.locales)
    text = "" if settings == (default.imported_data, default.locales) else f" {privacy.imported_data} {privacy.locales}"
    if recipe.redaction_bundle is not None:
        text += f" redacted by {fingerprint_path(recipe.redaction_bundle, progress)}"
    return text


class ResourceMeter:
    """Context manager: measures the time and peak memory of its block.

    Memory is the sum of the resident sets, sampled: a page that two processes share counts twice, and a peak shorter
    than a sample can be missed. Outside Linux it is 0.
    """

    def __init__(self) -> None:
        """Measure nothing yet."""
        self.seconds = 0.0
        self.memory_peak_bytes = 0
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._started = 0.0

    def __enter__(self) -> ResourceMeter:
        """Start the clock."""
        self._started = time.perf_counter()
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self._started
        self._stop.set()
        self._sampler.join()

    def _sample(self) -> None:
        while True:
            self.memory_peak_bytes = max(self.memory_peak_bytes, tree_resident_bytes(os.getpid()))
            if self._stop.wait(_SAMPLE_SECONDS):
                return


def tree_resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants in bytes; 0 if the process has ended."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return 0
    return resident_bytes(pid) + sum(tree_resident_bytes(child) for task in tasks for child in _children(task))


def _children(task: Path) -> list[int]:
    try:
        return [int(child) for child in (task / "children").read_text().split()]
    except OSError:
        return []
