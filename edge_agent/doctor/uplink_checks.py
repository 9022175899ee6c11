"""The uplink: whether it runs and is online, the problems that it reports, and the large model behind it.

The probe of the large model reads the daemon's status; it sends nothing over the network.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

from edge_agent.client import UplinkProblem, UplinkStatus
from edge_agent.config.folder_access import RESTART_UPLINK, store_folder
from edge_agent.doctor.findings import Check, Finding, FindingRule, ProbeFailure, first_match, otherwise
from edge_agent.doctor.installation import read_bytes, stat_file
from edge_agent.doctor.probe_context import NO_PHASE, CheckGroup, ProbeContext, UnitPhase, running_seconds, unit_phase
from edge_agent.errors import DocumentInvalid
from edge_agent.formats import signed_document, uplink_state
from edge_agent.formatting import MICROS, counted, format_bytes, format_duration

RUNNING = Check("uplink", "uplink")
LINK = Check("uplink-online", "uplink")
REFUSED = Check("uplink-refused", "uplink")
PROBLEM = Check("uplink-problem", "uplink")
DOWNLOADS = Check("downloads", "uplink")

OFFLINE_SECONDS_WARNED = 86_400.0
FIRST_REPORT_SECONDS = 90.0
"""It reports every minute."""
CONNECT_SECONDS = 10.0
"""Time in which a daemon that just started has tried several times to reach the uplink."""
SHOWN_MAX = 5
_PASSING = ("UPSTREAM_UNREACHABLE", "UPSTREAM_BUSY")
"""Problems that are part of a short time offline."""
_LOG = "sudo journalctl -u edge-uplink -b | tail -50"


ReportedProblem = UplinkProblem | uplink_state.UplinkStateProblem
"""As the daemon or the uplink's own file has it."""


@dataclass(frozen=True)
class UplinkFacts:
    """The uplink's own report, through the daemon or from its file."""

    silence: str
    """Why its report is out of date; empty when it is current."""
    state: str = ""
    """online, probing or offline."""
    upstream: str = ""
    since_seconds: float = 0.0
    failures: int = 0
    waiting_segments: int = 0
    waiting_bytes: int = 0
    problems: tuple[ReportedProblem, ...] = ()
    downloads: str = ""
    """State of downloads; empty when it downloads no updates."""
    waiting_blobs: int = 0
    managed: bool = True
    """systemd runs it."""
    folders: tuple[str, ...] = ()
    """Folders of this machine that are its stores."""
    phase: UnitPhase = NO_PHASE

    @property
    def is_short(self) -> bool:
        """It has been offline for less than a day."""
        return self.state == "probing" or self.since_seconds < OFFLINE_SECONDS_WARNED

    @property
    def is_new(self) -> bool:
        """systemd started it so recently that its first report may be on its way."""
        return _is_new(self.phase, FIRST_REPORT_SECONDS)


def _is_new(phase: UnitPhase, seconds_max: float) -> bool:
    """Return whether systemd is starting or stopping a unit, or started it within `seconds_max`."""
    return bool(phase.name) or (phase.active and phase.seconds < seconds_max)


def judge_uplink(facts: UplinkFacts | None) -> Iterator[Finding]:
    """Judge the uplink; None when this site has none."""
    if facts is None:
        yield RUNNING.note("none is configured: examples and updates travel on a USB drive")
        return
    if facts.silence and facts.is_new:
        yield RUNNING.note(f"it started {facts.phase.seconds:.0f} s ago and has not reported yet")
        return
    if facts.silence:
        command = "sudo systemctl restart edge-uplink" if facts.managed else "edge-agent serve uplink"
        remedy = "Devices get answers without it. Start it; its log shows why it ended."
        yield RUNNING.fault(facts.silence, remedy, f"{command}; {_LOG}")
        return
    yield RUNNING.ok(
        f"runs; {counted(facts.waiting_segments, 'segment')}, {format_bytes(facts.waiting_bytes)} to upload"
    )
    yield _judge_link(facts)
    for problem in facts.problems[:SHOWN_MAX]:
        yield _judge_problem(problem, facts)
    if facts.downloads:
        seen = f"{facts.downloads}; {counted(facts.waiting_blobs, 'file')} to download"
        if facts.downloads != "offline":
            yield DOWNLOADS.ok(seen)
        elif facts.is_short:
            yield DOWNLOADS.note(f"{seen}; the uplink retries automatically")
        else:
            remedy = "Updates do not arrive. The uplink retries automatically; a USB drive works too."
            yield DOWNLOADS.warning(seen, remedy, f"{_LOG}; sudo edge-agent media import /media/usb")


def _judge_link(facts: UplinkFacts) -> Finding:
    seen = f"{facts.state} for {format_duration(facts.since_seconds)}: {facts.upstream}"
    if facts.state == "online":
        return LINK.ok(seen)
    folder = facts.upstream if facts.upstream.startswith("/") else ""
    command = f"findmnt -T {shlex.quote(folder)}" if folder else network_command(facts.upstream)
    if facts.is_short:
        remedy = "The uplink retries automatically; no example is lost meanwhile."
        return LINK.note(f"{seen} ({counted(facts.failures, 'failure')} in a row)", remedy, command)
    cause = "the disk or share that is mounted there" if folder else "cable, router and firewall"
    remedy = f"Check {cause}, or export to a USB drive."
    command = f"{command}; sudo edge-agent media export /media/usb"
    return LINK.warning(f"{seen} ({counted(facts.failures, 'failure')} in a row)", remedy, command)


def network_command(url: str) -> str:
    """Return the commands that show whether this machine has an address, and finds the host of a URL."""
    try:
        host = urlsplit(url).hostname if url.startswith(("http://", "https://")) else None
    except ValueError:  # a mistyped IPv6 address
        host = None
    return f"ip -brief address; getent hosts {shlex.quote(host)}" if host else "ip -brief address; ip route"


def _judge_problem(problem: ReportedProblem, facts: UplinkFacts) -> Finding:
    seen = f"{problem.message}{f' ({problem.about})' if problem.about else ''}"
    if problem.reason in _PASSING and facts.state != "online" and facts.is_short:
        return PROBLEM.note(f"for now: {seen}", "The uplink retries automatically.", about=problem.reason)
    folder = next((path for path in facts.folders if path in problem.message), "")
    if folder:  # check folder-store has the cause, if it lasts
        command = f"findmnt -T {shlex.quote(folder)}; ls -ld {shlex.quote(folder)}"
        return PROBLEM.warning(seen, problem.remedy, command, about=problem.reason)
    if problem.reason == "UPSTREAM_REFUSED":
        command = "date; sudo edge-agent-setup --kit FILE"
        return REFUSED.fault(
            seen, "The credential expired or lost its rights. Have the central team renew it, and enrol again.", command
        )
    return PROBLEM.warning(seen, problem.remedy or "Its log shows more.", _LOG, about=problem.reason)


def probe_uplink(context: ProbeContext) -> UplinkFacts | None:
    """Take the daemon's report, or read the uplink's file. None when no uplink is configured or reports."""
    facts = _read_report(context)
    if facts is None or not context.daemon.managed:
        return facts
    return replace(facts, phase=unit_phase(context.installation, "edge-uplink.service"))


def _read_report(context: ProbeContext) -> UplinkFacts | None:
    config = context.installation.config
    silence = ""
    if context.status is not None:
        report = context.status.uplink
        if report is None:
            return None
        if report.state == "SILENT":
            silence = report.problems[0].message if report.problems else "it does not report"
        since_seconds = (datetime.now(UTC) - report.since).total_seconds() if report.since else 0.0
        return _facts(report, silence, since_seconds, context)
    path = config.uplink_notes / uplink_state.FILE_NAME
    if not stat_file(path).kind:
        configured = config.uplink.url or config.uplink.updates_url
        return UplinkFacts(f"it has not reported yet: {path} does not exist") if configured else None
    try:
        state = uplink_state.parse(read_bytes(path, uplink_state.STATE_BYTES_MAX + 1))
    except DocumentInvalid as error:
        return UplinkFacts(f"its report is invalid: {error.message}", managed=context.daemon.managed)
    age = running_seconds() - state.running_seconds
    if age < 0:
        silence = "it has not reported since this machine started"
    elif age > uplink_state.FRESH_SECONDS:
        silence = f"it has not reported for {age / 60:.0f} min, and should every minute: it was stopped, or hangs"
    return _facts(state, silence, time.time() - signed_document.parse_timestamp(state.since), context)


def _facts(
    report: UplinkStatus | uplink_state.UplinkState, silence: str, since_seconds: float, context: ProbeContext
) -> UplinkFacts:
    uplink = context.installation.config.uplink
    return UplinkFacts(
        silence=silence,
        state=report.state.lower(),
        upstream=report.upstream,
        since_seconds=since_seconds,
        failures=report.failures,
        waiting_segments=report.waiting_segments,
        waiting_bytes=report.waiting_bytes,
        problems=report.problems,
        downloads=report.downloads.state.lower() if report.downloads else "",
        waiting_blobs=report.downloads.waiting_blobs if report.downloads else 0,
        managed=context.daemon.managed,
        folders=tuple(str(each) for each in map(store_folder, (uplink.url, uplink.updates_url)) if each),
    )


LARGE_MODEL = Check("large-model", "uplink")
KEY = Check("large-model-key", "uplink")
BUDGET = Check("large-model-budget", "uplink")

_LARGE_MODEL_LOG = "sudo journalctl -u edge-uplink -b | grep large_model | tail -20"
SILENT = "UPLINK_SILENT"
_NEARLY_SPENT = 0.9


@dataclass(frozen=True)
class LargeModelFacts:
    """The daemon's report on the large model."""

    model: str
    url: str = ""
    online: bool = False
    affordable: bool = True
    reason: str = ""
    """Why it cannot be asked, as an error reason; empty when it can."""
    problem: str = ""
    tasks: tuple[str, ...] = ()
    usual_ms: float = 0.0
    spending: tuple[tuple[str, int, int], ...] = ()
    """Period, cost and cap, in millionths of the currency; a cap of 0 is no cap."""

    @property
    def silent(self) -> bool:
        """The uplink does not answer on its socket."""
        return self.reason == SILENT

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
        capped = [
            f"{micros / MICROS:.2f} of {cap / MICROS:.2f} {period}" for period, micros, cap in self.spending if cap
        ]
        return ", ".join(capped) or "without a cap"

    @property
    def nearly_spent(self) -> bool:
        """At least 90% of a cap is spent."""
        return any(cap and micros >= _NEARLY_SPENT * cap for _, micros, cap in self.spending)


_LARGE_MODEL: tuple[FindingRule[LargeModelFacts], ...] = (
    FindingRule(
        "fault",
        lambda f: f.silent,
        "no task can ask it: {f.problem}",
        "Local models answer meanwhile. Start the uplink; its log shows why it ended.",
        f"{RESTART_UPLINK}; {_LARGE_MODEL_LOG}",
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
        f"{_LARGE_MODEL_LOG}; {{f.network}}",
    ),
    FindingRule(
        "note", lambda f: f.problem, "{f.model}: {f.problem}", "The uplink retries automatically.", _LARGE_MODEL_LOG
    ),
    FindingRule("ok", lambda f: not f.usual_ms, "{f.model} can be asked, and was not asked yet; for {f.task_list}"),
    FindingRule("ok", otherwise, "{f.model} answers, usually within {f.usual_ms:.0f} ms; for {f.task_list}"),
)
_KEY: tuple[FindingRule[LargeModelFacts], ...] = (
    FindingRule(
        "fault",
        lambda f: f.reason == "UPSTREAM_REFUSED",
        "{f.problem}",
        "The key expired or was withdrawn. Ask the central team for an enrolment file with a new key, and enrol.",
        f"sudo edge-agent-setup --kit FILE; {RESTART_UPLINK}",
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
    report = context.status.large_model
    if report.problem_reason == SILENT and _is_starting(context):
        return ProbeFailure("the uplink or the daemon has just started, and they are not connected yet")
    return LargeModelFacts(
        model=report.model,
        url=context.installation.config.escalation.url,
        online=report.online,
        affordable=report.affordable,
        reason=report.problem_reason,
        problem=report.problem,
        tasks=report.tasks,
        usual_ms=report.usual_ms,
        spending=(
            ("today", report.day_micros, report.day_micros_max),
            ("this month", report.month_micros, report.month_micros_max),
        ),
    )


def _is_starting(context: ProbeContext) -> bool:
    """Return whether systemd started the uplink, or the daemon that asks it, a moment ago."""
    uplink = unit_phase(context.installation, "edge-uplink.service") if context.daemon.managed else NO_PHASE
    return _is_new(uplink, FIRST_REPORT_SECONDS) or _is_new(context.daemon.phase, CONNECT_SECONDS)


GROUPS = (
    CheckGroup((RUNNING, LINK, REFUSED, PROBLEM, DOWNLOADS), probe_uplink, judge_uplink),
    CheckGroup((LARGE_MODEL, KEY, BUDGET), probe_large_model, judge_large_model),
)
