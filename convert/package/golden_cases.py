"""Chooses a bundle's golden cases, and which of them are too close to a change to be binding. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from convert.data.row_files import DataRow
from convert.evaluate.predictions import ServedPrediction
from convert.evaluate.scoring import is_right
from edge_agent.formats.golden_cases import TOLERANCE, GoldenCase, could_flip
from edge_agent.formats.manifest import Kind, Manifest, TaskSpec

CASES_MAX = 200
PER_LABEL_MAX = 3
CASES_WANTED = 12
"""Largest number of cases of a classify task; with few labels there are more per label."""
_TRIED_MAX = 8
_DIGITS = 4


def tried(task: TaskSpec, rows: Sequence[DataRow]) -> list[DataRow]:
    """Return the candidate rows: some of each label, in the order of the labels, independent of the file's order.

    Rows are taken in order, so a label that the test split has takes none from later splits.
    """
    ordered = sorted(rows, key=lambda row: hashlib.sha256(row.key.encode()).hexdigest())
    if task.kind != "classify":
        return ordered[: PER_LABEL_MAX * _TRIED_MAX]
    return [row for label in task.labels for row in _of_label(ordered, label)[:_TRIED_MAX]]


def _of_label(rows: Sequence[DataRow], label: str) -> list[DataRow]:
    return [row for row in rows if row.label == label]


def cases(manifest: Manifest, rows: Sequence[DataRow], said: Sequence[ServedPrediction]) -> list[GoldenCase]:
    """Return the cases from `tried` rows and the finished bundle's answers.

    For each label the most confident right answers come first; a label that the bundle never gets right shows its wrong
    answer. An answer that can differ on another processor is `report_only`.
    """
    kind, labels = manifest.task.kind, manifest.task.labels
    answered = [pair for pair in zip(rows, said, strict=True) if not pair[1].failure]
    # Stable: equally good rows keep their order.
    ranked = sorted(answered, key=lambda pair: _rank(kind, *pair))
    if kind == "classify":
        wanted = max(PER_LABEL_MAX, math.ceil(CASES_WANTED / len(labels)))
        most = max(1, min(wanted, CASES_MAX // len(labels)))
        ranked = [pair for label in labels for pair in _with_label(ranked, label)[:most]]
    return [case(manifest, row.text, each) for row, each in ranked]


def _with_label(
    pairs: Sequence[tuple[DataRow, ServedPrediction]], label: str
) -> list[tuple[DataRow, ServedPrediction]]:
    return [pair for pair in pairs if pair[0].label == label]


def uncovered(task: TaskSpec, cases: Sequence[GoldenCase]) -> list[str]:
    """Return the labels of a classify task that are not the answer of any case."""
    shown = {each.answer for each in cases}
    return [label for label in task.labels if task.kind == "classify" and label not in shown]


def _rank(kind: Kind, row: DataRow, each: ServedPrediction) -> tuple[bool, bool, bool]:
    """Rank right before wrong, binding before others, and among these the team's own rows before those of sites."""
    wrong = kind != "embed" and not is_right(kind, row, each)
    return wrong, _may_turn(kind, each), bool(row.record)


def case(manifest: Manifest, text: str, said: ServedPrediction) -> GoldenCase:
    """Return the case of one text and its answer."""
    kind = manifest.task.kind
    answer = "" if kind == "embed" else said.answer
    turns = _may_turn(kind, said)
    case_ = GoldenCase(input=text, answer=answer, scores=scores(kind, said), tolerance=TOLERANCE, report_only=turns)
    strange = strangeness(manifest, said)
    return case_ if strange is None else case_.model_copy(update={"ood_score": strange})


def strangeness(manifest: Manifest, said: ServedPrediction) -> float | None:
    """Return the out-of-distribution score of an input, by the bundle's gate; None without a gate."""
    confidence = manifest.confidence
    return round(confidence.gate.score_of(said.ood_score, said.label_mass), _DIGITS) if confidence.gate else None


def scores(kind: Kind, said: ServedPrediction) -> tuple[float, ...]:
    """Return the scores of an answer for a case, rounded so that the last bit of a sum does not matter."""
    plain = {
        "classify": said.scores,
        "extract": (said.confidence,),
        "redact": (said.confidence,),
        "embed": said.vector,
    }.get(kind, ())
    return tuple(round(each, _DIGITS) for each in plain)


def _may_turn(kind: Kind, said: ServedPrediction) -> bool:
    """Return whether a difference within the tolerance could give another answer."""
    return kind != "embed" and could_flip(scores(kind, said))
