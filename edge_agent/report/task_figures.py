"""The figures of a report: counts of one task, by day, derived from the reports of the daemon.

Nothing is judged here. An impossible figure, such as a share that is not a number, is refused by name.
"""

from __future__ import annotations

import datetime
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate
from typing import Literal, NamedTuple, cast

from edge_agent.client import Bundle, Durations, Status, Task
from edge_agent.client.operator_reports import FieldReport, FieldSeries, Share

Kind = Literal["classify", "decide", "extract", "generate", "embed"]
Mode = Literal["bootstrap", "shadow", "hybrid", "local"]
TARGET, DELTA = 0.05, 0.1
"""Defaults of the target risk and of the error probability of proofs."""
WINDOW_DAYS = 30


@dataclass(frozen=True)
class ComparisonCount:
    """Compared answers of the local model, and how many were equal."""

    rows: int = 0
    same: int = 0

    def __post_init__(self) -> None:
        """Check 0 <= same <= rows. Raises ValueError."""
        if not 0 <= self.same <= self.rows:
            raise ValueError(f"{self.same} of {self.rows} answers cannot be the same")

    def __add__(self, other: ComparisonCount) -> ComparisonCount:
        """Return the sum of both."""
        return ComparisonCount(self.rows + other.rows, self.same + other.same)


@dataclass(frozen=True)
class DayFigures:
    """One day (UTC) of a task."""

    date: str
    """2026-11-25."""
    answers: Mapping[str, int] = field(default_factory=dict)
    """By route: local, upstream, abstained, deferred."""
    sure: int = 0
    """Confident answers of the local model, whether the caller got them or not."""
    unusual: int = 0
    """Confident answers to unusual inputs: the risk guarantee does not cover them, and hybrid escalates them, too."""
    unsure: int = 0
    """Unconfident answers of the local model."""
    held_up: Mapping[str, int] = field(default_factory=dict)
    """Unconfident answers by reason: BELOW_THRESHOLD, BELOW_FLOOR, OUT_OF_DISTRIBUTION, SCORES_VARY."""
    blocked: int = 0
    """Answers that the large model would have given if it had been available."""
    priced: int = 0
    """Paid questions to the large model."""
    cost_micros: int = 0
    """Their cost, in millionths of the currency of the prices."""
    compared: ComparisonCount = field(default_factory=ComparisonCount)
    """Inputs that both models answered in shadow mode or in the audit, so not because of low confidence."""
    examples: int = 0
    """Inputs with an answer of the large model or of a person."""
    reviewed: int = 0
    """Answers that a person judged."""


@dataclass(frozen=True)
class LabelFigures:
    """One label of a task."""

    name: str
    answers: int = 0
    """Answers with this label."""
    examples: int = 0
    compared: ComparisonCount = field(default_factory=ComparisonCount)
    """Comparisons in which the local model gave it."""
    recent: ComparisonCount = field(default_factory=ComparisonCount)
    """The same for the newest week."""


@dataclass(frozen=True)
class ConfidenceBand:
    """Answers of the local model with a confidence of at least `above`, and below the next band's."""

    above: float
    answers: int
    compared: ComparisonCount
    """Answers that the large model answered, too."""
    people: ComparisonCount = ComparisonCount()
    """Compared answers that people judged, and how many they found right."""
    people_agreed: int = 0
    """Judged answers on which both models agreed."""

    @property
    def right(self) -> ComparisonCount:
        """All compared answers, and how many are right: by people's judgement, otherwise by the large model's answer.

        Raises:
            ValueError: the counts contradict each other.
        """
        return ComparisonCount(self.compared.rows, self.compared.same - self.people_agreed + self.people.same)


@dataclass(frozen=True)
class TaskAlarm:
    """An active alarm of the active bundle."""

    name: str
    """errors, opinions: its risk guarantee is refuted. Others: its inputs or answers have changed."""
    message: str
    remedy: str


@dataclass(frozen=True)
class TaskFigures:
    """One task."""

    task: str
    kind: Kind
    mode: Mode
    has_model: bool
    """A local model; without one only the large model can answer."""
    days: tuple[DayFigures, ...] = ()
    """The stored days, the oldest first."""
    labels: tuple[LabelFigures, ...] = ()
    confident: tuple[ConfidenceBand, ...] = ()
    """Of the active bundle, in ascending order."""
    shadow: ComparisonCount = ComparisonCount()
    """Its answers compared in shadow mode."""
    judged: ComparisonCount = ComparisonCount()
    """Its confident answers that the large model answered, too."""
    checked: ComparisonCount = ComparisonCount()
    """Its confident answers that people judged, and how many they found right."""
    alarms: tuple[TaskAlarm, ...] = ()
    threshold: float | None = None
    """Of the active bundle; None = it has none."""
    gate: str = ""
    """The gate for inputs unlike the training data; "none" = no gate, empty = not known."""
    target: float = TARGET
    delta: float = DELTA
    may_leave: bool = False
    """The site lets its inputs go to the large model."""
    large_ms: float = 0.0
    """Usual time of the large model; 0 = not known."""
    local_ms: float = 0.0
    """Usual time of the local model; 0 = not known."""
    window: int = WINDOW_DAYS
    """Days of the figures on cost and traffic."""
    question: str = ""
    """The question of a decide task that these figures are about; costs are its share of the task's."""
    collected: bool = True
    """The site captures its answers ('collect' under 'examples'); without this, nothing is counted."""

    @property
    def subject(self) -> str:
        """The subject of the figures: the task, or TASK/QUESTION."""
        return f"{self.task}/{self.question}" if self.question else self.task

    def __post_init__(self) -> None:
        """Refuse impossible figures. Raises ValueError."""
        for name, value in _numbers(self):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} of task '{self.subject}' is {value}, which nobody can have measured")
        if not (0 < self.target < 1 and 0 < self.delta < 1):
            raise ValueError(f"the risk {self.target:g} with {self.delta:g} is no promise")

    @property
    def recent(self) -> tuple[DayFigures, ...]:
        """The days of the window."""
        return self.days[-self.window :]

    @property
    def calls(self) -> int:
        """Answers of all routes in the window."""
        return sum(sum(day.answers.values()) for day in self.recent)

    @property
    def held_up(self) -> Mapping[str, int]:
        """Unconfident answers in the window, by reason."""
        reasons: Counter[str] = Counter()
        for day in self.recent:
            reasons.update(day.held_up)
        return reasons

    @property
    def examples(self) -> int:
        """Inputs with a label from the large model or a person."""
        return sum(day.examples for day in self.days)

    @property
    def graded(self) -> int:
        """Answers of the active bundle, of every confidence."""
        return sum(band.answers for band in self.confident)

    @property
    def compared(self) -> ComparisonCount:
        """Graded answers that the large model answered, too, and how many were equal."""
        return sum_comparisons(band.compared for band in self.confident)

    @property
    def agreement_basis(self) -> ComparisonCount:
        """The best basis for the agreement: shadow mode if there was any, because it leaves no inputs out."""
        return self.shadow if self.shadow.rows else self.compared

    def routed(self, route: str) -> int:
        """Return how many answers in the window took a route."""
        return sum(day.answers.get(route, 0) for day in self.recent)

    def first_alarm(self, *names: str) -> TaskAlarm | None:
        """Return the first active alarm with one of these names."""
        return next((alarm for alarm in self.alarms if alarm.name in names), None)


def sum_comparisons(compared: Iterable[ComparisonCount]) -> ComparisonCount:
    """Return the sum of comparisons."""
    return sum(compared, ComparisonCount())


def _numbers(figures: TaskFigures) -> Iterable[tuple[str, float]]:
    yield from _field_numbers("", figures)
    for day in figures.days:
        yield from _field_numbers(f"{day.date}: ", day)
        yield from ((f"{day.date}: answers {route}", count) for route, count in day.answers.items())
    for label in figures.labels:
        yield from _field_numbers(f"label {label.name}: ", label)
    yield from (("a confidence", band.above) for band in figures.confident)


def _field_numbers(prefix: str, value: TaskFigures | DayFigures | LabelFigures) -> Iterable[tuple[str, float]]:
    values = ((each.name, getattr(value, each.name)) for each in fields(value))
    return ((prefix + name, number) for name, number in values if isinstance(number, int | float))


FAIR = ("shadow", "audit")
"""Sources of comparisons that do not depend on the confidence."""
BLOCKED = ("UPSTREAM_OFFLINE", "UPSTREAM_BUDGET_SPENT", "UPSTREAM_BUSY", "DEADLINE_TOO_SHORT", "UPSTREAM_FAILED")
DAYS_MAX = 400
AHEAD_DAYS_MAX = 30
"""A day later than the last answer by more was counted with a wrong clock, unless most days are."""
_ROUTE, _HELD_UP = "route:", "held_up:"
_LOCAL_SHARE_MIN = 0.5
"""Minimum share of local answers for which the usual time of all answers is taken as the local model's."""
NO_DURATIONS = Durations((), (), 0.0)


@dataclass(frozen=True)
class DaemonReports:
    """The reports of the daemon."""

    field_report: FieldReport
    bundles: tuple[Bundle, ...] = ()
    local_ms: Mapping[str, float] = field(default_factory=dict)
    """Usual time of a local answer by task, if known."""


@dataclass(frozen=True)
class ReportRequest:
    """The scope of a report."""

    tasks: tuple[str, ...] = ()
    """Empty = all tasks."""
    target: float | None = None
    """Target risk; None = that of the bundle."""
    window: int = WINDOW_DAYS


def collect_figures(reports: DaemonReports, request: ReportRequest) -> list[TaskFigures]:
    """Return the figures of every requested task. Raises ValueError: a figure is impossible."""
    return [
        _unit_figures(task, unit, reports, request)
        for task in reports.field_report.tasks
        if not request.tasks or task.name in request.tasks
        for unit in _units(task)
    ]


class ReportUnit(NamedTuple):
    """A unit that is counted and judged separately: a question of a decide task, or a whole task."""

    question: str
    """Empty = the task as a whole."""
    labels: tuple[str, ...]
    threshold: float | None
    share: float = 1.0
    """Its share of the task's cost of the large model, since one call asks several questions."""


def _units(task: Task) -> list[ReportUnit]:
    if task.kind == "DECIDE":
        share = 1 / max(1, len(task.questions))
        return [
            ReportUnit(question.name, tuple(option.label for option in question.options), question.threshold, share)
            for question in task.questions
        ]
    return [ReportUnit("", task.labels if task.kind == "CLASSIFY" else (), task.threshold)]


def _unit_figures(task: Task, unit: ReportUnit, reports: DaemonReports, request: ReportRequest) -> TaskFigures:
    key = (task.name, unit.question)
    all_series = [each for each in reports.field_report.series if (each.bundle.task, each.question) == key]
    large_model = reports.field_report.large_model
    figures = TaskFigures(
        task=task.name,
        question=unit.question,
        kind=cast(Kind, task.kind.lower()),
        mode=cast(Mode, task.mode.lower()),
        has_model=not any(
            each.active and each.runtime == "upstream" and each.ref.task == task.name for each in reports.bundles
        ),
        days=tuple(_all_days(task.name, unit.share, all_series, reports.field_report)),
        labels=tuple(_label_figures(unit.labels, all_series)),
        threshold=unit.threshold,
        gate=task.gate,
        target=request.target or TARGET,
        may_leave=large_model is not None and task.name in large_model.tasks,
        large_ms=large_model.usual_ms if large_model else 0.0,
        local_ms=reports.local_ms.get(task.name, 0.0),
        window=request.window,
        collected=reports.field_report.collect.get(task.name, "off") != "off",
    )
    active = next((series for series in all_series if series.active), None)
    return _with_bundle(figures, active, request) if active else figures


def _with_bundle(figures: TaskFigures, active: FieldSeries, request: ReportRequest) -> TaskFigures:
    """Add the figures of the active bundle."""
    comparisons = {
        test.judge: ComparisonCount(test.wrong.rows, test.wrong.rows - test.wrong.hits) for test in active.tests
    }
    agreed = [row.agreed for row in active.agreement if (row.source, row.label) == ("shadow", "")]
    return replace(
        figures,
        confident=tuple(_confidence_bands(active)),
        shadow=_comparison_count(agreed[0]) if agreed else ComparisonCount(),
        judged=comparisons.get("large-model", ComparisonCount()),
        checked=comparisons.get("people", ComparisonCount()),
        alarms=tuple(TaskAlarm(row.alarm, row.message, row.remedy) for row in active.alarms if row.ended is None),
        target=request.target or next((test.target for test in active.tests), TARGET),
    )


def _comparison_count(share: Share) -> ComparisonCount:
    return ComparisonCount(share.rows, share.hits)


def _confidence_bands(active: FieldSeries) -> Iterator[ConfidenceBand]:
    """Yield the bands, the lowest confidence first, from the daemon's cumulative counts."""
    cumulated = [
        (band.answers.hits, band.agreed.rows, band.agreed.hits, band.reviewed.rows, band.reviewed.hits,
         band.reviewed_agreed)
        for band in active.confidences
    ]  # fmt: skip
    for index in range(len(cumulated) - 1, -1, -1):
        previous = cumulated[index - 1] if index else (0,) * len(cumulated[index])
        answers, rows, same, judged, right, agreed = (
            total - lower for total, lower in zip(cumulated[index], previous, strict=True)
        )
        confidence = active.confidences[index].confidence
        yield ConfidenceBand(confidence, answers, ComparisonCount(rows, same), ComparisonCount(judged, right), agreed)


def _all_days(task: str, share: float, all_series: Sequence[FieldSeries], report: FieldReport) -> Iterator[DayFigures]:
    """Yield every day from the first one on, those without answers included."""
    counts: dict[str, Counter[str]] = {}
    compared: dict[str, ComparisonCount] = {}
    for series in all_series:
        for day in series.days:
            counts.setdefault(day.day, Counter()).update(day.counts)
            if series.active:
                compared[day.day] = _comparison_count(day.agreement)
    costs = {each.day: each for each in report.money if each.task == task}
    for date in _dates(_without_days_ahead(counts.keys() | costs.keys(), all_series)):
        figures = _day_figures(date, counts.get(date, Counter()), compared.get(date, ComparisonCount()))
        if cost := costs.get(date):
            figures = replace(figures, priced=cost.questions, cost_micros=round(cost.cost_micros * share))
        yield figures


def _without_days_ahead(dates: Set[str], all_series: Sequence[FieldSeries]) -> Set[str]:
    if not all_series:
        return dates
    last_answer = max(series.last_time for series in all_series)
    latest = (last_answer + datetime.timedelta(days=AHEAD_DAYS_MAX)).date().isoformat()
    ahead = {date for date in dates if date > latest}
    return dates - ahead if len(ahead) < len(dates - ahead) else dates  # otherwise it is the last answer's time


def _day_figures(date: str, counts: Counter[str], compared: ComparisonCount) -> DayFigures:
    # Version 0.1 counted only those that the risk guarantee covers.
    confident = max(counts["confident"], counts["sure"])
    return DayFigures(
        date=date,
        answers={name.removeprefix(_ROUTE): number for name, number in counts.items() if name.startswith(_ROUTE)},
        sure=confident,
        unusual=confident - counts["sure"],
        unsure=counts["graded"] - confident,
        held_up={name.removeprefix(_HELD_UP): number for name, number in counts.items() if name.startswith(_HELD_UP)},
        blocked=sum(counts[f"reason:{reason}"] for reason in BLOCKED),
        compared=compared,
        examples=counts["examples"],
        reviewed=counts["reviewed"],
    )


def _dates(known_dates: Collection[str]) -> list[str]:
    """Return all days from the first to the last, at most as many as a daemon stores, even if its clock was wrong."""
    if not known_dates:
        return []
    last = datetime.date.fromisoformat(max(known_dates))
    first = max(datetime.date.fromisoformat(min(known_dates)), last - datetime.timedelta(days=DAYS_MAX - 1))
    return [(first + datetime.timedelta(days=offset)).isoformat() for offset in range((last - first).days + 1)]


def _label_figures(names: Iterable[str], all_series: Iterable[FieldSeries]) -> Iterator[LabelFigures]:
    """Yield the present labels of the task."""
    answers, examples = Counter[str](), Counter[str]()
    compared: defaultdict[str, ComparisonCount] = defaultdict(ComparisonCount)
    recent: defaultdict[str, ComparisonCount] = defaultdict(ComparisonCount)
    for series in all_series:
        answers.update({each.label: each.answers for each in series.labels})
        examples.update({each.label: each.examples for each in series.labels})
        for row in series.agreement if series.active else ():
            if row.source in FAIR:
                compared[row.label] += _comparison_count(row.agreed)
                recent[row.label] += _comparison_count(row.recent)
    for name in names:
        yield LabelFigures(name, answers[name], examples[name], compared[name], recent[name])


def usual_local_ms(status: Status) -> dict[str, float]:
    """Return the usual time of a local answer by task, for tasks with mostly local answers."""
    times = {}
    for counts in status.counts:
        seconds, answers = histogram_quantile(0.5, NO_DURATIONS, counts.total), sum(counts.answers.values())
        if seconds is not None and counts.answers.get("local", 0) > _LOCAL_SHARE_MIN * answers:
            times[counts.task] = 1000 * seconds
    return times


def histogram_quantile(share: float, before: Durations, after: Durations) -> float | None:
    """Return a quantile, in seconds, of the durations between two counts, as Prometheus does; None = there were none.

    Durations are assumed to be uniform within a bucket; above the last bound, that bound is returned.
    """
    earlier = before.counts or (0,) * len(after.counts)
    counts = [later - early for later, early in zip(after.counts, earlier, strict=True)]
    totals = list(accumulate(counts))
    if not totals or not totals[-1]:
        return None
    rank = share * totals[-1]
    bucket = next(number for number, total in enumerate(totals) if total >= rank and counts[number])
    bounds = (0.0, *after.bounds_seconds)
    if bucket >= len(after.bounds_seconds):
        return bounds[-1]
    position = (rank - (totals[bucket] - counts[bucket])) / counts[bucket]
    return bounds[bucket] + (bounds[bucket + 1] - bounds[bucket]) * position
