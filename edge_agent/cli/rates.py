"""What happened between two looks at a daemon: rates and quantiles, from differences of what it has counted. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from edge_agent.client import Durations, Status, TaskCounts
from edge_agent.report.daemon_figures import histogram_quantile

WINDOW_SECONDS = 10.0
"""Rates are over the last so many seconds: of one second they would jump."""
_NONE = Durations((), (), 0.0)


@dataclass(frozen=True)
class Rates:
    """What came of one task's inputs in a window."""

    answers: float = 0.0
    """This and the next, per second."""
    errors: float = 0.0
    below: float | None = None
    """Share of the graded answers below the threshold, 0 to 1; None = there was none."""
    abstained: float | None = None
    """Share of the answers withheld."""
    queue_p95: float | None = None
    """This and the next in seconds; None = there was no answer."""
    total_p50: float | None = None
    total_p95: float | None = None


class Window:
    """The latest looks at one daemon; a daemon that was started again begins a new window."""

    def __init__(self) -> None:
        """Start with none."""
        self._looks: deque[tuple[float, Status]] = deque()

    def add(self, status: Status, now: float) -> None:
        """Note a look, at that many seconds by whatever clock."""
        if self._looks and self._looks[-1][1].start_time != status.start_time:
            self._looks.clear()
        self._looks.append((now, status))
        while len(self._looks) > 2 and self._looks[1][0] <= now - WINDOW_SECONDS:
            self._looks.popleft()

    @property
    def seconds(self) -> float:
        """How long the window is."""
        return self._looks[-1][0] - self._looks[0][0] if self._looks else 0.0

    def rates(self) -> dict[str, Rates]:
        """Return the rates by task; none before there are two looks."""
        if not self.seconds:
            return {}
        first = {counts.task: counts for counts in self._looks[0][1].counts}
        return {
            counts.task: rates_of(first.get(counts.task), counts, self.seconds) for counts in self._looks[-1][1].counts
        }


def rates_of(before: TaskCounts | None, after: TaskCounts, seconds: float) -> Rates:
    """Return what happened in so many seconds; `before` None = nothing had been counted."""
    first = before or TaskCounts(after.task, {}, {}, 0, 0, 0, _NONE, _NONE)
    answers = sum(after.answers.values()) - sum(first.answers.values())
    abstained = after.answers.get("abstained", 0) - first.answers.get("abstained", 0)
    graded = after.graded - first.graded
    return Rates(
        answers=answers / seconds,
        errors=(sum(after.errors.values()) - sum(first.errors.values())) / seconds,
        below=(after.below_threshold - first.below_threshold) / graded if graded else None,
        abstained=abstained / answers if answers else None,
        queue_p95=histogram_quantile(0.95, first.queue, after.queue),
        total_p50=histogram_quantile(0.5, first.total, after.total),
        total_p95=histogram_quantile(0.95, first.total, after.total),
    )
