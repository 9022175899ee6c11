"""The daemon's state on the disk: its folder, its databases; and the exchange folders beside it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.byte_sizes import format_bytes
from edge_agent.doctor.files import ENTER, READ, WRITE, File, Person, may_reach
from edge_agent.doctor.findings import Case, Check, Finding, first, otherwise

STATE_DIR = Check("state-dir", "state")
DATABASE = Check("database", "state")
OWNERS = Check("state-owner", "state")
EXCHANGE = Check("exchange-folders", "state")
AWAY = "/var/lib/edge-agent.away"
_RIGHTS = {READ: "read", READ | ENTER: "read", READ | WRITE | ENTER: "write"}


@dataclass(frozen=True)
class StateFacts:
    """The state directory."""

    folder: File
    above: tuple[File, ...]
    """Nearest first; of a folder that is not there the one that it would be made in is the first."""
    person: Person | None
    """The daemon's user; None = there is no such user here, and whoever starts it is it."""
    strangers: tuple[File, ...]
    """Files in it that belong to another user than the folder."""

    @property
    def who(self) -> str:
        """The daemon's user, for a command."""
        return self.person.name if self.person else "$USER"

    @property
    def may_make(self) -> bool:
        """The daemon may make it."""
        return self.person is None or may_reach(self.person, self.above[1:], self.above[0], WRITE | ENTER)

    @property
    def may_write(self) -> bool:
        """The daemon may write into it."""
        return self.person is None or may_reach(self.person, self.above, self.folder, READ | WRITE | ENTER)

    @property
    def named(self) -> str:
        """Some of the files of others, for people."""
        return ", ".join(f"{file.path} ({file.owner})" for file in self.strangers[:3])

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.strangers)


_FOLDER: tuple[Case[StateFacts], ...] = (
    Case("ok", lambda f: not f.folder.kind and f.may_make, "{f.folder.path} is not there yet; the daemon makes it"),
    Case(
        "fault",
        lambda f: not f.folder.kind,
        "{f.folder.path} is not there, and {f.who} may not make it",
        "Make it and give it to the daemon's user.",
        "sudo install -d -m 700 -o {f.who} {f.folder.path}",
    ),
    Case(
        "fault",
        lambda f: f.folder.kind != "folder",
        "{f.folder.path} is no folder",
        "Move it away.",
        "sudo mv {f.folder.path} {f.folder.path}.away",
    ),
    Case(
        "fault",
        lambda f: not f.may_write,
        "{f.who} may not write {f.folder.path} ({f.folder.shown})",
        "Give it to the daemon's user.",
        "sudo chown -R {f.who}: {f.folder.path} && sudo chmod 700 {f.folder.path}",
    ),
    Case(
        "warning",
        lambda f: f.folder.mode & 0o007,
        "{f.folder.path} is {f.folder.shown}: everybody may look into it",
        "Close it: kept examples lie there.",
        "sudo chmod 700 {f.folder.path}",
    ),
    Case("ok", otherwise, "{f.folder.path}, {f.folder.shown}"),
)
_OWNERS: tuple[Case[StateFacts], ...] = (
    Case(
        "fault",
        lambda f: f.strangers,
        "{f.count} belong to another user than {f.folder.path}, such as {f.named}",
        "Somebody ran the daemon as another user. Give them back.",
        "sudo chown -R {f.folder.owner}: {f.folder.path}",
    ),
    Case("ok", lambda f: f.folder.kind == "folder", "all belongs to {f.folder.owner}"),
)


def state_dir(facts: StateFacts) -> Iterator[Finding]:
    """Judge the folder and who owns what in it."""
    yield from first(STATE_DIR, _FOLDER, facts)
    yield from first(OWNERS, _OWNERS, facts)


@dataclass(frozen=True)
class DatabaseFacts:
    """What the first bytes of a database say, and a check of a copy where one was made."""

    file: File
    version: int
    """-1 = it is no database; 0 = empty."""
    known: int
    """The version that this program writes."""
    damage: str
    """What SQLite finds wrong; empty = nothing, or it was not asked."""

    @property
    def name(self) -> str:
        """Its name without the folders."""
        return self.file.path.rpartition("/")[2]

    @property
    def said(self) -> str:
        """What is wrong with it, for people."""
        return self.damage or "it is no database"

    @property
    def aside(self) -> str:
        """The commands that move it away."""
        blobs = f" {self.file.path.removesuffix(self.name)}blobs" if self.name == "state.db" else ""
        move = f"sudo mkdir -p {AWAY}; sudo mv {self.file.path}*{blobs} {AWAY}/"
        return f"sudo systemctl stop edge-agent; {move}; sudo systemctl start edge-agent"

    @property
    def size(self) -> str:
        """Its size, for people."""
        return format_bytes(self.file.size)


_DATABASE: tuple[Case[DatabaseFacts], ...] = (
    Case(
        "fault",
        lambda f: f.version < 0 or f.damage,
        "{f.file.path} is damaged: {f.said}",
        "Move it away and start again. Bundles have to be installed again; unsealed feedback goes with the spool.",
        "{f.aside}",
    ),
    Case(
        "fault",
        lambda f: f.version > f.known,
        "{f.file.path} was written by a newer version (schema {f.version}; this one knows {f.known})",
        "Upgrade again. Going back past a change of the schema is not possible.",
        "sudo sh edge-agent-*-linux-x86_64.run",
    ),
    Case(
        "note",
        lambda f: 0 < f.version < f.known,
        "{f.file.path}: schema {f.version}; the daemon makes it {f.known} when it starts",
        "Start the daemon.",
        "sudo systemctl restart edge-agent",
    ),
    Case("ok", lambda f: f.version, "{f.name}: schema {f.version}, {f.size}"),
    Case("ok", otherwise, "{f.name}: {f.size}"),
)


def databases(facts: tuple[DatabaseFacts, ...]) -> Iterator[Finding]:
    """Judge state.db and spool.db."""
    for each in facts:
        yield from first(DATABASE, _DATABASE, each, about=each.name)


@dataclass(frozen=True)
class Exchanged:
    """An exchange folder and who has to do what with it."""

    what: str
    """outbox, receipts, incoming, notes or wants."""
    folder: File
    above: tuple[File, ...]
    needs: tuple[tuple[Person, int], ...]
    """Users, and the bits that they need there."""
    mode: int
    """As the documents have it."""
    group: str

    @property
    def barred(self) -> str:
        """Who may not do what it must, as the beginning of a sentence; empty = nobody."""
        lacking = (
            (person, bits) for person, bits in self.needs if not may_reach(person, self.above, self.folder, bits)
        )
        return next((f"{person.name} may not {_RIGHTS[bits]}" for person, bits in lacking), "")

    @property
    def mend(self) -> str:
        """The command that gives it its group and mode."""
        return f"sudo chgrp {self.group} {self.folder.path} && sudo chmod {self.mode:o} {self.folder.path}"


_REMAKE = "sudo systemd-tmpfiles --create"
_EXCHANGE: tuple[Case[Exchanged], ...] = (
    Case(
        "fault",
        lambda f: not f.folder.kind,
        "{f.folder.path} ({f.what}) is not there",
        "Make it with its owner and mode: docs/uplink.md lists them.",
        _REMAKE,
    ),
    Case(
        "fault",
        lambda f: f.folder.kind != "folder",
        "{f.folder.path} is no folder",
        "Move it away and make it again.",
        _REMAKE,
    ),
    Case(
        "fault",
        lambda f: f.barred,
        "{f.barred} {f.folder.path} ({f.folder.shown})",
        "Give it the owner, group and mode that docs/uplink.md lists.",
        "{f.mend}",
    ),
    Case(
        "warning",
        lambda f: f.folder.mode & 0o002,
        "{f.folder.path} is {f.folder.shown}: everybody may write into it",
        "Close it.",
        "{f.mend}",
    ),
    Case("ok", otherwise, "{f.what}: both users may do what they must"),
)


def exchange(folders: tuple[Exchanged, ...]) -> Iterator[Finding]:
    """Judge the folders between the two daemons."""
    for each in folders:
        yield from first(EXCHANGE, _EXCHANGE, each, about=each.what)
