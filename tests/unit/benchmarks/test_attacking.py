"""An assault that does not take place, and a caller of the mixed load that dies, are no success."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest

from benchmarks.attacking import crowding
from benchmarks.attacking.callers import Noted
from benchmarks.attacking.mixing import note_ends
from edge_agent.client import Client


def test_an_assault_that_reaches_nobody_is_an_error(tmp_path: Path) -> None:
    """Nobody listens there, so a good client beside it would prove nothing."""
    address = f"unix:{tmp_path}/nobody.sock"
    with Client(address) as client:
        way = crowding.Way("socket", address, (), client)
        with pytest.raises(AssertionError, match="junk did not reach"), crowding.assault(way, "junk"):
            pass


def test_a_caller_that_dies_or_does_not_end_is_noted() -> None:
    """From then on nobody calls in its place, and what would have gone wrong is not seen."""
    died, ended, stuck = Future[None](), Future[None](), Future[None]()
    died.set_exception(KeyError("task"))
    ended.set_result(None)
    noted = Noted()
    note_ends([("sampler", died), ("classify", ended), ("operator", stuck)], noted)
    assert (["sampler ended by KeyError('task')"], ["operator does not end"]) == (noted.failed, noted.stuck)
