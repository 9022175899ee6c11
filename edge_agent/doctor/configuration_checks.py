"""agent.yaml: whether it is valid, in force, and readable for the daemons."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_agent.doctor.findings import Check, Finding, FindingRule, first_match, otherwise
from edge_agent.doctor.installation import (
    DAEMON_USER,
    READ,
    UPLINK_USER,
    FileInfo,
    SystemUser,
    can_reach,
    stat_file,
    stat_parents,
)
from edge_agent.doctor.probe_context import CheckGroup, ProbeContext
from edge_agent.formatting import format_duration

CONFIG = Check("config", "settings")
STALE = Check("config-not-in-force", "settings")
OVERRULED = Check("config-overruled", "settings")
READABLE = Check("config-readable", "settings")
UNSIGNED = Check("unsigned-allowed", "settings")

SLACK_SECONDS = 2.0
_RESTART = "sudo systemctl restart edge-agent edge-uplink"


@dataclass(frozen=True)
class FileReader:
    """A file that a daemon's user has to read, with the folders above it."""

    file: FileInfo
    parents: tuple[FileInfo, ...]
    user: SystemUser | None
    """None when there is no such user."""

    @property
    def can_read(self) -> bool:
        """The user may read it, or there is no such user."""
        return self.user is None or can_reach(self.user, self.parents, self.file, READ)

    @property
    def folder(self) -> str:
        """The folder that holds the file."""
        return self.file.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The user's name."""
        return self.user.name if self.user else ""


@dataclass(frozen=True)
class ConfigurationFacts:
    """The configuration on disk."""

    sources: tuple[FileInfo, ...]
    """Its files, whether they exist or not."""
    problem: str
    """Why it is refused; empty when it is valid."""
    remedy: str
    started: float | None
    """When the running daemon read it, in seconds since 1970; None when no daemon answers."""
    readers: tuple[FileReader, ...]
    allow_unsigned: bool
    overruled: tuple[str, ...] = ()
    """Keys of enrolment or the installer that agent.yaml sets to another value."""
    now: float = math.inf
    """What the clock shows, in seconds since 1970."""

    @property
    def existing(self) -> list[FileInfo]:
        """The files that exist."""
        return [source for source in self.sources if source.kind == "file"]

    @property
    def file_list(self) -> str:
        """The existing files, as text."""
        return ", ".join(file.path for file in self.existing)

    @property
    def edited_file(self) -> str:
        """The file that a technician edits."""
        return self.sources[0].path

    @property
    def newer(self) -> str:
        """The files that changed after the daemon started, as text."""
        since = (self.started or 0.0) + SLACK_SECONDS
        late = [(file.path, file.changed - since) for file in self.existing if file.changed > since]
        return ", ".join(f"{path} was changed {format_duration(seconds)}" for path, seconds in late)

    @property
    def is_comparable(self) -> bool:
        """No file changed after now: otherwise the clock was set back, and its times have no order."""
        return all(file.changed <= self.now + SLACK_SECONDS for file in self.existing)

    @property
    def keys(self) -> str:
        """The overruled keys, as text."""
        return ", ".join(self.overruled)


_CONFIG: tuple[FindingRule[ConfigurationFacts], ...] = (
    FindingRule(
        "fault", lambda f: f.problem, "{f.problem}", "{f.remedy}", "sudoedit {f.edited_file}; edge-agent doctor"
    ),
    FindingRule("ok", lambda f: f.existing, "{f.file_list}: valid"),
    FindingRule("ok", otherwise, "there is no agent.yaml: the defaults apply"),
)
_STALE: tuple[FindingRule[ConfigurationFacts], ...] = (
    FindingRule("ok", lambda f: f.started is not None and not f.newer, "the running daemon has read the current files"),
    FindingRule(
        "warning",
        lambda f: f.started is not None,
        "{f.newer} after the daemon started: the old settings are in force",
        "Restart the daemons.",
        _RESTART,
    ),
)
_OVERRULED: tuple[FindingRule[ConfigurationFacts], ...] = (
    FindingRule(
        "note",
        lambda f: f.overruled,
        "agent.yaml overrides settings of enrolment or the installer: {f.keys}",
        "agent.yaml takes precedence. If that is not intended, remove these keys from it.",
        "sudoedit {f.edited_file}",
    ),
)
_UNSIGNED: tuple[FindingRule[ConfigurationFacts], ...] = (
    FindingRule(
        "note",
        lambda f: f.allow_unsigned,
        "agent.yaml allows unsigned bundles",
        "Acceptable for development. On a site, remove 'allow_unsigned' under 'store', and install signed bundles.",
        "edge-agent bundles list",
    ),
)
_READABLE: tuple[FindingRule[FileReader], ...] = (
    FindingRule(
        "fault",
        lambda f: not f.can_read,
        "{f.name} may not read {f.file.path} ({f.file.owner_and_mode})",
        "Let every user read it: both daemons have to, and it holds no secrets.",
        "sudo chmod a+rx {f.folder} && sudo chmod a+r {f.file.path}",
    ),
    FindingRule("ok", otherwise, "{f.name} may read {f.file.path}"),
)


def judge_configuration(facts: ConfigurationFacts) -> Iterator[Finding]:
    """Judge the configuration."""
    yield from first_match(CONFIG, _CONFIG, facts)
    if facts.is_comparable:
        yield from first_match(STALE, _STALE, facts)
    yield from first_match(OVERRULED, _OVERRULED, facts)
    for reader in facts.readers:
        yield from first_match(READABLE, _READABLE, reader, about=reader.file.path)
    yield from first_match(UNSIGNED, _UNSIGNED, facts)


def probe_configuration(context: ProbeContext) -> ConfigurationFacts:
    """Look at the files of the configuration."""
    installation = context.installation
    return ConfigurationFacts(
        sources=tuple(map(stat_file, installation.sources)),
        problem=installation.problem,
        remedy=installation.remedy,
        started=context.status.start_time.timestamp() if context.status else None,
        readers=tuple(_readers(context)) if is_shared(context) else (),
        allow_unsigned=installation.config.store.allow_unsigned,
        overruled=installation.overruled,
        now=time.time(),
    )


def _readers(context: ProbeContext) -> Iterator[FileReader]:
    """Yield each file that a daemon's user has to read, with that user."""
    installation, root_file = context.installation, context.installation.config.update.root_file
    users = [user for user in map(installation.find_user, (DAEMON_USER, UPLINK_USER)) if user]
    for path in (source for source in installation.sources if stat_file(source).kind):
        yield from (file_reader(path, user) for user in users)
    if root_file and users and stat_file(Path(root_file)).kind:
        yield file_reader(Path(root_file), users[0])


def is_shared(context: ProbeContext) -> bool:
    """Return whether the daemons' users read the configuration, as on an installed appliance."""
    etc = context.installation.at("etc/edge-agent")
    return any(path.parent == etc for path in context.installation.sources)


def file_reader(path: Path, user: SystemUser | None) -> FileReader:
    """Look at a file that a user has to read, and at the folders above it."""
    return FileReader(stat_file(path), stat_parents(path), user)


GROUPS = (CheckGroup((CONFIG, STALE, OVERRULED, READABLE, UNSIGNED), probe_configuration, judge_configuration),)
