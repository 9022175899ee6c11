"""The way to the upstream, and the upstream itself, failing: nothing is lost, nothing twice, nothing in a busy loop."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.errors import UpstreamFailed
from tests.support.answering_server import WAYS, AnsweringServer
from tests.support.eventually import eventually
from tests.support.object_stores import Served, s3
from tests.support.toxic_proxy import Hole, Slow, ToxicProxy
from tests.support.uplink_cases import Clock
from tests.support.uplink_faults import cut_uploads, failure, through, uplink_of


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """Serve S3."""
    with s3() as started:
        yield started


@pytest.fixture
def proxy(served: Served) -> Iterator[ToxicProxy]:
    """Return a healthy proxy before it."""
    with ToxicProxy(urllib.parse.urlsplit(served.options["endpoint"]).port) as started:
        yield started


@pytest.mark.slow
def test_uploads_that_are_cut_are_finished_later(proxy: ToxicProxy, served: Served, tmp_path: Path):
    """After any byte, by FIN or RST: nothing is noted that is not there whole, and the next pass brings the rest.

    moto takes a request that ends within its headers for a whole one and keeps an empty object: that heals, too.
    """
    assert {"injected": 20, "failed": 20, "lost": 0, "believed_wrongly": 0} == cut_uploads(20, proxy, served, tmp_path)


@pytest.mark.release
def test_two_hundred_uploads_that_are_cut_are_finished_later(proxy: ToxicProxy, served: Served, tmp_path: Path):
    """The same, ten times as often."""
    assert {"injected": 200, "failed": 200, "lost": 0, "believed_wrongly": 0} == cut_uploads(
        200, proxy, served, tmp_path
    )


@pytest.mark.slow
def test_a_way_without_answers_is_given_up_in_time(proxy: ToxicProxy, served: Served, tmp_path: Path):
    """Everything is swallowed: the request ends after its limit, with the upstream's name and the remedy."""
    case = through(proxy, served, tmp_path, 1)
    case.seal()
    proxy.toxic = Hole()
    error = failure(case)
    assert error is not None
    assert ("UPSTREAM_UNREACHABLE", "offline") == (error.reason, case.state().state)
    assert "PUT site=site-1/status.json" in error.message
    proxy.toxic = None
    assert failure(case) is None


@pytest.mark.slow
def test_a_slow_way_is_waited_for_as_long_as_it_moves(proxy: ToxicProxy, served: Served, tmp_path: Path):
    """At 100 kB/s a segment takes longer than a request may, but not than its bytes may; a slower minimum would too."""
    case = through(proxy, served, tmp_path, 1)
    case.seal(1, 200_000)
    proxy.toxic = Slow(1000)
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
def test_an_endpoint_that_answers_badly_is_named(way: str, kind: str, tmp_path: Path):
    """Each has its reason and a remedy, one request is risked and no segment, and nothing secret is in what is said."""
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


def test_a_store_that_keeps_half_is_not_believed(tmp_path: Path):
    """It says 200 and has half of a segment: that is no upload, and the next pass completes it."""
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


def test_who_may_not_list_is_told_forbidden_of_what_is_not_there(tmp_path: Path):
    """S3 answers so to a credential with get and put only: it is enough for the uplink."""
    with AnsweringServer() as server:
        case = uplink_of(server, tmp_path, "s3")
        case.seal(2)
        server.answer("403", lambda method, path: method != "PUT" and path not in server.objects)
        assert failure(case) is None
        assert 2 == case.noted()


@pytest.mark.parametrize("way", ["403", "429", "500", "closed"])
async def test_hours_of_failure_take_few_requests(way: str, tmp_path: Path):
    """Over six hours at most a request each few minutes, and everything goes up after the end of it."""
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


async def test_an_uplink_told_to_stop_drops_what_hangs(tmp_path: Path):
    """It ends at once, and what it says of itself is up to date."""
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
