"""From what the daemon says to the figures of each task."""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import NamedTuple, cast

from edge_agent.client import Bundle, Durations, Status, Task
from edge_agent.client.operator_reports import FieldReport, FieldSeries, Share
from edge_agent.report import task_figures
from edge_agent.report.task_figures import (
    ComparisonCount,
    ConfidenceBand,
    DayFigures,
    LabelFigures,
    TaskAlarm,
    TaskFigures,
)

FAIR = ("shadow", "audit")
"""Comparisons that were not made because of doubt."""
BLOCKED = ("UPSTREAM_OFFLINE", "UPSTREAM_BUDGET_SPENT", "UPSTREAM_BUSY", "DEADLINE_TOO_SHORT", "UPSTREAM_FAILED")
DAYS_MAX = 400
_ROUTE, _HELD_UP = "route:", "held_up:"
_LOCAL_SHARE_MIN = 0.5
"""The usual time of all answers is that of those from here only while most are."""
NO_DURATIONS = Durations((), (), 0.0)


@dataclass(frozen=True)
class DaemonReports:
    """What the daemon says."""

    counted: FieldReport
    bundles: tuple[Bundle, ...] = ()
    local_ms: Mapping[str, float] = field(default_factory=dict)
    """Usual time of an answer from here, by task, where that is known."""


@dataclass(frozen=True)
class ReportRequest:
    """What the reader wants to know."""

    tasks: tuple[str, ...] = ()
    """Empty = all."""
    target: float | None = None
    """Risk; None = what the bundle promises."""
    window: int = task_figures.WINDOW_DAYS


def collect_figures(told: DaemonReports, wanted: ReportRequest) -> list[TaskFigures]:
    """Return the figures of every wanted task. Raises ValueError: a figure is none."""
    return [
        _figures(task, asked, told, wanted)
        for task in told.counted.tasks
        if not wanted.tasks or task.name in wanted.tasks
        for asked in _questions(task)
    ]


class AskedOfTask(NamedTuple):
    """What a task asks, each counted and judged for itself: a question of a decide task, or the task as a whole."""

    question: str
    """Empty = the task as a whole."""
    labels: tuple[str, ...]
    threshold: float | None
    share: float = 1.0
    """Of what the task's questions to the large model cost: one call asks several of them."""


def _questions(task: Task) -> list[AskedOfTask]:
    if task.kind == "DECIDE":
        share = 1 / max(1, len(task.questions))
        return [
            AskedOfTask(each.name, tuple(option.label for option in each.options), each.threshold, share)
            for each in task.questions
        ]
    return [AskedOfTask("", task.labels if task.kind == "CLASSIFY" else (), task.threshold)]


def _figures(task: Task, asked: AskedOfTask, told: DaemonReports, wanted: ReportRequest) -> TaskFigures:
    every = [
        series for series in told.counted.series if (series.bundle.task, series.question) == (task.name, asked.question)
    ]
    large = told.counted.large_model
    known = TaskFigures(
        task=task.name,
        question=asked.question,
        kind=cast(task_figures.Kind, task.kind.lower()),
        mode=cast(task_figures.Mode, task.mode.lower()),
        has_model=_has_model(task, told.bundles),
        days=tuple(_days(task.name, asked.share, every, told.counted)),
        labels=tuple(_labels(asked.labels, every)),
        threshold=asked.threshold,
        gate=task.gate,
        target=wanted.target or task_figures.TARGET,
        may_leave=large is not None and task.name in large.tasks,
        large_ms=large.usual_ms if large else 0.0,
        local_ms=told.local_ms.get(task.name, 0.0),
        window=wanted.window,
        collected=told.counted.collect.get(task.name, "off") != "off",
    )
    active = next((series for series in every if series.active), None)
    return _with_bundle(known, active, wanted) if active else known


def _has_model(task: Task, bundles: Iterable[Bundle]) -> bool:
    return not any(each.active and each.runtime == "upstream" and each.ref.task == task.name for each in bundles)


def _with_bundle(known: TaskFigures, active: FieldSeries, wanted: ReportRequest) -> TaskFigures:
    """Add what is known of the bundle that answers."""
    judged = {test.judge: ComparisonCount(test.wrong.rows, test.wrong.rows - test.wrong.hits) for test in active.tests}
    shadow = next(
        (_compared(each.agreed) for each in active.agreement if (each.source, each.label) == ("shadow", "")),
        ComparisonCount(),
    )
    promised = next((test.target for test in active.tests), task_figures.TARGET)
    return replace(
        known,
        confident=tuple(_confident(active)),
        shadow=shadow,
        judged=judged.get("large-model", ComparisonCount()),
        checked=judged.get("people", ComparisonCount()),
        alarms=tuple(TaskAlarm(each.alarm, each.message, each.remedy) for each in active.alarms if each.ended is None),
        target=wanted.target or promised,
    )


def _compared(agreed: Share) -> ComparisonCount:
    return ComparisonCount(agreed.rows, agreed.hits)


def _confident(active: FieldSeries) -> Iterator[ConfidenceBand]:
    """Take apart what is told from each confidence on; the lowest first."""
    beyond = [
        (each.answers.hits, each.agreed.rows, each.agreed.hits, each.reviewed.rows, each.reviewed.hits,
         each.reviewed_agreed)
        for each in active.confidences
    ]  # fmt: skip
    for at in range(len(beyond) - 1, -1, -1):
        before = beyond[at - 1] if at else (0,) * len(beyond[at])
        answers, rows, same, judged, right, agreed = (
            here - there for here, there in zip(beyond[at], before, strict=True)
        )
        confidence = active.confidences[at].confidence
        yield ConfidenceBand(confidence, answers, ComparisonCount(rows, same), ComparisonCount(judged, right), agreed)


def _days(task: str, share: float, every: Sequence[FieldSeries], told: FieldReport) -> Iterator[DayFigures]:
    """Yield every day from the first one on, those without answers included."""
    counts: dict[str, Counter[str]] = {}
    compared: dict[str, ComparisonCount] = {}
    for series in every:
        for day in series.days:
            counts.setdefault(day.day, Counter()).update(day.counts)
            if series.active:
                compared[day.day] = _compared(day.agreement)
    paid = {each.day: each for each in told.money if each.task == task}
    for date in _dates(counts.keys() | paid.keys()):
        found, cost = _day(date, counts.get(date, Counter()), compared.get(date, ComparisonCount())), paid.get(date)
        yield replace(found, priced=cost.questions, cost_micros=round(cost.cost_micros * share)) if cost else found


def _day(date: str, counts: Counter[str], compared: ComparisonCount) -> DayFigures:
    return DayFigures(
        date=date,
        answers={name.removeprefix(_ROUTE): number for name, number in counts.items() if name.startswith(_ROUTE)},
        sure=counts["sure"],
        unsure=counts["graded"] - counts["sure"],
        held_up={name.removeprefix(_HELD_UP): number for name, number in counts.items() if name.startswith(_HELD_UP)},
        blocked=sum(counts[f"reason:{reason}"] for reason in BLOCKED),
        compared=compared,
        examples=counts["examples"],
        reviewed=counts["reviewed"],
    )


def _dates(known: Collection[str]) -> list[str]:
    """Return all days between the first and the last; at most so many as a daemon remembers, whatever its clock did."""
    if not known:
        return []
    last = datetime.date.fromisoformat(max(known))
    first = max(datetime.date.fromisoformat(min(known)), last - datetime.timedelta(days=DAYS_MAX - 1))
    return [(first + datetime.timedelta(days=at)).isoformat() for at in range((last - first).days + 1)]


def _labels(names: Iterable[str], every: Iterable[FieldSeries]) -> Iterator[LabelFigures]:
    """Yield the labels that the task has now."""
    answers, examples = Counter[str](), Counter[str]()
    compared: defaultdict[str, ComparisonCount] = defaultdict(ComparisonCount)
    recent: defaultdict[str, ComparisonCount] = defaultdict(ComparisonCount)
    for series in every:
        answers.update({each.label: each.answers for each in series.labels})
        examples.update({each.label: each.examples for each in series.labels})
        for each in series.agreement if series.active else ():
            if each.source in FAIR:
                compared[each.label] += _compared(each.agreed)
                recent[each.label] += _compared(each.recent)
    for name in names:
        yield LabelFigures(name, answers[name], examples[name], compared[name], recent[name])


def usual_local_ms(status: Status) -> dict[str, float]:
    """Return the usual time of an answer from here, by task, where most answers are."""
    found = {}
    for counts in status.counts:
        usual, every = histogram_quantile(0.5, NO_DURATIONS, counts.total), sum(counts.answers.values())
        if usual is not None and counts.answers.get("local", 0) > _LOCAL_SHARE_MIN * every:
            found[counts.task] = 1000 * usual
    return found


def histogram_quantile(share: float, before: Durations, after: Durations) -> float | None:
    """Return a quantile of what was counted in between, in seconds, as Prometheus estimates it; None = nothing was.

    Inside a bucket it is taken to be spread evenly; above the last bound, the bound is all that is known.
    """
    earlier = before.counts or (0,) * len(after.counts)
    counted = [later - early for later, early in zip(after.counts, earlier, strict=True)]
    reached = list(accumulate(counted))
    if not reached or not reached[-1]:
        return None
    rank = share * reached[-1]
    place = next(number for number, total in enumerate(reached) if total >= rank and counted[number])
    bounds = (0.0, *after.bounds_seconds)
    if place >= len(after.bounds_seconds):
        return bounds[-1]
    inside = (rank - (reached[place] - counted[place])) / counted[place]
    return bounds[place] + (bounds[place + 1] - bounds[place]) * inside
