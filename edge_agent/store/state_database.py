"""state.db: the installed bundles, the active one of each task, the modes, and the state of updates.

SQLite in WAL mode with synchronous=FULL: a change that was committed survives a power cut, and every change is one
transaction. One process owns the file, and one thread at a time uses it (any thread). The database itself refuses to
delete a bundle that a pointer names.

The mode in the plan is stored, so that a site whose metadata has expired stays in its mode. An operator's mode holds
until the plan names another mode than it did when the operator chose, as with bundles.

A demotion to shadow by an alarm is stored in addition to the modes of the plan and the operator, never in their place,
so that everyone can see its origin. Each alarm demotes a bundle once: when the operator takes that back, the same alarm
does not overrule them.

A row of the journal is written before the step that it names begins. The step that moves the pointer is written with
its row in one transaction: see `StateDatabase.set_active`. So after a kill the row and the pointer together show which
step was under way.

The trusted roots and version floors are rows as well, because the files of the TUF client next to state.db can be lost
or damaged at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from itertools import starmap
from pathlib import Path
from typing import NamedTuple, get_args

from edge_agent.durable.sqlite_database import Database, DatabaseSchema
from edge_agent.errors import ManifestInvalid, SchemaUnknown, StoreDamaged
from edge_agent.formats.manifest import Manifest, digest_of, parse
from edge_agent.formats.plan import Mode
from edge_agent.formats.status_object import Alarm, UpdateState

_MODES = (
    "CREATE TABLE IF NOT EXISTS modes"
    " (task TEXT PRIMARY KEY, planned TEXT NOT NULL, said TEXT NOT NULL, against TEXT NOT NULL) STRICT"
)
_DEMOTIONS = (
    "CREATE TABLE IF NOT EXISTS demotions (task TEXT PRIMARY KEY, permitted TEXT NOT NULL, digest TEXT NOT NULL,"
    " alarm TEXT NOT NULL, seen TEXT NOT NULL, at REAL NOT NULL, against TEXT NOT NULL, taken INTEGER NOT NULL) STRICT"
)


@dataclass(frozen=True)
class RecordedModes:
    """Modes by task, set by the plan and the operator; a task without one has the mode in agent.yaml."""

    planned: Mapping[str, Mode]
    by_operator: Mapping[str, Mode]
    """Those of the operator that are still in force."""


class ModeTable:
    """The table of modes, in an open database. An empty text = no mode."""

    def __init__(self, database: Database) -> None:
        """Add the table if it is missing; an older agent, to which a site may go back, ignores it."""
        self._db = database
        with database.transaction():
            database.execute(_MODES)

    def read(self) -> RecordedModes:
        """Return the modes in force."""
        rows = self._db.rows("SELECT task, planned, said, against FROM modes ORDER BY task")
        planned = {task: mode for task, mode, _, _ in rows if mode}
        by_operator = {task: mode for task, planned_mode, mode, against in rows if mode and planned_mode == against}
        return RecordedModes(planned, by_operator)

    def set_planned(self, modes: Mapping[str, Mode]) -> None:
        """Store the modes of all tasks in the plan; writes only changes."""
        stored = self.read().planned
        merged = {task: modes.get(task, "") for task in stored.keys() | modes.keys()}
        rows = [(task, mode) for task, mode in merged.items() if mode != stored.get(task, "")]
        if rows:
            with self._db.transaction():
                self._db.executemany(
                    "INSERT INTO modes (task, planned, said, against) VALUES (?, ?, '', '')"
                    " ON CONFLICT (task) DO UPDATE SET planned = excluded.planned",
                    rows,
                )

    def set_by_operator(self, task: str, mode: Mode | None) -> None:
        """Store the operator's mode of a task; None = the operator no longer sets one."""
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO modes (task, planned, said, against) VALUES (?, '', ?, '')"
                " ON CONFLICT (task) DO UPDATE SET said = excluded.said, against = planned",
                (task, mode or ""),
            )


@dataclass(frozen=True)
class Demotion:
    """The demotion of one task, and which alarms may demote it."""

    permitted: frozenset[str] = frozenset()
    """Alarms that may put it into shadow, by the plan."""
    digest: str = ""
    """Of the bundle that was demoted; empty = the task was never demoted."""
    alarm: Alarm = "errors"
    """The alarm that demoted it."""
    seen: frozenset[str] = frozenset()
    """Alarms that were raised then: none of them demotes that bundle again."""
    at: float = 0.0
    """Seconds since 1970."""
    against: str = ""
    """The mode in the plan then; empty = the plan set none."""
    taken: bool = False
    """The operator has set a mode since."""

    def holds(self, digest: str, planned: str) -> bool:
        """Tell whether it is in force for the bundle that answers, with the mode that the plan sets now."""
        same = bool(digest) and self.digest == digest and self.against == planned
        return same and not self.taken and self.alarm in self.permitted

    def due(self, digest: str, raised: Sequence[Alarm]) -> Alarm | None:
        """Return the alarm that may demote that bundle now, or None."""
        raised_before = self.seen if self.digest == digest else frozenset()
        return next((alarm for alarm in raised if alarm in self.permitted and alarm not in raised_before), None)


class DemotionTable:
    """The table of demotions, in an open database."""

    def __init__(self, database: Database) -> None:
        """Add the table if it is missing; an older agent, to which a site may go back, ignores it."""
        self._db = database
        with database.transaction():
            database.execute(_DEMOTIONS)

    def read(self) -> dict[str, Demotion]:
        """Return the demotions by task, without those by alarms of a newer agent."""
        rows = self._db.rows("SELECT task, permitted, digest, alarm, seen, at, against, taken FROM demotions")
        return {
            task: Demotion(
                frozenset(permitted.split()), digest, alarm, frozenset(seen.split()), at, against, bool(taken)
            )
            for task, permitted, digest, alarm, seen, at, against, taken in rows
            if alarm in get_args(Alarm)
        }

    def permit(self, permitted: Mapping[str, Sequence[Alarm]]) -> None:
        """Store which alarms the plan permits to demote each task; writes only changes."""
        stored = {task: demotion.permitted for task, demotion in self.read().items()}
        changed = {
            task: permitted.get(task, ())
            for task in stored.keys() | permitted.keys()
            if frozenset(permitted.get(task, ())) != stored.get(task, frozenset())
        }
        if changed:
            with self._db.transaction():
                self._db.executemany(
                    "INSERT INTO demotions VALUES (?, ?, '', 'errors', '', 0, '', 0)"
                    " ON CONFLICT (task) DO UPDATE SET permitted = excluded.permitted",
                    [(task, " ".join(alarms)) for task, alarms in changed.items()],
                )

    def demote(self, task: str, demotion: Demotion) -> None:
        """Store that an alarm put a task into shadow; the plan's permission stays as it is."""
        with self._db.transaction():
            self._db.execute(
                "UPDATE demotions SET digest = ?, alarm = ?, seen = ?, at = ?, against = ?, taken = 0 WHERE task = ?",
                (demotion.digest, demotion.alarm, " ".join(sorted(demotion.seen)), demotion.at, demotion.against, task),
            )

    def take_back(self, task: str) -> None:
        """Store that the operator has set a mode."""
        with self._db.transaction():
            self._db.execute("UPDATE demotions SET taken = 1 WHERE task = ?", (task,))


_UPDATES = (
    "CREATE TABLE updates (task TEXT PRIMARY KEY, candidate TEXT NOT NULL, version TEXT NOT NULL, wish TEXT NOT NULL,"
    " plan_version INTEGER NOT NULL, incumbent TEXT NOT NULL, state TEXT NOT NULL, since REAL NOT NULL,"
    " reason TEXT NOT NULL, message TEXT NOT NULL, attempts INTEGER NOT NULL, interruptions INTEGER NOT NULL,"
    " watch TEXT NOT NULL) STRICT",
    "CREATE TABLE trust (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    "CREATE TABLE roots (version INTEGER PRIMARY KEY, metadata BLOB NOT NULL) STRICT",
)


@dataclass(frozen=True)
class UpdateProgress:
    """A row of the journal: the columns of the table, in their order."""

    task: str
    candidate: str
    """Digest of the bundle in the plan."""
    version: str
    wish: str
    """A hash of what the plan requests: a task that failed or is held stays so until it changes."""
    plan_version: int
    incumbent: str
    """Digest of the bundle that answered when the plan first named the candidate; empty = none."""
    state: UpdateState
    since: float
    """When it entered that state, in seconds since 1970 by a clock that may be wrong."""
    reason: str = ""
    message: str = ""
    attempts: int = 0
    """Tries that failed because of this machine."""
    interruptions: int = 0
    """Tries during which the daemon ended."""
    watch: str = ""
    """probation: its counts so far, in the format of its module."""


_NAMES = tuple(column.name for column in fields(UpdateProgress))
_ROWS = f"SELECT {', '.join(_NAMES)} FROM updates ORDER BY task"  # noqa: S608 - names of this module
_WRITE = f"REPLACE INTO updates ({', '.join(_NAMES)}) VALUES ({', '.join('?' * len(_NAMES))})"  # noqa: S608


class UpdateJournal:
    """The journal of updates, in an open database."""

    def __init__(self, database: Database) -> None:
        """Use a database that has the table."""
        self._db = database

    def rows(self) -> dict[str, UpdateProgress]:
        """Return all rows, by task."""
        return {progress.task: progress for progress in starmap(UpdateProgress, self._db.rows(_ROWS))}

    def write(self, progress: UpdateProgress) -> None:
        """Write the row of a task; inside a transaction."""
        self._db.execute(_WRITE, astuple(progress))

    def record(self, progress: UpdateProgress) -> None:
        """Write the row of a task, in a transaction of its own."""
        with self._db.transaction():
            self.write(progress)

    def forget(self, task: str) -> None:
        """Delete the row of a task."""
        with self._db.transaction():
            self._db.execute("DELETE FROM updates WHERE task = ?", (task,))


@dataclass(frozen=True)
class MetadataFloor:
    """The newest metadata of one role: older metadata is refused while its signers are still trusted."""

    version: int
    signers: tuple[str, ...]
    """Ids of the keys whose signatures made it valid."""
    issued_at: float
    """The newest signing time of the role's metadata, in seconds since 1970."""
    listed: Mapping[str, int] = field(default_factory=dict)
    """snapshot: the version of each metadata file that it names, by file name."""
    sha256: str = ""
    """timestamp: the sha256 of its signed part; empty = an earlier agent did not store it."""


class TrustTable:
    """The trusted roots and the floors, in an open database."""

    def __init__(self, database: Database) -> None:
        """Use a database that has the tables."""
        self._db = database

    def roots(self) -> dict[int, bytes]:
        """Return all roots that were ever trusted, by version, the oldest first."""
        return dict(self._db.rows("SELECT version, metadata FROM roots ORDER BY version"))

    def add_roots(self, roots: Mapping[int, bytes], *, replace: bool = False) -> None:
        """Store roots; `replace` deletes the earlier ones, because the site has got another root of trust."""
        with self._db.transaction():
            if replace:
                self._db.execute("DELETE FROM roots")
            self._db.executemany("REPLACE INTO roots (version, metadata) VALUES (?, ?)", roots.items())

    def floors(self) -> dict[str, MetadataFloor]:
        """Return the floors by role. Raises StoreDamaged."""
        floors = {}
        for role, value in self._db.rows("SELECT name, value FROM trust"):
            try:
                stored = json.loads(value)
                floors[role] = MetadataFloor(
                    int(stored["version"]),
                    tuple(stored["signers"]),
                    float(stored["issued_at"]),
                    {str(name): int(version) for name, version in stored.get("listed", {}).items()},
                    str(stored.get("sha256", "")),
                )
            except (ValueError, TypeError, KeyError, AttributeError):
                raise self._db.damaged(f"{self._db.path} holds an invalid floor of the role '{role}'") from None
        return floors

    def raise_floors(self, floors: Mapping[str, MetadataFloor]) -> None:
        """Write floors, all or none."""
        rows = [(role, json.dumps(asdict(floor))) for role, floor in floors.items()]
        with self._db.transaction():
            self._db.executemany("REPLACE INTO trust (name, value) VALUES (?, ?)", rows)


SCHEMA_VERSION = 2
_BUNDLES = (
    # AUTOINCREMENT: `sequence` shows which bundle is newest even after the clock was set back.
    "CREATE TABLE bundles (sequence INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL UNIQUE, task TEXT NOT NULL,"
    " version TEXT NOT NULL, manifest BLOB NOT NULL, signed INTEGER NOT NULL, installed_at REAL NOT NULL) STRICT",
    "CREATE TABLE pointers (task TEXT PRIMARY KEY, active TEXT NOT NULL REFERENCES bundles (digest),"
    " previous TEXT REFERENCES bundles (digest)) STRICT",
)
_ALL = """
    SELECT task, version, digest, manifest, signed, installed_at FROM bundles ORDER BY task, sequence DESC
"""
_ACTIVATE = """
    INSERT INTO pointers (task, active) SELECT task, digest FROM bundles WHERE digest = ?
    ON CONFLICT (task) DO UPDATE SET previous = active, active = excluded.active WHERE active <> excluded.active
"""
_IDLE_OLDEST_FIRST = """
    SELECT digest FROM bundles b WHERE task = ? AND NOT EXISTS
        (SELECT 1 FROM pointers p WHERE p.active = b.digest OR p.previous = b.digest) ORDER BY sequence
"""


@dataclass(frozen=True)
class InstalledBundle:
    """One bundle of the store; `installed_at` in seconds since 1970."""

    digest: str
    manifest_bytes: bytes
    manifest: Manifest
    signed: bool
    installed_at: float


class BundleName(NamedTuple):
    """The columns of a bundle that do not need its manifest."""

    task: str
    version: str
    digest: str

    def __str__(self) -> str:
        """Return the name for people."""
        return f"{self.task} {self.version} ({self.digest[:12]})"


@dataclass(frozen=True)
class UnreadableBundle:
    """A bundle whose stored manifest this agent cannot use, and why."""

    name: BundleName
    manifest_bytes: bytes
    error: StoreDamaged


class StateDatabase:
    """The open database."""

    def __init__(self, path: Path, may_create: bool) -> None:
        """Open and check it; a missing or empty one is created only if `may_create`.

        Raises:
            StoreDamaged: not a database, damaged, written by a newer agent, or missing.
            StateDirUnwritable, StateDirInUse, DiskFull: it cannot be opened for writing.
        """
        self.path = path
        # With its -wal file, which SQLite would replay into a new database, and the blobs, which no row would name.
        paths = f"{path}* and {path.parent / 'blobs'}"
        remedy = f"Stop the daemon, move {paths} away, start it and install the bundles again."
        schema = DatabaseSchema(SCHEMA_VERSION, _BUNDLES + _UPDATES, remedy, migrations={1: _UPDATES})
        self._db = Database(path, schema, may_create=may_create)
        self.journal = UpdateJournal(self._db)
        self.trusted = TrustTable(self._db)
        self.modes = ModeTable(self._db)
        self.demotions = DemotionTable(self._db)

    def close(self) -> None:
        """Close the database; closing twice is fine."""
        self._db.close()

    def bundles(self) -> list[InstalledBundle]:
        """Return all bundles that this agent can read: by task, the newest first."""
        return [bundle for bundle in self._read() if isinstance(bundle, InstalledBundle)]

    def unreadable(self) -> list[UnreadableBundle]:
        """Return the other ones: installed by another version of the agent, or damaged."""
        return [bundle for bundle in self._read() if isinstance(bundle, UnreadableBundle)]

    def names(self) -> list[BundleName]:
        """Return the names of all bundles, readable or not: by task, the newest first."""
        return [BundleName(*row[:3]) for row in self._db.rows(_ALL)]

    def pointers(self) -> dict[str, tuple[str, str]]:
        """Return the digests of the active and the previous bundle ("" = none), by task."""
        rows = self._db.rows("SELECT task, active, coalesce(previous, '') FROM pointers ORDER BY task")
        return {task: (active, previous) for task, active, previous in rows}

    def add(self, bundle: InstalledBundle, per_task_max: int) -> bool:
        """Add a bundle, and delete the task's oldest idle ones beyond `per_task_max`; tell whether it was new.

        If it is there already, its manifest is written again, in case that was damaged, and it may become signed.
        """
        task, version = bundle.manifest.task.name, bundle.manifest.version
        row = (bundle.digest, task, version, bundle.manifest_bytes, bundle.signed, bundle.installed_at)
        with self._db.transaction():
            existing = self._db.execute("SELECT 1 FROM bundles WHERE digest = ?", (bundle.digest,)).fetchone()
            self._db.execute(
                "INSERT INTO bundles (digest, task, version, manifest, signed, installed_at) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (digest) DO UPDATE SET manifest = excluded.manifest,"
                " signed = max(signed, excluded.signed)"
                " WHERE manifest <> excluded.manifest OR signed < excluded.signed",
                row,
            )
            (count,) = self._db.execute("SELECT count(*) FROM bundles WHERE task = ?", (task,)).fetchone()
            idle = self._db.execute(_IDLE_OLDEST_FIRST, (task,)).fetchall()
            spare = [digest for (digest,) in idle if digest != bundle.digest][: max(0, count - per_task_max)]
            self._db.executemany("DELETE FROM bundles WHERE digest = ?", [(digest,) for digest in spare])
        return existing is None

    def set_active(self, digest: str, progress: UpdateProgress | None = None) -> None:
        """Let an installed bundle answer for its task; the active one becomes the previous one.

        `progress` is written to the journal in the same transaction. A later rollback must not return to a bundle that
        was rolled back.
        """
        with self._db.transaction():
            self._db.execute(_ACTIVATE, (digest,))
            if progress is not None:
                self.journal.write(progress)
                if progress.state == "rolled_back":
                    self._db.execute("UPDATE pointers SET previous = NULL WHERE task = ?", (progress.task,))

    def remove(self, digest: str) -> None:
        """Delete a bundle that no pointer names."""
        with self._db.transaction():
            self._db.execute("DELETE FROM bundles WHERE digest = ?", (digest,))

    def remove_task(self, task: str) -> None:
        """Delete a task with all its bundles."""
        with self._db.transaction():
            self._db.execute("DELETE FROM pointers WHERE task = ?", (task,))
            self._db.execute("DELETE FROM bundles WHERE task = ?", (task,))

    def _read(self) -> Iterator[InstalledBundle | UnreadableBundle]:
        for task, version, digest, manifest_bytes, signed, installed_at in self._db.rows(_ALL):
            try:
                manifest = _parse_stored(digest, manifest_bytes)
                yield InstalledBundle(digest, manifest_bytes, manifest, bool(signed), installed_at)
            except StoreDamaged as error:
                yield UnreadableBundle(BundleName(task, version, digest), manifest_bytes, error)


def _parse_stored(digest: str, manifest_bytes: bytes) -> Manifest:
    if digest_of(manifest_bytes) != digest:
        raise StoreDamaged(f"the manifest stored for bundle {digest} is not the one installed", digest=digest)
    try:
        return parse(manifest_bytes)
    except (ManifestInvalid, SchemaUnknown) as error:
        message = f"this agent cannot read the installed bundle {digest}: {error.message}"
        remedy = "Start the edge-agent version that installed it, or roll back, or install a bundle for this version."
        raise StoreDamaged(message, remedy=remedy, digest=digest) from None
