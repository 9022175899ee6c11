"""Signed updates: how fresh the metadata is, what was verified, and the progress of each task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.client import BundleRef, TaskUpdate
from edge_agent.doctor.enrolment_checks import read_signed_part
from edge_agent.doctor.findings import Check, Finding, FindingRule, ProbeFailure, first_match, otherwise
from edge_agent.doctor.installation import stat_file
from edge_agent.doctor.probe_context import CheckGroup, ProbeContext
from edge_agent.formatting import format_duration
from edge_agent.store.state_database import UpdateProgress

METADATA = Check("metadata", "updates")
VERIFIED = Check("updates-believed", "updates")
UPDATE = Check("update", "updates")

WARNED_SECONDS = 3 * 86_400.0
STUCK_SECONDS = 6 * 3600.0
DAY_SECONDS = 86_400.0
_REPORT = "Tell the central team."
_ROLLED_BACK_REMEDY = "The previous version answers again until the plan names another one."
_REPORT_COMMAND = "sudo edge-agent support-bundle"
_NEEDS_DRIVE = (
    "FILES_MISSING",
    "UPDATE_INCOMPLETE",
    "STICK_FAILED",
    "INTERRUPTED",
    "STORE_DAMAGED",
    "STATE_DIR_UNWRITABLE",
    "REQUIREMENT_UNMET",
    "SCHEMA_UNKNOWN",
)
"""Reasons of the state waiting that a person with the drive ends."""


@dataclass(frozen=True)
class MetadataFacts:
    """The timestamp of the repository's copy at this site, unverified."""

    path: str
    exists: bool
    problem: str = ""
    """Why it cannot be read; empty when it can."""
    version: int = 0
    expires_in: float = 0.0
    """Seconds; negative when it has expired."""
    has_uplink: bool = False
    """An uplink downloads it."""
    expected: bool = False
    """This site takes updates."""
    is_new: bool = False
    """It was enrolled less than a day ago."""

    @property
    def fetch_command(self) -> str:
        """The command that gets newer metadata."""
        return "sudo systemctl restart edge-uplink" if self.has_uplink else "sudo edge-agent media import /media/usb"

    @property
    def expiry_text(self) -> str:
        """Time until it expires or since it expired, as text."""
        return format_duration(abs(self.expires_in))


_METADATA: tuple[FindingRule[MetadataFacts], ...] = (
    FindingRule(
        "note",
        lambda f: not f.exists and f.has_uplink and f.is_new,
        "no metadata has arrived in {f.path} yet; this site was enrolled today",
        "Wait for the uplink, or import a USB drive.",
        "sudo edge-agent media import /media/usb",
    ),
    FindingRule(
        "warning",
        lambda f: not f.exists and f.has_uplink,
        "no metadata has arrived in {f.path} yet",
        "Check that the uplink runs and is online: its checks follow below.",
        "{f.fetch_command}",
    ),
    FindingRule(
        "note",
        lambda f: not f.exists,
        "no update has arrived yet",
        "Ask the central team for a USB drive with updates, and import it.",
        "{f.fetch_command}",
    ),
    FindingRule(
        "fault",
        lambda f: f.problem,
        "{f.path}/timestamp.json is damaged: {f.problem}",
        "Remove it; the next download or import replaces it.",
        "sudo rm {f.path}/timestamp.json; {f.fetch_command}",
    ),
    FindingRule(
        "fault",
        lambda f: f.expires_in < 0,
        "version {f.version} expired {f.expiry_text} ago: nothing new is installed",
        "Installed bundles keep answering. If the clock is right, the central team can renew it: 'edge-convert renew'.",
        "date; {f.fetch_command}",
    ),
    FindingRule(
        "warning",
        lambda f: f.expires_in < WARNED_SECONDS,
        "version {f.version} expires in {f.expiry_text}",
        "Newer metadata is overdue. Check that the uplink is online, or import a new USB drive.",
        "{f.fetch_command}",
    ),
    FindingRule("ok", otherwise, "version {f.version}, valid for {f.expiry_text}"),
)


def judge_metadata(facts: MetadataFacts) -> Iterator[Finding]:
    """Judge how fresh the metadata is."""
    if facts.expected:
        yield from first_match(METADATA, _METADATA, facts)


@dataclass(frozen=True)
class UpdatesFacts:
    """What the daemon reports, or its journal when it does not run."""

    plan_version: int
    channel: str
    problem: str
    """Why the newest metadata was refused; empty when it was verified."""
    tasks: tuple[TaskUpdate, ...]
    now: float
    live: bool
    """The daemon reports it; False when it was read from the journal."""


@dataclass(frozen=True)
class _TaskView:
    """The update of one task."""

    update: TaskUpdate
    now: float

    @property
    def version(self) -> str:
        return self.update.candidate.version if self.update.candidate else ""

    @property
    def fallback(self) -> str:
        """What answers while the new version does not, as a sentence."""
        if self.update.active is None:
            return "Nothing answers the task: no other version has answered before."
        return "The previous version keeps answering until the plan names another one."

    @property
    def age(self) -> float:
        return self.now - self.update.since.timestamp() if self.update.since else 0.0

    @property
    def drive_advice(self) -> str:
        """What is to be done with the drive."""
        if self.update.reason == "UPDATE_INCOMPLETE":
            return "This USB drive does not help: have the central team write it again, then import it."
        return "Insert the USB drive again and import it."

    @property
    def progress(self) -> str:
        why = self.update.message or self.update.reason
        state = self.update.state.lower().replace("_", " ")
        return f"{self.version} has been in state {state} for {format_duration(self.age)}{f': {why}' if why else ''}"


def _in_state(state: str, *reasons: str) -> Callable[[_TaskView], bool]:
    """Return a condition that matches a state, with one of the reasons; without reasons it matches any."""
    return lambda view: view.update.state == state and (not reasons or view.update.reason in reasons)


_UPDATE: tuple[FindingRule[_TaskView], ...] = (
    FindingRule("fault", _in_state("FAILED"), "{f.progress}", f"{_REPORT} {{f.fallback}}", _REPORT_COMMAND),
    FindingRule("fault", _in_state("ROLLED_BACK"), "{f.progress}", f"{_ROLLED_BACK_REMEDY} {_REPORT}", _REPORT_COMMAND),
    FindingRule(
        "note",
        _in_state("HELD"),
        "{f.progress}",
        "Somebody here selected another version, or removed the task. To use the planned version, allow it.",
        "sudo edge-agent bundles allow {f.update.task}",
    ),
    FindingRule(
        "warning",
        lambda f: f.update.state in ("WAITING", "FETCHING") and f.update.reason == "DISK_FULL",
        "{f.progress}",
        "Free the space, then do what the message says.",
        "df -h; edge-agent bundles list",
    ),
    FindingRule(
        "warning",
        lambda f: f.update.state == "WAITING" and f.update.reason in _NEEDS_DRIVE,
        "{f.progress}",
        "{f.drive_advice} The version that answered before continues to answer.",
        "sudo edge-agent media import /media/usb",
    ),
    FindingRule("ok", _in_state("STAGED", "WINDOW_CLOSED", "STOPPING", ""), "{f.progress}"),
    FindingRule(
        "warning",
        _in_state("STAGED"),
        "{f.progress}",
        "A problem on this machine blocks it ({f.update.attempts} attempts). Fix it; the daemon then continues.",
        "edge-agent doctor; df -h; free -h",
    ),
    FindingRule(
        "warning",
        lambda f: _in_state("FETCHING")(f) and f.age > STUCK_SECONDS,
        "{f.progress}",
        "Its files do not arrive. Check that the uplink is online, or import a full USB drive.",
        "sudo edge-agent media import /media/usb",
    ),
    FindingRule(
        "note",
        _in_state("WAITING", "HARDWARE_UNMET", "HALTED"),
        "{f.progress}",
        "The central team decided this: ask them.",
        "edge-agent status",
    ),
    FindingRule("ok", lambda f: f.update.state and f.update.candidate, "{f.progress}"),
)


def judge_updates(facts: UpdatesFacts) -> Iterator[Finding]:
    """Judge what was verified, then the update of each task."""
    yield from first_match(VERIFIED, _VERIFIED, facts)
    for task in facts.tasks:
        yield from first_match(UPDATE, _UPDATE, _TaskView(task, facts.now), about=task.task)


_VERIFIED: tuple[FindingRule[UpdatesFacts], ...] = (
    FindingRule(
        "warning",
        lambda f: f.problem,
        "{f.problem}",
        "What was verified before stays valid until it expires. Fix the named problem, or ask for a new USB drive.",
        "sudo edge-agent media import /media/usb; edge-agent status",
    ),
    FindingRule("ok", lambda f: f.live and f.plan_version, "plan {f.plan_version} of channel {f.channel}"),
)


def probe_metadata(context: ProbeContext) -> MetadataFacts:
    """Read the newest timestamp: the one that arrived, or the last one that was verified."""
    config = context.installation.config
    folder, has_uplink = config.incoming / "metadata", bool(config.uplink.updates_url)
    expected = bool(config.update.root_file)
    if not expected:  # nothing is judged, so no rights are needed to look
        return MetadataFacts(str(folder), exists=False, has_uplink=has_uplink)
    arrived = folder / "timestamp.json"
    # An import from a USB drive leaves nothing in incoming/, and is newer than what an uplink left there long ago.
    verified = next(iter(sorted((config.state_dir / "trust").glob("**/timestamp.json"))), arrived)
    present = [path for path in dict.fromkeys((arrived, verified)) if stat_file(path).kind]
    if not present:
        is_new = time.time() - stat_file(Path(config.update.root_file)).changed < DAY_SECONDS
        return MetadataFacts(str(folder), exists=False, has_uplink=has_uplink, expected=expected, is_new=is_new)
    versions: list[tuple[int, float, Path]] = []
    for path in present:
        try:
            versions.append((*read_signed_part(path, "timestamp"), path))
        except ValueError as error:
            return MetadataFacts(str(path.parent), True, str(error), has_uplink=has_uplink, expected=expected)
    version, expires, path = max(versions)
    return MetadataFacts(str(path.parent), True, "", version, expires - time.time(), has_uplink, expected)


def probe_updates(context: ProbeContext) -> UpdatesFacts | ProbeFailure:
    """Take the daemon's report, or its journal when it does not run."""
    reported = context.status.updates if context.status else None
    channel = context.installation.config.update.channel
    if reported:
        return UpdatesFacts(
            reported.plan_version, reported.channel, reported.problem, reported.tasks, time.time(), live=True
        )
    if isinstance(context.stored, ProbeFailure):
        return context.stored
    tasks = tuple(map(_update_from_journal, context.stored.journal.values()))
    return UpdatesFacts(0, channel, "", tasks, time.time(), live=False)


def _update_from_journal(row: UpdateProgress) -> TaskUpdate:
    return TaskUpdate(
        task=row.task,
        active=BundleRef(row.task, "", row.incumbent) if row.incumbent else None,
        previous=None,
        candidate=BundleRef(row.task, row.version, row.candidate),
        state=row.state.upper(),
        since=datetime.fromtimestamp(row.since, UTC),
        reason=row.reason,
        message=row.message,
        attempts=row.attempts,
    )


GROUPS = (
    CheckGroup((METADATA,), probe_metadata, judge_metadata),
    CheckGroup((VERIFIED, UPDATE), probe_updates, judge_updates),
)
