"""The large model: whether it can be asked, whether its key is taken, and what is left to spend. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.doctor.findings import Case, Check, Finding, first, otherwise

LARGE_MODEL = Check("large-model", "uplink")
KEY = Check("large-model-key", "uplink")
BUDGET = Check("large-model-budget", "uplink")

_LOG = "sudo journalctl -u edge-uplink -b | grep large_model | tail -20"
_RESTART = "sudo systemctl restart edge-uplink"
_NEARLY = 0.9
_MICROS = 1_000_000


@dataclass(frozen=True)
class LargeModelFacts:
    """What serve knows of it."""

    model: str
    online: bool = False
    affordable: bool = True
    reason: str = ""
    """What is in the way, as a reason; empty = nothing."""
    problem: str = ""
    tasks: tuple[str, ...] = ()
    usual_ms: float = 0.0
    spent: tuple[tuple[str, int, int], ...] = ()
    """A span of time, what it has cost and its cap, in millionths; 0 = no cap."""

    @property
    def silent(self) -> bool:
        """The uplink does not answer at its socket."""
        return self.reason == "UPLINK_SILENT"

    @property
    def asked_about(self) -> str:
        """Which tasks may ask it, for people."""
        return ", ".join(self.tasks)

    @property
    def costs(self) -> str:
        """What was spent of what may be, for people."""
        capped = [f"{each / _MICROS:.2f} of {cap / _MICROS:.2f} {span}" for span, each, cap in self.spent if cap]
        return ", ".join(capped) or "without a cap"

    @property
    def nearly_spent(self) -> bool:
        """A cap is close."""
        return any(cap and each >= _NEARLY * cap for _, each, cap in self.spent)


_STANDING: tuple[Case[LargeModelFacts], ...] = (
    Case(
        "fault",
        lambda f: f.silent,
        "nobody can ask it: {f.problem}",
        "Answers are given here meanwhile. Start the uplink; its log says why it ended.",
        f"{_RESTART}; {_LOG}",
    ),
    Case("note", lambda f: not f.tasks, "no task may ask it", "Name them in 'tasks' under 'escalation' in agent.yaml."),
    Case(
        "warning",
        lambda f: not f.online,
        "{f.model} is offline: {f.problem}",
        "Answers are given here meanwhile, and it is tried again by itself. Check the network, and 'url' and 'model'.",
        f"{_LOG}; resolvectl status",
    ),
    Case("note", lambda f: f.problem, "{f.model}: {f.problem}", "It is tried again by itself.", _LOG),
    Case("ok", otherwise, "{f.model} is there, usually {f.usual_ms:.0f} ms; for {f.asked_about}"),
)
_KEY: tuple[Case[LargeModelFacts], ...] = (
    Case(
        "fault",
        lambda f: f.reason == "UPSTREAM_REFUSED",
        "{f.problem}",
        "It expired or was withdrawn: have the centre make a kit with another one, and enrol again.",
        f"sudo edge-agent-setup --kit FILE; {_RESTART}",
    ),
    Case("ok", lambda f: f.online, "the large model takes it"),
)
_BUDGET: tuple[Case[LargeModelFacts], ...] = (
    Case(
        "warning",
        lambda f: not f.silent and not f.affordable,
        "spent up: {f.costs}",
        "It is asked again on the next day (UTC) or month; or raise the cap under 'escalation' in agent.yaml.",
        "edge-agent status",
    ),
    Case(
        "note", lambda f: f.nearly_spent, "nearly spent: {f.costs}", "Raise the cap, or let it be.", "edge-agent status"
    ),
    Case("ok", lambda f: not f.silent, "{f.costs}"),
)


def large_model(facts: LargeModelFacts | None) -> Iterator[Finding]:
    """Judge the way to the large model; None = this site has none."""
    if facts is None:
        return
    yield from first(LARGE_MODEL, _STANDING, facts)
    yield from first(KEY, _KEY, facts)
    yield from first(BUDGET, _BUDGET, facts)
