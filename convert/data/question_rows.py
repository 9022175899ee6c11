"""Rows by question: a classify task is one question, named like the task; a decide task has several. Pure.

What measures or learns a question reads its rows as those of a task that classifies: the answer is the label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from convert.data.data_row import DataRow
from edge_agent.formats.manifest import TaskSpec
from edge_agent.formats.questions import QuestionSpec


def rows_of(task: TaskSpec, question: QuestionSpec, rows: Sequence[DataRow]) -> list[tuple[int, DataRow]]:
    """Return the rows that answer a question of a task: the place of each in `rows`, and the row with `label` and
    `shares` of that question.
    """
    if task.kind == "classify":
        return [(place, row) for place, row in enumerate(rows) if row.label]
    found = []
    for place, row in enumerate(rows):
        answer = next((each for each in row.answers if each.question == question.name), None)
        if answer is not None:
            found.append((place, replace(row, label=answer.label, shares=answer.shares)))
    return found


def main_question(task: TaskSpec) -> QuestionSpec | None:
    """Return the question that says most about an input: the choice, or else any question, with most outputs.

    Its answers are the classes of the out-of-distribution score, and training holds out a share of each. None for a
    task without questions.
    """
    return max(
        task.questions_asked, key=lambda each: (each.type == "choice", len(each.outputs)), default=None
    )  # of equals the first


def output_names(task: TaskSpec) -> tuple[str, ...]:
    """Return the outputs of all questions in order, as a checkpoint names them: a label, or QUESTION/OUTPUT."""
    if task.kind != "decide":
        return task.labels
    return tuple(f"{question.name}/{output}" for question in task.questions_asked for output in question.outputs)


def labels_of(row: DataRow) -> Iterator[str]:
    """Yield the labels of a row, of its spans, or of its answers as QUESTION/OUTPUT."""
    if row.label:
        yield row.label
    yield from (span.label for span in row.spans)
    yield from (f"{answer.question}/{answer.label}" for answer in row.answers)
