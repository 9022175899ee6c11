"""The attack benchmark fails if its attack does not reach the daemon or a caller of its load ends early."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest

from benchmarks.attacking import crowding
from benchmarks.attacking.callers import CallLog
from benchmarks.attacking.mixing import note_ends
from edge_agent.client import Client


def test_attack_that_reaches_no_server_is_an_error(tmp_path: Path) -> None:
    """An attack on an address without a server raises an error: a good client that is served meanwhile would prove
    nothing."""
    address = f"unix:{tmp_path}/nobody.sock"
    with Client(address) as client:
        way = crowding.EntryPoint("socket", address, (), client)
        with pytest.raises(AssertionError, match="junk did not reach"), crowding.assault(way, "junk"):
            pass


def test_caller_that_fails_or_hangs_is_recorded() -> None:
    """The mixed load records each caller that ended with an error or does not end, because no calls of its kind are
    checked after that."""
    died, ended, stuck = Future[None](), Future[None](), Future[None]()
    died.set_exception(KeyError("task"))
    ended.set_result(None)
    noted = CallLog()
    note_ends([("sampler", died), ("classify", ended), ("operator", stuck)], noted)
    assert (["sampler ended by KeyError('task')"], ["operator does not end"]) == (noted.failed, noted.stuck)
