"""The data of `edge-agent watch`: the latest looks at one daemon, and the changes between them. Pure.

    history = WatchHistory()
    history.add(status, now)      # or history.fail("no daemon answers at ...", now)
    history.snapshot(now)

A look is one GetStatus. Rates and quantiles are over the last WINDOW_SECONDS, because over one second they would jump.
The curve of a task covers the last CURVE_SECONDS. A restarted daemon counts from zero, so its looks start again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from edge_agent.client import Durations, Status, TaskCounts
from edge_agent.report.task_figures import histogram_quantile

WINDOW_SECONDS = 10.0
CURVE_SECONDS, CURVE_CELLS = 60.0, 8
TASKS_DRAWN_MAX = 100
"""Maximum tasks with a curve; further ones have only rates."""
TOTAL = "*"
"""Key of the sum of all tasks; no task has this name."""
_NO_DURATIONS = Durations((), (), 0.0)
_NO_COUNTS = TaskCounts("", {}, {}, 0, 0, 0, _NO_DURATIONS, _NO_DURATIONS)


@dataclass(frozen=True)
class TaskRates:
    """The outcome of one task's inputs in a window."""

    answers: float = 0.0
    """Per second, like the next."""
    errors: float = 0.0
    confident: float | None = None
    """Confident share of the graded answers, 0 to 1; None = there were none."""
    escalated: float | None = None
    """Share of the answers from the large model; None = there were no answers."""
    abstained: float | None = None
    """Share of the answers withheld."""
    queue_p95: float | None = None
    """In seconds, like the next; None = there were no answers."""
    total_p50: float | None = None
    total_p95: float | None = None


@dataclass(frozen=True)
class RefusalCount:
    """Inputs and calls without an answer, for one reason."""

    task: str
    """Empty = a task that is not installed, or a call that reached no task."""
    reason: str
    count: int
    """Since the daemon started."""
    recent: int
    """Those in the window."""
    seconds_ago: float | None
    """When the last one was observed; None = before this watch began."""


@dataclass(frozen=True)
class TransferRates:
    """Bytes per second in the window; None = not known."""

    uploaded: float | None = None
    downloaded: float | None = None
    copied: float | None = None
    """From a drive into the store."""


@dataclass(frozen=True)
class WatchSnapshot:
    """The state at one moment."""

    status: Status | None
    """The last status; None = the daemon was never reached."""
    rates: Mapping[str, TaskRates] = field(default_factory=dict)
    """By task, and for all tasks as TOTAL; empty before the second look."""
    seconds: float = 0.0
    """Length of the window of the rates."""
    problem: str = ""
    """Why the daemon does not answer; empty = it does."""
    remedy: str = ""
    """The remedy."""
    silent_seconds: float = 0.0
    """For how long it has not."""
    curves: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """Answers per second by task, the oldest first; None = not watched then."""
    refusals: tuple[RefusalCount, ...] = ()
    """The latest first."""
    transfers: TransferRates = TransferRates()
    restarts: int = 0
    """Restarts of the daemon during the watch."""


class WatchHistory:
    """The latest looks at one daemon."""

    def __init__(self) -> None:
        """Start with none."""
        self._looks: deque[tuple[float, Status]] = deque()
        self._curves: dict[str, AnswerCurve] = {}
        self._refusal_counts: dict[tuple[str, str], tuple[int, float | None]] = {}
        self._problem, self._remedy, self._silent_since = "", "", 0.0
        self._restarts = 0

    def add(self, status: Status, now: float) -> None:
        """Add a look; `now` is in seconds of any monotonic clock."""
        if self._looks and self._looks[-1][1].start_time != status.start_time:
            self._restarts += 1
            self._looks.clear()
            self._curves.clear()
            # All refusals of a restarted daemon are new.
            self._refusal_counts = dict.fromkeys(self._refusal_counts, (0, None))
        is_first = not (self._looks or self._restarts)
        self._problem = ""
        self._looks.append((now, status))
        while len(self._looks) > 2 and self._looks[1][0] <= now - WINDOW_SECONDS:
            self._looks.popleft()
        self._record_answers(status, now)
        for key, count in count_refusals(status).items():
            previous, at = self._refusal_counts.get(key, (0, None))
            self._refusal_counts[key] = (count, at if is_first or count == previous else now)

    def fail(self, problem: str, now: float, remedy: str = "") -> None:
        """Record that the daemon did not answer, with the remedy."""
        if not self._problem:
            self._silent_since = now
        self._problem, self._remedy = problem, remedy

    @property
    def seconds(self) -> float:
        """Length of the window in seconds."""
        return self._looks[-1][0] - self._looks[0][0] if self._looks else 0.0

    def rates(self) -> dict[str, TaskRates]:
        """Return the rates by task, and for all tasks as TOTAL; empty before the second look."""
        if not self.seconds:
            return {}
        first = {counts.task: counts for counts in self._looks[0][1].counts}
        last = self._looks[-1][1].counts
        task_rates = {task.name: TaskRates() for task in self._looks[-1][1].tasks}
        task_rates |= {counts.task: rates_of(first.get(counts.task), counts, self.seconds) for counts in last}
        task_rates[TOTAL] = rates_of(sum_counts(self._looks[0][1].counts), sum_counts(last), self.seconds)
        return task_rates

    def snapshot(self, now: float) -> WatchSnapshot:
        """Return the present state."""
        return WatchSnapshot(
            status=self._looks[-1][1] if self._looks else None,
            rates=self.rates(),
            seconds=self.seconds,
            problem=self._problem,
            remedy=self._remedy if self._problem else "",
            silent_seconds=now - self._silent_since if self._problem else 0.0,
            curves={name: curve.cells(now) for name, curve in self._curves.items()},
            refusals=self._refusals(now),
            transfers=self._transfers(),
            restarts=self._restarts,
        )

    def _record_answers(self, status: Status, now: float) -> None:
        answers = {task.name: 0 for task in status.tasks}
        answers |= {counts.task: sum(counts.answers.values()) for counts in status.counts if counts.task}
        for name, count in {TOTAL: sum(answers.values()), **answers}.items():
            if name in self._curves or len(self._curves) < TASKS_DRAWN_MAX:
                self._curves.setdefault(name, AnswerCurve()).add(count, now)

    def _refusals(self, now: float) -> tuple[RefusalCount, ...]:
        before = count_refusals(self._looks[0][1]) if self._looks else {}
        counts = [
            RefusalCount(task, reason, count, count - before.get((task, reason), 0), None if at is None else now - at)
            for (task, reason), (count, at) in self._refusal_counts.items()
            if count
        ]
        # Those from before the watch began come last.
        return tuple(sorted(counts, key=lambda each: (each.seconds_ago is None, each.seconds_ago or 0.0, -each.count)))

    def _transfers(self) -> TransferRates:
        if not self.seconds:
            return TransferRates()
        first, last = self._looks[0][1], self._looks[-1][1]
        return TransferRates(
            uploaded=self._growth(_sent_bytes(first), _sent_bytes(last)),
            downloaded=self._growth(_fetched_bytes(first), _fetched_bytes(last)),
            copied=self._growth(_copied_bytes(first, last), _copied_bytes(last, last)),
        )

    def _growth(self, before: int | None, after: int | None) -> float | None:
        """Return bytes per second; None = unknown, or the uplink was restarted."""
        return None if before is None or after is None or after < before else (after - before) / self.seconds


class AnswerCurve:
    """Cumulative answers of one task at the looks of the last CURVE_SECONDS."""

    def __init__(self) -> None:
        """Start with none."""
        self._points: deque[tuple[float, int]] = deque()

    def add(self, count: int, now: float) -> None:
        """Add the number of answers since the daemon started."""
        self._points.append((now, count))
        while len(self._points) > 2 and self._points[1][0] <= now - CURVE_SECONDS:
            self._points.popleft()

    def cells(self, now: float) -> tuple[float | None, ...]:
        """Return answers per second in CURVE_CELLS spans of the same length, the oldest first."""
        span = CURVE_SECONDS / CURVE_CELLS
        edges = [now - span * (CURVE_CELLS - number) for number in range(CURVE_CELLS + 1)]
        return tuple(self._rate(start, end) for start, end in pairwise(edges))

    def _rate(self, start: float, end: float) -> float | None:
        start, end = max(start, self._points[0][0]), min(end, self._points[-1][0])
        return (self._count_at(end) - self._count_at(start)) / (end - start) if end > start else None

    def _count_at(self, moment: float) -> float:
        """Return the count at a time between the first and the last look, interpolated linearly."""
        before, count = self._points[0]
        for after, later in self._points:
            if after >= moment:
                return later if after == before else count + (later - count) * (moment - before) / (after - before)
            before, count = after, later
        return count


def rates_of(before: TaskCounts | None, after: TaskCounts, seconds: float) -> TaskRates:
    """Return the rates between two counts; `before` None = zero."""
    start = before or _NO_COUNTS
    answers = sum(after.answers.values()) - sum(start.answers.values())
    graded = after.graded - start.graded

    def share(route: str) -> float | None:
        return (after.answers.get(route, 0) - start.answers.get(route, 0)) / answers if answers else None

    return TaskRates(
        answers=answers / seconds,
        errors=(sum(after.errors.values()) - sum(start.errors.values())) / seconds,
        confident=1 - (after.below_threshold - start.below_threshold) / graded if graded else None,
        escalated=share("upstream"),
        abstained=share("abstained"),
        queue_p95=histogram_quantile(0.95, start.queue, after.queue),
        total_p50=histogram_quantile(0.5, start.total, after.total),
        total_p95=histogram_quantile(0.95, start.total, after.total),
    )


def sum_counts(counts: Sequence[TaskCounts]) -> TaskCounts:
    """Return the sum over all tasks."""
    answers, errors = Counter[str](), Counter[str]()
    for each in counts:
        answers.update(each.answers)
        errors.update(each.errors)
    graded, below_threshold = sum(each.graded for each in counts), sum(each.below_threshold for each in counts)
    tokens = sum(each.output_tokens for each in counts)
    queue, total = (_sum_durations([getattr(each, name) for each in counts]) for name in ("queue", "total"))
    return TaskCounts(TOTAL, answers, errors, graded, below_threshold, tokens, queue, total)


def _sum_durations(durations: Sequence[Durations]) -> Durations:
    measured = [each for each in durations if each.bounds_seconds]
    if not measured:
        return _NO_DURATIONS
    bounds = measured[0].bounds_seconds
    compatible = [each.counts for each in measured if each.bounds_seconds == bounds]
    return Durations(
        bounds, tuple(map(sum, zip(*compatible, strict=True))), sum(each.total_seconds for each in measured)
    )


def count_refusals(status: Status) -> Counter[tuple[str, str]]:
    """Count the inputs and calls that had no answer, by task and reason; denied calls have no task."""
    refusals = Counter(
        {(counts.task, reason): number for counts in status.counts for reason, number in counts.errors.items()}
    )
    refusals.update({("", reason): number for reason, number in status.denied.items()})
    return refusals


def _sent_bytes(status: Status) -> int | None:
    return status.uplink.sent_bytes if status.uplink else None


def _fetched_bytes(status: Status) -> int | None:
    return status.uplink.downloads.fetched_bytes if status.uplink and status.uplink.downloads else None


def _copied_bytes(status: Status, last: Status) -> int | None:
    """Return how many bytes of the bundle being copied now had been copied at the last status."""
    if not (status.updates and last.updates and last.updates.copying):
        return None
    return status.updates.copied_bytes if status.updates.copying == last.updates.copying else 0
