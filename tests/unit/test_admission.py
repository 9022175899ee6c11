"""How many inference calls are taken at a time."""

from __future__ import annotations

import pytest

from edge_agent.errors import Draining, QueueFull
from edge_agent.service.admission import Admission


def test_calls_over_the_limit_are_refused_with_a_delay() -> None:
    """The second of two nested calls does not fit a limit of one; after the first it does."""
    admission = Admission(calls_max=1, drain_seconds=5)
    with (
        admission,
        pytest.raises(QueueFull, match="1 calls are in progress; the limit is 1") as caught,
        admission,
    ):
        pass
    assert caught.value.retry_seconds > 0
    with admission:
        pass


def test_a_failed_call_gives_its_place_back() -> None:
    """However the block ends."""
    admission = Admission(calls_max=1, drain_seconds=5)
    with pytest.raises(ZeroDivisionError), admission:
        raise ZeroDivisionError
    with admission:
        pass


def test_nothing_is_taken_while_draining() -> None:
    """The delay is the drain time."""
    admission = Admission(calls_max=1, drain_seconds=5)
    admission.draining = True
    with pytest.raises(Draining) as caught, admission:
        pass
    assert 5 == caught.value.retry_seconds
