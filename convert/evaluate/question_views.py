"""A bundle by question: each question is seen as a bundle of kind classify, with its labels and its confidence. Pure.

A classify bundle is one question, named like its task. So everything that calibrates or measures answers is written
for one question, and a decide bundle is measured by its questions in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from convert.data.data_row import DataRow
from convert.data.question_rows import rows_of
from convert.evaluate.predictions import ServedPrediction, at_one
from edge_agent.formats.manifest import Manifest
from edge_agent.formats.questions import QuestionSpec


@dataclass(frozen=True)
class QuestionView:
    """One question of a bundle."""

    whole: Manifest
    """The bundle's own."""
    question: QuestionSpec
    place: int
    """Of the question among the bundle's."""
    manifest: Manifest
    """The bundle's, as if it classified by this question alone."""

    @property
    def name(self) -> str:
        """The question's name."""
        return self.question.name

    def rows(self, rows: Sequence[DataRow]) -> list[tuple[int, DataRow]]:
        """Return the rows that answer the question, each with its place and with the answer as its label."""
        return rows_of(self.whole.task, self.question, rows)

    def prediction(self, said: ServedPrediction) -> ServedPrediction:
        """Return an answer of the bundle as an answer to this question."""
        if self.whole.task.kind != "decide" or said.failure:
            return said
        scores = said.question_scores[self.place]
        best = max(range(len(scores)), key=scores.__getitem__)
        return replace(
            said,
            answer=self.question.outputs[best],
            confidence=scores[best],
            log_probabilities=at_one(scores, self.manifest.confidence.temperature),
            scores=scores,
            label_mass=said.question_masses[self.place] if said.question_masses else 1.0,
            question_scores=(),
            question_masses=(),
        )

    def pairs(
        self, rows: Sequence[DataRow], predictions: Sequence[ServedPrediction]
    ) -> tuple[list[DataRow], list[ServedPrediction]]:
        """Return the rows that answer the question, and the bundle's answers to it."""
        found = self.rows(rows)
        return [row for _, row in found], [self.prediction(predictions[place]) for place, _ in found]


def views(manifest: Manifest) -> tuple[QuestionView, ...]:
    """Return a view for each question of a bundle, in order; none for kinds that answer no question."""
    return tuple(_views(manifest))


def _views(manifest: Manifest) -> Iterator[QuestionView]:
    task = manifest.task
    for place, question in enumerate(task.questions_asked):
        if task.kind != "decide":
            yield QuestionView(manifest, question, place, manifest)
            continue
        alone = task.model_copy(
            update={"name": question.name, "kind": "classify", "labels": question.outputs, "questions": ()}
        )
        update: dict[str, Any] = {
            "task": alone,
            "confidence": manifest.confidence_of(question.name),
            "question_confidence": {},
        }
        yield QuestionView(manifest, question, place, manifest.model_copy(update=update))
