"""state.db: which bundles are installed, and which of them answers for each task.

SQLite in WAL mode with synchronous=FULL: a change that was committed survives a power cut, and every change is one
transaction. One process owns the file, and one thread at a time uses it (any thread). The database itself refuses to
forget a bundle that a pointer names.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edge_agent.errors import (
    DiskFull,
    EdgeAgentError,
    ManifestInvalid,
    SchemaUnknown,
    StateDirInUse,
    StateDirUnwritable,
    StoreDamaged,
)
from edge_agent.formats.manifest import Manifest, digest_of, parse
from edge_agent.store.disk import CHECK_DISK, disk_errors

SCHEMA_VERSION = 1
_SCHEMA = (
    # AUTOINCREMENT: `sequence` says what is newest even after the clock was set back.
    "CREATE TABLE bundles (sequence INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL UNIQUE, task TEXT NOT NULL,"
    " version TEXT NOT NULL, manifest BLOB NOT NULL, signed INTEGER NOT NULL, installed_at REAL NOT NULL) STRICT",
    "CREATE TABLE pointers (task TEXT PRIMARY KEY, active TEXT NOT NULL REFERENCES bundles (digest),"
    " previous TEXT REFERENCES bundles (digest)) STRICT",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
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
_BUSY_SECONDS = 5.0


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


class State:
    """The open database."""

    def __init__(self, path: Path, may_create: bool) -> None:
        """Open and check it; a missing or empty one is created only if `may_create`.

        Raises:
            StoreDamaged: not a database, damaged, written by a newer agent, or missing.
            StateDirUnwritable, StateDirInUse, DiskFull: it cannot be opened for writing.
        """
        self._path = path
        with disk_errors(path), self._errors():
            # Made here for its mode; SQLite gives the same mode to the files beside it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(may_create)
        except EdgeAgentError:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the database; closing twice is fine."""
        with self._errors():
            self._db.close()

    def bundles(self) -> list[InstalledBundle]:
        """Return all bundles that this agent can read: by task, the newest first."""
        return [bundle for bundle in self._read() if isinstance(bundle, InstalledBundle)]

    def unreadable(self) -> list[UnreadableBundle]:
        """Return the other ones: installed by another version of the agent, or damaged."""
        return [bundle for bundle in self._read() if isinstance(bundle, UnreadableBundle)]

    def names(self) -> list[BundleName]:
        """Return what all bundles are called, whether they can be read or not: by task, the newest first."""
        with self._errors():
            return [BundleName(*row[:3]) for row in self._db.execute(_ALL)]

    def pointers(self) -> dict[str, tuple[str, str]]:
        """Return the digests of the active and the previous bundle ("" = none), by task."""
        with self._errors():
            rows = self._db.execute(
                "SELECT task, active, coalesce(previous, '') FROM pointers ORDER BY task"
            ).fetchall()
        return {task: (active, previous) for task, active, previous in rows}

    def add(self, bundle: InstalledBundle, per_task_max: int) -> bool:
        """Add a bundle, if it is new, and forget the task's oldest idle ones beyond `per_task_max`.

        One that is there already gets its manifest again, in case that was damaged.
        """
        task, version = bundle.manifest.task.name, bundle.manifest.version
        row = (bundle.digest, task, version, bundle.manifest_bytes, bundle.signed, bundle.installed_at)
        with self._transaction():
            known = self._db.execute("SELECT 1 FROM bundles WHERE digest = ?", (bundle.digest,)).fetchone()
            self._db.execute(
                "INSERT INTO bundles (digest, task, version, manifest, signed, installed_at) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (digest) DO UPDATE SET manifest = excluded.manifest WHERE manifest <> excluded.manifest",
                row,
            )
            (count,) = self._db.execute("SELECT count(*) FROM bundles WHERE task = ?", (task,)).fetchone()
            idle = self._db.execute(_IDLE_OLDEST_FIRST, (task,)).fetchall()
            spare = [digest for (digest,) in idle if digest != bundle.digest][: max(0, count - per_task_max)]
            self._db.executemany("DELETE FROM bundles WHERE digest = ?", [(digest,) for digest in spare])
        return known is None

    def set_active(self, digest: str) -> None:
        """Let an installed bundle answer for its task; the one before becomes the previous."""
        with self._transaction():
            self._db.execute(_ACTIVATE, (digest,))

    def remove(self, digest: str) -> None:
        """Forget a bundle that no pointer names."""
        with self._transaction():
            self._db.execute("DELETE FROM bundles WHERE digest = ?", (digest,))

    def remove_task(self, task: str) -> None:
        """Forget a task with all its bundles."""
        with self._transaction():
            self._db.execute("DELETE FROM pointers WHERE task = ?", (task,))
            self._db.execute("DELETE FROM bundles WHERE task = ?", (task,))

    def _read(self) -> Iterator[InstalledBundle | UnreadableBundle]:
        with self._errors():
            rows = self._db.execute(_ALL).fetchall()
        for task, version, digest, manifest_bytes, signed, installed_at in rows:
            try:
                manifest = _manifest(digest, manifest_bytes)
                yield InstalledBundle(digest, manifest_bytes, manifest, bool(signed), installed_at)
            except StoreDamaged as error:
                yield UnreadableBundle(BundleName(task, version, digest), manifest_bytes, error)

    def _prepare(self, may_create: bool) -> None:
        with self._errors():
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.execute("PRAGMA trusted_schema = OFF")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise self._damaged(f"{self._path} is damaged: {' '.join(verdict.split())}")
        if version > SCHEMA_VERSION:
            said = f"{self._path} has schema version {version}; this agent knows {SCHEMA_VERSION}"
            raise StoreDamaged(said, remedy="Start the edge-agent version that wrote it, or a newer one.")
        if version == 0 and not may_create:
            raise self._damaged(f"{self._path} is missing or empty, but blobs are stored beside it")
        if version == 0:
            with self._transaction():
                for statement in _SCHEMA:
                    self._db.execute(statement)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            finally:
                # A failed COMMIT may or may not have ended the transaction.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            translated = self._translated(getattr(error, "sqlite_errorcode", 0) & 0xFF, f"{self._path}: {error}")
            if translated is None:  # a mistake of ours, such as use after close
                raise
            raise translated from None

    def _translated(self, code: int, said: str) -> EdgeAgentError | None:
        if code == sqlite3.SQLITE_FULL:
            return DiskFull(said, path=self._path)
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return StateDirUnwritable(said, path=self._path)
        if code == sqlite3.SQLITE_BUSY:
            return StateDirInUse(said, remedy="Close the other program that has state.db open.", path=self._path)
        if code == sqlite3.SQLITE_IOERR:
            return StoreDamaged(said, remedy=CHECK_DISK, path=self._path)
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return self._damaged(said)
        return None

    def _damaged(self, said: str) -> StoreDamaged:
        # With its -wal, which SQLite would replay into a new database, and the blobs, which nothing names any more.
        away = f"{self._path}* and {self._path.parent / 'blobs'}"
        remedy = f"Stop the daemon, move {away} away, start it and install the bundles again."
        return StoreDamaged(said, remedy=remedy, path=self._path)


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
