"""What an operator sees of captured examples: counters, sizes and problems, also while the disk does not answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_agent.errors import EdgeAgentError

if TYPE_CHECKING:
    from edge_agent.capture.redaction_audit import AuditFigures
    from edge_agent.capture.spool_worker import SpoolWorker
    from edge_agent.capture.spool_writer import SpoolWriter
    from edge_agent.config import Config
    from edge_agent.monitoring.bundle_figures import BundleSummary

STATUS_SECONDS_MAX = 2.0
"""For the figures of examples; status goes without them then."""


@dataclass(frozen=True)
class CaptureStatus:
    """What an operator sees."""

    counters: dict[str, int]
    """Totals since the spool was created."""
    retained: dict[str, int]
    """Examples in the spool, by class."""
    spool_bytes: int
    outbox_bytes: int
    outbox_segments: int
    epoch: str
    outbox_dir: str
    problems: tuple[str, ...]
    unsealed_seconds: float = 0.0
    """Age of the oldest answer that waits to be sealed, in seconds of running; 0 = no answer waits."""
    outbox_seconds: float = 0.0
    """Age of the oldest segment that waits for its receipt, by a clock that may be wrong; 0 = none waits."""
    questions: dict[str, int] = field(default_factory=dict)
    """Questions for the large model that wait, by reason."""
    question_seconds: float = 0.0
    """Age of the oldest of them, in seconds of running; 0 = no question waits."""
    review_waiting: dict[str, int] = field(default_factory=dict)
    """Answers that wait for a review, by stream."""
    loss_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of running since examples were lost or evicted the last time; no key = none were."""
    field: tuple[BundleSummary, ...] = ()
    """Production monitoring of each bundle, in short."""
    redaction_audit: AuditFigures | None = None
    """What people found in the audit of redaction; None = no redaction model is configured."""
    stalled_seconds: float = 0.0
    """How long the disk has worked on one write, in seconds; 0 = it keeps up. Else all other figures are empty."""
    is_off: bool = False
    """Nothing can be kept: the spool cannot be used."""


def read_status(worker: SpoolWorker, config: Config) -> CaptureStatus:
    """Look at the spool and the outbox; call it on the thread of the spool."""
    outbox, waits = worker.outbox, worker.questions.queued()
    return CaptureStatus(
        counters=dict(worker.spool.counters),
        retained=worker.spool.count_retained(),
        spool_bytes=worker.spool.used_bytes,
        outbox_bytes=outbox.used_bytes() if outbox else 0,
        outbox_segments=len(outbox.ledger.sealed_segments()) if outbox else 0,
        epoch=worker.spool.incarnation,
        outbox_dir=str(config.outbox.absolute()) if outbox else "",
        problems=tuple(f"{error.message}. {error.remedy}" for error in worker.problems.values()),
        unsealed_seconds=outbox.ledger.oldest_seconds() if outbox else 0.0,
        outbox_seconds=outbox.oldest_seconds(worker.now()) if outbox else 0.0,
        field=worker.monitoring.summaries(),
        questions=waits.counts,
        question_seconds=waits.oldest_seconds,
        review_waiting=worker.spool.streams.count_waiting(),
        loss_seconds=worker.spool.loss_seconds(),
    )


def stalled_status(config: Config, writer: SpoolWriter) -> CaptureStatus:
    """Return the status without a look at the disk, which does not answer."""
    seconds = max(writer.stalled_seconds, STATUS_SECONDS_MAX)
    said = (
        f"There are no figures of examples: the disk of {config.state_dir} has worked on one write for"
        f" {seconds:.0f} s. {writer.queued_answers} answers wait in memory,"
        f" {writer.dropped_answers} did not fit there and are lost."
        " Check the disk; what waits is written when it answers."
    )
    return CaptureStatus({}, {}, 0, 0, 0, "", "", (said,), stalled_seconds=seconds)


def broken_status(error: EdgeAgentError) -> CaptureStatus:
    """Return the status where the spool cannot be used."""
    said = f"No examples are kept: {error.message}. {error.remedy}"
    return CaptureStatus({}, {}, 0, 0, 0, "", "", (said,), is_off=True)
