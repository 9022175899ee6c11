"""Files that are written whole or not at all.

Folders for decrypted examples, closed to other users under any umask, with everything in them.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.durable.atomic_files import (
    close_tree,
    create,
    is_file,
    make_private,
    open_private,
    private_folder,
    read_regular,
    replacing,
    stat_or_none,
    write_atomically,
    write_durably,
)
from edge_agent.errors import DiskFull, StateDirUnwritable, StoreDamaged
from tests.support.mounts import tmpfs
from tests.support.power_cut import TRACER, PowerCut
from tests.support.rights import without_root
from tests.support.strace import needs_strace

OLD, NEW = b"old" * 1000, b"new" * 1000
WRITE = """
import pathlib, sys
from edge_agent.durable.atomic_files import write_atomically
write_atomically(pathlib.Path(sys.argv[1]), b"new" * 1000)
print("written", flush=True)
"""


def test_file_is_replaced_completely(tmp_path: Path):
    """The file has the new content and the given mode, and no partial file remains."""
    path = tmp_path / "status.json"
    write_durably(path, b"old")
    write_durably(path, b"new" * 100_000, 0o640)
    assert b"new" * 100_000 == path.read_bytes()
    assert 0o640 == path.stat().st_mode & 0o777
    assert [path] == list(tmp_path.iterdir())


@needs_strace
def test_a_power_cut_leaves_the_old_file_or_the_new_one(tmp_path: Path):
    """After any system call, whether names or bytes reach the disk first, the file is old or new; after the write
    returned it is new."""
    site, log = tmp_path / "site", tmp_path / "log"
    site.mkdir()
    (site / "status.json").write_bytes(OLD)
    cut, left = PowerCut(site), []
    subprocess.run(
        [*TRACER, "-o", str(log), sys.executable, "-B", "-c", WRITE, str(site / "status.json")],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for number, _ in enumerate(cut.replay(log)):
        for names_first in (False, True):
            place = tmp_path / f"{number}-{names_first}"
            cut.lay(place, names_first=names_first)
            left.append((place / "status.json").read_bytes())
    assert {OLD, NEW} == set(left)
    assert [NEW, NEW] == left[-2:]


def test_partial_file_of_a_crash_is_overwritten(tmp_path: Path):
    """A crash in the middle of a write leaves a part that the next write takes the place of."""
    (tmp_path / ".a.partial").write_bytes(b"torn")
    write_durably(tmp_path / "a", b"whole")
    assert ["a"] == [path.name for path in tmp_path.iterdir()]


def test_link_in_place_of_the_partial_file_is_not_followed(tmp_path: Path):
    """A user who may write into the folder cannot have another file overwritten."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".a.partial").symlink_to(victim)
    with pytest.raises(StoreDamaged):
        write_durably(tmp_path / "a", b"x")
    assert b"precious" == victim.read_bytes()


def test_missing_folder_is_named(tmp_path: Path):
    """The error has the path."""
    with pytest.raises(StoreDamaged, match="none/a"):
        write_durably(tmp_path / "none" / "a", b"x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateDirUnwritable):
        write_durably(tmp_path / "file" / "a", b"x")


def test_exception_while_writing_keeps_the_old_file(tmp_path: Path):
    """An exception deletes the partial file and keeps the old one."""
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
    """`create` sets the given mode and refuses a name that exists, also as a link."""
    path = tmp_path / "a"
    create(path, b"first", 0o600)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for taken in (path, tmp_path / "link"):
        with pytest.raises(FileExistsError):
            create(taken, b"", 0o600)
    assert (b"first", 0o600) == (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Run with a umask of 0."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    """Return the mode of everything below a folder."""
    return {
        path.relative_to(folder).as_posix(): f"{stat.S_IMODE(path.lstat().st_mode):o}"
        for path in sorted(folder.rglob("*"))
    }


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):o}"


def test_everything_made_in_the_block_is_private(tmp_path: Path):
    """Files and folders of libraries and child processes have 0600 and 0700; the umask is restored afterwards."""
    folder = tmp_path / "work"
    with private_folder(folder):
        (folder / "inner").mkdir()
        (folder / "inner" / "rows.jsonl").write_text("text")
        subprocess.run([sys.executable, "-c", f"open({str(folder / 'child')!r}, 'w')"], check=True)
    (tmp_path / "after").write_text("")
    assert {"child": "600", "inner": "700", "inner/rows.jsonl": "600"} == modes(folder)
    assert ("700", "666") == (mode(folder), mode(tmp_path / "after"))


def test_exception_in_the_block_restores_the_umask(tmp_path: Path):
    """An exception leaves the block as any other end does."""
    with pytest.raises(ValueError, match="stop"), private_folder(tmp_path / "work"):
        raise ValueError("stop")
    (tmp_path / "after").write_text("")
    assert "666" == mode(tmp_path / "after")


def test_a_folder_of_an_earlier_version_is_closed_with_everything_in_it(tmp_path: Path):
    """A folder with the mark is closed with its contents; hard links to other files, and links, keep their modes."""
    work, model = tmp_path / "work", tmp_path / "model"
    (work / "prepare").mkdir(parents=True)
    (work / ".lock").write_text("")
    (work / "prepare" / "rows").write_text("text")
    model.write_text("weights")
    (work / "prepare" / "weights").hardlink_to(model)
    (work / "link").symlink_to(model)
    make_private(work, marks=(".lock",))
    expected = {".lock": "600", "link": "777", "prepare": "700", "prepare/rows": "600", "prepare/weights": "666"}
    assert expected == modes(work)
    assert ("700", "666") == (mode(work), mode(model))


def test_folder_without_the_mark_keeps_its_mode(tmp_path: Path):
    """In a folder with other files only new content is private."""
    (tmp_path / "notes").write_text("")
    tmp_path.chmod(0o755)
    with private_folder(tmp_path, marks=(".lock",)):
        (tmp_path / "rows").write_text("")
    assert {"notes": "666", "rows": "600"} == modes(tmp_path)
    assert "755" == mode(tmp_path)


def test_file_readable_by_others_is_closed_before_it_is_written(tmp_path: Path):
    """Appending keeps the content, writing replaces it, and both set the mode to 0600."""
    path = tmp_path / "rows"
    path.write_text("a")
    with open_private(path, "a") as file:
        file.write("b")
    assert ("ab", "600") == (path.read_text(), mode(path))
    with open_private(path, "w") as file:
        file.write("c")
    assert "c" == path.read_text()


def test_a_device_is_not_replaced_by_a_file(tmp_path: Path):
    """A device is never replaced, because root would take /dev/null from every program."""
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    for path in (link, Path("/dev/null"), Path("/dev/there-is-no-such-device")):
        with pytest.raises(OSError, match="is a device"):
            write_atomically(path, b"page")
    assert (True, False) == (link.is_symlink(), Path("/dev/there-is-no-such-device").exists())
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_folder_in_place_of_the_file_is_named(tmp_path: Path):
    """The error names the folder and not the partial file."""
    with pytest.raises(IsADirectoryError) as raised:
        write_atomically(tmp_path, b"page")
    assert str(tmp_path) == raised.value.filename


def test_empty_path_raises_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty path, as `--html ""` gives it, raises OSError and writes nothing."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"'\.'"):
        write_atomically(Path(), b"page")
    assert [] == list(tmp_path.iterdir())


def test_mode_of_a_device_is_not_changed(tmp_path: Path):
    """Rows may be written to a device such as /dev/null, whose mode stays."""
    link, before = tmp_path / "link", mode(Path("/dev/null"))
    link.symlink_to("/dev/null")
    with open_private(link, "a") as file:
        file.write("row")
    assert before == mode(Path("/dev/null"))


def test_untrusted_file_is_read_up_to_a_limit(tmp_path: Path):
    """At most `limit` bytes are read; a link, folder or pipe is refused."""
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    assert (b"12345", b"1234") == tuple(read_regular(tmp_path / "file", limit) for limit in (5, 3))
    for name, code in (("link", errno.ELOOP), ("pipe", errno.EINVAL), (".", errno.EINVAL), ("none", errno.ENOENT)):
        with pytest.raises(OSError, match=name) as raised:
            read_regular(tmp_path / name, 5)
        assert code == raised.value.errno


def test_close_tree_ignores_dangling_links(tmp_path: Path):
    """A name that leads nowhere raises nothing."""
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    close_tree(tmp_path)
    assert "700" == mode(tmp_path)


def test_path_in_a_closed_folder_is_an_error_instead_of_absent(tmp_path: Path):
    """A path that cannot exist is absent; one in a folder that this user may not enter raises."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_bytes(b"four")
    absent = [tmp_path / "nothing", tmp_path / "file" / "nothing", tmp_path / "loop"]
    assert [None, None, None] == [stat_or_none(path) for path in absent]
    found = stat_or_none(tmp_path / "file")
    assert found is not None
    assert 4 == found.st_size
    assert [False, True, False] == [is_file(path) for path in (tmp_path, tmp_path / "file", absent[0])]
    (tmp_path / "closed").mkdir(mode=0)
    with without_root(), pytest.raises(PermissionError):
        stat_or_none(tmp_path / "closed" / "file")


def test_disk_without_inodes_is_reported_as_full(tmp_path: Path):
    """A disk with space but no free inode is full, and the remedy names `df -i`."""
    with tmpfs(tmp_path / "disk", "size=1m,nr_inodes=2") as disk:
        write_durably(disk / "first", b"x")
        with pytest.raises(DiskFull, match="No space left") as full:
            write_durably(disk / "second", b"x")
    assert "'df -i' its inodes" in full.value.remedy
