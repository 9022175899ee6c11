"""Counts of the inputs of each bundle, updated where jobs end, so that a call pays next to nothing for them.

They show how the model does, not how callers do: an input that is too long, or a caller that leaves, does not count.
Times are those in the child, without the queue before it.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from edge_agent.engine.protocol import FailureReport, JobResult
from edge_agent.errors import BY_REASON, ModelError

LATENCIES_MAX = 256
TURNS_AVERAGED = 4
"""The mean of turns is mostly that of so many inputs."""
_FAILURES = frozenset(reason for reason, cls in BY_REASON.items() if issubclass(cls, ModelError))


class BundleStats:
    """Counts of one bundle since it was attached."""

    def __init__(self) -> None:
        """Start at zero."""
        self.calls = 0
        self.failures = 0
        self.crashes = 0
        """Deaths of its child that are the bundle's own."""
        self.turns = 1.0
        """Turns that an input takes (`job_queue.turns_for_rows`): the mean of the latest."""
        self._milliseconds: deque[float] = deque(maxlen=LATENCIES_MAX)

    def record_end(self, event: JobResult | FailureReport, seconds: float) -> None:
        """Note the end of an input that the child had for so long."""
        if isinstance(event, JobResult):
            self.calls += 1
            # A longer text takes longer: of what is generated, each token counts for itself.
            self._milliseconds.append(1000.0 * seconds / (event.output_tokens or 1))
        elif event.reason in _FAILURES:
            self.record_failure()

    def record_turns(self, turns: float) -> None:
        """Note what an input has taken."""
        self.turns += (turns - self.turns) / TURNS_AVERAGED

    def record_failure(self) -> None:
        """Note an input that the model failed."""
        self.calls += 1
        self.failures += 1

    def record_timeout(self, seconds: float) -> None:
        """Note an input whose deadline passed in the child: it took at least that long."""
        self.calls += 1
        self._milliseconds.append(1000.0 * seconds)

    @property
    def timed(self) -> int:
        """How many of the latest inputs `median_ms` is of."""
        return len(self._milliseconds)

    @property
    def median_ms(self) -> float:
        """The median of the latest inputs, in milliseconds; of generation, for each token. 0 = none yet."""
        return median(self._milliseconds) if self._milliseconds else 0.0
