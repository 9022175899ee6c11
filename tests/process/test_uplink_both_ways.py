"""Uploads of examples and downloads of updates by one uplink: their order, and independence of each other's faults."""

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
    """Return a server that holds nothing yet."""
    with AnsweringServer() as started:
        yield started


def test_examples_and_updates_take_turns(server: AnsweringServer, repository: Repository, tmp_path: Path):
    """Under one cap: while both have work, neither gets much more of the way than the other."""
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


def test_the_plans_cap_holds_for_downloads_only(server: AnsweringServer, repository: Repository, tmp_path: Path):
    """With 1000 bytes a second from the plan a blob of 41 kB takes its 40 s; examples go up at once."""
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
def test_a_bad_repository_does_not_stop_examples(
    way: str, server: AnsweringServer, repository: Repository, tmp_path: Path
):
    """On the same store or another one; and what it says is named beside."""
    case = site_of(server, repository, tmp_path, url=f"{server.address}/fleet", upload_options={"allow_http": "true"})
    case.seal(5)
    server.answer(way, lambda _, path: "metadata" in path or "blobs" in path)
    error = failure(case)
    assert error is not None
    if way in ("silent", "closed"):
        server.answer("well")
        assert failure(case) is None
    assert 5 == case.noted()


def test_what_is_known_of_a_store_holds_for_both(server: AnsweringServer, repository: Repository, tmp_path: Path):
    """Examples and updates in one store that does not answer: one small request is risked, not one for each."""
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


def test_a_bad_store_of_examples_does_not_stop_updates(server: AnsweringServer, repository: Repository, tmp_path: Path):
    """Another store than that of the repository: everything comes, and examples wait."""
    case = site_of(server, repository, tmp_path, url="http://127.0.0.1:9/x", upload_options={"allow_http": "true"})
    case.seal(2)
    error = failure(case)
    assert error is not None
    assert "UPSTREAM_UNREACHABLE" == error.reason
    assert everything(repository) == case.arrived()
    state = case.state()
    assert state.downloads is not None
    assert ("offline", "online", 2) == (state.state, state.downloads.state, state.waiting_segments)
