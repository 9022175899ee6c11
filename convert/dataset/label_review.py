"""Ranks likely label errors of collected examples, and writes them as JSON and as Label Studio tasks with reasons.

It ranks the selected examples (`selection.choose`) of every label source: at most ROWS_MAX, the newest. Their texts
become vectors by an encoder's checkpoint, or by letters and words without one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy.typing as npt

from convert.dataset import label_errors, label_studio, selection
from convert.dataset.dataset_files import made_whole
from convert.dataset.example_scope import open_examples
from convert.dataset.label_errors import LabelErrors
from convert.dataset.review_folder import INTERFACE_NAME, TASKS_NAME
from convert.dataset.selection import DatasetSelection
from convert.encoder import ngrams
from convert.pipeline import execution
from convert.pipeline.stage import Progress
from edge_agent.durable import atomic_files
from edge_agent.durable.atomic_files import FILE_MODE
from edge_agent.errors import InvalidRequest

REPORT_NAME = "label-errors.json"
ROWS_MAX = 20_000
METHOD = "confident learning (Northcutt, Jiang & Chuang 2021), out of fold, ranked by self-confidence"
_CHOSEN = """
    SELECT e.site, e.prediction_id, e.input, coalesce({right}, e.output) AS given, e.output, e.cluster
    FROM chosen c JOIN examples e USING (site, prediction_id)
    WHERE e.kind IN ('classify', 'decide') AND given <> ''
    ORDER BY e.answered_at DESC, e.site, e.prediction_id LIMIT $limit
"""


class LabelledExample(NamedTuple):
    """One example, with the label that a training row of it has."""

    site: str
    prediction_id: str
    text: str
    given: str
    output: str
    """The answer of the site."""
    cluster: str


class RankedRow(NamedTuple):
    """An example with a likely wrong label, and the reasons."""

    site: str
    prediction_id: str
    text: str
    given: str
    suggested: str
    given_probability: float
    suggested_probability: float
    output: str

    @property
    def reason(self) -> str:
        """Return the reason in words."""
        return (
            f"Labelled '{self.given}'. A classifier trained on the other examples gives that label"
            f" {self.given_probability:.0%}, and '{self.suggested}' {self.suggested_probability:.0%}."
        )


@dataclass(frozen=True)
class RankedLabels:
    """The likely label errors of one task."""

    task: str
    vectors: str
    """The vectors of the texts: `n-grams`, or the name of the encoder."""
    judged: int
    unjudged: int
    """Examples of labels with fewer than five different texts."""
    estimated: int
    """Estimated number of wrong labels."""
    agreement: float
    labels: tuple[str, ...]
    rows: tuple[RankedRow, ...]
    """The estimated number of examples, the least probable label first."""

    def plain(self, rows_max: int) -> dict[str, Any]:
        """Return it for JSON, with at most so many rows."""
        found = {**asdict(self), "method": METHOD, "rows": [row._asdict() for row in self.rows[:rows_max]]}
        del found["labels"]
        return {"schema": "edge-agent/label-errors/v1", **found}


def rank(choice: DatasetSelection, encoder: Path | None, progress: Progress) -> RankedLabels | None:
    """Rank the labels of the training set of a selection; None if it has too few, or does not classify.

    Raises:
        FileMissing: nothing was collected of the task.
        ModelLoadFailed: the encoder's checkpoint does not load.
    """
    with duckdb.connect() as connection:
        open_examples(connection, choice.collected, choice.task, choice.scope)
        selection.choose(connection, choice)
        return rank_chosen(connection, choice, encoder, progress)


def rank_chosen(
    connection: duckdb.DuckDBPyConnection, choice: DatasetSelection, encoder: Path | None, progress: Progress
) -> RankedLabels | None:
    """Rank the labels of the table `chosen`; see `rank`."""
    query = _CHOSEN.format(right=selection.right_answer(choice.purpose))
    rows = [LabelledExample(*row) for row in connection.execute(query, {"limit": ROWS_MAX}).fetchall()]
    vectors = partial(_vectors, [row.text for row in rows], encoder, progress)
    found = label_errors.find(vectors, [row.given for row in rows], [row.cluster for row in rows], choice.seed)
    if found is None:
        return None
    return RankedLabels(
        choice.task,
        encoder.name if encoder else "n-grams",
        found.judged,
        found.unjudged,
        found.estimated,
        round(found.agreement, 4),
        tuple(sorted({row.given for row in rows} | {row.output for row in rows if row.output})),
        tuple(_ranked(rows, found)),
    )


def write_report(found: RankedLabels, path: Path, rows_max: int) -> None:
    """Write label-errors.json, whole or not at all."""
    content = json.dumps(found.plain(rows_max), ensure_ascii=False, indent=1) + "\n"
    atomic_files.write_atomically(path, content.encode(), FILE_MODE)


def write_tasks(found: RankedLabels | None, out: Path, rows_max: int, *, force: bool = False) -> int:
    """Write a folder for Label Studio: tasks with the reasons, the labelling interface, and the report.

    Returns the number of tasks. Raises InvalidRequest if there is nothing to review, or `out` exists.
    """
    if found is None or not found.rows:
        said = "no label is likely wrong" if found else f"fewer than {label_errors.ROWS_MIN} labels can be judged"
        raise InvalidRequest(said, remedy="Collect more; 'edge-convert assess' counts the examples.")
    with made_whole(out, TASKS_NAME, force=force) as folder:
        tasks = [_task(row, found.task) for row in found.rows[:rows_max]]
        (folder / TASKS_NAME).write_text(json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        shown = label_studio.interface(found.labels, reasons=True)
        (folder / INTERFACE_NAME).write_text(shown, encoding="utf-8")
        write_report(found, folder / REPORT_NAME, rows_max)
        return len(tasks)


def _ranked(rows: list[LabelledExample], found: LabelErrors) -> Iterator[RankedRow]:
    for each in found.suspects:
        row = rows[each.row]
        chances = round(each.given_probability, 4), round(each.suggested_probability, 4)
        yield RankedRow(row.site, row.prediction_id, row.text, each.given, each.suggested, *chances, row.output)


def _vectors(texts: list[str], encoder: Path | None, progress: Progress) -> npt.ArrayLike:
    if encoder is None:
        return ngrams.vectors(texts)
    made: npt.ArrayLike = execution.load_module("convert.encoder.sentences").sentence_vectors(encoder, texts, progress)
    return made


def _task(row: RankedRow, task: str) -> dict[str, Any]:
    """Return a task for Label Studio with the current label selected, so that every change is a decision."""
    data = {
        "input": row.text,
        "output": row.output,
        "site": row.site,
        "prediction_id": row.prediction_id,
        "task": task,
        "reason": row.reason,
        "given_label": row.given,
        "suggested_label": row.suggested,
        "given_probability": row.given_probability,
        "suggested_probability": row.suggested_probability,
    }
    return label_studio.label_task_of(data, row.given, row.given_probability)
