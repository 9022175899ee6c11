"""Assesses whether the collected examples of a task suffice: counts, levels, and a folder with those to review.

The levels are rules of thumb, which docs/training-data.md explains. The reviews needed are those of the exact test of
`calibrate` at the observed error rates. Figures for all answers use only the random audit, thinned to equal probability
(probability_sampling.py), because people select the other answers that they review.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb
import numpy as np

from convert.calibrate import threshold
from convert.calibrate.calibration_split import TUNING_ROWS_MAX, TUNING_SHARE, divide_rows
from convert.calibrate.temperature import ROWS_MIN
from convert.calibrate.threshold import Risk
from convert.clustered_statistics import Interval, share
from convert.data.data_row import DataRow
from convert.data.probability_sampling import RowSampling, equal_probability
from convert.dataset import label_studio, selection
from convert.dataset.dataset_files import INTERFACE_NAME, TASKS_NAME, replace_folder
from convert.dataset.example_scope import ExampleScope, ScopedExamples, open_examples
from convert.dataset.label_studio import ReviewTask
from convert.dataset.selection import DatasetSelection
from edge_agent.errors import InvalidRequest

MARKS: dict[int, str] = {
    20: "enough to see whether the labels make sense",
    100: "enough to measure a model, within ten percentage points",
    500: "enough to fine-tune an encoder on a handful of labels",
    1000: "enough to fine-tune and calibrate, with something left to test on",
}
READY_ROWS_MIN = 1000
LABEL_ROWS_MIN = 20
_LABELS_MAX = 1000
_GUESS_ROWS_MIN = 20
_ANSWERS = """
    SELECT e.truth, count(*) FROM chosen JOIN examples e USING (site, prediction_id)
    GROUP BY 1 ORDER BY count(*) DESC, 1
"""
# A large model's answer has no scores.
_KNOWN_LABELS = """
    SELECT DISTINCT label FROM (
        SELECT unnest(scores).label AS label FROM examples WHERE kind IN ('classify', 'decide')
        UNION ALL SELECT output FROM examples WHERE kind IN ('classify', 'decide') AND output <> ''
    ) ORDER BY 1
"""
_OVERALL = """
    SELECT count(*), count(verdict), count(DISTINCT cluster), count(duplicate_of),
           count(*) FILTER (conflict),
           count(*) FILTER (len(list_distinct(list_transform(reviews, lambda said: said.reviewer))) > 1)
    FROM examples
"""
_CONTRADICTIONS = """
    SELECT count(*) FROM (
        SELECT text_key FROM examples WHERE truth IS NOT NULL GROUP BY text_key HAVING count(DISTINCT truth) > 1
    )
"""
# Each pair of reviewers of one prediction, by the last review of each.
_PAIRS = """
    WITH words AS (
        SELECT site, prediction_id, review.reviewer AS who, place,
               CASE review.verdict WHEN 'accept' THEN output WHEN 'corrected' THEN review.value END AS claim
        FROM (SELECT *, unnest(reviews) AS review, generate_subscripts(reviews, 1) AS place FROM examples)
    ), last_words AS (
        SELECT * FROM words
        QUALIFY row_number() OVER (PARTITION BY site, prediction_id, who ORDER BY place DESC) = 1
    )
    SELECT a.who, b.who, count(*), count(*) FILTER (a.claim IS NOT DISTINCT FROM b.claim)
    FROM last_words a JOIN last_words b USING (site, prediction_id)
    WHERE a.who < b.who GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""
# The local answer with the local confidence. Whether it was right is unknown if it was not stored, or if people
# rejected the large model's answer without a correction.
_REVIEWED = """
    SELECT md5(site || '/' || prediction_id), sampling_probability, confidence, truth IS NOT DISTINCT FROM local_answer,
           cluster
    FROM examples WHERE judged AND verdict IS NOT NULL AND NOT conflict AND sampling_probability IS NOT NULL AND {known}
    ORDER BY confidence NULLS LAST, site, prediction_id
"""
_KNOWN_LOCAL = "(local_answer IS NOT NULL AND (truth IS NOT NULL OR local_answer = output))"
_UNKNOWN_LOCAL = "SELECT count(*) FROM examples WHERE judged AND verdict IS NOT NULL AND NOT conflict AND NOT {known}"
# Answers on which people disagree do not count, whatever the teacher label.
_AUDIT = """
    SELECT count(*), count(truth), count(*) FILTER (coalesce(truth, opinion) = local_answer)
    FROM examples WHERE judged AND opinion_why = 'audit' AND sure AND (verdict IS NULL OR truth IS NOT NULL)
"""


class AuditAnswer(NamedTuple):
    """A reviewed answer of the random audit."""

    key: str
    probability: float
    confidence: float | None
    right: bool
    cluster: str


@dataclass(frozen=True)
class ReviewerPair:
    """Two reviewers who reviewed the same predictions."""

    one: str
    other: str
    predictions: int
    agreed: int


@dataclass(frozen=True)
class GuaranteeEstimate:
    """The threshold that the reviews so far can prove."""

    target: float
    delta: float
    threshold: float | None
    coverage: float
    reviews: int
    """Of the random audit, with a confidence, one of each group of near duplicates."""
    reviews_needed: int | None
    """In all; None if no number of reviews would help, because the model is not good enough."""


@dataclass(frozen=True)
class AuditAccuracy:
    """Confident answers that were drawn at random, and how many of them were right, as far as they were judged."""

    answers: int
    by_people: int
    """Answers that people judged; for the others there is only a teacher label."""
    right: Interval
    """Estimated share of right answers."""

    @property
    def by_opinion(self) -> int:
        """Answers with only a teacher label."""
        return self.answers - self.by_people


@dataclass(frozen=True)
class TaskAssessment:
    """The assessment of one task."""

    task: str
    examples: int
    reviewed: int
    clusters: int
    """Groups of the same or nearly the same text."""
    duplicates: int
    conflicts: int
    reviewed_twice: int
    """By more than one reviewer."""
    contradictions: int
    """Texts with conflicting labels."""
    usable: int
    """Labelled examples of a training set, each text once."""
    mark: int
    """The highest of MARKS that is reached; 0 = none."""
    labels: dict[str, int]
    """Usable rows of each label, including known labels without a row; empty for free text."""
    labels_even: float
    """The number of equally frequent labels that would be as varied: the exponential of the entropy."""
    pairs: tuple[ReviewerPair, ...]
    unjudged: int
    """Reviewed examples that do not show whether the local answer was right."""
    right: Interval
    """Share of right local answers, by the reviews of the random audit."""
    audit_reviews: int
    """Of the random audit, thinned to equal probability."""
    audit_unreviewed: int
    """Of the random audit, not reviewed yet."""
    promise: GuaranteeEstimate
    audit: AuditAccuracy
    scope: ScopedExamples
    """The bundles that answered, and those that `right`, `promise`, `audit` and `unjudged` are about."""

    @property
    def short(self) -> list[str]:
        """Labels with too few usable rows to judge them."""
        return [label for label, rows in self.labels.items() if rows < LABEL_ROWS_MIN]

    @property
    def ready(self) -> bool:
        """Enough to fine-tune, calibrate and test a first model, with enough rows of every label. It does not depend on
        the model that answers now, which can be a large model without confidence.
        """
        return self.usable >= READY_ROWS_MIN and not self.short

    @property
    def suffices(self) -> bool:
        """Enough to fine-tune, with enough rows of every label, and the risk guarantee is proved."""
        return self.mark >= 500 and not self.short and self.promise.threshold is not None

    def plain(self) -> dict[str, Any]:
        """Return the assessment for JSON."""
        audit = {**asdict(self.audit), "right": self.audit.right.plain(), "by_opinion": self.audit.by_opinion}
        content = {**asdict(self), "right": self.right.plain(), "audit": audit}
        verdict = {"short": self.short, "ready": self.ready, "suffices": self.suffices}
        return {"schema": "edge-agent/assessment/v1", **content, **verdict}


def assess(collected: Path, task: str, risk: Risk, scope: ExampleScope = ExampleScope()) -> TaskAssessment:  # noqa: B008 - it cannot change
    """Assess the collected examples of a task, or of one question of a task, TASK/QUESTION.

    Raises:
        FileMissing: nothing was collected.
        InvalidRequest: there are no examples of that version, site or question, or the task has several questions.
    """
    with duckdb.connect() as connection:
        scoped = open_examples(connection, collected, task, scope)
        selection.choose(connection, DatasetSelection(collected, task, "reviewed", shares={"all": 1.0}))
        usable = Counter[str](dict(connection.execute(_ANSWERS).fetchall()))
        examples, reviewed, clusters, duplicates, conflicts, reviewed_twice = connection.execute(_OVERALL).fetchall()[0]
        labels = _labels(usable, connection.execute(_KNOWN_LABELS).fetchall())
        reviews = [AuditAnswer(*row) for row in connection.execute(_REVIEWED.format(known=_KNOWN_LOCAL)).fetchall()]
        sample = equal_probability(reviews, lambda each: RowSampling(each.key, each.probability)).rows
        unreviewed = selection.audit_of(connection).unreviewed
        answers, by_people, right = connection.execute(_AUDIT).fetchall()[0]
        return TaskAssessment(
            task=task,
            examples=examples,
            reviewed=reviewed,
            clusters=clusters,
            duplicates=duplicates,
            conflicts=conflicts,
            reviewed_twice=reviewed_twice,
            contradictions=connection.execute(_CONTRADICTIONS).fetchall()[0][0],
            usable=usable.total(),
            mark=max(filter(usable.total().__ge__, MARKS), default=0),
            labels=labels,
            labels_even=_effective_labels(labels),
            pairs=tuple(itertools.starmap(ReviewerPair, connection.execute(_PAIRS).fetchall())),
            unjudged=connection.execute(_UNKNOWN_LOCAL.format(known=_KNOWN_LOCAL)).fetchall()[0][0],
            right=share(sum(answer.right for answer in sample), len(sample)),
            audit_reviews=len(sample),
            audit_unreviewed=unreviewed,
            promise=_estimate_guarantee(sample, risk),
            audit=AuditAccuracy(answers, by_people, share(right, answers)),
            scope=scoped,
        )


def _labels(usable: Counter[str], rows: list[tuple[str]]) -> dict[str, int]:
    known = [label for (label,) in rows]
    if not known or len(usable) > _LABELS_MAX:
        return {}
    return {label: usable[label] for label in sorted({*known, *usable}, key=lambda label: (-usable[label], label))}


def _effective_labels(labels: dict[str, int]) -> float:
    shares = [rows / sum(labels.values()) for rows in labels.values() if rows]
    return math.exp(-sum(each * math.log(each) for each in shares)) if shares else 0.0


def _estimate_guarantee(answers: Sequence[AuditAnswer], risk: Risk) -> GuaranteeEstimate:
    """Test thresholds as `calibrate` does: one row of each group of near duplicates, with the same parts set aside."""
    by_cluster: dict[str, tuple[float, bool]] = {}
    for answer in sorted(answers, key=attrgetter("key")):
        if answer.confidence is not None:
            by_cluster.setdefault(answer.cluster, (answer.confidence, answer.right))
    parts = divide_rows([DataRow("", family=cluster) for cluster in by_cluster])
    tuning, proving = ([by_cluster[row.family] for row in part] for part in (parts.tuning, parts.proving))
    proving_arrays = _arrays(proving)
    start = threshold.start_of(proving_arrays[0], _arrays(tuning), risk) if tuning else 1.0
    choice = threshold.choose(*proving_arrays, risk, start=start)
    needed = _needed(choice, risk)
    reviews = None if needed is None else _with_tuning(needed)
    return GuaranteeEstimate(risk.target, risk.delta, choice.threshold, choice.coverage, len(by_cluster), reviews)


def _arrays(rows: list[tuple[float, bool]]) -> tuple[threshold.Floats, threshold.Flags]:
    return np.array([each for each, _ in rows], np.float64), np.array([right for _, right in rows], np.bool_)


def _with_tuning(proving: int) -> int:
    """Return how many reviews leave `proving` rows for the threshold, after the part for the temperature."""
    if round(TUNING_SHARE * proving) < ROWS_MIN:
        return proving
    return min(math.ceil(proving / (1 - TUNING_SHARE)), proving + TUNING_ROWS_MAX)


def _needed(choice: threshold.Choice, risk: Risk) -> int | None:
    if choice.threshold is not None:
        return choice.rows
    if max(step.rows for step in choice.steps) < _GUESS_ROWS_MIN:
        return risk.rows_min  # too few for an estimate: the best case
    return threshold.rows_needed(choice, risk)


Which = Literal["unreviewed", "audit", "conflicts"]
_CONDITIONS: dict[str, str] = {
    # A duplicate in the random sample is part of it.
    "unreviewed": "verdict IS NULL AND (duplicate_of IS NULL OR review_stream = 'audit')",
    "audit": "verdict IS NULL AND review_stream = 'audit'",
    "conflicts": "conflict",
}
# As in the queue of a site: every second example is from the audit, the others from the other streams in turn.
_REVIEW_QUERY = """
    WITH waiting AS (
        SELECT *, coalesce(review_stream, 'uncertain') AS stream FROM examples WHERE {condition}
    ), placed AS (
        SELECT *, row_number() OVER (
            PARTITION BY stream
            ORDER BY CASE stream WHEN 'uncertain' THEN coalesce(confidence, -1) END, moment, site, prediction_id
        ) AS place FROM waiting
    ), turns AS (
        SELECT *, CASE stream WHEN 'audit' THEN 2 * place - 1 ELSE 2 * row_number() OVER (
            PARTITION BY stream = 'audit' ORDER BY place, list_position(['uncertain', 'diverse', 'new'], stream)
        ) END AS turn FROM placed
    )
    SELECT site, prediction_id, $task, input, output, local_answer, confidence,
           bundle_version || ' ' || left(bundle_digest, 12), teacher_answer, model, review_stream, sampling_probability
    FROM turns ORDER BY turn LIMIT $limit
"""
_LABELS = "SELECT DISTINCT unnest(scores).label FROM examples WHERE kind IN ('classify', 'decide') ORDER BY 1"


@dataclass(frozen=True)
class ReviewSelection:
    """The examples to review."""

    collected: Path
    task: str
    which: Which = "unreviewed"
    """unreviewed: the review streams in turn, with one of each group of duplicates except in the audit. audit: only the
    audit, the oldest first. conflicts: examples on which reviewers disagree."""
    rows_max: int = 500
    scope: ExampleScope = field(default_factory=ExampleScope)


def write(review: ReviewSelection, out: Path, *, force: bool = False) -> int:
    """Write tasks and the labelling interface; returns the number of tasks.

    Raises:
        FileMissing: nothing was collected of the task.
        InvalidRequest: there is nothing to review, or `out` exists.
    """
    with duckdb.connect() as connection, replace_folder(out, TASKS_NAME, force=force) as folder:
        open_examples(connection, review.collected, review.task, review.scope)
        labels = [label for (label,) in connection.execute(_LABELS).fetchall()]
        query = _REVIEW_QUERY.format(condition=_CONDITIONS[review.which])
        rows = connection.execute(query, {"task": review.task, "limit": review.rows_max}).fetchall()
        if not rows:
            message = f"task {review.task} has nothing to review: {review.which} is empty"
            raise InvalidRequest(message, remedy="Collect more, or ask for --which conflicts.")
        tasks = [label_studio.task_of(ReviewTask(*row), choices=bool(labels)) for row in rows]
        (folder / TASKS_NAME).write_text(json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        (folder / INTERFACE_NAME).write_text(label_studio.interface(labels), encoding="utf-8")
        return len(tasks)
