"""One suite over every kind of upstream: a folder, S3, Google, Azure, plain HTTP."""

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
    """Looks into the server itself, since HTTP cannot list."""

    server: AnsweringServer

    def put(self, key: str, content: bytes) -> None:
        self.server.objects[f"/fleet/{key}"] = content

    def remove(self, key: str) -> None:
        del self.server.objects[f"/fleet/{key}"]

    def _everything(self) -> dict[str, bytes]:
        return {path.removeprefix("/fleet/"): content for path, content in self.server.objects.items()}


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UplinkCase]:
    """Return an uplink to an empty upstream of each kind."""
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
    """Return the error that something ends with."""
    with pytest.raises(EdgeAgentError) as caught:
        act()
    return caught.value


def test_what_is_sealed_arrives_whole(case: UplinkCase):
    """Segments, manifests and status, under the site's prefix; the outbox stays; a second time nothing is sent."""
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


def test_notes_that_are_lost_cost_a_look_and_no_upload(case: UplinkCase):
    """What is there with the same bytes is not sent again."""
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
def test_something_else_under_the_name_is_a_conflict_and_stays(case: UplinkCase, suffix: str, content: bytes):
    """Shorter, longer or as long: it is not overwritten, the others go up, and the error says what to do."""
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


def test_the_beginning_of_an_upload_is_completed(case: UplinkCase):
    """A store that is not atomic keeps half of what was cut; replacing that loses nothing."""
    (stem,) = case.seal()
    sealed = case.outbox_files()[f"{PREFIX}segments/{stem}.age"]
    case.put(f"{PREFIX}segments/{stem}.age", sealed[:1000])
    case.put(f"{PREFIX}segments/{stem}.json", b"")
    case.once()
    assert case.outbox_files() == case.uploaded()


def test_receipts_are_fetched(case: UplinkCase):
    """They lie byte for byte in the daemon's folder; newer ones replace them; none upstream leaves them."""
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
def test_what_are_no_receipts_is_refused(case: UplinkCase, content: bytes, reason: str):
    """Garbage, too much, another site's, spoilt ones: those before stay, segments go up all the same."""
    case.seal()
    (case.receipts / "receipts.json").write_bytes(signed_receipts())
    case.put(RECEIPTS, content)
    error = raised(case.once)
    assert isinstance(error, ExchangeError)
    assert reason == error.reason
    assert signed_receipts() == (case.receipts / "receipts.json").read_bytes()
    assert case.outbox_files() == case.uploaded()


def test_a_missing_bucket_or_folder_is_named(case: UplinkCase):
    """The error names the missing bucket and the remedy; nothing is made, so that an unmounted disk is not filled."""
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


def test_another_upstream_gets_everything(case: UplinkCase, tmp_path: Path):
    """Notes count for the upstream that they were made for."""
    case.seal(2)
    case.once()
    (tmp_path / "other").mkdir()
    moved = UplinkCase(tmp_path, str(tmp_path / "other"))
    moved.once()
    assert moved.outbox_files() == moved.uploaded()


def test_what_vanishes_upstream_is_sent_again_in_time(case: UplinkCase):
    """Without a receipt a segment is looked for again after a while."""
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
