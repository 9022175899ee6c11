"""A blob is in the store whole or not at all."""

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
    """Limit the size of every file that this process writes to `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_blob_is_stored_under_its_hash(blobs: BlobStore, tmp_path: Path) -> None:
    """The chunks of a blob are joined in a file named by its hash, and nothing remains in staging."""
    blobs.put("model.bin", NAME, [b"some ", b"", b"bytes"])
    assert tmp_path / "blobs" / "sha256" / NAME[:2] / NAME == blobs.path(NAME)
    assert DATA == blobs.path(NAME).read_bytes()
    assert {NAME} == blob_names(tmp_path)
    assert (len(DATA), -1) == (blobs.size(NAME), blobs.size("0" * 64))


def test_only_the_daemon_s_user_reads_a_blob(blobs: BlobStore, tmp_path: Path) -> None:
    """Blobs have mode 0400 and their directories 0700."""
    blobs.put("model.bin", NAME, [DATA])
    assert 0o400 == stat.S_IMODE(blobs.path(NAME).stat().st_mode)
    folders = [tmp_path / "blobs", *(path for path in (tmp_path / "blobs").rglob("*") if path.is_dir())]
    assert {0o700} == {stat.S_IMODE(folder.stat().st_mode) for folder in folders}


def test_bytes_with_another_hash_are_refused(blobs: BlobStore, tmp_path: Path) -> None:
    """The error names the file and both hashes, and nothing remains in the store."""
    with pytest.raises(HashMismatch, match=r"model\.bin has sha256") as caught:
        blobs.put("model.bin", NAME, [b"other"])
    assert NAME == caught.value.metadata["expected"]
    assert sha256_of(b"other") == caught.value.metadata["actual"]
    assert set() == blob_names(tmp_path)


def test_bytes_with_another_hash_are_refused_beside_the_right_blob(blobs: BlobStore) -> None:
    """Bytes that do not match the hash are refused even if the store has the right ones."""
    blobs.put("model.bin", NAME, [DATA])
    with pytest.raises(HashMismatch):
        blobs.put("model.bin", NAME, [b"other"])
    assert DATA == blobs.path(NAME).read_bytes()


def test_an_intact_blob_is_not_written_again(blobs: BlobStore) -> None:
    """Storing the bytes again leaves the file of an intact blob, which an engine may have mapped."""
    blobs.put("model.bin", NAME, [DATA])
    before = blobs.path(NAME).stat()
    blobs.put("again.bin", NAME, [DATA])
    assert (before.st_ino, before.st_mtime_ns) == (blobs.path(NAME).stat().st_ino, blobs.path(NAME).stat().st_mtime_ns)


@pytest.mark.parametrize("damage", [b"", b"some", b"same bytes"], ids=["empty", "cut", "flipped"])
def test_a_damaged_blob_is_replaced(blobs: BlobStore, damage: bytes) -> None:
    """A blob that is shorter, or has other bytes of the same length, is replaced."""
    blobs.put("model.bin", NAME, [DATA])
    blobs.path(NAME).chmod(0o600)
    blobs.path(NAME).write_bytes(damage)
    blobs.put("model.bin", NAME, [DATA])
    assert DATA == blobs.path(NAME).read_bytes()


def test_opening_empties_staging(blobs: BlobStore, tmp_path: Path) -> None:
    """Opening the store deletes what a power cut left in staging, and keeps the blobs."""
    blobs.put("model.bin", NAME, [DATA])
    (tmp_path / "blobs" / "staging" / ("0" * 64)).write_bytes(b"half")
    BlobStore(tmp_path / "blobs")
    assert {NAME} == blob_names(tmp_path)


def test_collect_deletes_unreferenced_blobs(blobs: BlobStore, tmp_path: Path) -> None:
    """`collect` deletes unreferenced blobs, returns the freed bytes, and leaves files that are not blobs."""
    for content in (DATA, b"first", b"second"):
        blobs.put("file", sha256_of(content), [content])
    (blobs.path(NAME).parent / "README").write_text("not a blob")
    assert 11 == blobs.collect({NAME})
    assert {NAME, "README"} == blob_names(tmp_path)
    assert len(DATA) == blobs.used_bytes()
    assert blobs.free_bytes() > 0


def test_a_failed_read_of_the_bundle_leaves_nothing(blobs: BlobStore, tmp_path: Path) -> None:
    """If the source of a blob raises, the caller gets that error and the store keeps nothing."""

    def chunks() -> Iterator[bytes]:
        yield b"some "
        raise StoreDamaged("the drive was pulled out")

    with pytest.raises(StoreDamaged, match="drive"):
        blobs.put("model.bin", NAME, chunks())
    assert set() == blob_names(tmp_path)


def test_write_that_fails_half_way_is_disk_full(blobs: BlobStore, tmp_path: Path) -> None:
    """A write that the kernel refuses after the first half raises DiskFull, and the store keeps nothing."""
    data = b"x" * 100_000
    with file_size_limit(60_000), pytest.raises(DiskFull, match="File too large"):
        blobs.put("model.bin", sha256_of(data), [data])
    assert set() == blob_names(tmp_path)


def test_unwritable_directory_is_named(tmp_path: Path) -> None:
    """If a file is in the place of the directory, the error names its path."""
    (tmp_path / "file").touch()
    with pytest.raises(StateDirUnwritable, match="file/blobs: Not a directory"):
        BlobStore(tmp_path / "file" / "blobs")


def test_other_disk_errors_are_reported_as_a_damaged_store(tmp_path: Path) -> None:
    """Any other error of the disk raises StoreDamaged, whose remedy suggests dmesg."""
    (tmp_path / "blobs").symlink_to(tmp_path / "blobs")
    with pytest.raises(StoreDamaged, match="Too many levels") as caught:
        BlobStore(tmp_path / "blobs" / "x")
    assert "dmesg" in caught.value.remedy
