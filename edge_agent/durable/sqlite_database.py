"""A SQLite database that survives a power cut: WAL mode with synchronous=FULL, and errors with remedies.

A change that was committed is on the disk, and every change is one transaction. One process owns the file, and one
thread at a time uses it (any thread).
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.durable.atomic_files import CHECK_DISK, disk_errors
from edge_agent.errors import DiskFull, EdgeAgentError, StateDirInUse, StateDirUnwritable, StoreDamaged

_BUSY_SECONDS = 5.0
# Messages of SQLite if the list of tables is damaged, and of Python if a text is: our own statements are correct, and
# write only text.
_DAMAGE_MESSAGES = re.compile(
    "no such (table|column|index)|already exists|has no column named|malformed database schema|unsupported file format"
    "|Could not decode to UTF-8"
)


@dataclass(frozen=True)
class DatabaseSchema:
    """The tables of a database, and how to create or migrate them."""

    version: int
    statements: tuple[str, ...]
    """Run once, in a new file. Pragmas that must come before the first table are in `first`."""
    damage_remedy: str
    """What to do about a damaged file."""
    first: tuple[str, ...] = ()
    migrations: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """By version: run once in a file of that version, to bring it to the next. All of them run, or none."""
    checked: bool = True
    """Read the whole file when it is opened, to find damage early; takes a second for each gigabyte or so."""


class Database:
    """The open file."""

    def __init__(self, path: Path, schema: DatabaseSchema, *, may_create: bool = True) -> None:
        """Open and check it; a missing or empty one is created only if `may_create`.

        Raises:
            StoreDamaged: not a database, damaged, written by a newer agent or one too old, or missing.
            StateDirUnwritable, StateDirInUse, DiskFull: it cannot be opened for writing.
        """
        self.path, self._schema = path, schema
        with disk_errors(path), self.errors():
            # Created here for its mode; SQLite gives the same mode to its files next to it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(may_create)
        except EdgeAgentError:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the database; closing twice is fine."""
        with self.errors():
            self._db.close()

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> sqlite3.Cursor:
        """Run one statement; outside of `transaction` or `errors`, errors are SQLite's own."""
        return self._db.execute(statement, values)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> sqlite3.Cursor:
        """Run one statement for each row."""
        return self._db.executemany(statement, rows)

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with self.errors():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end of the block, or roll back; committed means on the disk."""
        with self.errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            finally:
                # A failed COMMIT may or may not have ended the transaction.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what SQLite raises into DiskFull, StateDirUnwritable, StateDirInUse or StoreDamaged."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            translated = self._translate(getattr(error, "sqlite_errorcode", 0), f"{self.path}: {error}")
            if translated is None:  # a mistake of ours, such as use after close
                raise
            raise translated from None
        except UnicodeDecodeError:  # SQLite's own message quotes a name that is not UTF-8
            raise self.damaged(f"{self.path} is damaged: it holds a name that is not UTF-8 text") from None

    def reclaimable_bytes(self) -> int:
        """Return the bytes that a vacuum and a checkpoint would free: unused pages, and the write-ahead log."""
        ((pages,),), ((page_bytes,),) = self.rows("PRAGMA freelist_count"), self.rows("PRAGMA page_size")
        log = self.path.with_name(f"{self.path.name}-wal")
        return int(pages * page_bytes) + (log.stat().st_size if log.exists() else 0)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, which it never is between the calls of its owner."""
        return self._db.in_transaction

    def damaged(self, message: str) -> StoreDamaged:
        """Return an error about a damaged file, with the remedy of its schema."""
        return StoreDamaged(message, remedy=self._schema.damage_remedy, path=self.path)

    def _prepare(self, may_create: bool) -> None:
        verdict = "ok"
        with self.errors():
            for pragma in self._schema.first:
                self._db.execute(pragma)
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.execute("PRAGMA trusted_schema = OFF")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if self._schema.checked:
                (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise self.damaged(f"{self.path} is damaged: {' '.join(verdict.split())}")
        if version > self._schema.version:
            message = f"{self.path} has schema version {version}; this agent supports {self._schema.version}"
            raise StoreDamaged(message, remedy="Start the edge-agent version that wrote it, or a newer one.")
        if version == 0 and not may_create:
            raise self.damaged(f"{self.path} is missing or empty, but blobs are stored next to it")
        if version != self._schema.version:
            self._migrate(version)

    def _migrate(self, version: int) -> None:
        """Bring a new or an older file to the present schema, in one transaction."""
        statements = list(self._schema.statements if version == 0 else ())
        for old_version in range(version, self._schema.version) if version else ():
            if old_version not in self._schema.migrations:
                message = f"{self.path} has schema version {version}, which this agent cannot migrate"
                raise StoreDamaged(message, remedy="Start an edge-agent version between the two first.")
            statements += self._schema.migrations[old_version]
        with self.transaction():
            for statement in (*statements, f"PRAGMA user_version = {self._schema.version}"):
                self._db.execute(statement)
        if version:
            # So that programs that read the file without its log, such as doctor, see the new version.
            with self.errors():
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _translate(self, extended_code: int, message: str) -> EdgeAgentError | None:
        code = extended_code & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return DiskFull(message, path=self.path)
        if extended_code == sqlite3.SQLITE_IOERR_SHMSIZE:  # "disk I/O error": no space for the shared-memory file
            return DiskFull(f"{self.path}: the disk is full", path=self.path)
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return StateDirUnwritable(message, path=self.path)
        if code == sqlite3.SQLITE_BUSY:
            remedy = f"Close the other program that has {self.path.name} open."
            return StateDirInUse(message, remedy=remedy, path=self.path)
        if code == sqlite3.SQLITE_IOERR:
            return StoreDamaged(message, remedy=CHECK_DISK, path=self.path)
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or _DAMAGE_MESSAGES.search(message):
            return self.damaged(message)
        return None
