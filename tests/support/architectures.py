"""Regenerates docs/architectures.md: tiny models of each architecture through export, the gate and the agent's engine.

    python -m tests.support.architectures                # all rows, about ten minutes; writes the file
    python -m tests.support.architectures bert           # these rows only, printed

A row is found out, never written down: "works" means that the engine's own answers are those of PyTorch.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from convert.evaluate.predictions import ServedPrediction
from convert.evaluate.serving import predict
from convert.export import gguf_export, onnx_export
from convert.package import bundle_assembly
from convert.training import checkpoint_loading
from convert.verify import divergence, verify_stage
from convert.verify.verify_stage import ExportPair
from edge_agent.errors import EdgeAgentError
from edge_agent.formats.manifest import Kind, Role, TaskSpec
from tests.support import tiny_models

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
TEXTS = ("I want my money back", "What does the blue lamp cost?", "Are you open on Sunday?")
SERVED_MAX = 0.05
"""Nats between the engine's label probabilities and PyTorch's: the engine's key-value cache is float16."""
COSINE_MIN = 0.9999
TAGS = ("O", "B-item", "I-item")
_HEAD = """# Architectures

For people who convert a model: the architectures that `edge-convert` supports, and the result of each step. For every
row, `python -m tests.support.architectures` makes a tiny model with random weights and a real tokenizer, exports it,
compares it with PyTorch in float32 by `verify`, and serves it with the agent's engine. A test repeats rows and
compares. A refusal shows its reason; no conversion changes a model's answers without a message. The published models
of an architecture are larger, so `verify` checks each of them again.

An architecture outside the table can work: `verify` either passes it or stops the run.

| architecture | task | runtime | export | verify | serve |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Case:
    """One row of the table: an architecture to try."""

    name: str
    kind: Kind
    runtime: str

    @property
    def key(self) -> str:
        """The first cells of the row."""
        return f"| {self.name} | {self.kind} | {self.runtime} |"


KINDS: tuple[Kind, ...] = ("classify", "extract", "embed")
CASES = [
    *(Case(name, "classify", "llama") for name in tiny_models.DECODERS),
    *(Case(name, kind, "onnx") for name in tiny_models.ENCODERS for kind in KINDS),
    *(Case(name, "classify", "llama") for name in tiny_models.ENCODERS),
]


def row(case: Case, folder: Path) -> str:
    """Try one architecture in an empty folder and return its row."""
    done: list[str] = []
    with contextlib.suppress(_StepFailed):
        for step in (_export, _verify, _serve):
            done.append(_tried(step, case, folder, done))
    cells = [*done, *["not tried"] * (3 - len(done))]
    return " ".join([case.key, *(f"{cell} |" for cell in cells)])


class _StepFailed(Exception):
    """A step failed, so later steps have no input."""


def _tried(step: Callable[[Case, Path], str], case: Case, folder: Path, done: list[str]) -> str:
    try:
        return step(case, folder)
    except EdgeAgentError as error:
        said = error.message.replace(str(folder), "…").replace("|", "\\|").split("; the source is")[0]
        done.append(f"refused: {said}")
        raise _StepFailed from None


def _export(case: Case, folder: Path) -> str:
    make = tiny_models.decoder if case.name in tiny_models.DECODERS else tiny_models.encoder
    kinds = () if make is tiny_models.decoder else (case.kind,)
    checkpoint, out = make(folder / "checkpoint", case.name, *kinds), folder / "out"
    out.mkdir()
    if case.runtime == "llama":
        gguf_export.export(gguf_export.GgufExport(checkpoint), gguf_export.find(), out, lambda _what, _done, _all: None)
    else:
        onnx_export.export(checkpoint, None, checkpoint_loading.head_of("onnx", case.kind), out)
    return "works"


def _verify(case: Case, folder: Path) -> str:
    pair = ExportPair(folder / "checkpoint", None, folder / "out")
    if case.runtime == "llama":
        verify_stage.check_gguf(pair, _task(case), TEXTS)
    else:
        verify_stage.check_onnx(pair, case.kind, TEXTS)
    return "same as PyTorch"


def _task(case: Case) -> TaskSpec:
    task: dict[str, Any] = {"name": "tiny", "kind": case.kind, "limits": {"input_tokens_max": 128}}
    task["labels"] = {"classify": tiny_models.LABELS, "extract": TAGS}.get(case.kind, ())
    if case.runtime == "llama":
        task["prompt"] = {"template": "Message: {input}\nIntent:"}
    return TaskSpec.model_validate(task)


def _serve(case: Case, folder: Path) -> str:
    task = _task(case)
    whole = {"version": "1.0.0", "runtime": case.runtime, "task": task.model_dump(mode="json"), "engine": {}}
    (folder / "task.yaml").write_text(yaml.safe_dump(whole))
    names: dict[Role, str] = (
        {"weights": "base.gguf"}
        if case.runtime == "llama"
        else {"weights": "model.onnx", "tokenizer": "tokenizer.json"}
    )
    files = {role: folder / "out" / name for role, name in names.items()}
    bundle = bundle_assembly.assemble(
        bundle_assembly.AssembleRequest(folder / "task.yaml", files, folder / "bundle")
    ).path
    answers = predict(bundle, TEXTS)
    failures = {answer.failure for answer in answers} - {""}
    if failures:
        return f"fails: {', '.join(sorted(failures))}"
    if case.kind == "extract":
        return "works"
    near = _labels_near if case.kind == "classify" else _vectors_near
    return "works" if near(folder / "checkpoint", task, answers) else "answers differ from PyTorch"


def _labels_near(checkpoint: Path, task: TaskSpec, answers: Sequence[ServedPrediction]) -> bool:
    expected = divergence.label_log_probabilities(checkpoint, None, task, TEXTS)
    served = np.array([answer.log_probabilities for answer in answers])
    return bool(np.abs(expected - served).max() < SERVED_MAX)


def _vectors_near(checkpoint: Path, _task_: TaskSpec, answers: Sequence[ServedPrediction]) -> bool:
    rows = divergence.encoder_rows(checkpoint, None, "none", TEXTS)
    for hidden, answer in zip(rows, answers, strict=True):
        mean = hidden.mean(axis=0)
        if mean @ np.array(answer.vector) / np.linalg.norm(mean) < COSINE_MIN:
            return False
    return True


def page() -> str:
    """Return the whole document."""
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row(case, Path(folder)))
            sys.stderr.write(rows[-1] + "\n")
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    if not sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    for case in CASES:
        if case.name in sys.argv[1:]:
            with tempfile.TemporaryDirectory() as where:
                sys.stdout.write(row(case, Path(where)) + "\n")
