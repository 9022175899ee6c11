"""Captured examples: what the spool holds, what waits in the outbox, what was lost, and how well a model redacts them.

Probes read sizes only. A redaction model that does not answer is a warning of the daemon (daemon_checks.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.capture.spool import LOSSES as LOSS_COUNTERS
from edge_agent.client import ExamplesStatus, OperatorWarning, RedactionAuditState, RedactionState
from edge_agent.doctor.findings import Check, Finding, FindingRule, first_match, otherwise
from edge_agent.doctor.installation import stat_file
from edge_agent.doctor.probe_context import CheckGroup, ProbeContext
from edge_agent.formatting import counted, format_bytes, format_duration

SPOOL = Check("spool", "examples")
LOSSES = Check("examples-lost", "examples")
KEEPING = Check("examples-kept", "examples")
STALLED = Check("examples-stalled", "examples")
OUTBOX = Check("outbox", "examples")
RECEIPTS = Check("receipts", "examples")

NEARLY_FULL = 0.9
RECEIPT_SECONDS_WARNED = 3 * 86_400.0
LOSS_SECONDS_REPORTED = 86_400.0
"""The counters are totals: a loss is reported until the daemon has run this long without another one."""
_EXPORT = "sudo edge-agent media export /media/usb"


@dataclass(frozen=True)
class CaptureFacts:
    """Numbers of the spool and the outbox."""

    spool_bytes: int
    spool_bytes_max: int
    outbox_bytes: int
    outbox_bytes_max: int
    segments: int
    oldest_seconds: float | None
    """Age of the oldest sealed segment; None when none waits, or this user may not look."""
    counters: Mapping[str, int]
    """Empty when the daemon does not run."""
    problems: tuple[OperatorWarning, ...]
    """Why nothing is captured: warnings of the daemon, of kind EXAMPLES_OFF or EXAMPLES_STALLED."""
    can_leave_site: bool
    """The configuration lets examples leave this site."""
    loss_seconds: Mapping[str, float] = field(default_factory=dict)
    """How long the daemon has run since examples were lost or evicted the last time; no key = none were."""

    @property
    def spool(self) -> str:
        """How full the spool is, as text."""
        return f"{format_bytes(self.spool_bytes)} of {format_bytes(self.spool_bytes_max)}"

    @property
    def outbox(self) -> str:
        """How full the outbox is, as text."""
        size = f"{format_bytes(self.outbox_bytes)} of {format_bytes(self.outbox_bytes_max)}"
        return f"{counted(self.segments, 'segment')}, {size}"

    @property
    def lost(self) -> str:
        """What was lost, and when the last time, as text; empty when that is long ago."""
        return self._loss_text("lost")

    @property
    def evicted(self) -> str:
        """What was evicted to make space, likewise."""
        return self._loss_text("evicted")

    @property
    def waiting_text(self) -> str:
        """Age of the oldest segment, as text."""
        return format_duration(self.oldest_seconds or 0.0)

    def _loss_text(self, kind: str) -> str:
        seconds, beginnings = self.loss_seconds.get(kind, LOSS_SECONDS_REPORTED), LOSS_COUNTERS[kind]
        if seconds >= LOSS_SECONDS_REPORTED:
            return ""
        counters = sorted(
            (name, count) for name, count in self.counters.items() if count and name.startswith(beginnings)
        )
        counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counters)
        return f"{counts} in all, the last {format_duration(seconds)} ago"


_SPOOL: tuple[FindingRule[CaptureFacts], ...] = (
    FindingRule(
        "warning",
        lambda f: f.spool_bytes > NEARLY_FULL * f.spool_bytes_max,
        "{f.spool}: nearly full",
        "The spool evicts confident answers first, then unsure ones, and never corrections. Export what waits, or raise"
        " 'spool_bytes_max' under 'examples' in agent.yaml.",
        _EXPORT,
    ),
    FindingRule("ok", otherwise, "{f.spool}"),
)
_LOSSES: tuple[FindingRule[CaptureFacts], ...] = (
    FindingRule(
        "warning",
        lambda f: f.lost,
        "{f.lost}",
        "More came than the disk could write, or the disk failed. Check disk and load; raise 'queue_examples_max' under"
        " 'examples' in agent.yaml. This warning ends after a day without another loss.",
        "edge-agent status; df -h /var/lib/edge-agent",
    ),
    FindingRule(
        "note",
        lambda f: f.evicted,
        "{f.evicted}",
        "They made space for newer examples. Raise 'spool_bytes_max', or empty the outbox more often. This note ends"
        " after a day without another eviction.",
        _EXPORT,
    ),
    FindingRule("ok", lambda f: f.counters, "none was lost or evicted in the last day"),
)
_OUTBOX: tuple[FindingRule[CaptureFacts], ...] = (
    FindingRule(
        "warning",
        lambda f: f.outbox_bytes > NEARLY_FULL * f.outbox_bytes_max,
        "{f.outbox}: nearly full",
        "When it is full, the daemon seals no more segments, and the spool fills. Export the segments.",
        _EXPORT,
    ),
    FindingRule("ok", otherwise, "{f.outbox}"),
)
_RECEIPTS: tuple[FindingRule[CaptureFacts], ...] = (
    FindingRule("ok", lambda f: f.oldest_seconds is None, "no segment waits for a receipt"),
    FindingRule(
        "warning",
        lambda f: (f.oldest_seconds or 0.0) > RECEIPT_SECONDS_WARNED,
        "the oldest segment has waited {f.waiting_text} for its receipt",
        "Either it does not arrive (see the checks of the uplink), or the central team does not run"
        " 'edge-convert collect', or has not accepted this site's key ('edge-convert sites accept').",
        f"edge-agent status; {_EXPORT}",
    ),
    FindingRule("ok", otherwise, "the oldest segment has waited {f.waiting_text}"),
)


def judge_capture(facts: CaptureFacts | None) -> Iterator[Finding]:
    """Judge spool, outbox and receipts; None when this site captures nothing."""
    if facts is None:
        return
    for problem in facts.problems:
        if problem.kind == "EXAMPLES_STALLED":
            remedy = (
                "Devices get answers; feedback waits. Check the disk: the daemon continues when the disk does. Stopping"
                " the daemon does not repair the disk, and loses the answers that wait to be written."
            )
            yield STALLED.fault(problem.message, remedy, "sudo dmesg | tail -50; df -h")
        else:
            yield KEEPING.fault(
                problem.message,
                "Devices get answers; none of them is captured. Do what the finding says; then it captures again.",
                "edge-agent status; df -h",
            )
    yield from first_match(SPOOL, _SPOOL, facts)
    yield from first_match(LOSSES, _LOSSES, facts)
    if facts.can_leave_site or facts.segments:
        yield from first_match(OUTBOX, _OUTBOX, facts)
        yield from first_match(RECEIPTS, _RECEIPTS, facts)


def probe_capture(context: ProbeContext) -> CaptureFacts | None:
    """Take the daemon's numbers, or those of the disk; None when this site captures nothing."""
    config = context.installation.config
    examples = context.status.examples if context.status else None
    spool = stat_file(config.state_dir / "spool.db")
    warnings = context.status.warning_details if context.status else ()
    problems = tuple(warning for warning in warnings if warning.kind in ("EXAMPLES_OFF", "EXAMPLES_STALLED"))
    if examples is None and not spool.kind and not problems:
        return None
    count, size, oldest = _count_segments(config.outbox / "segments")
    numbers = examples or ExamplesStatus({}, {}, spool.size, size, count, "", {})
    return CaptureFacts(
        spool_bytes=numbers.spool_bytes,
        spool_bytes_max=config.examples.spool_bytes_max,
        outbox_bytes=numbers.outbox_bytes,
        outbox_bytes_max=config.examples.outbox_bytes_max,
        segments=numbers.outbox_segments,
        oldest_seconds=oldest,
        counters=numbers.counters,
        problems=problems,
        can_leave_site="upstream" in config.examples.collect.values(),
        loss_seconds=numbers.loss_seconds,
    )


def _count_segments(folder: Path) -> tuple[int, int, float | None]:
    """Return how many segments wait, their bytes, and the age of the oldest, in seconds."""
    files = [stat_file(path) for path in folder.glob("*.age")]
    oldest = min((file.changed for file in files), default=None)
    return len(files), sum(file.size for file in files), None if oldest is None else time.time() - oldest


MISSED = Check("redaction-missed", "examples")
PROOF = Check("redaction-proof", "examples")


@dataclass(frozen=True)
class _AuditView:
    """The figures of an audit, as text."""

    state: RedactionState
    audit: RedactionAuditState

    @property
    def missed_text(self) -> str:
        texts, interval = self.audit.texts, f"{100 * self.audit.low:.1f}% to {100 * self.audit.high:.1f}%"
        return f"{self.audit.missed} of {self.audit.values} values in {counted(texts, 'audited text')} ({interval})"

    @property
    def promise_text(self) -> str:
        return "promises nothing" if self.audit.target is None else f"promises at most {100 * self.audit.target:g}%"


_MISSED: tuple[FindingRule[_AuditView], ...] = (
    FindingRule(
        "warning",
        lambda f: f.audit.exceeded,
        "{f.state.model} missed {f.missed_text} and {f.promise_text}",
        "Tell the central team: a bundle with a lower cut-off or a better model ends this warning. Until then collect"
        " nothing ('collect' under 'examples' in agent.yaml). Texts with missed values can be exported as rows to train"
        " with; they are originals.",
        "edge-agent redact --export FILE",
    ),
    FindingRule("ok", lambda f: f.audit.texts, "{f.state.model} missed {f.missed_text} and {f.promise_text}"),
)
_PROOF: tuple[FindingRule[RedactionState], ...] = (
    FindingRule(
        "note",
        lambda f: f.is_proved_otherwise,
        "what {f.model} promises was proved with rules of version {f.proved_rules}; this agent has version {f.rules}",
        "Ask the central team for a bundle that is proved with this version: 'edge-convert run' of the same version as"
        " this agent. An audit shows meanwhile what is missed ('audit_share' under 'redaction' in agent.yaml).",
        "edge-agent status",
    ),
    FindingRule("ok", lambda f: f.proved_rules, "what {f.model} promises was proved with rules of version {f.rules}"),
)


def judge_redaction(state: RedactionState | None) -> Iterator[Finding]:
    """Judge the redaction model; None if none is configured."""
    if state is None or not state.model:
        return
    if state.audit is not None:
        yield from first_match(MISSED, _MISSED, _AuditView(state, state.audit))
    yield from first_match(PROOF, _PROOF, state)


def probe_redaction(context: ProbeContext) -> RedactionState | None:
    """Take what the daemon reports."""
    return context.status.redaction if context.status else None


GROUPS = (
    CheckGroup((KEEPING, STALLED, SPOOL, LOSSES, OUTBOX, RECEIPTS), probe_capture, judge_capture),
    CheckGroup((MISSED, PROOF), probe_redaction, judge_redaction),
)
