"""Counts of answers by task, updated for every answer, so each update costs well below a microsecond.

One thread writes them, the event loop's, and needs no lock. Others read at any time: a list is copied in one step of
the interpreter, and the number of observations is the sum of its buckets, so that the two always agree.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
TASKS_MAX = 1000
OTHER_TASKS = "other"
"""Counts all tasks beyond TASKS_MAX, so the number of names is bounded."""
UNKNOWN_TASK = ""
"""Stands for a task that is not installed: a caller's text must not become a label."""


class Histogram:
    """How often values fell between bounds; an observation on a bound counts below it."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        """Start empty; values above the last bound have their own count."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value; NaN is skipped, because it would make the total NaN."""
        if value == value:  # noqa: PLR0124 - false for NaN alone, at a third of the cost of a call
            self.counts[bisect_left(self.bounds, value)] += 1
            self.total += value

    @property
    def cumulative(self) -> list[int]:
        """Observations up to each bound, and all of them."""
        return list(accumulate(self.counts.copy()))


class TaskCounters:
    """The results of the inputs of one task."""

    __slots__ = (
        *("answers", "compute", "confidence", "degraded", "first", "held_up", "queue", "question_answers"),
        *("question_held_up", "token", "tokens", "total"),
    )

    def __init__(self) -> None:
        """Start at zero."""
        self.queue, self.compute, self.total = Histogram(), Histogram(), Histogram()
        """Seconds an input waited, was computed, and took altogether."""
        self.first, self.token = Histogram(), Histogram()
        """Seconds until the first token that was written, and for each after it."""
        self.confidence = Histogram(RATIOS)
        self.answers: Counter[str] = Counter()
        """By route."""
        self.degraded: Counter[str] = Counter()
        """By reason."""
        self.held_up: Counter[str] = Counter()
        """Answers that are not confident, by what held them up."""
        self.question_answers: Counter[tuple[str, str]] = Counter()
        """By question and route, of a task with several; "" = a question of the call, whose name is the caller's."""
        self.question_held_up: Counter[tuple[str, str]] = Counter()
        """Answers that are not confident, by question and what held them up."""
        self.tokens = [0, 0]
        """Read and written."""


@dataclass(frozen=True)
class UnansweredInput:
    """An input, or a whole call, that got no answer."""

    task: str
    reason: str


class AnswerCounts:
    """All tasks of one daemon."""

    def __init__(self) -> None:
        """Start at zero."""
        self.tasks: dict[str, TaskCounters] = {}
        self.errors: Counter[UnansweredInput] = Counter()

    def of(self, task: str) -> TaskCounters:
        """Return the counts of an installed task."""
        return self.tasks.get(task) or self._new(task)

    def lost(self, task: str, reason: str) -> None:
        """Count what got no answer; `task` is UNKNOWN unless it is installed, `reason` one of our errors'."""
        self.errors[UnansweredInput(task, reason)] += 1

    def _new(self, task: str) -> TaskCounters:
        name = task if len(self.tasks) < TASKS_MAX else OTHER_TASKS
        return self.tasks.setdefault(name, TaskCounters())
