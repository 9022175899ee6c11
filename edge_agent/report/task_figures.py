"""What a report is made of: counts of one task, by day; and how they follow from what the daemon reports.

Nothing here is judged yet. A figure that cannot be one, such as a share that is no number, is refused by name.
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
"""Wanted risk, and how often the promise may fail, where nobody says anything of it."""
WINDOW_DAYS = 30


@dataclass(frozen=True)
class ComparisonCount:
    """Answers of the model here that another was compared with, and those that were the same."""

    rows: int = 0
    same: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no part of a whole. Raises ValueError."""
        if not 0 <= self.same <= self.rows:
            raise ValueError(f"{self.same} of {self.rows} answers cannot be the same")

    def __add__(self, other: ComparisonCount) -> ComparisonCount:
        """Return both together."""
        return ComparisonCount(self.rows + other.rows, self.same + other.same)


@dataclass(frozen=True)
class DayFigures:
    """One day (UTC) of a task."""

    date: str
    """2026-11-25."""
    answers: Mapping[str, int] = field(default_factory=dict)
    """By route: local, upstream, abstained, deferred."""
    sure: int = 0
    """Confident answers of the model here, given or not."""
    unusual: int = 0
    """Of these, those to unusual inputs: the risk guarantee does not cover them, and hybrid asks about them, too."""
    unsure: int = 0
    """Answers of the model here that are not confident."""
    held_up: Mapping[str, int] = field(default_factory=dict)
    """Of these, by reason: BELOW_THRESHOLD, BELOW_FLOOR, OUT_OF_DISTRIBUTION, SCORES_VARY."""
    blocked: int = 0
    """Answers that the large model would have given, had it been there."""
    priced: int = 0
    """Questions to the large model that were paid for."""
    cost_micros: int = 0
    """What they cost, in millionths of the currency that the prices are in."""
    compared: ComparisonCount = field(default_factory=ComparisonCount)
    """Both models asked about the same input, in shadow or in the audit: not because of doubt."""
    examples: int = 0
    """Inputs with an answer of the large model or of a person."""
    reviewed: int = 0
    """Answers that a person judged."""


@dataclass(frozen=True)
class LabelFigures:
    """One answer that a task may give."""

    name: str
    answers: int = 0
    """How often it was given."""
    examples: int = 0
    compared: ComparisonCount = field(default_factory=ComparisonCount)
    """Where the model here gave it."""
    recent: ComparisonCount = field(default_factory=ComparisonCount)
    """Likewise, of the newest week."""


@dataclass(frozen=True)
class ConfidenceBand:
    """Answers of the model here whose confidence is at least `above`, and below the next one's."""

    above: float
    answers: int
    compared: ComparisonCount
    """Those of them that the large model answered, too."""
    people: ComparisonCount = ComparisonCount()
    """Those of these that people have judged, and that they found right."""
    people_agreed: int = 0
    """On how many of those both models had said the same."""

    @property
    def right(self) -> ComparisonCount:
        """All that was compared, and what is right of it: as people say, and where nobody has looked the large model.

        Raises:
            ValueError: the counts contradict each other.
        """
        return ComparisonCount(self.compared.rows, self.compared.same - self.people_agreed + self.people.same)


@dataclass(frozen=True)
class TaskAlarm:
    """What stands against the bundle that answers."""

    name: str
    """errors, opinions: it errs more often than it promises. Others: its inputs or answers are not what they were."""
    message: str
    remedy: str


@dataclass(frozen=True)
class TaskFigures:
    """One task."""

    task: str
    kind: Kind
    mode: Mode
    has_model: bool
    """Of its own; without one only the large model can answer."""
    days: tuple[DayFigures, ...] = ()
    """Those that are still known, the oldest first."""
    labels: tuple[LabelFigures, ...] = ()
    confident: tuple[ConfidenceBand, ...] = ()
    """Of the bundle that answers, rising."""
    shadow: ComparisonCount = ComparisonCount()
    """All that it was compared with in shadow."""
    judged: ComparisonCount = ComparisonCount()
    """Its confident answers that the large model answered, too."""
    checked: ComparisonCount = ComparisonCount()
    """Its confident answers that people judged, and those that they found right."""
    alarms: tuple[TaskAlarm, ...] = ()
    threshold: float | None = None
    """Of the bundle that answers; None = it has none."""
    gate: str = ""
    """What holds up inputs unlike the training data; "none" = nothing does, empty = not known."""
    target: float = TARGET
    delta: float = DELTA
    may_leave: bool = False
    """The site lets its inputs go to the large model."""
    large_ms: float = 0.0
    """Usual time of the large model; 0 = not known."""
    local_ms: float = 0.0
    """Usual time here, likewise."""
    window: int = WINDOW_DAYS
    """Days that money and traffic are told of."""
    question: str = ""
    """Of a decide task: the question that these figures are about; its share of the money is what it cost."""
    collected: bool = True
    """The site captures its answers ('collect' under 'examples'); those of other tasks are not counted."""

    @property
    def subject(self) -> str:
        """What the figures are about: the task, or TASK/QUESTION."""
        return f"{self.task}/{self.question}" if self.question else self.task

    def __post_init__(self) -> None:
        """Refuse what cannot be measured. Raises ValueError."""
        for name, value in _numbers(self):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} of task '{self.subject}' is {value}, which nobody can have measured")
        if not (0 < self.target < 1 and 0 < self.delta < 1):
            raise ValueError(f"the risk {self.target:g} with {self.delta:g} is no promise")

    @property
    def recent(self) -> tuple[DayFigures, ...]:
        """The last days."""
        return self.days[-self.window :]

    @property
    def calls(self) -> int:
        """Answers of every route in the last days."""
        return sum(sum(day.answers.values()) for day in self.recent)

    @property
    def held_up(self) -> Mapping[str, int]:
        """Answers of the last days that were not confident, by reason."""
        found: Counter[str] = Counter()
        for day in self.recent:
            found.update(day.held_up)
        return found

    @property
    def examples(self) -> int:
        """Inputs with an answer that can be learnt from."""
        return sum(day.examples for day in self.days)

    @property
    def graded(self) -> int:
        """Answers of the bundle that answers, of every confidence."""
        return sum(each.answers for each in self.confident)

    @property
    def compared(self) -> ComparisonCount:
        """Those of them that the large model answered, too."""
        return sum_comparisons(each.compared for each in self.confident)

    @property
    def alike(self) -> ComparisonCount:
        """What tells best how often both models say the same: shadow where there is any, for it leaves nothing out."""
        return self.shadow if self.shadow.rows else self.compared

    def routed(self, route: str) -> int:
        """Return how many answers of the last days took a route."""
        return sum(day.answers.get(route, 0) for day in self.recent)

    def alarmed(self, *names: str) -> TaskAlarm | None:
        """Return the first alarm of these names that stands."""
        return next((alarm for alarm in self.alarms if alarm.name in names), None)


def sum_comparisons(compared: Iterable[ComparisonCount]) -> ComparisonCount:
    """Return all of them together."""
    return sum(compared, ComparisonCount())


def _numbers(figures: TaskFigures) -> Iterable[tuple[str, float]]:
    yield from _own("", figures)
    for day in figures.days:
        yield from _own(f"{day.date}: ", day)
        yield from ((f"{day.date}: answers {route}", count) for route, count in day.answers.items())
    for label in figures.labels:
        yield from _own(f"label {label.name}: ", label)
    yield from (("a confidence", each.above) for each in figures.confident)


def _own(prefix: str, value: TaskFigures | DayFigures | LabelFigures) -> Iterable[tuple[str, float]]:
    every = ((each.name, getattr(value, each.name)) for each in fields(value))
    return ((prefix + name, number) for name, number in every if isinstance(number, int | float))


FAIR = ("shadow", "audit")
"""Comparisons that were not made because of doubt."""
BLOCKED = ("UPSTREAM_OFFLINE", "UPSTREAM_BUDGET_SPENT", "UPSTREAM_BUSY", "DEADLINE_TOO_SHORT", "UPSTREAM_FAILED")
DAYS_MAX = 400
AHEAD_DAYS_MAX = 30
"""A day that is later than the last answer by more was counted while the clock was wrong, unless most days are."""
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
    window: int = WINDOW_DAYS


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
        kind=cast(Kind, task.kind.lower()),
        mode=cast(Mode, task.mode.lower()),
        has_model=_has_model(task, told.bundles),
        days=tuple(_days(task.name, asked.share, every, told.counted)),
        labels=tuple(_labels(asked.labels, every)),
        threshold=asked.threshold,
        gate=task.gate,
        target=wanted.target or TARGET,
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
    promised = next((test.target for test in active.tests), TARGET)
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
    for date in _dates(_without_days_ahead(counts.keys() | paid.keys(), every)):
        found, cost = _day(date, counts.get(date, Counter()), compared.get(date, ComparisonCount())), paid.get(date)
        yield replace(found, priced=cost.questions, cost_micros=round(cost.cost_micros * share)) if cost else found


def _without_days_ahead(known: Set[str], every: Sequence[FieldSeries]) -> Set[str]:
    if not every:
        return known
    latest = (max(each.last_time for each in every) + datetime.timedelta(days=AHEAD_DAYS_MAX)).date().isoformat()
    ahead = {date for date in known if date > latest}
    return known - ahead if len(ahead) < len(known - ahead) else known  # otherwise it is the last answer's time


def _day(date: str, counts: Counter[str], compared: ComparisonCount) -> DayFigures:
    confident = max(
        counts["confident"], counts["sure"]
    )  # version 0.1 counted only those that the risk guarantee covers
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
