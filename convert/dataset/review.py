"""A folder for Label Studio: those examples whose review teaches most."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import duckdb

from convert.dataset import label_studio
from convert.dataset.label_studio import Asked
from convert.dataset.scope import Scope, open_examples
from convert.dataset.write import made_whole
from edge_agent.errors import InvalidRequest

TASKS_NAME, INTERFACE_NAME = "tasks.json", "interface.xml"
Which = Literal["unreviewed", "conflicts"]
_CONDITIONS: dict[str, str] = {"unreviewed": "verdict IS NULL AND duplicate_of IS NULL", "conflicts": "conflict"}
_ASKED = """
    SELECT site, prediction_id, $task, input, output, local_answer, confidence,
           bundle_version || ' ' || left(bundle_digest, 12), teacher_answer, model
    FROM examples WHERE {condition}
    ORDER BY confidence NULLS FIRST, moment, site, prediction_id LIMIT $limit
"""
_LABELS = "SELECT DISTINCT unnest(scores).label FROM examples WHERE kind = 'classify' ORDER BY 1"


@dataclass(frozen=True)
class Asking:
    """What to have reviewed."""

    collected: Path
    task: str
    which: Which = "unreviewed"
    """unreviewed: the least confident first, one of each group of duplicates. conflicts: what reviewers disagree on."""
    rows_max: int = 500
    scope: Scope = field(default_factory=Scope)


def write(asking: Asking, out: Path, *, force: bool = False) -> int:
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
        tasks = [label_studio.task_of(Asked(*row), choices=bool(labels)) for row in found]
        (folder / TASKS_NAME).write_text(json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        (folder / INTERFACE_NAME).write_text(label_studio.interface(labels), encoding="utf-8")
        return len(tasks)
