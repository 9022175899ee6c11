"""Databases that survive a power cut, and whose errors have a remedy."""

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
    """WAL with synchronous=FULL, readable by its owner only."""
    database = Database(tmp_path / "a.db", SCHEMA)
    assert [("wal",)] == database.rows("PRAGMA journal_mode")
    assert [(2,)] == database.rows("PRAGMA synchronous")
    assert 0o600 == (tmp_path / "a.db").stat().st_mode & 0o777
    database.close()
    database.close()


def test_a_transaction_is_all_or_nothing(tmp_path: Path):
    """An error in the block takes everything back; nothing stays open."""
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


def test_a_newer_database_is_left_alone(tmp_path: Path):
    """The agent that wrote it may read it; this one says so."""
    Database(tmp_path / "a.db", SCHEMA).close()
    with pytest.raises(StoreDamaged, match="schema version 2; this agent supports 1"):
        Database(tmp_path / "a.db", DatabaseSchema(1, (), ""))


def test_an_older_database_is_brought_up_step_by_step(tmp_path: Path):
    """Each version's statements, in order, in one transaction; what is in it stays."""
    Database(tmp_path / "a.db", SCHEMA).close()
    steps = {2: ("ALTER TABLE t ADD COLUMN c TEXT",), 3: ("UPDATE t SET c = b", "CREATE INDEX i ON t (c)")}
    database = Database(tmp_path / "a.db", DatabaseSchema(4, ("never run",), "", migrations=steps))
    assert [(4,)] == database.rows("PRAGMA user_version")
    assert [] == database.rows("SELECT a, b, c FROM t")
    database.close()


def test_the_file_itself_shows_that_it_was_brought_up(tmp_path: Path):
    """Its header has the new version while the database is still open: who reads only the file is not misled."""
    Database(tmp_path / "a.db", SCHEMA).close()
    steps = {2: ("ALTER TABLE t ADD COLUMN c TEXT",)}
    database = Database(tmp_path / "a.db", DatabaseSchema(3, (), "", migrations=steps))
    assert 3 == int.from_bytes((tmp_path / "a.db").read_bytes()[60:64], "big")
    database.close()


def test_a_database_without_a_way_up_is_left_alone(tmp_path: Path):
    """It says that an agent in between is needed; nothing was changed."""
    Database(tmp_path / "a.db", SCHEMA).close()
    with pytest.raises(StoreDamaged, match="schema version 2, which this agent cannot") as caught:
        Database(tmp_path / "a.db", DatabaseSchema(4, (), "", migrations={2: ("CREATE TABLE u (a)",)}))
    assert "between" in caught.value.remedy
    Database(tmp_path / "a.db", SCHEMA).close()


def test_a_missing_database_is_made_only_where_that_is_right(tmp_path: Path):
    """Beside blobs that it should name, an empty database would forget them."""
    with pytest.raises(StoreDamaged, match="missing or empty"):
        Database(tmp_path / "a.db", SCHEMA, may_create=False)


def test_damage_has_the_remedy_of_its_owner(tmp_path: Path):
    """Each database says what to do about its own damage, whether the file is read whole at the start or not."""
    (tmp_path / "a.db").write_bytes(os.urandom(8192))
    for checked in (True, False):
        with pytest.raises(StoreDamaged) as caught:
            Database(tmp_path / "a.db", DatabaseSchema(2, (), "Move it away.", checked=checked))
        assert "Move it away." == caught.value.remedy


@pytest.mark.parametrize(
    "statement", ["PRAGMA user_version = 0", "DROP TABLE t", "ALTER TABLE t RENAME b TO c", "ALTER TABLE t RENAME TO s"]
)
def test_a_database_with_other_tables_is_damaged(tmp_path: Path, statement: str):
    """A list of tables that is not the one that was written is damage of the file, and no mistake of ours."""
    Database(tmp_path / "a.db", SCHEMA).close()
    with sqlite3.connect(tmp_path / "a.db") as other:
        other.execute(statement)
    other.close()
    with pytest.raises(StoreDamaged) as caught, contextlib.closing(Database(tmp_path / "a.db", SCHEMA)) as database:
        database.rows("SELECT a, b FROM t")
    assert "Move it away." == caught.value.remedy


def test_a_sentence_of_sqlite_that_is_no_text_is_damage(tmp_path: Path):
    """Where the list of tables holds bytes that are no text, what SQLite says of it is none either."""
    Database(tmp_path / "a.db", SCHEMA).close()
    raw = (tmp_path / "a.db").read_bytes()
    (tmp_path / "a.db").write_bytes(raw.replace(b"CREATE TABLE t (a", b"CREATE \xff\xfe\xff\xfe\xfft (a"))
    with pytest.raises(StoreDamaged):
        Database(tmp_path / "a.db", SCHEMA)


def test_a_text_that_is_no_text_is_damage(tmp_path: Path):
    """What stands in a column of texts was written as UTF-8; other bytes there are the disk's."""
    Database(tmp_path / "a.db", SCHEMA).close()
    with sqlite3.connect(tmp_path / "a.db") as other:
        other.execute("INSERT INTO t (b) VALUES (CAST(x'73ff64' AS TEXT))")
    other.close()
    with pytest.raises(StoreDamaged) as caught, contextlib.closing(Database(tmp_path / "a.db", SCHEMA)) as database:
        database.rows("SELECT b FROM t")
    assert "Move it away." == caught.value.remedy


def test_another_program_in_the_way_is_named(tmp_path: Path):
    """A database that somebody else holds locked is in use, not damaged."""
    database = Database(tmp_path / "a.db", SCHEMA)
    database.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateDirInUse) as caught, database.transaction():
        pass
    assert "a.db" in caught.value.remedy
    other.close()
    database.close()


def test_a_mistake_of_ours_is_not_blamed_on_the_disk(tmp_path: Path):
    """Using a closed database is a bug, and shows as one."""
    database = Database(tmp_path / "a.db", SCHEMA)
    database.close()
    with pytest.raises(sqlite3.ProgrammingError):
        database.rows("SELECT 1")
