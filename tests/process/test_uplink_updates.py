"""Downloads of updates: complete ones, resumed ones, and failures."""

from __future__ import annotations

import asyncio
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.answering_server import AnsweringServer
from tests.support.eventually import eventually
from tests.support.object_stores import azure, azurite, google, s3
from tests.support.toxic_proxy import CutAnswer, ToxicProxy
from tests.support.update_cases import (
    ADAPTER,
    CHUNK,
    WEIGHTS,
    Repository,
    UpdateCase,
    everything,
    failure,
    idle,
    published,
    rubbish,
    sha256,
    site_of,
)
from tests.support.uplink_cases import Clock


@pytest.fixture
def repository() -> Repository:
    """Return a repository with two blobs."""
    return published()


@pytest.fixture
def server() -> Iterator[AnsweringServer]:
    """Yield a server that holds no objects yet."""
    with AnsweringServer() as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "http", "s3", "google", "azure"])
def test_a_repository_is_mirrored_from_every_kind_of_store(kind: str, repository: Repository, tmp_path: Path):
    """The uplink downloads all metadata, the plan and the requested blobs, and nothing else, from every kind of store;
    existing files are not downloaded again."""
    if kind == "azure" and not azurite():
        pytest.skip("azurite is not installed")
    repository.blob(b"nobody wants this")
    if kind == "folder":
        mirrored(UpdateCase(tmp_path, repository.lay(tmp_path / "repository")), repository)
    elif kind == "http":
        with AnsweringServer() as server:
            mirrored(site_of(server, repository, tmp_path), repository)
    else:
        with {"s3": s3, "google": google, "azure": azure}[kind]() as served:
            case = UpdateCase(tmp_path, served.url, served.options, request_seconds_max=20)
            filled = UpdateCase(tmp_path / "central", "", url=served.url, upload_options=served.options)
            for key, content in repository.objects.items():
                filled.put(key, content)
            mirrored(case, repository)


def mirrored(case: UpdateCase, repository: Repository) -> None:
    """Check twice that a site has the files that it should have."""
    case.want(ADAPTER, WEIGHTS)
    assert failure(case) is None
    assert everything(repository) == case.arrived()
    downloads = case.state().downloads
    assert downloads is not None
    assert ("online", 0, 0, 2) == (
        downloads.state,
        downloads.waiting_blobs,
        downloads.waiting_bytes,
        downloads.fetched_blobs,
    )
    assert failure(case) is None
    assert {} == case.problems()


def test_check_without_news_takes_two_requests(server: AnsweringServer, repository: Repository, tmp_path: Path):
    """A check that finds nothing new requests only the timestamp and the next root, whether or not the daemon reports
    its root version."""
    for said in ({}, {"root_version": 1}):
        case = site_of(server, repository, tmp_path / str(len(said)))
        case.want(**said)
        case.clock = Clock()
        mirror, notes = case.opened()
        with notes:
            asyncio.run(idle(mirror))
            server.answer("well")
            server.sent.clear()
            case.clock.advance(301)
            asyncio.run(idle(mirror))
        asked = [("GET", "/fleet/metadata/timestamp.json"), ("GET", "/fleet/metadata/2.root.json")]
        assert asked == server.requests
        assert 0 == sum(server.sent.values())


def test_only_changed_blobs_are_downloaded(server: AnsweringServer, repository: Repository, tmp_path: Path):
    """After a new adapter was published, the uplink downloads the plan and the adapter but no weights, and removes the
    old adapter."""
    case = site_of(server, repository, tmp_path)
    assert failure(case) is None
    adapter = rubbish(600, 3)
    repository.blob(adapter)
    repository.publish()
    repository.serve(server.objects)
    case.want(adapter, WEIGHTS)
    server.answer("well")
    assert failure(case) is None
    asked = [path for _, path in server.requests if "blobs" in path]
    assert {f"/fleet/blobs/{sha256(each)}" for each in (adapter, repository.plan)} == set(asked)
    assert f"blobs/{sha256(ADAPTER)}" not in case.arrived()


def test_roots_are_downloaded_in_sequence(server: AnsweringServer, repository: Repository, tmp_path: Path):
    """After several root rotations the uplink downloads every root after the daemon's version in order, and an invalid
    one stops the pass with its name."""
    for _ in range(5):
        repository.rotate()
    case = site_of(server, repository, tmp_path)
    case.want(root_version=3)
    assert failure(case) is None
    assert {"4.root.json", "5.root.json", "6.root.json"} == {
        name.partition("/")[2] for name in case.arrived() if "root" in name
    }
    server.objects["/fleet/metadata/4.root.json"] = b'{"signed": {"_type": "root", "version": 44}}'
    case.want(root_version=3, again=True)
    error = failure(case)
    assert error is not None
    assert ("DOCUMENT_INVALID", True) == (error.reason, "4.root.json" in error.message)


def test_invalid_download_requests_change_no_blob(server: AnsweringServer, repository: Repository, tmp_path: Path):
    """If wants.json is missing or invalid, no blob is downloaded or removed, and the metadata is still updated; an
    invalid file is reported."""
    case = site_of(server, repository, tmp_path)
    assert failure(case) is None
    for raw in (None, b"{", b'{"schema": "other"}', b"x" * 2**21):
        case.wants_path.unlink(missing_ok=True)
        if raw is not None:
            case.wants_path.write_bytes(raw)
        shutil.rmtree(case.incoming / "metadata")
        error = failure(case)
        assert (None if raw is None else "DOCUMENT_INVALID") == (error and error.reason)
        assert everything(repository) == case.arrived()


# --- what stops and goes on -------------------------------------------------------------------------------------------


def test_blob_with_a_wrong_hash_does_not_stop_the_others(
    server: AnsweringServer, repository: Repository, tmp_path: Path
):
    """A blob with a wrong hash is reported by its name and not kept; it is downloaded again only after an hour or a new
    publication."""
    case = site_of(server, repository, tmp_path)
    case.clock = Clock()
    name = sha256(WEIGHTS)
    server.objects[f"/fleet/blobs/{name}"] = WEIGHTS[:-1] + b"?"
    mirror, notes = case.opened()
    with notes:
        asyncio.run(idle(mirror))
        assert {name: "HASH_MISMATCH"} == case.problems()
        fetched = sum(name in path for _, path in server.requests)
        case.clock.advance(1800)
        asyncio.run(idle(mirror))
        assert fetched == sum(name in path for _, path in server.requests)
        repository.publish()
        repository.serve(server.objects)
        case.clock.advance(301)
        asyncio.run(idle(mirror))
        assert WEIGHTS == case.arrived()[f"blobs/{name}"]
        case.clock.advance(61)
        asyncio.run(idle(mirror))
        assert {} == case.problems()


def test_blob_without_disk_space_does_not_stop_the_others(
    server: AnsweringServer, repository: Repository, tmp_path: Path
):
    """A blob that would use the disk reserve is not requested; smaller blobs are downloaded, and examples are uploaded
    meanwhile."""
    free = shutil.disk_usage(tmp_path).free
    upstream = tmp_path / "examples"
    upstream.mkdir()
    case = site_of(server, repository, tmp_path, url=str(upstream), disk_reserve_bytes=free // 2)
    huge = "0" * 64
    case.want_sizes([(huge, free // 2 + 2**30), (sha256(ADAPTER), len(ADAPTER))])
    case.seal(2)
    error = failure(case)
    assert error is not None
    assert ("DISK_FULL", {huge: "DISK_FULL"}) == (error.reason, case.problems())
    assert not [path for _, path in server.requests if huge in path]
    assert ADAPTER == case.arrived()[f"blobs/{sha256(ADAPTER)}"]
    assert 2 == case.noted()


def test_local_problem_is_reported_until_it_is_fixed(server: AnsweringServer, repository: Repository, tmp_path: Path):
    """An invalid wants.json or a folder that cannot be created is reported while examples are uploaded; the report ends
    when it is fixed."""
    (tmp_path / "examples").mkdir()
    case = site_of(server, repository, tmp_path, url=str(tmp_path / "examples"))
    case.clock = Clock()
    case.wants_path.write_bytes(b"{")
    case.seal(2)
    mirror, notes = case.opened()
    with notes:
        asyncio.run(idle(mirror))
        assert ({"wants.json": "DOCUMENT_INVALID"}, 2) == (case.problems(), case.noted())
        case.want(WEIGHTS)
        shutil.rmtree(case.incoming)
        case.incoming.write_bytes(b"not a folder")
        case.seal(1)
        for _ in range(2):
            case.clock.advance(6)
            asyncio.run(idle(mirror))
            assert ({"incoming": "EXCHANGE_DIR_UNUSABLE"}, 3) == (case.problems(), case.noted())
        case.incoming.unlink()
        case.clock.advance(301)
        asyncio.run(idle(mirror))
        assert {} == case.problems()
        assert WEIGHTS == case.arrived()[f"blobs/{sha256(WEIGHTS)}"]


def test_damaged_local_blob_is_downloaded_again(server: AnsweringServer, repository: Repository, tmp_path: Path):
    """Blobs on the disk are verified when the uplink starts and again after an hour; a damaged one is downloaded
    again."""
    case = site_of(server, repository, tmp_path)
    case.clock = Clock()
    assert failure(case) is None
    path = case.incoming / "blobs" / sha256(WEIGHTS)
    path.write_bytes(WEIGHTS[:-1] + b"?")
    mirror, notes = case.opened()
    with notes:
        asyncio.run(idle(mirror))
        assert WEIGHTS == path.read_bytes()
        path.write_bytes(WEIGHTS[:-1] + b"?")
        case.clock.advance(3601)
        asyncio.run(idle(mirror))
        assert WEIGHTS == path.read_bytes()


def test_damaged_partial_download_is_restarted_without_an_error(
    server: AnsweringServer, repository: Repository, tmp_path: Path
):
    """If a partial download from before a restart is damaged, the blob is downloaded again without a reported
    problem."""
    case = site_of(server, repository, tmp_path)
    (case.incoming / "blobs").mkdir(parents=True)
    (case.incoming / "blobs" / f".{sha256(WEIGHTS)}.partial").write_bytes(bytes(5 * CHUNK))
    assert failure(case) is None
    assert everything(repository) == case.arrived()


def test_rejected_metadata_is_downloaded_again(server: AnsweringServer, repository: Repository, tmp_path: Path):
    """If the daemon reports that it rejected metadata that was damaged in transit, all metadata is downloaded again,
    once."""
    repository.publish(hashed=False)
    case = site_of(server, repository, tmp_path)
    case.want(root_version=1)
    true = server.objects["/fleet/metadata/2.targets.json"]
    server.objects["/fleet/metadata/2.targets.json"] = true.replace(b"x", b"y")
    case.clock = Clock()
    mirror, notes = case.opened()
    with notes:
        asyncio.run(idle(mirror))
        server.objects["/fleet/metadata/2.targets.json"] = true
        case.clock.advance(301)
        asyncio.run(idle(mirror))
        assert true != case.arrived()["metadata/2.targets.json"]
        case.want(root_version=1, again=True)
        case.clock.advance(301)
        asyncio.run(idle(mirror))
        assert true == case.arrived()["metadata/2.targets.json"]
        server.answer("well")
        case.clock.advance(301)
        asyncio.run(idle(mirror))
        assert 2 == len(server.requests)


def test_interrupted_check_is_repeated(server: AnsweringServer, repository: Repository, tmp_path: Path):
    """If the timestamp arrived but the snapshot did not, the next check does not treat the timestamp as already
    known."""
    case = site_of(server, repository, tmp_path)
    case.want()
    case.clock = Clock()
    mirror, notes = case.opened()
    with notes:
        asyncio.run(idle(mirror))
        repository.publish()
        repository.serve(server.objects)
        server.answer("500", lambda _, path: "snapshot" in path)
        case.clock.advance(301)
        asyncio.run(idle(mirror))
        server.answer("well")
        case.clock.advance(301)
        asyncio.run(idle(mirror))
        assert repository.release().items() <= case.arrived().items()


@pytest.mark.parametrize("reset", [False, True])
def test_repeatedly_cut_download_completes(
    reset: bool, server: AnsweringServer, repository: Repository, tmp_path: Path
):
    """If each answer is cut after 3 kB, less than a chunk, the download still completes, and few bytes are transferred
    twice."""
    with ToxicProxy(urllib.parse.urlsplit(server.address).port or 0) as proxy:
        case = site_of(server, repository, tmp_path)
        case.want()
        assert failure(case) is None
        options = {"allow_http": "true"}
        url = f"http://127.0.0.1:{proxy.port}/fleet"
        case = UpdateCase(tmp_path, url, options, request_seconds_max=5, failures_max=100)
        case.want(WEIGHTS)
        case.clock = Clock()
        proxy.toxic = CutAnswer(3000, reset=reset)
        server.answer("well")
        mirror, notes = case.opened()
        with notes:
            while WEIGHTS != case.arrived().get(f"blobs/{sha256(WEIGHTS)}"):
                action = asyncio.run(mirror.step())
                case.clock.advance(max(0.0, action.until - case.clock.running))
                assert len(server.requests) < 100
        headers = 400 * len(server.requests)
        assert proxy.answered <= len(WEIGHTS) + headers + 3000


@pytest.mark.parametrize("way", ["403", "429", "500", "closed", "404"])
async def test_mirror_sends_few_requests_during_an_outage(
    way: str, server: AnsweringServer, repository: Repository, tmp_path: Path
):
    """During an outage of six hours the uplink sends at most 250 requests for updates, and it downloads everything
    afterwards."""
    case = site_of(server, repository, tmp_path, retry_seconds_first=2.0, retry_seconds_max=900.0, scan_seconds=300)
    case.clock = clock = Clock()
    mirror, notes = case.opened()
    server.answer(way)
    with notes:
        end = clock.running + 6 * 3600
        while clock.running < end:
            action = await mirror.step()
            assert action.kind != "wait" or action.until > clock.running
            if action.kind == "wait":
                clock.advance(action.until - clock.running)
        assert 20 <= len(server.requests) <= 250
        server.answer("well")
        clock.advance(1000)
        await idle(mirror)
    assert everything(repository) == case.arrived()


async def test_stopped_download_is_resumed(server: AnsweringServer, repository: Repository, tmp_path: Path):
    """An uplink that is told to stop during a blob ends at once, and the next one resumes the blob and repeats at most
    one chunk."""
    case = site_of(server, repository, tmp_path, request_seconds_max=3600.0)
    third = [0]

    def hangs(_: str, path: str) -> bool:
        third[0] += sha256(WEIGHTS) in path
        return third[0] > 4 and sha256(WEIGHTS) in path

    server.answer("silent", hangs)
    mirror, notes = case.opened()
    stop = asyncio.Event()
    with notes:
        running = asyncio.create_task(mirror.run(stop))
        await eventually(lambda: third[0] > 4)
        stop.set()
        await asyncio.wait_for(running, 60)
    downloads = case.state().downloads
    assert downloads is not None
    assert (1, len(WEIGHTS) - 4 * CHUNK) == (downloads.waiting_blobs, downloads.waiting_bytes)
    server.answer("well")
    server.sent.clear()
    assert await asyncio.to_thread(failure, case) is None
    assert server.sent[f"/fleet/blobs/{sha256(WEIGHTS)}"] <= len(WEIGHTS) - 4 * CHUNK + CHUNK


def test_missing_update_folder_is_offline(repository: Repository, tmp_path: Path):
    """Downloads are offline while the folder of updates does not exist, and continue when it is mounted again."""
    case = UpdateCase(tmp_path, repository.lay(tmp_path / "repository"))
    (tmp_path / "repository").rename(tmp_path / "unmounted")
    case.want(ADAPTER)
    assert "does not exist" in str(failure(case))
    downloads = case.state().downloads
    assert downloads is not None
    assert ("offline", True) == (downloads.state, "Mount its disk" in case.state().problems[0].remedy)
    (tmp_path / "unmounted").rename(tmp_path / "repository")
    assert failure(case) is None
