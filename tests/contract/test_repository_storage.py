"""Contract of every kind of repository storage: a folder, S3, Google, Azure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from convert.publish import media_writer
from convert.publish.repository_storage import CHUNK_BYTES, FolderStorage, RepositoryStorage, open_storage
from edge_agent.errors import InvalidRequest, UpstreamFailed
from tests.support.bundles import echo_bundle
from tests.support.fleet_cases import CentralTeam
from tests.support.object_stores import azurite, stored
from tests.support.tuf_client import Client

KINDS = [
    "folder",
    "s3",
    "google",
    pytest.param("azure", marks=pytest.mark.skipif(not azurite(), reason="Azurite is not installed (npm)")),
]
# More than one part of a multipart upload, which has at least 5 MiB.
LONG_BYTES = 11 * CHUNK_BYTES + 1


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RepositoryStorage]:
    """Return an empty storage of each kind."""
    if request.param == "folder":
        yield open_storage(str(tmp_path / "place"), {})
    else:
        with stored(request.param, request) as served:
            yield open_storage(served.url, served.options)


def test_written_object_is_read_back(place: RepositoryStorage):
    """An object is read back with its bytes and size, and writing it again replaces it."""
    for content in (b"one", b"another"):
        place.write("metadata/timestamp.json", content)
        assert content == place.read("metadata/timestamp.json", 100)
        assert len(content) == place.size("metadata/timestamp.json")


def test_missing_object_is_none(place: RepositoryStorage):
    """Reading a missing object and asking for its size return None, not an error."""
    assert (None, None) == (place.read("blobs/nothing", 100), place.size("blobs/nothing"))
    place.write("blobs/something", b"x")
    assert (None, None) == (place.read("blobs/nothing", 100), place.size("blobs/nothing"))


def test_long_object_is_read_up_to_one_byte_over_the_limit(place: RepositoryStorage):
    """Reading stops one byte after the limit, which shows that the object is too long."""
    place.write("metadata/timestamp.json", b"x" * 1000)
    assert b"x" * 11 == place.read("metadata/timestamp.json", 10)


def test_long_object_is_transferred_in_pieces(place: RepositoryStorage):
    """A long object is written and read in pieces, and its bytes are in order."""
    pieces = [bytes([number]) * CHUNK_BYTES for number in range(LONG_BYTES // CHUNK_BYTES)]
    place.write("blobs/long", [*pieces, b"!"])
    assert LONG_BYTES == place.size("blobs/long")
    assert b"".join([*pieces, b"!"]) == b"".join(place.chunks("blobs/long"))


def test_repository_life_cycle(place: RepositoryStorage, tmp_path: Path):
    """A repository can be created, published to, planned, rotated, renewed, and written to a USB drive that a client
    accepts."""
    central = CentralTeam(tmp_path / "central", place=place)
    digest = central.publish(echo_bundle(tmp_path / "bundle", weights=b"weights"))
    central.plan(central.offering(digest))
    central.rotate("online")
    central.publisher.renew("targets")
    assert not central.publisher.publish(tmp_path / "bundle").new
    carried = central.drive(tmp_path / "drive")
    seen = Client(tmp_path / "site", central.root_bytes).refresh(carried)
    assert ({digest}, 2, 2) == (seen.bundles, seen.plan.version, seen.root_version)
    assert seen.timestamp_version + 1 == central.held.timestamp.signed.version


def test_interrupted_write_leaves_no_object(place: RepositoryStorage):
    """If the source of a write fails halfway, no object is created."""

    def failing() -> Iterator[bytes]:
        yield b"x" * CHUNK_BYTES
        raise OSError(5, "Input/output error", "bundle/weights")

    with pytest.raises((OSError, UpstreamFailed)):
        place.write("blobs/broken", failing())
    assert place.size("blobs/broken") is None


@pytest.mark.parametrize("written", ["ftp://somewhere/updates", "s3://bucket/x"])
def test_unsupported_address_is_refused(written: str):
    """An address that no store supports is refused with a remedy."""
    with pytest.raises(InvalidRequest) as caught:
        open_storage(written, {"no_such_option": "x"})
    assert caught.value.remedy


@pytest.mark.slow
def test_unreachable_store_is_reported_with_a_remedy():
    """The error for an unreachable store names the object, has no internals, and tells the user to try again."""
    options = {"endpoint": "http://127.0.0.1:9", "allow_http": "true", "region": "us-east-1", "skip_signature": "true"}
    place = open_storage("s3://fleet/updates", {**options, "access_key_id": "x", "secret_access_key": "x"})
    with pytest.raises(UpstreamFailed, match=r"metadata/timestamp\.json") as caught:
        place.size("metadata/timestamp.json")
    assert "Debug" not in caught.value.message
    assert "again" in caught.value.remedy


def test_folder_storage_follows_no_links(tmp_path: Path):
    """A folder storage does not read through a symbolic link."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "blobs" / "x").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        FolderStorage(tmp_path).read("blobs/x", 100)


def test_drive_is_not_written_over_the_repository(tmp_path: Path):
    """A folder storage recognizes its own folder by any path, and writing a drive there is refused; an object store is
    never a folder."""
    (tmp_path / "link").symlink_to(tmp_path)
    assert open_storage(str(tmp_path), {}).is_at(tmp_path / "link")
    assert not open_storage("s3://fleet/updates", {"region": "us-east-1"}).is_at(tmp_path)
    central = CentralTeam(tmp_path)
    central.plan(central.offering(central.publish(echo_bundle(tmp_path / "bundle"))))
    with pytest.raises(InvalidRequest, match="the repository itself"):
        central.drive(central.folder)


def test_damaged_blob_is_not_written_to_a_drive(tmp_path: Path):
    """Writing a drive fails with the name of a damaged blob and the remedy to publish its bundle again, and no damaged
    file is left on the drive."""
    central = CentralTeam(tmp_path)
    digest = central.publish(echo_bundle(tmp_path / "bundle", weights=b"weights"))
    central.plan(central.offering(digest))
    damaged = next(path for path in (central.folder / "blobs").iterdir() if path.read_bytes() == b"weights")
    damaged.write_bytes(b"w3ights")
    (tmp_path / "drive").mkdir()
    with pytest.raises(Exception, match=damaged.name) as caught:
        central.drive(tmp_path / "drive")
    assert "Publish its bundle again" in caught.value.remedy
    assert not (tmp_path / "drive" / "blobs" / damaged.name).exists()
    assert media_writer.required_bundles(central.held.plan, [], "") == {digest}
