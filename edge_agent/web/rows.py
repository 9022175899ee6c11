"""The figures beside each task on the first page. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.client import Status, Task, TaskCounts
from edge_agent.report.daemon_figures import NO_DURATIONS, histogram_quantile
from edge_agent.report.number_format import UNKNOWN, milliseconds, percent


@dataclass(frozen=True)
class Row:
    """One task, with what it did since the daemon was started."""

    task: Task
    answers: int = 0
    unsure: str = UNKNOWN
    """Share of the answers with a confidence that were below the threshold."""
    usual: str = UNKNOWN
    """Usual time of an answer."""


def rows(tasks: Sequence[Task], status: Status | None) -> list[Row]:
    """Return a row for each task."""
    counts = {each.task: each for each in status.counts} if status else {}
    return [_row(task, counts.get(task.name)) for task in tasks]


def _row(task: Task, counts: TaskCounts | None) -> Row:
    if counts is None:
        return Row(task)
    usual = histogram_quantile(0.5, NO_DURATIONS, counts.total)
    return Row(
        task=task,
        answers=sum(counts.answers.values()),
        unsure=percent(counts.below_threshold / counts.graded if counts.graded else None),
        usual=UNKNOWN if usual is None else milliseconds(1000 * usual),
    )


def totals(status: Status) -> dict[str, int]:
    """Return what all tasks come to: answers, errors, bytes of memory, examples that are kept."""
    retained = status.examples.retained if status.examples else {}
    return {
        "answers": sum(sum(each.answers.values()) for each in status.counts),
        "errors": sum(sum(each.errors.values()) for each in status.counts),
        "memory": status.resident_bytes + sum(engine.resident_bytes for engine in status.engines),
        "kept": sum(number for name, number in retained.items() if name != "feedback"),
    }
