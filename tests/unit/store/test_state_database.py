"""state.db: what it refuses to open or delete, and the migration of an older file.

tests/data/state-v1.db was written by the code of schema version 1: task pos with 1.0.0, 1.1.0 (active) and 1.2.0
installed in that order, task other with 3.0.0.
"""

from __future__ import annotations

import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.durable.sqlite_database import Database, DatabaseSchema
from edge_agent.errors import DiskFull, StateDirUnwritable, StoreDamaged
from edge_agent.formats.manifest import digest_of, parse
from edge_agent.store.state_database import DemotionTable, InstalledBundle, ModeTable, StateDatabase
from tests.support.store_cases import bundle

VERSION_1 = Path(__file__).parents[2] / "data" / "state-v1.db"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDatabase]:
    """Return an empty database."""
    opened = StateDatabase(tmp_path / "state.db", may_create=True)
    yield opened
    opened.close()


@pytest.fixture
def one(tmp_path: Path) -> InstalledBundle:
    """Return a bundle that is not in the database."""
    stored = (bundle(tmp_path / "one") / "manifest.json").read_bytes()
    return InstalledBundle(digest_of(stored), stored, parse(stored), signed=False, installed_at=12.5)


def edit(path: Path, *statements: str) -> None:
    """Change a closed database without the agent."""
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


def test_added_bundle_survives_closing(state: StateDatabase, one: InstalledBundle, tmp_path: Path) -> None:
    """After closing and opening, the database has the same bundle, byte for byte, and its pointer."""
    assert state.add(one, 10)
    assert not state.add(one, 10)
    state.set_active(one.digest)
    state.close()
    again = StateDatabase(tmp_path / "state.db", may_create=False)
    assert [one] == again.bundles()
    assert {"pos": (one.digest, "")} == again.pointers()
    again.close()


def test_commits_are_synced_to_disk(state: StateDatabase, tmp_path: Path) -> None:
    """The database uses WAL with synchronous=FULL and foreign keys, and its files have mode 0600."""
    assert "wal" == state._db.execute("PRAGMA journal_mode").fetchone()[0]
    assert 2 == state._db.execute("PRAGMA synchronous").fetchone()[0]
    assert 1 == state._db.execute("PRAGMA foreign_keys").fetchone()[0]
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("state.db*")}


def test_database_refuses_to_delete_a_bundle_in_use(state: StateDatabase, one: InstalledBundle) -> None:
    """A foreign key keeps the active bundle from being deleted, and the failed transaction changes nothing."""
    state.add(one, 10)
    state.set_active(one.digest)
    with pytest.raises(sqlite3.IntegrityError):
        state.remove(one.digest)
    assert [one] == state.bundles()


def test_file_that_is_not_a_database_is_reported_as_damaged(tmp_path: Path) -> None:
    """The remedy names the files to move away."""
    (tmp_path / "state.db").write_bytes(b"This is no database, though it is longer than the header of one. " * 20)
    with pytest.raises(StoreDamaged, match="not a database") as caught:
        StateDatabase(tmp_path / "state.db", may_create=True)
    assert f"{tmp_path}/state.db* and {tmp_path}/blobs" in caught.value.remedy


def test_truncated_database_is_detected_or_complete(state: StateDatabase, one: InstalledBundle, tmp_path: Path) -> None:
    """A database that is cut at any position is reported as damaged or still has its bundle; an empty one is not taken
    for a new one."""
    state.add(one, 10)
    state.close()
    whole = (tmp_path / "state.db").read_bytes()
    lossless = 0
    for length in range(0, len(whole), 512):
        (tmp_path / "state.db").write_bytes(whole[:length])
        try:
            cut = StateDatabase(tmp_path / "state.db", may_create=False)
        except StoreDamaged as error:
            assert "\n" not in error.message
            continue
        lossless += 1
        assert [one] == cut.bundles()
        cut.close()
    # The last page ends in zeros, which is what SQLite reads behind the end.
    assert lossless < 8


def test_a_newer_schema_is_refused(state: StateDatabase, tmp_path: Path) -> None:
    """A database of a newer schema is refused, and the remedy names the newer agent."""
    state.close()
    edit(tmp_path / "state.db", "PRAGMA user_version = 3")
    with pytest.raises(StoreDamaged, match="schema version 3; this agent supports 2") as caught:
        StateDatabase(tmp_path / "state.db", may_create=False)
    assert "newer" in caught.value.remedy


def test_database_of_version_1_is_migrated(tmp_path: Path) -> None:
    """The migration keeps the installed, active and previous bundles, and adds empty tables for updates."""
    shutil.copyfile(VERSION_1, tmp_path / "state.db")
    for _ in range(2):  # the second time there is nothing to do
        state = StateDatabase(tmp_path / "state.db", may_create=False)
        assert [("other", "3.0.0"), ("pos", "1.2.0"), ("pos", "1.1.0"), ("pos", "1.0.0")] == [
            (name.task, name.version) for name in state.names()
        ]
        assert [] == state.unreadable()
        versions = {name.digest: name.version for name in state.names()}
        active, previous = state.pointers()["pos"]
        assert ("1.1.0", "1.0.0") == (versions[active], versions[previous])
        assert [(2,)] == state._db.rows("PRAGMA user_version")
        for table in ("updates", "trust", "roots"):
            assert [(0,)] == state._db.rows(f"SELECT count(*) FROM {table}")
        state.close()


def test_migrated_database_has_the_schema_of_a_new_one(tmp_path: Path) -> None:
    """A migrated database has the same tables and columns as a new one."""
    shutil.copyfile(VERSION_1, tmp_path / "old.db")
    made = [StateDatabase(tmp_path / name, may_create=True) for name in ("old.db", "new.db")]
    old, new = (state._db.rows("SELECT name, sql FROM sqlite_schema ORDER BY name") for state in made)
    assert old == new
    for state in made:
        state.close()


@pytest.mark.parametrize("table", [ModeTable, DemotionTable])
def test_full_disk_at_the_migration_is_reported(tmp_path: Path, table: Callable[[Database], object]) -> None:
    """If the disk has no space for a table that version 0.1 did not have, the error is DiskFull."""
    database = Database(tmp_path / "state.db", DatabaseSchema(1, ("CREATE TABLE t (b INTEGER) STRICT",), ""))
    [(pages,)] = database.rows("PRAGMA page_count")
    database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFull):
        table(database)
    database.close()


def test_failed_migration_leaves_version_1(tmp_path: Path) -> None:
    """A migration that fails at its last table leaves the database at version 1 without any new table."""
    shutil.copyfile(VERSION_1, tmp_path / "state.db")
    edit(tmp_path / "state.db", "CREATE TABLE roots (in_the_way INTEGER)")
    with pytest.raises(StoreDamaged, match="roots already exists"):
        StateDatabase(tmp_path / "state.db", may_create=False)
    with sqlite3.connect(tmp_path / "state.db") as db:
        assert (1,) == db.execute("PRAGMA user_version").fetchone()
        assert [] == db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'updates'").fetchall()
    db.close()


def test_changed_manifest_is_detected_and_repaired(state: StateDatabase, one: InstalledBundle, tmp_path: Path) -> None:
    """The digest is checked whenever a manifest is read; adding the bundle again restores it."""
    state.add(one, 10)
    state.close()
    edit(tmp_path / "state.db", "UPDATE bundles SET manifest = CAST(replace(manifest, 'yes', 'non') AS BLOB)")
    changed = StateDatabase(tmp_path / "state.db", may_create=False)
    (broken,) = changed.unreadable()
    assert f"bundle {one.digest}" in broken.error.message
    assert ([], [broken.name]) == (changed.bundles(), changed.names())
    assert not changed.add(one, 10)
    assert ([one], []) == (changed.bundles(), changed.unreadable())
    changed.close()


def test_manifest_of_an_unknown_schema_is_reported(state: StateDatabase, one: InstalledBundle) -> None:
    """A manifest of a schema that this agent does not support is reported as unreadable; the other bundles are
    available."""
    stored = one.manifest_bytes.replace(b"bundle/v1", b"bundle/v9")
    state.add(one, 10)
    state.add(InstalledBundle(digest_of(stored), stored, one.manifest, signed=False, installed_at=1.0), 10)
    (broken,) = state.unreadable()
    assert "cannot read the installed bundle" in broken.error.message
    assert "version that installed it" in broken.error.remedy
    assert ("pos", "1.0.0", digest_of(stored)) == broken.name
    assert [one] == state.bundles()


def test_path_below_a_file_is_unwritable(tmp_path: Path) -> None:
    """A database path below a file raises StateDirUnwritable."""
    (tmp_path / "file").touch()
    with pytest.raises(StateDirUnwritable, match="Not a directory"):
        StateDatabase(tmp_path / "file" / "state.db", may_create=True)


def test_full_disk_is_not_reported_as_damage(state: StateDatabase, one: InstalledBundle) -> None:
    """If SQLite's page limit is reached, the error is DiskFull, nothing is half added, and a smaller bundle is
    accepted."""
    state._db.execute("PRAGMA max_page_count = 14")
    stored = one.manifest_bytes + b" " * 100_000
    large = InstalledBundle(digest_of(stored), stored, one.manifest, signed=False, installed_at=1.0)
    with pytest.raises(DiskFull, match="full"):
        state.add(large, 10)
    assert ([], False) == (state.bundles(), state._db.in_transaction)
    assert state.add(one, 10)


def test_use_after_close_raises_a_programming_error(state: StateDatabase) -> None:
    """Use of a closed database raises sqlite3.ProgrammingError instead of StoreDamaged."""
    state.close()
    state.close()
    with pytest.raises(sqlite3.ProgrammingError):
        state.bundles()
