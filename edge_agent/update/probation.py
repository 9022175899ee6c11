"""Whether a bundle that was just activated does well, and the probations that this process monitors.

The limits come from the plan and are stored in the journal with the counts. So a restart of the daemon loses nothing
but the latencies, and a plan that cannot be read for a while changes nothing. Hours are those in which the daemon runs:
a clock that jumps ends no probation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from edge_agent.formats.plan import ProbationRules
from edge_agent.store.update_records import UpdateProgress
from edge_agent.update.update_state_machine import StepOutcome, StepResult

JUDGED_CALLS_MIN = 20
CRASHES_MAX = 2
LATENCY_SLACK_MS = 5.0
"""What a median may be longer than allowed: of very short times the noise is larger than any percentage."""


@dataclass(frozen=True)
class BundleActivity:
    """What the engine says of a bundle since it was loaded."""

    calls: int = 0
    failures: int = 0
    crashes: int = 0
    timed: int = 0
    """Inputs that `median_ms` is of."""
    median_ms: float = 0.0
    problem: str = ""
    """Why it does not answer, and will not by itself; empty = it answers or is about to."""


@dataclass(frozen=True)
class ProbationRecord:
    """What a bundle is held to, and what was counted before this process."""

    calls_max: int
    seconds_max: float
    error_percent_max: int
    latency_percent_max: int
    before_ms: float = 0.0
    """Median latency of the bundle before; 0 = it was not called often enough to say."""
    calls: int = 0
    failures: int = 0
    crashes: int = 0
    seconds: float = 0.0

    @classmethod
    def begin(cls, plan: ProbationRules, before: BundleActivity) -> ProbationRecord:
        """Begin a probation under a plan, after a bundle of which this was seen."""
        before_ms = before.median_ms if before.timed >= JUDGED_CALLS_MIN else 0.0
        limits = plan.error_percent_max, plan.latency_percent_max
        return cls(plan.calls, 3600.0 * plan.hours, *limits, before_ms=before_ms)

    @classmethod
    def decode(cls, text: str) -> ProbationRecord:
        """Read what `encode` wrote."""
        return cls(**json.loads(text))

    def encode(self) -> str:
        """Write it as JSON."""
        return json.dumps(asdict(self))

    def plus(self, seen: BundleActivity, seconds: float) -> ProbationRecord:
        """Return it with what this process counted in so many seconds."""
        return replace(
            self,
            calls=self.calls + seen.calls,
            failures=self.failures + seen.failures,
            crashes=self.crashes + seen.crashes,
            seconds=self.seconds + seconds,
        )


def evaluate_probation(total: ProbationRecord, seen: BundleActivity) -> StepOutcome | None:
    """Return what a probation came to: PASSED, FAILED, or None while it goes on.

    Args:
        total: all that was counted, that of this process included.
        seen: by this process; latencies are only of it.
    """
    if seen.problem:
        return StepOutcome(StepResult.FAILED, "NOT_ANSWERING", f"it does not answer: {seen.problem}")
    if total.crashes > CRASHES_MAX:
        return StepOutcome(StepResult.FAILED, "CRASHES", f"its process died {total.crashes} times")
    if total.calls >= JUDGED_CALLS_MIN and 100 * total.failures > total.error_percent_max * total.calls:
        said = f"it failed {total.failures} of {total.calls} calls; {total.error_percent_max} % are allowed"
        return StepOutcome(StepResult.FAILED, "ERRORS", said)
    allowed_ms = total.before_ms * total.latency_percent_max / 100 + LATENCY_SLACK_MS
    if total.before_ms and seen.timed >= JUDGED_CALLS_MIN and seen.median_ms > allowed_ms:
        said = f"its median latency is {seen.median_ms:.1f} ms; before it was {total.before_ms:.1f} ms"
        return StepOutcome(
            StepResult.FAILED, "SLOWER", f"{said}, and {total.latency_percent_max} % of that are allowed"
        )
    if total.calls >= total.calls_max or total.seconds >= total.seconds_max:
        said = f"{total.calls} calls in {total.seconds / 3600:.1f} h, {total.failures} of them failed"
        return StepOutcome(StepResult.PASSED, message=said)
    return None


SAVE_SECONDS = 600.0
"""How often what was counted is written down: a flash disk must not wear out by it."""


@dataclass
class _MonitoredProbation:
    which: tuple[str, float]
    """The bundle, and when its probation began."""
    before: ProbationRecord
    """As it stood in the journal when this process began to watch."""
    began: float
    saved: float


class ProbationMonitor:
    """Watches every bundle in probation."""

    def __init__(self, seen: Callable[[str], BundleActivity], monotonic: Callable[[], float]) -> None:
        """Watch by what the engines say of a digest, and a clock in seconds that never jumps."""
        self._seen, self._monotonic = seen, monotonic
        self._watched: dict[str, _MonitoredProbation] = {}

    def begun(self, plan: ProbationRules, incumbent: str) -> str:
        """Return what the journal has to say of a probation that begins when `incumbent` makes way."""
        return ProbationRecord.begin(plan, self._seen(incumbent)).encode()

    def begin(self, row: UpdateProgress) -> None:
        """Count the time of a probation from now on."""
        if row.state == "probation":
            self._of(row)

    def evaluate(self, row: UpdateProgress) -> StepOutcome | None:
        """Return what a probation came to; None while it goes on, or for a row of another state."""
        return evaluate_probation(self._total(row), self._seen(row.candidate)) if row.state == "probation" else None

    def due(self, row: UpdateProgress) -> bool:
        """Tell whether what was counted should be written down again."""
        if row.state != "probation":
            return False
        watched = self._of(row)
        due = self._monotonic() - watched.saved >= SAVE_SECONDS
        watched.saved = self._monotonic() if due else watched.saved
        return due

    def noted(self, row: UpdateProgress) -> UpdateProgress:
        """Return the row of a probation with all that was counted."""
        return replace(row, watch=self._total(row).encode()) if row.state == "probation" else row

    def _total(self, row: UpdateProgress) -> ProbationRecord:
        watched = self._of(row)
        return watched.before.plus(self._seen(row.candidate), self._monotonic() - watched.began)

    def _of(self, row: UpdateProgress) -> _MonitoredProbation:
        watched = self._watched.get(row.task)
        which = row.candidate, row.since
        if watched is None or watched.which != which:
            now = self._monotonic()
            watched = self._watched[row.task] = _MonitoredProbation(which, ProbationRecord.decode(row.watch), now, now)
        return watched
