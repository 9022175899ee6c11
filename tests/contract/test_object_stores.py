"""Contract of the uplink with every kind of object store: a folder, S3, Google, Azure, plain HTTP."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.errors import EdgeAgentError, ExchangeError, UploadConflict, UpstreamMissing
from tests.support.answering_server import AnsweringServer
from tests.support.object_stores import azurite, stored
from tests.support.uplink_cases import PREFIX, UplinkCase, signed_receipts

KINDS = [
    "folder",
    "s3",
    "google",
    "http",
    pytest.param("azure", marks=pytest.mark.skipif(not azurite(), reason="Azurite is not installed (npm)")),
]
RECEIPTS = f"{PREFIX}receipts.json"


class HttpCase(UplinkCase):
    """An uplink case that reads the server's objects directly, because HTTP has no listing."""

    server: AnsweringServer

    def put(self, key: str, content: bytes) -> None:
        self.server.objects[f"/fleet/{key}"] = content

    def remove(self, key: str) -> None:
        del self.server.objects[f"/fleet/{key}"]

    def _everything(self) -> dict[str, bytes]:
        return {path.removeprefix("/fleet/"): content for path, content in self.server.objects.items()}


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UplinkCase]:
    """Return an uplink to an empty object store of each kind."""
    if request.param == "folder":
        (tmp_path / "upstream").mkdir()
        yield UplinkCase(tmp_path, str(tmp_path / "upstream"))
    elif request.param == "http":
        with AnsweringServer() as server:
            given = HttpCase(tmp_path, f"{server.address}/fleet", {"allow_http": "true", "authorization": "Bearer tok"})
            given.server = server
            yield given
    else:
        with stored(request.param, request) as served:
            yield UplinkCase(tmp_path, served.url, served.options)


def raised(act: Callable[[], None]) -> EdgeAgentError:
    """Return the error that the call raises."""
    with pytest.raises(EdgeAgentError) as caught:
        act()
    return caught.value


def test_sealed_segments_are_uploaded_once(case: UplinkCase):
    """Segments, manifests and status are uploaded under the site's prefix, the outbox stays unchanged, and a second
    exchange sends nothing."""
    case.seal(3)
    before = case.outbox_files()
    case.once()
    assert before == case.uploaded()
    assert before == case.outbox_files()
    assert ("online", 0, 3, 3) == (
        case.state().state,
        case.state().waiting_segments,
        case.state().sent_segments,
        case.noted(),
    )
    case.once()
    assert 0 == case.state().sent_segments


def test_lost_upload_log_causes_no_second_upload(case: UplinkCase):
    """After the upload log is lost, objects that are stored with the same bytes are not sent again."""
    case.seal(2)
    case.once()
    shutil.rmtree(case.notes)
    case.once()
    status = len((case.outbox / "status.json").read_bytes())
    assert (2, status) == (case.state().sent_segments, case.state().sent_bytes)
    assert 2 == case.noted()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["age", "json"])
@pytest.mark.parametrize("content", [b"x" * 3000, b"x" * 10, b"x" * 5000])
def test_object_with_other_content_is_a_conflict(case: UplinkCase, suffix: str, content: bytes):
    """An object of another content under a segment's name, shorter, longer or of the same length, is not overwritten;
    other segments are uploaded, and the error has a remedy."""
    first, second = case.seal(2)
    case.put(f"{PREFIX}segments/{first}.{suffix}", content)
    error = raised(case.once)
    assert isinstance(error, UploadConflict)
    assert "Nothing was overwritten" in error.remedy
    assert content == case.uploaded()[f"{PREFIX}segments/{first}.{suffix}"]
    assert case.outbox_files()[f"{PREFIX}segments/{second}.age"] == case.uploaded()[f"{PREFIX}segments/{second}.age"]
    assert [("UPLOAD_CONFLICT", first)] == [(each.reason, each.about) for each in case.state().problems]
    case.remove(f"{PREFIX}segments/{first}.{suffix}")
    case.once()
    assert case.outbox_files() == case.uploaded()


def test_partial_upload_is_completed(case: UplinkCase):
    """A partial object, as a store without atomic writes leaves it, is replaced by the complete one."""
    (stem,) = case.seal()
    sealed = case.outbox_files()[f"{PREFIX}segments/{stem}.age"]
    case.put(f"{PREFIX}segments/{stem}.age", sealed[:1000])
    case.put(f"{PREFIX}segments/{stem}.json", b"")
    case.once()
    assert case.outbox_files() == case.uploaded()


def test_receipts_are_fetched(case: UplinkCase):
    """Receipts are stored byte for byte in the daemon's folder, newer ones replace them, and they stay if the store has
    none."""
    case.seal()
    case.once()
    assert [] == list(case.receipts.iterdir())
    for at in (1_790_000_000.0, 1_790_000_001.0):
        case.put(RECEIPTS, signed_receipts(at=at))
        case.once()
        assert signed_receipts(at=at) == (case.receipts / "receipts.json").read_bytes()
    case.remove(RECEIPTS)
    case.once()
    assert ["receipts.json"] == [path.name for path in case.receipts.iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>log in</html>", "DOCUMENT_INVALID"),
        (b"", "DOCUMENT_INVALID"),
        (b"{" * 5_000_000, "DOCUMENT_INVALID"),
        (signed_receipts("site-2"), "DOCUMENT_INVALID"),
        (signed_receipts().replace(b"2026", b"2027"), "SIGNATURE_INVALID"),
    ],
)
def test_invalid_receipts_are_refused(case: UplinkCase, content: bytes, reason: str):
    """Receipts that are invalid, too large, another site's or modified are refused; the earlier ones stay, and segments
    are uploaded."""
    case.seal()
    (case.receipts / "receipts.json").write_bytes(signed_receipts())
    case.put(RECEIPTS, content)
    error = raised(case.once)
    assert isinstance(error, ExchangeError)
    assert reason == error.reason
    assert signed_receipts() == (case.receipts / "receipts.json").read_bytes()
    assert case.outbox_files() == case.uploaded()


def test_missing_bucket_or_folder_is_reported(case: UplinkCase):
    """A missing bucket or folder is an error with a remedy and is not created, so that an unmounted disk's mount point
    is not filled."""
    if isinstance(case, HttpCase):
        pytest.skip("HTTP has no buckets")
    url = case.config.url.replace("fleet", "nowhere").replace("/upstream", "/nowhere")
    case.config = case.config.model_copy(update={"url": url})
    case.seal()
    error = raised(case.once)
    assert isinstance(error, UpstreamMissing)
    assert "uplink" in error.remedy
    assert not (case.folder / "nowhere").exists()
    assert ("offline", 1) == (case.state().state, case.state().waiting_segments)


def test_new_object_store_gets_all_segments(case: UplinkCase, tmp_path: Path):
    """The upload log applies only to the store that it was made for, so a new store gets all segments."""
    case.seal(2)
    case.once()
    (tmp_path / "other").mkdir()
    moved = UplinkCase(tmp_path, str(tmp_path / "other"))
    moved.once()
    assert moved.outbox_files() == moved.uploaded()


def test_object_deleted_in_the_store_is_sent_again(case: UplinkCase):
    """A segment without a receipt is checked again after `recheck_seconds` and uploaded again if it was deleted from
    the store."""
    case.clock = None
    case.seal(2)
    case.once()
    key = next(key for key in case.uploaded() if key.endswith("2.age"))
    case.remove(key)
    case.once()
    assert key not in case.uploaded()
    case.config = case.config.model_copy(update={"recheck_seconds": 1e-9})
    case.once()
    assert case.outbox_files() == case.uploaded()
