"""The probation of newly activated bundles: whether they fail, crash or are too slow.

The limits come from the plan and are stored in the journal with the counts. So a restart of the daemon loses only the
latencies, and a plan that cannot be read for a while changes nothing. Only hours in which the daemon runs count, so a
clock that jumps ends no probation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from edge_agent.formats.plan import ProbationRules
from edge_agent.store.state_database import UpdateProgress
from edge_agent.update.update_state_machine import StepOutcome, StepResult

JUDGED_CALLS_MIN = 20
CRASHES_MAX = 2
LATENCY_SLACK_MS = 5.0
"""Added to the allowed median: for very short times the noise is larger than any percentage."""
SAVE_SECONDS = 600.0
"""Time between two writes of the counts, so that they do not wear out a flash disk."""


@dataclass(frozen=True)
class BundleActivity:
    """The engine's counts for a bundle since it was loaded."""

    calls: int = 0
    failures: int = 0
    crashes: int = 0
    timed: int = 0
    """Inputs that were measured for `median_ms`."""
    median_ms: float = 0.0
    problem: str = ""
    """Why it does not answer, and will not without intervention; empty = it answers, or will soon."""


@dataclass(frozen=True)
class ProbationRecord:
    """The limits of a probation, and the counts up to the start of this process."""

    calls_max: int
    seconds_max: float
    error_percent_max: int
    latency_percent_max: int
    before_ms: float = 0.0
    """Median latency of the previous bundle; 0 = it had too few calls."""
    calls: int = 0
    failures: int = 0
    crashes: int = 0
    seconds: float = 0.0

    @classmethod
    def begin(cls, rules: ProbationRules, previous: BundleActivity) -> ProbationRecord:
        """Begin a probation under a plan; `previous` is the activity of the previous bundle."""
        before_ms = previous.median_ms if previous.timed >= JUDGED_CALLS_MIN else 0.0
        limits = rules.error_percent_max, rules.latency_percent_max
        return cls(rules.calls, 3600.0 * rules.hours, *limits, before_ms=before_ms)

    @classmethod
    def decode(cls, text: str) -> ProbationRecord:
        """Read what `encode` wrote."""
        return cls(**json.loads(text))

    def encode(self) -> str:
        """Write it as JSON."""
        return json.dumps(asdict(self))

    def plus(self, activity: BundleActivity, seconds: float) -> ProbationRecord:
        """Return the record with the counts and seconds of this process added."""
        return replace(
            self,
            calls=self.calls + activity.calls,
            failures=self.failures + activity.failures,
            crashes=self.crashes + activity.crashes,
            seconds=self.seconds + seconds,
        )


def evaluate_probation(total: ProbationRecord, activity: BundleActivity) -> StepOutcome | None:
    """Return the outcome of a probation: PASSED, FAILED, or None while it continues.

    Args:
        total: all counts, including those of this process.
        activity: counts of this process; only these have latencies.
    """
    if activity.problem:
        return StepOutcome(StepResult.FAILED, "NOT_ANSWERING", f"it does not answer: {activity.problem}")
    if total.crashes > CRASHES_MAX:
        return StepOutcome(StepResult.FAILED, "CRASHES", f"its process died {total.crashes} times")
    if total.calls >= JUDGED_CALLS_MIN and 100 * total.failures > total.error_percent_max * total.calls:
        message = f"it failed {total.failures} of {total.calls} calls; {total.error_percent_max}% are allowed"
        return StepOutcome(StepResult.FAILED, "ERRORS", message)
    allowed_ms = total.before_ms * total.latency_percent_max / 100 + LATENCY_SLACK_MS
    if total.before_ms and activity.timed >= JUDGED_CALLS_MIN and activity.median_ms > allowed_ms:
        latencies = f"its median latency is {activity.median_ms:.1f} ms; before it was {total.before_ms:.1f} ms"
        allowed = f"{total.latency_percent_max}% of that is allowed"
        return StepOutcome(StepResult.FAILED, "SLOWER", f"{latencies}, and {allowed}")
    if total.calls >= total.calls_max or total.seconds >= total.seconds_max:
        message = f"{total.calls} calls in {total.seconds / 3600:.1f} h, {total.failures} of them failed"
        return StepOutcome(StepResult.PASSED, message=message)
    return None


@dataclass
class _MonitoredProbation:
    key: tuple[str, float]
    """The bundle, and when its probation began."""
    journal_record: ProbationRecord
    """The journal's record when this process began to count."""
    started_at: float
    saved_at: float


class ProbationMonitor:
    """Counts for every bundle in probation."""

    def __init__(self, activity: Callable[[str], BundleActivity], monotonic: Callable[[], float]) -> None:
        """Take the activity of a digest from the engines, and the time from a monotonic clock in seconds."""
        self._activity, self._monotonic = activity, monotonic
        self._probations: dict[str, _MonitoredProbation] = {}

    def initial_record(self, rules: ProbationRules, incumbent: str) -> str:
        """Return the record for the journal of a probation that begins after `incumbent`."""
        return ProbationRecord.begin(rules, self._activity(incumbent)).encode()

    def begin(self, row: UpdateProgress) -> None:
        """Count the time of a probation from now."""
        if row.state == "probation":
            self._probation_of(row)

    def evaluate(self, row: UpdateProgress) -> StepOutcome | None:
        """Return the outcome of a probation; None while it continues, or for a row in another state."""
        return evaluate_probation(self._total(row), self._activity(row.candidate)) if row.state == "probation" else None

    def is_save_due(self, row: UpdateProgress) -> bool:
        """Return whether the counts should be written again."""
        if row.state != "probation":
            return False
        probation = self._probation_of(row)
        due = self._monotonic() - probation.saved_at >= SAVE_SECONDS
        probation.saved_at = self._monotonic() if due else probation.saved_at
        return due

    def with_counts(self, row: UpdateProgress) -> UpdateProgress:
        """Return the row of a probation with all counts."""
        return replace(row, watch=self._total(row).encode()) if row.state == "probation" else row

    def _total(self, row: UpdateProgress) -> ProbationRecord:
        probation = self._probation_of(row)
        return probation.journal_record.plus(self._activity(row.candidate), self._monotonic() - probation.started_at)

    def _probation_of(self, row: UpdateProgress) -> _MonitoredProbation:
        probation = self._probations.get(row.task)
        key = row.candidate, row.since
        if probation is None or probation.key != key:
            now = self._monotonic()
            probation = self._probations[row.task] = _MonitoredProbation(
                key, ProbationRecord.decode(row.watch), now, now
            )
        return probation
