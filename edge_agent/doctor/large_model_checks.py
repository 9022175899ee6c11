"""The large model: whether it is reachable, whether its key is valid, and what is left of the budget.

The probe reads the daemon's status; it sends nothing over the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.doctor.findings import Check, Finding, FindingRule, ProbeFailure, first_match, otherwise
from edge_agent.doctor.probe_context import CheckGroup, ProbeContext
from edge_agent.doctor.uplink_checks import network_command

LARGE_MODEL = Check("large-model", "uplink")
KEY = Check("large-model-key", "uplink")
BUDGET = Check("large-model-budget", "uplink")

_LOG = "sudo journalctl -u edge-uplink -b | grep large_model | tail -20"
_RESTART = "sudo systemctl restart edge-uplink"
_NEARLY = 0.9
_MICROS = 1_000_000


@dataclass(frozen=True)
class LargeModelFacts:
    """What the daemon reports of it."""

    model: str
    url: str = ""
    online: bool = False
    affordable: bool = True
    reason: str = ""
    """Why it cannot be asked, as an error reason; empty when it can."""
    problem: str = ""
    tasks: tuple[str, ...] = ()
    usual_ms: float = 0.0
    spent: tuple[tuple[str, int, int], ...] = ()
    """Period, cost and cap, in millionths of the currency; a cap of 0 is no cap."""

    @property
    def silent(self) -> bool:
        """The uplink does not answer on its socket."""
        return self.reason == "UPLINK_SILENT"

    @property
    def network(self) -> str:
        """The commands that show whether its host can be reached."""
        return network_command(self.url)

    @property
    def task_list(self) -> str:
        """The tasks that may ask it, as text."""
        return ", ".join(self.tasks)

    @property
    def costs(self) -> str:
        """What was spent of each cap, as text."""
        capped = [f"{each / _MICROS:.2f} of {cap / _MICROS:.2f} {span}" for span, each, cap in self.spent if cap]
        return ", ".join(capped) or "without a cap"

    @property
    def nearly_spent(self) -> bool:
        """At least 90% of a cap is spent."""
        return any(cap and each >= _NEARLY * cap for _, each, cap in self.spent)


_LARGE_MODEL: tuple[FindingRule[LargeModelFacts], ...] = (
    FindingRule(
        "fault",
        lambda f: f.silent,
        "no task can ask it: {f.problem}",
        "Local models answer meanwhile. Start the uplink; its log shows why it ended.",
        f"{_RESTART}; {_LOG}",
    ),
    FindingRule(
        "note",
        lambda f: not f.tasks,
        "no task may ask it",
        "Name the tasks in 'tasks' under 'escalation' in agent.yaml.",
    ),
    FindingRule(
        "warning",
        lambda f: not f.online,
        "{f.model} is offline: {f.problem}",
        "Local models answer meanwhile, and the uplink retries automatically. Check the network, 'url' and 'model'.",
        f"{_LOG}; {{f.network}}",
    ),
    FindingRule("note", lambda f: f.problem, "{f.model}: {f.problem}", "The uplink retries automatically.", _LOG),
    FindingRule("ok", otherwise, "{f.model} answers, usually within {f.usual_ms:.0f} ms; for {f.task_list}"),
)
_KEY: tuple[FindingRule[LargeModelFacts], ...] = (
    FindingRule(
        "fault",
        lambda f: f.reason == "UPSTREAM_REFUSED",
        "{f.problem}",
        "The key expired or was withdrawn. Ask the central team for an enrolment file with a new key, and enrol.",
        f"sudo edge-agent-setup --kit FILE; {_RESTART}",
    ),
    FindingRule("ok", lambda f: f.online, "the large model accepts it"),
)
_BUDGET: tuple[FindingRule[LargeModelFacts], ...] = (
    FindingRule(
        "warning",
        lambda f: not f.silent and not f.affordable,
        "budget spent: {f.costs}",
        "It is asked again on the next day (UTC) or month. Or raise the cap under 'escalation' in agent.yaml.",
        "edge-agent status",
    ),
    FindingRule(
        "note",
        lambda f: f.nearly_spent,
        "nearly spent: {f.costs}",
        "Raise the cap, or accept that local models answer alone when it is spent.",
        "edge-agent status",
    ),
    FindingRule("ok", lambda f: not f.silent, "{f.costs}"),
)


def judge_large_model(facts: LargeModelFacts | None) -> Iterator[Finding]:
    """Judge the large model; None when this site uses none."""
    if facts is None:
        return
    yield from first_match(LARGE_MODEL, _LARGE_MODEL, facts)
    yield from first_match(KEY, _KEY, facts)
    yield from first_match(BUDGET, _BUDGET, facts)


def probe_large_model(context: ProbeContext) -> LargeModelFacts | ProbeFailure | None:
    """Read the daemon's status; return None when agent.yaml names no large model."""
    if not context.installation.config.escalation.url:
        return None
    if context.status is None or context.status.large_model is None:
        return ProbeFailure(
            "the daemon reports nothing of the large model", needs_rights=context.daemon.reason == "FORBIDDEN"
        )
    reported = context.status.large_model
    return LargeModelFacts(
        model=reported.model,
        url=context.installation.config.escalation.url,
        online=reported.online,
        affordable=reported.affordable,
        reason=reported.problem_reason,
        problem=reported.problem,
        tasks=reported.tasks,
        usual_ms=reported.usual_ms,
        spent=(
            ("today", reported.day_micros, reported.day_micros_max),
            ("this month", reported.month_micros, reported.month_micros_max),
        ),
    )


GROUPS = (CheckGroup((LARGE_MODEL, KEY, BUDGET), probe_large_model, judge_large_model),)
