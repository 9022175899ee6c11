"""One suite over every kind of repository store: a folder, S3, Google, Azure."""

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
    """Return an empty place of each kind."""
    if request.param == "folder":
        yield open_storage(str(tmp_path / "place"), {})
    else:
        with stored(request.param, request) as served:
            yield open_storage(served.url, served.options)


def test_what_was_written_is_read(place: RepositoryStorage):
    """An object comes back with its bytes and size; writing it again replaces it."""
    for content in (b"one", b"another"):
        place.write("metadata/timestamp.json", content)
        assert content == place.read("metadata/timestamp.json", 100)
        assert len(content) == place.size("metadata/timestamp.json")


def test_what_is_not_there_is_none(place: RepositoryStorage):
    """Reading and looking tell an absent object from an error."""
    assert (None, None) == (place.read("blobs/nothing", 100), place.size("blobs/nothing"))
    place.write("blobs/something", b"x")
    assert (None, None) == (place.read("blobs/nothing", 100), place.size("blobs/nothing"))


def test_a_long_object_is_read_no_further_than_asked(place: RepositoryStorage):
    """One byte more than the limit shows that it is too long."""
    place.write("metadata/timestamp.json", b"x" * 1000)
    assert b"x" * 11 == place.read("metadata/timestamp.json", 10)


def test_a_long_object_goes_in_pieces(place: RepositoryStorage):
    """Its bytes come back in order, piece by piece."""
    pieces = [bytes([number]) * CHUNK_BYTES for number in range(LONG_BYTES // CHUNK_BYTES)]
    place.write("blobs/long", [*pieces, b"!"])
    assert LONG_BYTES == place.size("blobs/long")
    assert b"".join([*pieces, b"!"]) == b"".join(place.chunks("blobs/long"))


def test_a_whole_life_of_a_repository(place: RepositoryStorage, tmp_path: Path):
    """Made, published to, planned, rotated, renewed, and written to a USB drive that a client accepts."""
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


def test_an_interrupted_write_leaves_nothing(place: RepositoryStorage):
    """A source that fails in the middle leaves the object as it was."""

    def failing() -> Iterator[bytes]:
        yield b"x" * CHUNK_BYTES
        raise OSError(5, "Input/output error", "bundle/weights")

    with pytest.raises((OSError, UpstreamFailed)):
        place.write("blobs/broken", failing())
    assert place.size("blobs/broken") is None


@pytest.mark.parametrize("written", ["ftp://somewhere/updates", "s3://bucket/x"])
def test_an_address_that_no_store_knows_is_refused(written: str):
    """The error says what would do."""
    with pytest.raises(InvalidRequest) as caught:
        open_storage(written, {"no_such_option": "x"})
    assert caught.value.remedy


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_tried_again_later():
    """The message names the object, dumps no internals, and says how to go on."""
    options = {"endpoint": "http://127.0.0.1:9", "allow_http": "true", "region": "us-east-1", "skip_signature": "true"}
    place = open_storage("s3://fleet/updates", {**options, "access_key_id": "x", "secret_access_key": "x"})
    with pytest.raises(UpstreamFailed, match=r"metadata/timestamp\.json") as caught:
        place.size("metadata/timestamp.json")
    assert "Debug" not in caught.value.message
    assert "again" in caught.value.remedy


def test_a_folder_follows_no_links(tmp_path: Path):
    """A link in a repository is not read through."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "blobs" / "x").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        FolderStorage(tmp_path).read("blobs/x", 100)


def test_a_drive_is_not_written_over_the_repository(tmp_path: Path):
    """A folder knows itself, by whatever path; an object store is no folder."""
    (tmp_path / "link").symlink_to(tmp_path)
    assert open_storage(str(tmp_path), {}).is_at(tmp_path / "link")
    assert not open_storage("s3://fleet/updates", {"region": "us-east-1"}).is_at(tmp_path)
    central = CentralTeam(tmp_path)
    central.plan(central.offering(central.publish(echo_bundle(tmp_path / "bundle"))))
    with pytest.raises(InvalidRequest, match="the repository itself"):
        central.drive(central.folder)


def test_a_damaged_blob_does_not_get_onto_a_drive(tmp_path: Path):
    """The drive's maker is told which blob to bring back, and no spoilt file is left there."""
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
