"""What is counted of a bundle's inputs, and what is not."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from edge_agent.engine.protocol import Done, Failed
from edge_agent.engine.tally import LATEST, Tally

UPDATES_MAX = 20
"""What counting an answer may cost, in updates of a dictionary."""


@pytest.mark.parametrize(
    ("reason", "counted"),
    [
        ("MODEL_FAILED", (1, 1)),
        ("ENGINE_CRASHED", (1, 1)),
        ("INPUT_TOO_LONG", (0, 0)),
        ("CANCELLED", (0, 0)),
        ("MADE_UP", (0, 0)),
    ],
)
def test_only_what_the_model_fails_counts_against_it(reason: str, counted: tuple[int, int]):
    """What callers do says nothing of a bundle."""
    tally = Tally()
    tally.done(Failed(job_id="1", reason=reason, message=""), 0.01)
    assert counted == (tally.calls, tally.failures)
    assert (0, 0.0) == (tally.timed, tally.median_ms)


def test_time_is_of_the_latest_inputs_and_of_each_token():
    """A generation of 10 tokens in 0.2 s counts as 20 ms; a deadline that passed counts with what it lasted."""
    tally = Tally()
    tally.done(Done(job_id="1", output_tokens=10), 0.2)
    assert (1, 20.0) == (tally.calls, tally.median_ms)
    tally.late(1.0)
    assert (2, 510.0) == (tally.calls, tally.median_ms)
    for _ in range(LATEST):
        tally.done(Done(job_id="1"), 0.005)
    assert (LATEST + 2, LATEST, 5.0) == (tally.calls, tally.timed, tally.median_ms)


def test_counting_costs_next_to_nothing():
    """As much as a few updates of a dictionary; the best of many tries, for others compute here as well."""
    tally, done, plain = Tally(), Done(job_id="1"), dict[str, int]()

    def update() -> None:
        plain["calls"] = plain.get("calls", 0) + 1

    def seconds(work: Callable[[], None]) -> float:
        started = time.perf_counter()
        for _ in range(1000):
            work()
        return time.perf_counter() - started

    counting, updating = zip(
        *((seconds(lambda: tally.done(done, 0.001)), seconds(update)) for _ in range(50)), strict=True
    )
    assert min(counting) < UPDATES_MAX * min(updating)
