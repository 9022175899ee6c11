"""The daemon's state directory, its databases, and the folders that it shares with the uplink."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_agent.capture.spool import SCHEMA_VERSION as SPOOL_VERSION
from edge_agent.doctor.findings import Check, Finding, FindingRule, first_match, otherwise
from edge_agent.doctor.installation import (
    DAEMON_USER,
    ENTER,
    EXCHANGE_GROUP,
    READ,
    UPLINK_USER,
    WRITE,
    FileInfo,
    SystemUser,
    can_reach,
    read_bytes,
    stat_file,
    stat_parents,
)
from edge_agent.doctor.probe_context import CheckGroup, ProbeContext, find_damage
from edge_agent.formatting import counted, format_bytes
from edge_agent.store.state_database import SCHEMA_VERSION as STATE_VERSION

STATE_DIR = Check("state-dir", "state")
DATABASE = Check("database", "state")
OWNERS = Check("state-owner", "state")
EXCHANGE = Check("exchange-folders", "state")
_RIGHTS = {READ: "read", READ | ENTER: "read", READ | WRITE | ENTER: "write"}


@dataclass(frozen=True)
class StateFacts:
    """The state directory."""

    folder: FileInfo
    parents: tuple[FileInfo, ...]
    """Existing parents, nearest first. The daemon makes a missing folder in the first of them."""
    user: SystemUser | None
    """The daemon's user; None when there is no such user, and the user who starts the daemon counts."""
    strangers: tuple[FileInfo, ...]
    """Files in it that belong to another user than the folder."""

    @property
    def user_name(self) -> str:
        """The daemon's user, for a command."""
        return self.user.name if self.user else "$USER"

    @property
    def can_create(self) -> bool:
        """The daemon may create it."""
        return self.user is None or can_reach(self.user, self.parents[1:], self.parents[0], WRITE | ENTER)

    @property
    def can_write(self) -> bool:
        """The daemon may write into it."""
        return self.user is None or can_reach(self.user, self.parents, self.folder, READ | WRITE | ENTER)

    @property
    def examples(self) -> str:
        """Three of the strangers, as text."""
        return ", ".join(f"{file.path} ({file.owner})" for file in self.strangers[:3])

    @property
    def stranger_count(self) -> str:
        """Number of strangers, as text."""
        return counted(len(self.strangers), "file")


_FOLDER: tuple[FindingRule[StateFacts], ...] = (
    FindingRule(
        "ok", lambda f: not f.folder.kind and f.can_create, "{f.folder.path} does not exist yet; the daemon creates it"
    ),
    FindingRule(
        "fault",
        lambda f: not f.folder.kind,
        "{f.folder.path} does not exist, and {f.user_name} may not create it",
        "Create it for the daemon's user.",
        "sudo install -d -m 700 -o {f.user_name} {f.folder.path}",
    ),
    FindingRule(
        "fault",
        lambda f: f.folder.kind != "folder",
        "{f.folder.path} is not a folder",
        "Move the file away and restart the daemon, which creates the folder; then install the bundles again.",
        "sudo mv {f.folder.path} {f.folder.path}.away; sudo systemctl restart edge-agent",
    ),
    FindingRule(
        "fault",
        lambda f: not f.can_write,
        "{f.user_name} may not write {f.folder.path} ({f.folder.owner_and_mode})",
        "Make the daemon's user its owner.",
        "sudo chown -R {f.user_name}: {f.folder.path} && sudo chmod 700 {f.folder.path}",
    ),
    FindingRule(
        "warning",
        lambda f: f.folder.mode & 0o007,
        "{f.folder.path} is {f.folder.owner_and_mode}: every user may read it",
        "Restrict its mode: it holds captured examples.",
        "sudo chmod 700 {f.folder.path}",
    ),
    FindingRule("ok", otherwise, "{f.folder.path}, {f.folder.owner_and_mode}"),
)
_OWNERS: tuple[FindingRule[StateFacts], ...] = (
    FindingRule(
        "fault",
        lambda f: f.strangers,
        "{f.folder.path} holds {f.stranger_count} of another user, such as {f.examples}",
        "The daemon ran as another user. Change the owner back.",
        "sudo chown -R {f.folder.owner}: {f.folder.path}",
    ),
    FindingRule("ok", lambda f: f.folder.kind == "folder", "every file belongs to {f.folder.owner}"),
)


def judge_state_dir(facts: StateFacts) -> Iterator[Finding]:
    """Judge the folder, then the owners of the files in it."""
    yield from first_match(STATE_DIR, _FOLDER, facts)
    yield from first_match(OWNERS, _OWNERS, facts)


@dataclass(frozen=True)
class DatabaseFacts:
    """The header of a database, and the result of checking a copy."""

    file: FileInfo
    version: int
    """Version of its schema; -1 when the file is not a database, 0 when it is empty."""
    own_version: int
    """The version that this program writes."""
    damage: str
    """What SQLite reports; empty when the copy is whole, or was not checked."""

    @property
    def name(self) -> str:
        """Its name without the folders."""
        return self.file.path.rpartition("/")[2]

    @property
    def problem(self) -> str:
        """What is wrong with it, as text."""
        return self.damage or "it is not a database"

    @property
    def move_aside(self) -> str:
        """The commands that move it away."""
        folder = self.file.path.removesuffix(f"/{self.name}")
        aside = f"{folder}.away"  # on the same disk, which may be another one than that of /var/lib
        blobs = f" {folder}/blobs" if self.name == "state.db" else ""
        move = f"sudo mkdir -p {aside}; sudo mv {self.file.path}*{blobs} {aside}/"
        return f"sudo systemctl stop edge-agent; {move}; sudo systemctl start edge-agent"

    @property
    def size(self) -> str:
        """Its size, as text."""
        return format_bytes(self.file.size)


_DATABASE: tuple[FindingRule[DatabaseFacts], ...] = (
    FindingRule(
        "fault",
        lambda f: f.version < 0 or f.damage,
        "{f.file.path} is damaged: {f.problem}",
        "Move it away and start the daemon. For state.db, install the bundles again; spool.db loses unsealed feedback.",
        "{f.move_aside}",
    ),
    FindingRule(
        "fault",
        lambda f: f.version > f.own_version,
        "{f.file.path} was written by a newer version (schema {f.version}; this one knows {f.own_version})",
        "Install the newer version again: an older version cannot read this schema.",
        "sudo sh edge-agent-*-linux-x86_64.run",
    ),
    FindingRule(
        "note",
        lambda f: 0 < f.version < f.own_version,
        "{f.file.path}: schema {f.version}; the daemon upgrades it to {f.own_version} when it starts",
        "Start the daemon.",
        "sudo systemctl restart edge-agent",
    ),
    FindingRule("ok", lambda f: f.version, "{f.name}: schema {f.version}, {f.size}"),
    FindingRule("ok", otherwise, "{f.name}: {f.size}"),
)


def judge_databases(facts: tuple[DatabaseFacts, ...]) -> Iterator[Finding]:
    """Judge state.db and spool.db."""
    for each in facts:
        yield from first_match(DATABASE, _DATABASE, each, about=each.name)


@dataclass(frozen=True)
class ExchangeFolder:
    """A folder that daemon and uplink share, and the access that each needs."""

    role: str
    """outbox, receipts, incoming, notes or wants."""
    folder: FileInfo
    parents: tuple[FileInfo, ...]
    needs: tuple[tuple[SystemUser, int], ...]
    """Users, with the access bits that each needs."""
    mode: int
    """Expected mode: docs/uplink.md."""
    group: str

    @property
    def denied_access(self) -> str:
        """The first user without the access that it needs, as the start of a sentence; empty when all have it."""
        lacking = ((user, bits) for user, bits in self.needs if not can_reach(user, self.parents, self.folder, bits))
        return next((f"{user.name} may not {_RIGHTS[bits]}" for user, bits in lacking), "")

    @property
    def owner(self) -> str:
        """The user who has to write to it."""
        return next((user.name for user, bits in self.needs if bits & WRITE), DAEMON_USER)

    @property
    def repair_command(self) -> str:
        """The command that sets its owner, group and mode."""
        path = self.folder.path
        return f"sudo chown {self.owner}:{self.group} {path} && sudo chmod {self.mode:o} {path}"

    @property
    def creation_command(self) -> str:
        """The command that makes it."""
        return f"sudo install -d -m {self.mode:o} -o {self.owner} -g {self.group} {self.folder.path}"


_EXCHANGE: tuple[FindingRule[ExchangeFolder], ...] = (
    FindingRule(
        "fault",
        lambda f: not f.folder.kind,
        "{f.folder.path} ({f.role}) does not exist",
        "Create it with its owner and mode.",
        "{f.creation_command}",
    ),
    FindingRule(
        "fault",
        lambda f: f.folder.kind != "folder",
        "{f.folder.path} is not a folder",
        "Move the file away, and create the folder.",
        "sudo mv {f.folder.path} {f.folder.path}.away; {f.creation_command}",
    ),
    FindingRule(
        "fault",
        lambda f: f.denied_access,
        "{f.denied_access} {f.folder.path} ({f.folder.owner_and_mode})",
        "Set its owner, group and mode.",
        "{f.repair_command}",
    ),
    FindingRule(
        "warning",
        lambda f: f.folder.mode & 0o002,
        "{f.folder.path} is {f.folder.owner_and_mode}: every user may write to it",
        "Restrict its mode.",
        "{f.repair_command}",
    ),
    FindingRule("ok", otherwise, "{f.role}: both users have the access that they need"),
)


def judge_exchange_folders(folders: tuple[ExchangeFolder, ...]) -> Iterator[Finding]:
    """Judge the folders that daemon and uplink share."""
    for folder in folders:
        yield from first_match(EXCHANGE, _EXCHANGE, folder, about=folder.role)


ENTRIES_MAX = 5000
LOST_AND_FOUND = "lost+found"
"""At the top of an ext4 file system; only root can use it."""
_HEADER = b"SQLite format 3\0"
_VERSION_AT = 60  # of the file format: user_version, 4 bytes, the highest first


def probe_state_dir(context: ProbeContext) -> StateFacts:
    """Look at the folder, and at the owners of the files in it."""
    path = context.installation.config.state_dir.absolute()
    folder = stat_file(path)
    entries = itertools.islice(path.glob("**/*"), ENTRIES_MAX) if folder.kind == "folder" else ()
    files = map(stat_file, (entry for entry in entries if entry != path / LOST_AND_FOUND))
    strangers = tuple(file for file in files if file.kind and file.uid != folder.uid)
    return StateFacts(folder, stat_parents(path), context.daemon_user, strangers)


def probe_databases(context: ProbeContext) -> tuple[DatabaseFacts, ...]:
    """Read the header of each; while no daemon has state.db open, let SQLite check a copy."""
    folder = context.installation.config.state_dir
    databases = []
    for name, own_version in (("state.db", STATE_VERSION), ("spool.db", SPOOL_VERSION)):
        file = stat_file(folder / name)
        if file.kind:
            version = _read_version(folder / name)
            is_checkable = name == "state.db" and not context.daemon.pid and 0 < version <= own_version
            databases.append(
                DatabaseFacts(file, version, own_version, find_damage(folder / name) if is_checkable else "")
            )
    return tuple(databases)


def _read_version(path: Path) -> int:
    head = read_bytes(path, 100)
    if not head:
        return 0
    return int.from_bytes(head[_VERSION_AT : _VERSION_AT + 4], "big") if head.startswith(_HEADER) else -1


def probe_exchange_folders(context: ProbeContext) -> tuple[ExchangeFolder, ...]:
    """Look at the folders that daemon and uplink share; none unless they run as two users."""
    installation, config = context.installation, context.installation.config
    daemon, uplink = installation.find_user(DAEMON_USER), installation.find_user(UPLINK_USER)
    if not (daemon and uplink) or not (config.uplink.url or config.uplink.updates_url):
        return ()
    read, write = READ | ENTER, READ | WRITE | ENTER
    folders: list[tuple[str, Path, tuple[tuple[SystemUser, int], ...]]] = [
        ("outbox", config.outbox, ((daemon, write), (uplink, read))),
        ("receipts", config.receipts, ((daemon, read), (uplink, write))),
        ("incoming", config.incoming, ((daemon, read), (uplink, write))),
        ("wants", config.wants.parent, ((daemon, write), (uplink, read))),
        ("notes", config.uplink_notes, ((daemon, read), (uplink, write))),
    ]
    needed = [folder for folder in folders if config.uplink.updates_url or folder[0] not in ("incoming", "wants")]
    return tuple(
        ExchangeFolder(role, stat_file(path), stat_parents(path), needs, 0o2750, EXCHANGE_GROUP)
        for role, path, needs in needed
    )


GROUPS = (
    CheckGroup((STATE_DIR, OWNERS), probe_state_dir, judge_state_dir),
    CheckGroup((DATABASE,), probe_databases, judge_databases),
    CheckGroup((EXCHANGE,), probe_exchange_folders, judge_exchange_folders),
)
