"""The answer of a served bundle to one text, the file of predictions, and a view of a bundle by question. Pure.

A classify bundle is one question, named like its task. So everything that calibrates or measures answers is written
for one question, and a decide bundle is measured by its questions in turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.data.data_row import DataRow, rows_of
from edge_agent.formats.manifest import Manifest
from edge_agent.formats.questions import QuestionSpec

# exp(_LOG_LEAST) is the smallest positive float64; an engine returns 0 for less.
_LOG_LEAST = -745.0
_DIGITS = 6


@dataclass(frozen=True)
class FoundEntity:
    """An entity: `text[start:end]`."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class ServedPrediction:
    """One answer. Only the fields of its kind of task are set."""

    answer: str = ""
    """classify: the best label. generate: the text. extract: the entities as JSON, for people. decide:
    the best output of each question as JSON, for people. embed: empty."""
    confidence: float = 0.0
    """classify, extract: as served, at the bundle's own temperature."""
    log_probabilities: tuple[float, ...] = ()
    """classify: of each label in the order of the task, natural logarithm, renormalised, at temperature 1."""
    scores: tuple[float, ...] = ()
    """classify: the probability of each label as served."""
    question_scores: tuple[tuple[float, ...], ...] = ()
    """decide: of each question, in the order of the task, the probability of each output as served."""
    question_masses: tuple[float, ...] = ()
    """decide by a decoder: the label mass of each question."""
    label_mass: float = 1.0
    ood_score: float | None = None
    """Out-of-distribution score of the input, computed by an encoder's graph; None = the graph has none."""
    entities: tuple[FoundEntity, ...] = ()
    vector: tuple[float, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    """From sending the text to the engine until its answer, including the wait in its queue."""
    failure: str = ""
    """Reason of the error instead of an answer, such as INPUT_TOO_LONG."""

    def line(self, text: str, expected: str) -> str:
        """Write one line of predictions.jsonl."""
        fields = {key: value for key, value in asdict(self).items() if value not in ("", (), None) and key != "scores"}
        return json.dumps({"text": text, "expected": expected, **_round_floats(fields)}, ensure_ascii=False) + "\n"


def unscaled_log_probabilities(scores: Sequence[float], temperature: float) -> tuple[float, ...]:
    """Return log-probabilities at temperature 1 from scores that were served at another one; empty without scores."""
    if not scores:
        return ()
    with np.errstate(divide="ignore"):
        raw = temperature * np.maximum(np.log(scores), _LOG_LEAST)
    return tuple((raw - np.logaddexp.reduce(raw)).tolist())


def matrix(predictions: Iterable[ServedPrediction]) -> npt.NDArray[np.float64]:
    """Return the log-probabilities as [texts, labels]."""
    return np.array([each.log_probabilities for each in predictions])


def _round_floats(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {key: _round_floats(each) for key, each in value.items()}
    return [_round_floats(each) for each in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class QuestionView:
    """One question of a bundle."""

    bundle_manifest: Manifest
    """The manifest of the bundle."""
    question: QuestionSpec
    index: int
    """Index of the question in the bundle."""
    manifest: Manifest
    """The manifest of a classify bundle with this question alone."""

    @property
    def name(self) -> str:
        """The question's name."""
        return self.question.name

    def rows(self, rows: Sequence[DataRow]) -> list[tuple[int, DataRow]]:
        """Return the rows that answer the question, each with its index and with the answer as its label."""
        return rows_of(self.bundle_manifest.task, self.question, rows)

    def prediction(self, answer: ServedPrediction) -> ServedPrediction:
        """Return an answer of the bundle as an answer to this question."""
        if self.bundle_manifest.task.kind != "decide" or answer.failure:
            return answer
        scores = answer.question_scores[self.index]
        best = max(range(len(scores)), key=scores.__getitem__)
        return replace(
            answer,
            answer=self.question.outputs[best],
            confidence=scores[best],
            log_probabilities=unscaled_log_probabilities(scores, self.manifest.confidence.temperature),
            scores=scores,
            label_mass=answer.question_masses[self.index] if answer.question_masses else 1.0,
            question_scores=(),
            question_masses=(),
        )

    def pairs(
        self, rows: Sequence[DataRow], predictions: Sequence[ServedPrediction]
    ) -> tuple[list[DataRow], list[ServedPrediction]]:
        """Return the rows that answer the question, and the bundle's answers to it."""
        answering = self.rows(rows)
        return [row for _, row in answering], [self.prediction(predictions[index]) for index, _ in answering]


def views(manifest: Manifest) -> tuple[QuestionView, ...]:
    """Return a view for each question of a bundle, in order; none for kinds that answer no question."""
    task, question_views = manifest.task, []
    for index, question in enumerate(task.questions_asked):
        single_manifest = manifest
        if task.kind == "decide":
            update = {"name": question.name, "kind": "classify", "labels": question.outputs, "questions": ()}
            single_manifest = manifest.model_copy(
                update={
                    "task": task.model_copy(update=update),
                    "confidence": manifest.confidence_of(question.name),
                    "question_confidence": {},
                }
            )
        question_views.append(QuestionView(manifest, question, index, single_manifest))
    return tuple(question_views)
