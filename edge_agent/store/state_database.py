"""state.db: which bundles are installed, which of them answers for each task, and what updates must remember.

SQLite in WAL mode with synchronous=FULL: a change that was committed survives a power cut, and every change is one
transaction. One process owns the file, and one thread at a time uses it (any thread). The database itself refuses to
forget a bundle that a pointer names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edge_agent.durable.sqlite_database import Database, DatabaseSchema
from edge_agent.errors import ManifestInvalid, SchemaUnknown, StoreDamaged
from edge_agent.formats.manifest import Manifest, digest_of, parse
from edge_agent.store.mode_tables import DemotionTable, ModeTable
from edge_agent.store.update_records import JOURNAL_TABLE, TRUST_TABLES, TrustTable, UpdateJournal, UpdateProgress

SCHEMA_VERSION = 2
_BUNDLES = (
    # AUTOINCREMENT: `sequence` says what is newest even after the clock was set back.
    "CREATE TABLE bundles (sequence INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL UNIQUE, task TEXT NOT NULL,"
    " version TEXT NOT NULL, manifest BLOB NOT NULL, signed INTEGER NOT NULL, installed_at REAL NOT NULL) STRICT",
    "CREATE TABLE pointers (task TEXT PRIMARY KEY, active TEXT NOT NULL REFERENCES bundles (digest),"
    " previous TEXT REFERENCES bundles (digest)) STRICT",
)
_UPDATES = (JOURNAL_TABLE, *TRUST_TABLES)
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
    """What the database knows of a bundle without its manifest."""

    task: str
    version: str
    digest: str

    def __str__(self) -> str:
        """Name it as people do."""
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
        self._db = Database(path, _schema_at(path), may_create=may_create)
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
        """Return what all bundles are called, whether they can be read or not: by task, the newest first."""
        return [BundleName(*row[:3]) for row in self._db.rows(_ALL)]

    def pointers(self) -> dict[str, tuple[str, str]]:
        """Return the digests of the active and the previous bundle ("" = none), by task."""
        rows = self._db.rows("SELECT task, active, coalesce(previous, '') FROM pointers ORDER BY task")
        return {task: (active, previous) for task, active, previous in rows}

    def add(self, bundle: InstalledBundle, per_task_max: int) -> bool:
        """Add a bundle, if it is new, and forget the task's oldest idle ones beyond `per_task_max`.

        One that is there already gets its manifest again, in case that was damaged, and counts as signed if it is now.
        """
        task, version = bundle.manifest.task.name, bundle.manifest.version
        row = (bundle.digest, task, version, bundle.manifest_bytes, bundle.signed, bundle.installed_at)
        with self._db.transaction():
            known = self._db.execute("SELECT 1 FROM bundles WHERE digest = ?", (bundle.digest,)).fetchone()
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
        return known is None

    def set_active(self, digest: str, progress: UpdateProgress | None = None) -> None:
        """Let an installed bundle answer for its task; the one before becomes the previous.

        With `progress`, the journal says so in the same moment. A bundle that was rolled back is nothing that a later
        rollback may lead to.
        """
        with self._db.transaction():
            self._db.execute(_ACTIVATE, (digest,))
            if progress is not None:
                self.journal.write(progress)
                if progress.state == "rolled_back":
                    self._db.execute("UPDATE pointers SET previous = NULL WHERE task = ?", (progress.task,))

    def remove(self, digest: str) -> None:
        """Forget a bundle that no pointer names."""
        with self._db.transaction():
            self._db.execute("DELETE FROM bundles WHERE digest = ?", (digest,))

    def remove_task(self, task: str) -> None:
        """Forget a task with all its bundles."""
        with self._db.transaction():
            self._db.execute("DELETE FROM pointers WHERE task = ?", (task,))
            self._db.execute("DELETE FROM bundles WHERE task = ?", (task,))

    def _read(self) -> Iterator[InstalledBundle | UnreadableBundle]:
        for task, version, digest, manifest_bytes, signed, installed_at in self._db.rows(_ALL):
            try:
                manifest = _manifest(digest, manifest_bytes)
                yield InstalledBundle(digest, manifest_bytes, manifest, bool(signed), installed_at)
            except StoreDamaged as error:
                yield UnreadableBundle(BundleName(task, version, digest), manifest_bytes, error)


def _schema_at(path: Path) -> DatabaseSchema:
    # With its -wal, which SQLite would replay into a new database, and the blobs, which nothing names any more.
    away = f"{path}* and {path.parent / 'blobs'}"
    remedy = f"Stop the daemon, move {away} away, start it and install the bundles again."
    return DatabaseSchema(SCHEMA_VERSION, _BUNDLES + _UPDATES, remedy, migrations={1: _UPDATES})


def _manifest(digest: str, manifest_bytes: bytes) -> Manifest:
    if digest_of(manifest_bytes) != digest:
        raise StoreDamaged(f"the manifest stored for bundle {digest} is not the one installed", digest=digest)
    try:
        return parse(manifest_bytes)
    except (ManifestInvalid, SchemaUnknown) as error:
        said = f"this agent cannot read the installed bundle {digest}: {error.message}"
        remedy = (
            "Start the edge-agent version that installed it, or roll back, or install a bundle that this one knows."
        )
        raise StoreDamaged(said, remedy=remedy, digest=digest) from None
