"""What a report is made of: counts of one task, by day. Pure.

Nothing here is judged yet. A figure that cannot be one, such as a share that is no number, is refused by name.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

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
    """Answers of the model here that it was sure of, given or not."""
    unsure: int = 0
    """Those that it was not sure of."""
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
