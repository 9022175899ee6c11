"""Proves that the exported file equals the checkpoint: the same tokens, special tokens, chat template and numbers.

The library that will serve the file opens it in its own process, and the result is compared with PyTorch in
float32. A difference fails the run, because quantized and calibrated artefacts would inherit it unnoticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convert import probe
from convert.data import row_files
from convert.decoder.label_scores import task_tokens
from convert.encoder import served_tokenizer
from convert.export.gguf_export import ADAPTER, BASE
from convert.export.onnx_export import MODEL, TOKENIZER, output_of
from convert.pipeline import stage, task_file
from convert.pipeline.stage import Report, StageJob
from convert.prepare import onnx_source
from convert.training import checkpoint_loading
from convert.verify import divergence
from convert.verify.divergence import DistributionGap, Rows
from edge_agent.errors import ModelFailed
from edge_agent.formats.manifest import Kind, TaskSpec
from edge_agent.formats.questions import QuestionSpec

TEXTS_MAX = 32
"""Texts of the calibration split, in addition to the probe texts."""
COSINE_MIN = 1 - 1e-5
_REMEDY = (
    "Do not serve anything of this run. If docs/architectures.md lists this architecture as working, report the"
    " source and the versions in the report as a bug."
)


def run(job: StageJob) -> Report:
    """Compare the exported file with the checkpoint. Writes no files.

    Raises:
        ModelFailed: they differ; the message shows how, and by how much.
        ModelLoadFailed: one of them does not open.
    """
    file = task_file.find(job.recipe.path(job.recipe.task))
    task, runtime = task_file.of(file), task_file.read(file)["runtime"]
    texts = [row.text for row in row_files.rows(job.recipe, "calibration")[:TEXTS_MAX]]
    pair = ExportPair(stage.checkpoint(job), stage.adapter(job), job.folders["export"])
    if job.recipe.takes_ready_graph:
        return check_ready(job.folders["export"], task, texts)
    texts = divergence.accepted_texts(checkpoint_loading.open_tokenizer(pair.checkpoint), task, texts)
    job.progress("comparing with PyTorch", 0, 1)
    if runtime == "llama":
        report = check_gguf(pair, task, texts)
    else:
        questions = task.questions_asked if task.kind == "decide" else ()  # classify: one output without a name
        report = check_onnx(pair, task.kind, texts, questions)
    job.progress("comparing with PyTorch", 1, 1)
    return report


@dataclass(frozen=True)
class ExportPair:
    """A model and its export."""

    checkpoint: Path
    adapter: Path | None
    """A PEFT adapter for it."""
    exported: Path
    """The folder of `export`."""


def check_gguf(pair: ExportPair, task: TaskSpec, texts: Sequence[str]) -> Report:
    """Compare a GGUF file, with its adapter. Raises ModelFailed, ModelLoadFailed."""
    tokenizer = checkpoint_loading.open_tokenizer(pair.checkpoint)
    rendered = task_tokens(task, tokenizer)
    prompts = divergence.prompts(tokenizer) + [list(rendered.prompt(text)) for text in texts]
    comparable = divergence.texts_for(tokenizer, [*divergence.TEXTS, *texts])
    request = {"model": str(pair.exported / BASE), "texts": comparable, "prompts": prompts}
    if (pair.exported / ADAPTER).is_file():
        request["adapter"] = str(pair.exported / ADAPTER)
    answer = probe.ask("convert.probe.llama_probe", request)
    difference = divergence.difference(answer.facts, tokenizer, comparable)
    if difference:
        message = f"the exported file tokenizes texts differently from the checkpoint: {difference}"
        raise ModelFailed(message, remedy=_REMEDY)
    expected = divergence.last_logits(checkpoint_loading.open_model(pair.checkpoint, pair.adapter, "causal"), prompts)
    gap = divergence.compare(expected, answer.arrays["logits"])
    report: Report = {"texts": len(comparable), "chat_template": bool(tokenizer.chat_template)}
    if divergence.composes(tokenizer):
        report["warning"] = "the tokenizer composes characters (NFC), llama.cpp does not: send composed texts"
    return _require_equal(gap) | report


def check_onnx(pair: ExportPair, kind: Kind, texts: Sequence[str], questions: Sequence[QuestionSpec] = ()) -> Report:
    """Compare an ONNX graph and its tokenizer, each question on its own. Raises ModelFailed, ModelLoadFailed."""
    texts = [*divergence.TEXTS, *texts]
    inputs = _inputs(pair, texts)
    actual = _outputs(pair.exported / MODEL, inputs, list(map(output_of, questions)))
    head = checkpoint_loading.head_of("onnx", kind)
    expected = divergence.encoder_rows(pair.checkpoint, pair.adapter, head, texts)
    shapes = [(left.shape, right.shape) for left, right in zip(expected, actual, strict=True)]
    if any(left != right for left, right in shapes):
        message = f"the exported graph returns a different shape from the checkpoint: {shapes[0]}"
        raise ModelFailed(message, remedy=_REMEDY)
    if kind == "embed":
        return _require_equal_vectors(expected, actual) | {"texts": len(texts)}
    if questions:
        return _require_equal_questions(questions, _rows(expected), _rows(actual)) | {"texts": len(texts)}
    return _require_equal(divergence.compare(_rows(expected), _rows(actual))) | {"texts": len(texts)}


def check_ready(exported: Path, task: TaskSpec, texts: Sequence[str]) -> Report:
    """Check a graph that has no checkpoint, with the library that will serve it: one row per token, one number per tag.

    Raises:
        ModelFailed: its output has another shape or a number that is not finite.
    """
    served = served_tokenizer(exported / TOKENIZER)
    token_lists = [list(served.encode(text).ids) for text in [*divergence.TEXTS, *texts]]
    inputs = [ids for ids in token_lists if len(ids) <= task.limits.input_tokens_max]  # a site refuses longer ones
    outputs = _outputs(exported / MODEL, inputs)
    return onnx_source.check_outputs(outputs, list(map(len, inputs)), len(task.labels))


def _inputs(pair: ExportPair, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each text, as the agent makes them. Raises ModelFailed if the checkpoint's tokens differ."""
    served = served_tokenizer(pair.exported / TOKENIZER)
    tokenizer = checkpoint_loading.open_tokenizer(pair.checkpoint)
    inputs = [list(served.encode(text).ids) for text in texts]
    for text, ids in zip(texts, inputs, strict=True):
        if ids != divergence.encode(tokenizer, text):
            message = f"the exported tokenizer splits {text!r} into {ids}, unlike the checkpoint's"
            raise ModelFailed(message, remedy=_REMEDY)
    return inputs


def _outputs(model: Path, inputs: Sequence[Sequence[int]], names: Sequence[str] = ()) -> list[NDArray[np.float32]]:
    """Return the graph's first output, or these outputs joined along the last axis, for each input."""
    request = {"model": str(model), "inputs": [list(ids) for ids in inputs], "outputs": list(names)}
    answer = probe.ask("convert.probe.onnx_probe", request)
    ends = np.cumsum([int(np.prod(shape)) for shape in answer.facts["shapes"]])
    parts = np.split(answer.arrays["outputs"], ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, answer.facts["shapes"], strict=True)]


def _rows(outputs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([output.reshape(-1, output.shape[-1]) for output in outputs])


def _require_equal_questions(questions: Sequence[QuestionSpec], expected: Rows, actual: Rows) -> Report:
    """Judge each question; the report has the figures of the worst one, and those of each."""
    ends = np.cumsum([len(question.outputs) for question in questions])[:-1]
    pairs = zip(questions, np.split(expected, ends, axis=1), np.split(actual, ends, axis=1), strict=True)
    reports = {
        question.name: _require_equal(divergence.compare(left, right), f" in its answers to '{question.name}'")
        for question, left, right in pairs
    }
    worst = max(reports.values(), key=lambda each: float(each["kl_max"]))
    return {**worst, "questions": reports}


def _require_equal(gap: DistributionGap, where: str = "") -> Report:
    if not gap.passes:
        raise ModelFailed(f"the exported file is not the same model{where}: {gap}", remedy=_REMEDY)
    return {"kl_mean": gap.kl_mean, "kl_max": gap.kl_max, "same_top": gap.same_top, "rows": gap.rows}


def _require_equal_vectors(expected: Sequence[NDArray[np.float32]], actual: Sequence[NDArray[np.float32]]) -> Report:
    left, right = _rows(expected).astype(np.float64), _rows(actual).astype(np.float64)
    cosine = (left * right).sum(-1) / (np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1))
    if not cosine.min() >= COSINE_MIN:
        message = f"the exported file is not the same model: the smallest cosine of two vectors is {cosine.min():.6f}"
        raise ModelFailed(f"{message} (at least {COSINE_MIN} is required)", remedy=_REMEDY)
    return {"cosine_min": float(cosine.min()), "rows": len(cosine)}
