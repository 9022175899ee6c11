"""Redaction by a model: whether it misses more than its bundle promises, and with which rules that was proved.

That a redaction model does not read is a warning of the daemon (daemon_checks.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.client import RedactionAuditState, RedactionState
from edge_agent.doctor.findings import Check, Finding, FindingRule, first_match
from edge_agent.doctor.probe_context import CheckGroup, ProbeContext
from edge_agent.formatting import counted

MISSED = Check("redaction-missed", "examples")
PROOF = Check("redaction-proof", "examples")


@dataclass(frozen=True)
class _AuditView:
    """The figures of an audit, as text."""

    state: RedactionState
    audit: RedactionAuditState

    @property
    def found(self) -> str:
        texts, interval = self.audit.texts, f"{100 * self.audit.low:.1f}% to {100 * self.audit.high:.1f}%"
        return f"{self.audit.missed} of {self.audit.values} values in {counted(texts, 'audited text')} ({interval})"

    @property
    def promised(self) -> str:
        return "promises nothing" if self.audit.target is None else f"promises at most {100 * self.audit.target:g}%"


_MISSED: tuple[FindingRule[_AuditView], ...] = (
    FindingRule(
        "warning",
        lambda f: f.audit.exceeded,
        "{f.state.model} missed {f.found} and {f.promised}",
        "Tell the central team: a bundle with a lower cut-off or a better model ends this warning. Until then collect"
        " nothing ('collect' under 'examples' in agent.yaml). Texts with missed values can be exported as rows to train"
        " with; they are originals.",
        "edge-agent redact --export FILE",
    ),
    FindingRule("ok", lambda f: f.audit.texts, "{f.state.model} missed {f.found} and {f.promised}"),
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
    """Judge a redaction model that reads; None where none is configured."""
    if state is None or not state.model:
        return
    if state.audit is not None:
        yield from first_match(MISSED, _MISSED, _AuditView(state, state.audit))
    yield from first_match(PROOF, _PROOF, state)


def probe_redaction(context: ProbeContext) -> RedactionState | None:
    """Take what the daemon reports."""
    return context.status.redaction if context.status else None


GROUPS = (CheckGroup((MISSED, PROOF), probe_redaction, judge_redaction),)
