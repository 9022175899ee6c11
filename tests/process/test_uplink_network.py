"""Failures of the network and of the object store: nothing is lost, nothing is recorded wrongly, and the uplink does
not retry in a busy loop."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.errors import UpstreamFailed
from tests.support.answering_server import WAYS, AnsweringServer
from tests.support.eventually import eventually
from tests.support.object_stores import EmptyBucket, s3
from tests.support.toxic_proxy import SilentServer, SlowLink, ToxicProxy
from tests.support.uplink_cases import Clock
from tests.support.uplink_faults import cut_uploads, failure, through, uplink_of


@pytest.fixture(scope="module")
def served() -> Iterator[EmptyBucket]:
    """Serve S3."""
    with s3() as started:
        yield started


@pytest.fixture
def proxy(served: EmptyBucket) -> Iterator[ToxicProxy]:
    """Yield a healthy proxy in front of S3."""
    with ToxicProxy(urllib.parse.urlsplit(served.options["endpoint"]).port) as started:
        yield started


@pytest.mark.slow
def test_interrupted_uploads_are_completed_later(proxy: ToxicProxy, served: EmptyBucket, tmp_path: Path):
    """After uploads are cut by FIN or RST at any byte, no incomplete upload is recorded, and the next pass uploads the
    rest.

    moto accepts a request that ends within its headers as complete and keeps an empty object: the uplink recovers from
    that, too.
    """
    assert {"injected": 20, "failed": 20, "lost": 0, "believed_wrongly": 0} == cut_uploads(20, proxy, served, tmp_path)


@pytest.mark.release
def test_two_hundred_interrupted_uploads_are_completed_later(proxy: ToxicProxy, served: EmptyBucket, tmp_path: Path):
    """After 200 uploads are cut at any byte, no incomplete upload is recorded and nothing is lost."""
    assert {"injected": 200, "failed": 200, "lost": 0, "believed_wrongly": 0} == cut_uploads(
        200, proxy, served, tmp_path
    )


@pytest.mark.slow
def test_request_without_an_answer_times_out(proxy: ToxicProxy, served: EmptyBucket, tmp_path: Path):
    """If the network swallows all packets, the request ends after its time limit, and the error names the object."""
    case = through(proxy, served, tmp_path, 1)
    case.seal()
    proxy.toxic = SilentServer()
    error = failure(case)
    assert error is not None
    assert ("UPSTREAM_UNREACHABLE", "offline") == (error.reason, case.state().state)
    assert "PUT site=site-1/status.json" in error.message
    proxy.toxic = None
    assert failure(case) is None


@pytest.mark.slow
def test_slow_upload_continues_above_the_minimum_rate(proxy: ToxicProxy, served: EmptyBucket, tmp_path: Path):
    """A slow upload can exceed a request's time limit as long as its rate is above `bytes_per_second_min`; below
    that it fails."""
    case = through(proxy, served, tmp_path, 1)
    case.seal(1, 200_000)
    proxy.toxic = SlowLink(1000)
    assert failure(case) is None
    assert case.outbox_files() == case.uploaded()
    hasty = through(proxy, served, tmp_path / "hasty", 1)
    hasty.config = hasty.config.model_copy(update={"bytes_per_second_min": 10_000_000})
    hasty.seal(1, 200_000)
    error = failure(hasty)
    assert error is not None
    assert "took longer than " in error.message


REASONS = {
    "401": "UPSTREAM_REFUSED",
    "403": "UPSTREAM_REFUSED",
    "429": "UPSTREAM_BUSY",
    "503": "UPSTREAM_BUSY",
    "500": "UPSTREAM_FAILED",
    "301": "UPSTREAM_FAILED",
    "html": "UPSTREAM_FAILED",
    "truncated": "UPSTREAM_FAILED",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "http"])
@pytest.mark.parametrize("way", WAYS)
def test_bad_answers_of_an_endpoint_have_a_reason_and_a_remedy(way: str, kind: str, tmp_path: Path):
    """Each kind of bad answer has a reason and a remedy; the uplink sends at most three requests and no segment, and no
    message contains a secret."""
    with AnsweringServer() as server:
        case = uplink_of(server, tmp_path, kind)
        case.seal(3)
        server.answer(way)
        error = failure(case)
        assert error is not None
        assert REASONS.get(way, "UPSTREAM_UNREACHABLE") == error.reason
        assert error.remedy
        assert not [path for _, path in server.requests if "segments" in path]
        assert len(server.requests) <= 3
        said = error.message + error.remedy + (case.notes / "uplink.json").read_text()
        assert "SECRET" not in said
        assert "SECRET" not in (case.notes / "uploaded.jsonl").read_text()
        assert ("offline", 1, 3) == (case.state().state, case.state().failures, case.state().waiting_segments)
        server.answer("well")
        server.objects.clear()
        assert failure(case) is None
        assert 3 == case.noted()


def test_truncated_object_is_not_recorded_as_uploaded(tmp_path: Path):
    """If the store answers 200 but has only half of a segment, the upload is not recorded, and the next pass completes
    it."""
    with AnsweringServer() as server:
        case = uplink_of(server, tmp_path, "s3")
        (stem,) = case.seal()
        server.answer("truncated", lambda method, path: method == "PUT" and path.endswith(".age"))
        assert isinstance(failure(case), UpstreamFailed)
        assert 0 == case.noted()
        server.answer("well")
        assert failure(case) is None
        [sealed] = [content for path, content in server.objects.items() if path.endswith(f"{stem}.age")]
        assert (case.outbox / "segments" / f"{stem}.age").read_bytes() == sealed


def test_credential_without_list_permission_is_sufficient(tmp_path: Path):
    """A credential with only get and put is sufficient, although S3 then answers 403 for an object that does not
    exist."""
    with AnsweringServer() as server:
        case = uplink_of(server, tmp_path, "s3")
        case.seal(2)
        server.answer("403", lambda method, path: method != "PUT" and path not in server.objects)
        assert failure(case) is None
        assert 2 == case.noted()


@pytest.mark.parametrize("way", ["403", "429", "500", "closed"])
async def test_uplink_sends_few_requests_during_an_outage(way: str, tmp_path: Path):
    """During an outage of six hours the uplink sends at most 45 requests, and it uploads everything afterwards."""
    with AnsweringServer() as server:
        case = uplink_of(server, tmp_path, "s3")
        case.config = case.config.model_copy(update={"retry_seconds_first": 2.0, "retry_seconds_max": 900.0})
        case.clock = clock = Clock()
        case.seal(2)
        mirror, notes = case.opened()
        server.answer(way)
        with notes:
            end = clock.running + 6 * 3600
            while clock.running < end:
                action = await mirror.step()
                assert ("wait", True) == (action.kind, action.until > clock.running)
                clock.advance(action.until - clock.running)
            assert 6 * 4 <= len(server.requests) <= 45
            server.answer("well")
            clock.advance(1000)
            while (action := await mirror.step()).kind != "wait":
                pass
            assert action.idle
        assert (2, "online") == (case.noted(), case.state().state)


async def test_stop_interrupts_a_hanging_upload(tmp_path: Path):
    """An uplink that is told to stop during a hanging upload ends at once with an up-to-date status."""
    with AnsweringServer() as server:
        case = uplink_of(server, tmp_path, "s3")
        case.config = case.config.model_copy(update={"request_seconds_max": 3600.0})
        case.seal()
        server.answer("silent", lambda _, path: path.endswith(".age"))
        mirror, notes = case.opened()
        stop = asyncio.Event()
        with notes:
            running = asyncio.create_task(mirror.run(stop))
            await eventually(lambda: any(path.endswith(".age") for _, path in server.requests))
            stop.set()
            await asyncio.wait_for(running, 60)
        assert (0, 1, 0) == (case.noted(), case.state().waiting_segments, case.state().sent_segments)
