"""Writes a folder for Label Studio with the examples that most need a review."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import duckdb

from convert.dataset import label_studio
from convert.dataset.dataset_files import made_whole
from convert.dataset.example_scope import ExampleScope, open_examples
from convert.dataset.label_studio import ReviewTask
from edge_agent.errors import InvalidRequest

TASKS_NAME, INTERFACE_NAME = "tasks.json", "interface.xml"
Which = Literal["unreviewed", "audit", "conflicts"]
# A duplicate in the random sample is part of it.
_UNREVIEWED = "verdict IS NULL AND (duplicate_of IS NULL OR review_stream = 'audit')"
_CONDITIONS: dict[str, str] = {
    "unreviewed": _UNREVIEWED,
    "audit": "verdict IS NULL AND review_stream = 'audit'",
    "conflicts": "conflict",
}
# As in the queue of a site: every second example is from the audit, the others from the other streams in turn.
_ASKED = """
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


def write(asking: ReviewSelection, out: Path, *, force: bool = False) -> int:
    """Write tasks and the labelling interface; returns the number of tasks.

    Raises:
        FileMissing: nothing was collected of the task.
        InvalidRequest: there is nothing to review, or `out` exists.
    """
    with duckdb.connect() as connection, made_whole(out, TASKS_NAME, force=force) as folder:
        open_examples(connection, asking.collected, asking.task, asking.scope)
        labels = [label for (label,) in connection.execute(_LABELS).fetchall()]
        query = _ASKED.format(condition=_CONDITIONS[asking.which])
        found = connection.execute(query, {"task": asking.task, "limit": asking.rows_max}).fetchall()
        if not found:
            said = f"task {asking.task} has nothing to review: {asking.which} is empty"
            raise InvalidRequest(said, remedy="Collect more, or ask for --which conflicts.")
        tasks = [label_studio.task_of(ReviewTask(*row), choices=bool(labels)) for row in found]
        (folder / TASKS_NAME).write_text(json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        (folder / INTERFACE_NAME).write_text(label_studio.interface(labels), encoding="utf-8")
        return len(tasks)
