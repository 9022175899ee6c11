"""The store on a disk of a few megabytes, on a read-only disk, or in use by another process."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.errors import DiskFull, StateDirInUse, StateDirUnwritable
from edge_agent.store.bundle_store import Store
from tests.support.mounts import mount, tmpfs
from tests.support.store_cases import LIMITS, blob_names, bundle

HOLD = """
import sys
from pathlib import Path
from edge_agent.store.bundle_store import Store, StoreLimits

store = Store.open(Path(sys.argv[1]), StoreLimits())
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the root of a file system of 2 MiB and 14 files."""
    with tmpfs(tmp_path / "disk", "size=2m,nr_inodes=14") as disk:
        yield disk


def test_a_bundle_larger_than_the_disk_is_refused_before_it_is_copied(small_disk: Path, tmp_path: Path) -> None:
    """A bundle larger than the free space is refused with the numbers before it is copied, and the store continues to
    work."""
    store = Store.open(small_disk / "state", LIMITS)
    big = bundle(tmp_path / "big", "2.0.0", weights=b"w" * 3 * 2**20)
    with pytest.raises(DiskFull, match=r"needs 3\.1 MB; the disk has"):
        store.install(big, allow_unsigned=True)
    assert set() == blob_names(small_disk / "state")
    assert store.install(bundle(tmp_path / "small", weights=b"w"), allow_unsigned=True)[1]
    store.close()


def test_disk_reserve_is_kept_free(small_disk: Path, tmp_path: Path) -> None:
    """A bundle that would fit into the free space alone, but not in addition to the reserve, is refused."""
    store = Store.open(small_disk / "state", replace(LIMITS, disk_reserve_bytes=2**20))
    with pytest.raises(DiskFull, match=r"of which 1\.0 MB stay reserved"):
        store.install(bundle(tmp_path / "b", weights=b"w" * 2**20), allow_unsigned=True)
    store.close()


def test_a_disk_that_fills_while_copying_leaves_nothing_of_the_bundle(small_disk: Path, tmp_path: Path) -> None:
    """If the disk runs out of inodes while a bundle is copied, nothing of it remains, and the active bundle stays
    active."""
    store = Store.open(small_disk / "state", LIMITS)
    first, _ = store.install(bundle(tmp_path / "small"), allow_unsigned=True)
    store.set_active(first.digest)
    files = {"weights": b"1", "adapter": b"2", "tokenizer": b"3", "golden": b"4"}
    with pytest.raises(DiskFull, match="No space left on device"):
        store.install(bundle(tmp_path / "many", "2.0.0", **files), allow_unsigned=True)
    assert set() == blob_names(small_disk / "state")
    assert ([first], {"pos": first}) == (store.bundles(), store.active())
    store.close()


def test_read_only_state_directory_is_refused(tmp_path: Path) -> None:
    """A state directory on a read-only file system raises StateDirUnwritable."""
    Store.open(tmp_path / "state", LIMITS).close()
    mount("--bind", str(tmp_path / "state"), str(tmp_path / "state"))
    try:
        mount("-o", "remount,bind,ro", str(tmp_path / "state"))
        with pytest.raises(StateDirUnwritable, match="Read-only file system"):
            Store.open(tmp_path / "state", LIMITS)
    finally:
        subprocess.run(["umount", str(tmp_path / "state")], check=True)


def test_second_process_is_refused_with_the_owners_pid(tmp_path: Path) -> None:
    """A second process that opens the state directory gets the id of the process that uses it; the lock ends with that
    process, even if it is killed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "state")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert "open\n" == holder.stdout.readline()
        with pytest.raises(StateDirInUse, match=f"in use by process {holder.pid}$"):
            Store.open(tmp_path / "state", LIMITS)
        holder.kill()
    Store.open(tmp_path / "state", LIMITS).close()


@pytest.fixture
def disk_of_blocks(tmp_path: Path) -> Iterator[Path]:
    """Return the root of a file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "edge-agent-test", str(disk))
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> None:
    """Use up the free space of a disk."""
    with (disk / "filler").open("ab", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        filler.writelines(itertools.repeat(b"\0" * 4096))


def test_bundle_can_be_removed_from_a_full_disk(disk_of_blocks: Path, tmp_path: Path) -> None:
    """On a disk without free space a bundle can be removed: the ballast provides the space for the database's log."""
    store = Store.open(disk_of_blocks / "state", LIMITS)
    installed, _ = store.install(bundle(tmp_path / "b", weights=b"w" * 2**20), allow_unsigned=True)
    store.set_active(installed.digest)
    fill(disk_of_blocks)
    assert store.remove_task(installed.manifest.task.name) >= 2**20
    assert {} == store.active()
    assert (disk_of_blocks / "state" / "ballast").stat().st_size > 0
    store.close()


def test_store_on_a_full_disk_can_be_reopened(disk_of_blocks: Path, tmp_path: Path) -> None:
    """On a disk without free space the store opens repeatedly with its active bundle, and a bundle can be removed."""
    store = Store.open(disk_of_blocks / "state", LIMITS)
    installed, _ = store.install(bundle(tmp_path / "b", weights=b"w" * 2**20), allow_unsigned=True)
    store.set_active(installed.digest)
    store.close()
    for _ in range(2):
        fill(disk_of_blocks)
        store = Store.open(disk_of_blocks / "state", LIMITS)
        assert [installed.digest] == [each.digest for each in store.active().values()]
        store.close()
    fill(disk_of_blocks)
    store = Store.open(disk_of_blocks / "state", LIMITS)
    fill(disk_of_blocks)
    assert store.remove_task(installed.manifest.task.name) >= 2**20
    store.close()


def test_full_disk_is_not_reported_as_damage(disk_of_blocks: Path) -> None:
    """If the disk is full and there is no ballast or no state directory, the error is DiskFull."""
    Store.open(disk_of_blocks / "state", LIMITS).close()
    (disk_of_blocks / "state" / "ballast").unlink()
    fill(disk_of_blocks)
    for state_dir in (disk_of_blocks / "state", disk_of_blocks / "new"):
        with pytest.raises(DiskFull, match=r"full|No space left"):
            Store.open(state_dir, LIMITS)


def test_disk_without_free_inodes_is_full(small_disk: Path) -> None:
    """A disk without free inodes raises DiskFull instead of an error about permissions."""
    for number in itertools.count():
        try:
            (small_disk / str(number)).touch()
        except OSError:
            break
    with pytest.raises(DiskFull, match="cannot write the state directory"):
        Store.open(small_disk / "state", LIMITS)
