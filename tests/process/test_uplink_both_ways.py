"""Uploads of examples and downloads of updates by one uplink: their order, and their independence from each other's
failures."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.answering_server import AnsweringServer
from tests.support.update_cases import (
    CHUNK,
    WEIGHTS,
    Repository,
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


def test_uploads_and_downloads_share_the_bandwidth(server: AnsweringServer, repository: Repository, tmp_path: Path):
    """Under one bandwidth limit uploads and downloads get about equal shares while both have work."""
    upstream = tmp_path / "examples"
    upstream.mkdir()
    case = site_of(server, repository, tmp_path, url=str(upstream), bytes_per_second_max=10_000)
    case.clock = Clock()
    case.seal(40, CHUNK)
    case.want(rubbish(40 * CHUNK, 9))
    repository.blob(rubbish(40 * CHUNK, 9))
    repository.serve(server.objects)
    mirror, notes = case.opened()
    done, began = [], case.clock.running
    with notes:
        while len(done) < 40:
            action = asyncio.run(mirror.step())
            if action.kind == "wait":
                case.clock.advance(action.until - case.clock.running)
            elif action.kind in ("send", "pull"):
                done.append(action.kind)
    assert 18 <= done.count("pull") <= 22
    assert 40 * CHUNK / 10_000 * 0.9 <= case.clock.running - began <= 40 * CHUNK / 10_000 * 1.5


def test_bandwidth_limit_of_the_plan_applies_only_to_downloads(
    server: AnsweringServer, repository: Repository, tmp_path: Path
):
    """With the plan's limit of 1,000 bytes per second a blob of 41 kB takes about 40 s; examples are uploaded at
    once."""
    upstream = tmp_path / "examples"
    upstream.mkdir()
    case = site_of(server, repository, tmp_path, url=str(upstream))
    case.clock = Clock()
    case.seal(3)
    case.want(WEIGHTS, bytes_per_second_max=1000)
    mirror, notes = case.opened()
    began = case.clock.running
    with notes:
        while f"blobs/{sha256(WEIGHTS)}" not in case.arrived():
            action = asyncio.run(mirror.step())
            if action.kind == "wait":
                assert 3 == case.noted()
                case.clock.advance(action.until - case.clock.running)
    assert 35 <= case.clock.running - began <= 60


@pytest.mark.parametrize("way", ["500", "403", "html", "silent", "closed"])
def test_failing_repository_does_not_stop_uploads(
    way: str, server: AnsweringServer, repository: Repository, tmp_path: Path
):
    """If requests for updates fail, the pass ends with an error, and examples are still uploaded to the same server, at
    the latest in the next pass."""
    case = site_of(server, repository, tmp_path, url=f"{server.address}/fleet", upload_options={"allow_http": "true"})
    case.seal(5)
    server.answer(way, lambda _, path: "metadata" in path or "blobs" in path)
    error = failure(case)
    assert error is not None
    if way in ("silent", "closed"):
        server.answer("well")
        assert failure(case) is None
    assert 5 == case.noted()


def test_unreachable_store_is_probed_once_for_both_directions(
    server: AnsweringServer, repository: Repository, tmp_path: Path
):
    """If examples and updates are in one store that does not answer, the uplink sends one small request instead of one
    for each direction."""
    case = site_of(server, repository, tmp_path, url=f"{server.address}/sent", upload_options={"allow_http": "true"})
    case.seal(2)
    case.clock = Clock()
    server.answer("closed")
    mirror, notes = case.opened()
    with notes:
        asyncio.run(idle(mirror))
        assert ["/sent/site=site-1/status.json"] == [urllib.parse.unquote(path) for _, path in server.requests]
        state = case.state()
        assert state.downloads is not None
        assert ("offline", "offline") == (state.state, state.downloads.state)
        server.answer("well")
        case.clock.advance(10)
        asyncio.run(idle(mirror))
    assert 2 == case.noted()
    assert everything(repository) == case.arrived()


def test_unreachable_example_store_does_not_stop_downloads(
    server: AnsweringServer, repository: Repository, tmp_path: Path
):
    """If only the store for examples is unreachable, all updates are downloaded, and the examples wait."""
    case = site_of(server, repository, tmp_path, url="http://127.0.0.1:9/x", upload_options={"allow_http": "true"})
    case.seal(2)
    error = failure(case)
    assert error is not None
    assert "UPSTREAM_UNREACHABLE" == error.reason
    assert everything(repository) == case.arrived()
    state = case.state()
    assert state.downloads is not None
    assert ("offline", "online", 2) == (state.state, state.downloads.state, state.waiting_segments)
