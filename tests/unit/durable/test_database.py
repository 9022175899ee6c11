"""SQLite databases that survive a power cut, and whose errors have a remedy."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from edge_agent.durable.sqlite_database import Database, DatabaseSchema
from edge_agent.errors import StateDirInUse, StoreDamaged

SCHEMA = DatabaseSchema(2, ("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT) STRICT",), "Move it away.")


def test_a_database_is_synced_on_every_commit(tmp_path: Path):
    """A database uses WAL with synchronous=FULL and has mode 0600."""
    database = Database(tmp_path / "a.db", SCHEMA)
    assert [("wal",)] == database.rows("PRAGMA journal_mode")
    assert [(2,)] == database.rows("PRAGMA synchronous")
    assert 0o600 == (tmp_path / "a.db").stat().st_mode & 0o777
    database.close()
    database.close()


def test_a_transaction_is_all_or_nothing(tmp_path: Path):
    """An exception in the block rolls everything back and leaves no open transaction."""
    database = Database(tmp_path / "a.db", SCHEMA)
    with database.transaction():
        database.executemany("INSERT INTO t (b) VALUES (?)", [("x",), ("y",)])

    def fail() -> None:
        with database.transaction():
            database.execute("INSERT INTO t (b) VALUES (:b)", {"b": "z"})
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not database.in_transaction
    assert [("x",), ("y",)] == database.rows("SELECT b FROM t ORDER BY a")
    database.close()


def test_newer_database_is_refused_and_unchanged(tmp_path: Path):
    """The error has both schema versions."""
    Database(tmp_path / "a.db", SCHEMA).close()
    with pytest.raises(StoreDamaged, match="schema version 2; this agent supports 1"):
        Database(tmp_path / "a.db", DatabaseSchema(1, (), ""))


def test_older_database_is_migrated_step_by_step(tmp_path: Path):
    """Each version's statements run in order in one transaction, and the rows stay."""
    Database(tmp_path / "a.db", SCHEMA).close()
    steps = {2: ("ALTER TABLE t ADD COLUMN c TEXT",), 3: ("UPDATE t SET c = b", "CREATE INDEX i ON t (c)")}
    database = Database(tmp_path / "a.db", DatabaseSchema(4, ("never run",), "", migrations=steps))
    assert [(4,)] == database.rows("PRAGMA user_version")
    assert [] == database.rows("SELECT a, b, c FROM t")
    database.close()


def test_migrated_version_is_in_the_file_header(tmp_path: Path):
    """The header has the new version while the database is open, so a reader of the file alone is not misled."""
    Database(tmp_path / "a.db", SCHEMA).close()
    steps = {2: ("ALTER TABLE t ADD COLUMN c TEXT",)}
    database = Database(tmp_path / "a.db", DatabaseSchema(3, (), "", migrations=steps))
    assert 3 == int.from_bytes((tmp_path / "a.db").read_bytes()[60:64], "big")
    database.close()


def test_database_without_a_migration_is_unchanged(tmp_path: Path):
    """The remedy says that an agent version in between is needed."""
    Database(tmp_path / "a.db", SCHEMA).close()
    with pytest.raises(StoreDamaged, match="schema version 2, which this agent cannot") as caught:
        Database(tmp_path / "a.db", DatabaseSchema(4, (), "", migrations={2: ("CREATE TABLE u (a)",)}))
    assert "between" in caught.value.remedy
    Database(tmp_path / "a.db", SCHEMA).close()


def test_missing_database_is_created_only_if_allowed(tmp_path: Path):
    """With may_create=False a missing database is an error, because an empty one would forget the blobs beside it."""
    with pytest.raises(StoreDamaged, match="missing or empty"):
        Database(tmp_path / "a.db", SCHEMA, may_create=False)


def test_damage_has_the_remedy_of_its_owner(tmp_path: Path):
    """Damage raises StoreDamaged with the owner's remedy, whether or not the file is checked at the start."""
    (tmp_path / "a.db").write_bytes(os.urandom(8192))
    for checked in (True, False):
        with pytest.raises(StoreDamaged) as caught:
            Database(tmp_path / "a.db", DatabaseSchema(2, (), "Move it away.", checked=checked))
        assert "Move it away." == caught.value.remedy


@pytest.mark.parametrize(
    "statement", ["PRAGMA user_version = 0", "DROP TABLE t", "ALTER TABLE t RENAME b TO c", "ALTER TABLE t RENAME TO s"]
)
def test_database_with_other_tables_is_reported_as_damaged(tmp_path: Path, statement: str):
    """A list of tables that is not the one that was written is damage of the file, and no mistake of ours."""
    Database(tmp_path / "a.db", SCHEMA).close()
    with sqlite3.connect(tmp_path / "a.db") as other:
        other.execute(statement)
    other.close()
    with pytest.raises(StoreDamaged) as caught, contextlib.closing(Database(tmp_path / "a.db", SCHEMA)) as database:
        database.rows("SELECT a, b FROM t")
    assert "Move it away." == caught.value.remedy


def test_sqlite_error_that_is_not_text_is_reported_as_damage(tmp_path: Path):
    """If the list of tables has bytes that are not UTF-8, SQLite's message is not text either."""
    Database(tmp_path / "a.db", SCHEMA).close()
    raw = (tmp_path / "a.db").read_bytes()
    (tmp_path / "a.db").write_bytes(raw.replace(b"CREATE TABLE t (a", b"CREATE \xff\xfe\xff\xfe\xfft (a"))
    with pytest.raises(StoreDamaged):
        Database(tmp_path / "a.db", SCHEMA)


def test_text_column_that_is_not_utf8_is_reported_as_damage(tmp_path: Path):
    """Text columns are written as UTF-8, so other bytes are damage of the disk."""
    Database(tmp_path / "a.db", SCHEMA).close()
    with sqlite3.connect(tmp_path / "a.db") as other:
        other.execute("INSERT INTO t (b) VALUES (CAST(x'73ff64' AS TEXT))")
    other.close()
    with pytest.raises(StoreDamaged) as caught, contextlib.closing(Database(tmp_path / "a.db", SCHEMA)) as database:
        database.rows("SELECT b FROM t")
    assert "Move it away." == caught.value.remedy


def test_locked_database_is_in_use_and_not_damaged(tmp_path: Path):
    """A database that another program has locked raises StateDirInUse with its path."""
    database = Database(tmp_path / "a.db", SCHEMA)
    database.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateDirInUse) as caught, database.transaction():
        pass
    assert "a.db" in caught.value.remedy
    other.close()
    database.close()


def test_use_of_a_closed_database_raises_programming_error(tmp_path: Path):
    """Using a closed database is a bug, and shows as one."""
    database = Database(tmp_path / "a.db", SCHEMA)
    database.close()
    with pytest.raises(sqlite3.ProgrammingError):
        database.rows("SELECT 1")
