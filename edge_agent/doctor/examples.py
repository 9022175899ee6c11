"""What is kept of inputs and answers, what waits for the centre, and what was given up. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edge_agent.byte_sizes import format_bytes
from edge_agent.doctor.findings import Case, Check, Finding, counted, first, lasting, otherwise

SPOOL = Check("spool", "examples")
LOSSES = Check("examples-lost", "examples")
KEEPING = Check("examples-kept", "examples")
STALLED = Check("examples-stalled", "examples")
OUTBOX = Check("outbox", "examples")
RECEIPTS = Check("receipts", "examples")

BROKEN, STANDS = "No examples are kept", "There are no figures of examples"
NOT_KEPT = (BROKEN, STANDS)
"""How the daemon's sentences begin that say why."""
NEARLY = 0.9
RECEIPT_SECONDS_WARNED = 3 * 86_400.0
_EXPORT = "sudo edge-agent export /media/stick"
# Counters that say that something is gone for ever; the others are the order in which room is made.
_LOST = ("dropped_", "segments_lost", "over_limit")


@dataclass(frozen=True)
class ExamplesFacts:
    """Numbers of the spool and the outbox."""

    spool_bytes: int
    spool_bytes_max: int
    outbox_bytes: int
    outbox_bytes_max: int
    segments: int
    oldest_seconds: float | None
    """How long the oldest sealed segment waits; None = none does, or it cannot be seen."""
    counters: Mapping[str, int]
    """Empty where the daemon does not run."""
    problems: tuple[str, ...]
    """Why nothing is kept, in the daemon's words."""
    leaves: bool
    """Examples may leave this site."""

    @property
    def spool(self) -> str:
        """How full the spool is, for people."""
        return f"{format_bytes(self.spool_bytes)} of {format_bytes(self.spool_bytes_max)}"

    @property
    def outbox(self) -> str:
        """How full the outbox is, for people."""
        filled = f"{format_bytes(self.outbox_bytes)} of {format_bytes(self.outbox_bytes_max)}"
        return f"{counted(self.segments, 'segment')}, {filled}"

    @property
    def lost(self) -> str:
        """What is gone for ever, for people."""
        return self._listed(_LOST)

    @property
    def given_up(self) -> str:
        """What made room, for people."""
        return self._listed(("sacrificed_",))

    @property
    def waiting(self) -> str:
        """How long the oldest segment waits, for people."""
        return lasting(self.oldest_seconds or 0.0)

    def _listed(self, beginnings: tuple[str, ...]) -> str:
        found = sorted((name, count) for name, count in self.counters.items() if count and name.startswith(beginnings))
        return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in found)


_SPOOL: tuple[Case[ExamplesFacts], ...] = (
    Case(
        "warning",
        lambda f: f.spool_bytes > NEARLY * f.spool_bytes_max,
        "{f.spool}: nearly full",
        "Routine answers give way, then unsure ones; corrections never. Take away what waits, or raise"
        " 'spool_bytes_max' under 'examples' in agent.yaml.",
        _EXPORT,
    ),
    Case("ok", otherwise, "{f.spool}"),
)
_LOSSES: tuple[Case[ExamplesFacts], ...] = (
    Case(
        "warning",
        lambda f: f.lost,
        "{f.lost}",
        "More came than could be written, or the disk failed. Look at disk and load; raise 'queue_examples_max'.",
        "edge-agent status; df -h /var/lib/edge-agent",
    ),
    Case(
        "note",
        lambda f: f.given_up,
        "{f.given_up}",
        "Room was made for newer ones: raise 'spool_bytes_max', or empty the outbox more often.",
        _EXPORT,
    ),
    Case("ok", lambda f: f.counters, "none was lost or given up"),
)
_OUTBOX: tuple[Case[ExamplesFacts], ...] = (
    Case(
        "warning",
        lambda f: f.outbox_bytes > NEARLY * f.outbox_bytes_max,
        "{f.outbox}: nearly full",
        "When it is full nothing more is sealed, and the spool fills. Take the segments to the centre.",
        _EXPORT,
    ),
    Case("ok", otherwise, "{f.outbox}"),
)
_RECEIPTS: tuple[Case[ExamplesFacts], ...] = (
    Case("ok", lambda f: f.oldest_seconds is None, "nothing waits for a receipt"),
    Case(
        "warning",
        lambda f: (f.oldest_seconds or 0.0) > RECEIPT_SECONDS_WARNED,
        "the oldest segment waits since {f.waiting} for its receipt",
        "Either it does not get there (see the uplink's checks), or the centre does not run 'edge-convert collect', or"
        " has not accepted this site's key ('edge-convert sites accept').",
        f"edge-agent status; {_EXPORT}",
    ),
    Case("ok", otherwise, "the oldest segment waits since {f.waiting}"),
)


def examples(facts: ExamplesFacts | None) -> Iterator[Finding]:
    """Judge spool, outbox and receipts; None = this site keeps nothing."""
    if facts is None:
        return
    for problem in facts.problems:
        if problem.startswith(STANDS):
            remedy = (
                "Devices are answered; feedback waits. Look at the disk: the daemon goes on when it does. To end the"
                " daemon mends no disk, and loses the answers that wait."
            )
            yield STALLED.fault(problem, remedy, "sudo dmesg | tail -50; df -h")
        else:
            yield KEEPING.fault(problem, "Answers go on; nothing of them is kept.", "edge-agent status; df -h")
    yield from first(SPOOL, _SPOOL, facts)
    yield from first(LOSSES, _LOSSES, facts)
    if facts.leaves or facts.segments:
        yield from first(OUTBOX, _OUTBOX, facts)
        yield from first(RECEIPTS, _RECEIPTS, facts)
