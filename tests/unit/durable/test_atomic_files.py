"""Files that are written whole or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edge_agent.durable.atomic_files import create, replacing, write_atomically, write_durably
from edge_agent.errors import StateDirUnwritable, StoreDamaged


def test_a_file_is_replaced_whole(tmp_path: Path):
    """The new content, the mode asked for, and nothing beside it."""
    path = tmp_path / "status.json"
    write_durably(path, b"old")
    write_durably(path, b"new" * 100_000, 0o640)
    assert b"new" * 100_000 == path.read_bytes()
    assert 0o640 == path.stat().st_mode & 0o777
    assert [path] == list(tmp_path.iterdir())


def test_what_was_left_of_a_write_is_overwritten(tmp_path: Path):
    """A crash in the middle of a write leaves a part that the next write takes the place of."""
    (tmp_path / ".a.partial").write_bytes(b"torn")
    write_durably(tmp_path / "a", b"whole")
    assert ["a"] == [path.name for path in tmp_path.iterdir()]


def test_a_link_in_the_way_is_not_followed(tmp_path: Path):
    """Whoever may write into the folder cannot have another file overwritten."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".a.partial").symlink_to(victim)
    with pytest.raises(StoreDamaged):
        write_durably(tmp_path / "a", b"x")
    assert b"precious" == victim.read_bytes()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    """The error has the path."""
    with pytest.raises(StoreDamaged, match="none/a"):
        write_durably(tmp_path / "none" / "a", b"x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateDirUnwritable):
        write_durably(tmp_path / "file" / "a", b"x")


def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path: Path):
    """An exception while the new file is written deletes it, and changes nothing."""
    path = tmp_path / "a"
    write_atomically(path, b"old")

    def fail() -> None:
        with replacing(path) as partial:
            partial.write_bytes(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [path] == list(tmp_path.iterdir())
    assert b"old" == path.read_bytes()


def test_a_new_file_replaces_nothing(tmp_path: Path):
    """It has the mode asked for; a name that is taken, also by a link, is refused."""
    path = tmp_path / "a"
    create(path, b"first", 0o600)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for taken in (path, tmp_path / "link"):
        with pytest.raises(FileExistsError):
            create(taken, b"", 0o600)
    assert (b"first", 0o600) == (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
    assert not (tmp_path / "elsewhere").exists()
