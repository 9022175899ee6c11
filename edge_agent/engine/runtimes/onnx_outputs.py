"""From the numbers of an encoder to answers: label probabilities, entities, a vector. Pure.

A row is what the model gave for one input, padding cut off: [outputs], or [tokens, outputs] for one vector a token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_agent.engine.protocol import EntitySpan
from edge_agent.errors import ModelLoadFailed
from edge_agent.formats import calibration
from edge_agent.formats.manifest import Manifest, TaskSpec
from edge_agent.formats.questions import QUESTION_OUTPUT

Floats = npt.NDArray[np.float32]

# The outputs to look for, by task kind, as exporters name them; without any of them it is the model's first.
OUTPUT_NAMES = {
    "classify": ("logits",),
    "extract": ("logits",),
    "embed": ("sentence_embedding", "last_hidden_state"),
    "redact": ("logits",),
}


@dataclass(frozen=True)
class WordSpan:
    """A word of the input: its first token, and [start, end) in code points."""

    token: int
    start: int
    end: int


def output_for(kind: str, names: Sequence[str]) -> str:
    """Return the output of a model that answers a task kind."""
    return next((name for name in OUTPUT_NAMES[kind] if name in names), names[0])


class WantedOutputs(NamedTuple):
    """The outputs that a bundle reads."""

    answering: tuple[str, ...]
    """One for each question of a decide task; the only one of any other."""
    gate: tuple[str, ...]
    """That of the gate, if there is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, as one run computes them."""
        return self.answering + self.gate

    def split(self, rows: tuple[Floats, ...]) -> tuple[tuple[Floats, ...], tuple[Floats, ...]]:
        """Divide what was computed for one input likewise."""
        return rows[: len(self.answering)], rows[len(self.answering) :]


def outputs_for(manifest: Manifest, types: Mapping[str, str]) -> WantedOutputs:
    """Return the outputs of a model that answer a task, and that of the gate, if there is one.

    A manifest may have no gate where the model has its output: before the bundle is calibrated, or with too few rows.

    Args:
        manifest: of the bundle.
        types: the type of each output of the model, as onnxruntime writes it, by name.

    Raises:
        ModelLoadFailed: manifest and model do not agree on whether there is a gate, or on the questions; or the gate's
            output has another type.
    """
    names = [name for name in types if name != calibration.OUTPUT_NAME]
    found = types.get(calibration.OUTPUT_NAME)
    if manifest.confidence.gate and found is None:
        raise ModelLoadFailed(f"the manifest has a gate, and the model has no output {calibration.OUTPUT_NAME}")
    if not names:
        raise ModelLoadFailed(f"the model has no output but {calibration.OUTPUT_NAME}")
    answering = _answering(manifest.task, names)
    if found is None:
        return WantedOutputs(answering, ())
    if found != "tensor(float)":
        raise ModelLoadFailed(f"the output {calibration.OUTPUT_NAME} is {found}; it must be tensor(float)")
    return WantedOutputs(answering, (calibration.OUTPUT_NAME,))


def _answering(task: TaskSpec, names: Sequence[str]) -> tuple[str, ...]:
    """Return the output of each question, or the only one that answers."""
    if task.kind != "decide":
        return (output_for(task.kind, names),)
    wanted = tuple(QUESTION_OUTPUT.format(question.name) for question in task.questions)
    if missing := [name for name in wanted if name not in names]:
        raise ModelLoadFailed(f"the model has no output {missing[0]}; it has {', '.join(names)[:300]}")
    return wanted


def check_ood_score(row: Floats) -> None:
    """Raise ModelLoadFailed unless the gate's output is one number an input; of the fixed text it is finite."""
    if row.ndim:
        told = f"the output {calibration.OUTPUT_NAME} has {row.ndim + 1} dimensions; it must have one number an input"
        raise ModelLoadFailed(told)
    if not np.isfinite(row):
        raise ModelLoadFailed(f"the model computes an {calibration.OUTPUT_NAME} that is not finite")


def check_rows(task: TaskSpec, rows: Sequence[Floats]) -> None:
    """Raise ModelLoadFailed unless what answers an input has the shapes and numbers of outputs that the task needs."""
    if task.kind != "decide":
        _check_row(task, rows[0])
        return
    for question, row in zip(task.questions, rows, strict=True):
        name, needed = QUESTION_OUTPUT.format(question.name), len(question.outputs)
        if row.ndim != 1 or len(row) != needed:
            shape = ", ".join(map(str, ("batch", *row.shape)))
            raise ModelLoadFailed(f"the model's output {name} is [{shape}]; the question has {needed} possible answers")
        if not is_finite(row):
            raise ModelLoadFailed(f"the model computes values of {name} that are not finite")


def _check_row(task: TaskSpec, row: Floats) -> None:
    wanted = {"classify": (1,), "extract": (2,), "embed": (1, 2), "redact": (2,)}[task.kind]
    if row.ndim not in wanted:
        raise ModelLoadFailed(f"the model's output has {row.ndim + 1} dimensions, which does not suit {task.kind!r}")
    if task.kind != "embed" and row.shape[-1] != len(task.labels):
        raise ModelLoadFailed(
            f"the model has {row.shape[-1]} outputs and the manifest has {len(task.labels)} labels",
            outputs=row.shape[-1],
            labels=len(task.labels),
        )
    strange = [tag for tag in task.labels if tag != "O" and not tag.startswith(("B-", "I-"))]
    if task.kind == "extract" and strange:
        raise ModelLoadFailed(f"the tags of an extract task are O, B-... and I-...; {strange[0]!r} is not")
    if not np.isfinite(row).all():
        raise ModelLoadFailed("the model computes values that are not finite")


def is_finite(row: Floats) -> bool:
    """Tell whether all values are numbers, and none is infinite."""
    # For a handful of labels, here and below, numpy costs more than plain Python. No sum of float32 overflows a double.
    return math.isfinite(sum(row.tolist())) if row.ndim == 1 else bool(np.isfinite(row).all())


def label_probabilities(logits: Floats, temperature: float) -> tuple[float, ...]:
    """Return `probabilities` of one row."""
    values: list[float] = logits.tolist()
    peak = max(values)
    weights = [math.exp((value - peak) / temperature) for value in values]
    total = sum(weights)
    return tuple(weight / total for weight in weights)


def probabilities(logits: Floats, temperature: float) -> npt.NDArray[np.float64]:
    """Return the softmax of the logits divided by the temperature, over the last axis."""
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def word_spans(text: str, word_ids: Sequence[int | None], offsets: Sequence[tuple[int, int]]) -> list[WordSpan]:
    """Group tokens into words; tokens that stand for no text (word id None) are left out.

    A new word begins with a new word id or after a gap: tokenizers without a pre-tokenizer give all tokens one id.
    White space that a tokenizer counts to a word (SentencePiece) is cut off.
    """
    found: list[WordSpan] = []
    before: int | None = None
    for token, (word_id, (start, end)) in enumerate(zip(word_ids, offsets, strict=True)):
        if word_id is None:
            continue
        if found and word_id == before and start <= found[-1].end:
            found[-1] = WordSpan(found[-1].token, found[-1].start, end)
        else:
            found.append(WordSpan(token, end - len(text[start:end].lstrip()), end))
        before = word_id
    return found


def decode_entities(
    of_words: Sequence[WordSpan], shares: npt.NDArray[np.float64], tags: Sequence[str]
) -> tuple[tuple[EntitySpan, ...], float]:
    """Decode BIO tags; return the entities and the confidence of the whole record.

    A word has the tag of its first token, as token classifiers are trained. I-X goes on with an open X and opens one
    otherwise (the rule of conlleval). An entity's score is the mean probability of its words' tags. The record is at
    most as likely right as its least sure word, so its confidence is the smallest of the words' probabilities.
    """
    found: list[EntitySpan] = []
    scores: list[list[float]] = []
    sure = 1.0
    open_label = ""
    for word in of_words:
        best = int(shares[word.token].argmax())
        share = float(shares[word.token, best])
        sure = min(sure, share)
        begins, _, label = tags[best].partition("-")
        if label and label == open_label and begins == "I":
            found[-1] = EntitySpan(label, found[-1].start, word.end, 0.0)
            scores[-1].append(share)
        elif label:
            found.append(EntitySpan(label, word.start, word.end, 0.0))
            scores.append([share])
        open_label = label
    for entity, each in zip(found, scores, strict=True):
        entity.score = sum(each) / len(each)
    return tuple(found), sure


def embedding_bytes(row: Floats, pooling: str, normalize: bool) -> bytes:
    """Return one vector as little-endian float32: one vector a token is pooled, one for all is taken as it is."""
    pooled = row.astype(np.float64)
    if pooled.ndim == 2:
        pooled = pooled[0] if pooling == "cls" else pooled.mean(axis=0)
    if normalize:
        pooled = pooled / max(float(np.linalg.norm(pooled)), 1e-12)  # a zero vector stays one
    return pooled.astype("<f4").tobytes()
