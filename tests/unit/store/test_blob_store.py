"""Blobs are whole or not there."""

from __future__ import annotations

import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent.errors import DiskFull, HashMismatch, StateDirUnwritable, StoreDamaged
from edge_agent.store.blob_store import BlobStore
from tests.support.store_cases import blob_names, sha256_of

DATA = b"some bytes"
NAME = sha256_of(DATA)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    """Return an empty store of blobs in tmp_path/blobs."""
    return BlobStore(tmp_path / "blobs")


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Let no file of this process grow beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_blob_lies_under_its_hash(blobs: BlobStore, tmp_path: Path) -> None:
    """The chunks are joined; nothing stays in staging."""
    blobs.put("model.bin", NAME, [b"some ", b"", b"bytes"])
    assert tmp_path / "blobs" / "sha256" / NAME[:2] / NAME == blobs.path(NAME)
    assert DATA == blobs.path(NAME).read_bytes()
    assert {NAME} == blob_names(tmp_path)
    assert (len(DATA), -1) == (blobs.size(NAME), blobs.size("0" * 64))


def test_only_the_daemon_s_user_reads_a_blob(blobs: BlobStore, tmp_path: Path) -> None:
    """Files are 0400, directories 0700."""
    blobs.put("model.bin", NAME, [DATA])
    assert 0o400 == stat.S_IMODE(blobs.path(NAME).stat().st_mode)
    folders = [tmp_path / "blobs", *(path for path in (tmp_path / "blobs").rglob("*") if path.is_dir())]
    assert {0o700} == {stat.S_IMODE(folder.stat().st_mode) for folder in folders}


def test_other_bytes_than_named_are_refused(blobs: BlobStore, tmp_path: Path) -> None:
    """The message names the file, the error both hashes; nothing is left behind."""
    with pytest.raises(HashMismatch, match=r"model\.bin has sha256") as caught:
        blobs.put("model.bin", NAME, [b"other"])
    assert NAME == caught.value.metadata["expected"]
    assert sha256_of(b"other") == caught.value.metadata["actual"]
    assert set() == blob_names(tmp_path)


def test_other_bytes_are_refused_even_when_the_right_ones_are_there(blobs: BlobStore) -> None:
    """A bad bundle is bad whatever the store holds."""
    blobs.put("model.bin", NAME, [DATA])
    with pytest.raises(HashMismatch):
        blobs.put("model.bin", NAME, [b"other"])
    assert DATA == blobs.path(NAME).read_bytes()


def test_an_intact_blob_is_not_written_again(blobs: BlobStore) -> None:
    """An engine may have it mapped."""
    blobs.put("model.bin", NAME, [DATA])
    before = blobs.path(NAME).stat()
    blobs.put("again.bin", NAME, [DATA])
    assert (before.st_ino, before.st_mtime_ns) == (blobs.path(NAME).stat().st_ino, blobs.path(NAME).stat().st_mtime_ns)


@pytest.mark.parametrize("damage", [b"", b"some", b"same bytes"], ids=["empty", "cut", "flipped"])
def test_a_damaged_blob_is_replaced(blobs: BlobStore, damage: bytes) -> None:
    """Shorter, or of the same length with other bytes."""
    blobs.put("model.bin", NAME, [DATA])
    blobs.path(NAME).chmod(0o600)
    blobs.path(NAME).write_bytes(damage)
    blobs.put("model.bin", NAME, [DATA])
    assert DATA == blobs.path(NAME).read_bytes()


def test_opening_empties_staging(blobs: BlobStore, tmp_path: Path) -> None:
    """What a power cut left there is gone; blobs stay."""
    blobs.put("model.bin", NAME, [DATA])
    (tmp_path / "blobs" / "staging" / ("0" * 64)).write_bytes(b"half")
    BlobStore(tmp_path / "blobs")
    assert {NAME} == blob_names(tmp_path)


def test_collect_deletes_what_nobody_names(blobs: BlobStore, tmp_path: Path) -> None:
    """It returns the bytes freed, and leaves alone what is no blob."""
    for content in (DATA, b"first", b"second"):
        blobs.put("file", sha256_of(content), [content])
    (blobs.path(NAME).parent / "README").write_text("not a blob")
    assert 11 == blobs.collect({NAME})
    assert {NAME, "README"} == blob_names(tmp_path)
    assert len(DATA) == blobs.used_bytes()
    assert blobs.free_bytes() > 0


def test_a_failed_read_of_the_bundle_leaves_nothing(blobs: BlobStore, tmp_path: Path) -> None:
    """Whatever the source raises goes on to the caller."""

    def chunks() -> Iterator[bytes]:
        yield b"some "
        raise StoreDamaged("the drive was pulled out")

    with pytest.raises(StoreDamaged, match="drive"):
        blobs.put("model.bin", NAME, chunks())
    assert set() == blob_names(tmp_path)


def test_a_write_that_fails_half_way_is_disk_full(blobs: BlobStore, tmp_path: Path) -> None:
    """The kernel takes the first half and refuses the second; nothing is left behind."""
    data = b"x" * 100_000
    with file_size_limit(60_000), pytest.raises(DiskFull, match="File too large"):
        blobs.put("model.bin", sha256_of(data), [data])
    assert set() == blob_names(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file stands where the directory should be."""
    (tmp_path / "file").touch()
    with pytest.raises(StateDirUnwritable, match="file/blobs: Not a directory"):
        BlobStore(tmp_path / "file" / "blobs")


def test_other_trouble_of_the_disk_is_a_damaged_store(tmp_path: Path) -> None:
    """The remedy points at the disk."""
    (tmp_path / "blobs").symlink_to(tmp_path / "blobs")
    with pytest.raises(StoreDamaged, match="Too many levels") as caught:
        BlobStore(tmp_path / "blobs" / "x")
    assert "dmesg" in caught.value.remedy
