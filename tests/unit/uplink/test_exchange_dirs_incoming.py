"""The download of a blob, and the folder that it is written to."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.errors import DiskFull, ExchangeDirUnusable, HashMismatch
from edge_agent.formats.repository_metadata import MetadataSet
from edge_agent.uplink.exchange_dirs import BlobDownload, IncomingDir
from tests.support.update_cases import CHUNK, Repository, rubbish, sha256

BLOB = rubbish(3 * CHUNK + 100)
NAME = sha256(BLOB)


@pytest.fixture
def incoming(tmp_path: Path) -> IncomingDir:
    """Return an empty folder."""
    made = IncomingDir(tmp_path / "incoming")
    made.prepare()
    return made


def start_download(incoming: IncomingDir, blob: bytes = BLOB) -> BlobDownload:
    """Start or resume the download of a blob."""
    return incoming.open_download(NAME, len(blob), CHUNK)


@pytest.mark.parametrize("came", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, len(BLOB)])
def test_after_a_kill_whole_chunks_are_kept(incoming: IncomingDir, came: int):
    """After a kill at most one chunk is downloaded again, and the blob is complete in the end."""
    first = start_download(incoming)
    first.write(BLOB[:came])
    first.close()
    again = start_download(incoming)
    assert came - CHUNK < again.received_bytes <= came
    assert 0 == again.received_bytes % CHUNK
    assert again.resumed == (again.received_bytes > 0)
    while again.missing():
        again.write(BLOB[again.received_bytes : again.received_bytes + again.missing()])
        again.sync()
    again.finish()
    assert {NAME: len(BLOB)} == incoming.sizes()
    assert incoming.verify_blob(NAME)
    assert 0o640 == (incoming.blobs / NAME).stat().st_mode & 0o777


def test_request_ends_at_a_chunk_boundary(incoming: IncomingDir):
    """After an interruption within a chunk the next request asks for its rest, the last one for the rest of the
    blob."""
    arriving = start_download(incoming)
    assert CHUNK == arriving.missing()
    arriving.write(BLOB[:100])
    assert CHUNK - 100 == arriving.missing()
    arriving.write(BLOB[100 : 3 * CHUNK])
    assert 100 == arriving.missing()
    arriving.close()


def test_blob_with_a_wrong_hash_is_deleted(incoming: IncomingDir):
    """They are dropped when the last one is there, and what is kept has its own name only."""
    arriving = start_download(incoming)
    arriving.write(BLOB[:-1] + b"?")
    with pytest.raises(HashMismatch, match=NAME):
        arriving.finish()
    assert arriving.closed
    assert [] == list(incoming.blobs.iterdir())


def test_partial_file_that_is_too_long_is_discarded(incoming: IncomingDir):
    """If the daemon requests another size for the name, the download starts again."""
    (incoming.blobs / f".{NAME}.partial").write_bytes(rubbish(10 * CHUNK))
    assert 0 == start_download(incoming).received_bytes


def test_empty_blob_needs_no_download(incoming: IncomingDir):
    """Nothing is missing of it."""
    arriving = BlobDownload(incoming.blobs, sha256(b""), 0, CHUNK)
    assert 0 == arriving.missing()
    arriving.finish()
    assert {sha256(b""): 0} == incoming.sizes()


def test_disk_space_is_reserved_before_the_first_byte(incoming: IncomingDir):
    """The space of the whole blob is reserved, and the length of the file stays what has arrived."""
    arriving = incoming.open_download(NAME, 10 * 2**20, CHUNK)
    arriving.preallocate(0)
    about = (incoming.blobs / f".{NAME}.partial").stat()
    assert (0, True) == (about.st_size, about.st_blocks * 512 >= 10 * 2**20)
    arriving.preallocate(2**62)
    arriving.close()


def test_blob_without_disk_space_is_refused(incoming: IncomingDir):
    """A blob that is larger than the disk or would use its reserve raises DiskFull; what has arrived stays."""
    for size, reserve in ((2**60, 0), (len(BLOB), 2**60)):
        arriving = incoming.open_download(NAME, size, CHUNK)
        with pytest.raises(DiskFull, match=str(reserve)) as caught:
            arriving.preallocate(reserve)
        assert "disk_reserve_bytes" in caught.value.remedy
        arriving.close()


def test_a_link_is_not_followed(incoming: IncomingDir, tmp_path: Path):
    """A link in place of a partial file is not followed."""
    target = tmp_path / "target"
    target.write_bytes(b"private")
    (incoming.blobs / f".{NAME}.partial").symlink_to(target)
    with pytest.raises(ExchangeDirUnusable):
        start_download(incoming)
    assert b"private" == target.read_bytes()
    assert {} == incoming.sizes()


def released(repository: Repository) -> MetadataSet:
    """Return the latest published metadata."""
    files = {key.removeprefix("metadata/"): raw for key, raw in repository.release().items() if "metadata" in key}
    return MetadataSet(files.pop("timestamp.json"), files, sha256(repository.plan), repository.plan)


def test_previous_metadata_set_is_kept_for_readers(incoming: IncomingDir):
    """Of three metadata sets the oldest is deleted; roots stay, and partial files do not."""
    repository, before = Repository(), None
    incoming.write_root(1, repository.objects["metadata/1.root.json"])
    (incoming.folder / "metadata" / ".9.targets.json.partial").write_bytes(b"half")
    for _ in range(3):
        repository.publish()
        metadata_set = released(repository)
        incoming.adopt(metadata_set, before)
        before = incoming.current_metadata()
        assert before == metadata_set
    names = {path.name for path in (incoming.folder / "metadata").iterdir()}
    sets = {f"{number}.{role}.json" for number in (2, 3) for role in ("snapshot", "targets", "plan")}
    assert {"1.root.json", "timestamp.json", *sets} == names


@pytest.mark.parametrize(
    "gone", ["metadata/1.snapshot.json", "metadata/1.targets.json", "metadata/1.plan.json", "plan"]
)
def test_incomplete_metadata_set_is_downloaded_again(incoming: IncomingDir, gone: str):
    """A set with a missing or changed file does not count."""
    repository = Repository()
    repository.publish()
    metadata_set = released(repository)
    incoming.adopt(metadata_set, None)
    path = incoming.folder / (f"blobs/{metadata_set.plan_sha256}" if gone == "plan" else gone)
    path.write_bytes(b"{}")
    assert incoming.current_metadata() is None
    path.unlink()
    assert incoming.current_metadata() is None


def test_newest_root_is_counted_without_a_gap(incoming: IncomingDir):
    """Roots are counted from the oldest present one; what follows a gap is requested again."""
    assert 0 == incoming.newest_root()
    for version in (4, 5, 6, 8):
        incoming.write_root(version, b"{}")
    assert 6 == incoming.newest_root()


def test_only_unrequested_blobs_are_removed(incoming: IncomingDir):
    """Complete and partial blobs that are not requested are removed; other files stay."""
    other = sha256(b"other")
    for name in (NAME, f".{NAME}.partial", other, f".{other}.partial", "README", ".hidden"):
        (incoming.blobs / name).write_bytes(b"x")
    incoming.remove_blobs_except({NAME})
    assert {NAME, f".{NAME}.partial", "README", ".hidden"} == {path.name for path in incoming.blobs.iterdir()}
    assert (1, 0) == (incoming.partial_bytes(NAME), incoming.partial_bytes(other))


def test_damaged_blob_is_removed_when_verified(incoming: IncomingDir):
    """A blob with a wrong hash is removed, so that it is downloaded again."""
    (incoming.blobs / NAME).write_bytes(BLOB[:-1] + b"?")
    assert not incoming.verify_blob(NAME)
    assert {} == incoming.sizes()
