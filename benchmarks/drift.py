"""Alarms about new inputs: false alarms over a year, and calls until a new topic is detected.

scripts/bench drift [--json]

Drives the test that the daemon runs (`edge_agent/monitoring/risk_and_drift.py`) with p-values of a gate: scores of
known inputs are normal with mean 0, those of new inputs have a mean of 2.77, which is an AUROC of 0.975 (CLINC150 with
a small encoder). Each repetition has its own held-out rows. The simulated inputs are independent; a site's may not be.
"""

from __future__ import annotations

import bisect
import math
import random
import sys
from collections.abc import Iterator

from benchmarks.bars import Bar, main, median
from edge_agent.monitoring.risk_and_drift import InputShiftTest

LEVEL = 0.1
"""Of the year without a change: a level at which some alarms are to be expected, so that too many would show."""
YEARS, CALLS_A_YEAR = 120, 20_000
ROWS = 1000
NEW_MEAN = 2.77
REPETITIONS = 9
BEFORE, AFTER_MAX = 3000, 40_000
SHARES = (0.05, 0.02, 0.01)


def bars() -> Iterator[Bar]:
    """Simulate; one year takes about half a second."""
    alarms = 0
    for seed in range(YEARS):
        alarms += _calls_until_alarm(seed, 0, CALLS_A_YEAR, 0.0, LEVEL) is not None
        _tell(f"year {seed + 1} of {YEARS}: {alarms} false alarms")
    error = 2 * math.sqrt(LEVEL * (1 - LEVEL) / YEARS)
    yield Bar(f"years with a false alarm, level {LEVEL:g}", alarms / YEARS, LEVEL + error, "lower")
    for share in SHARES:
        found = [_calls_until_alarm(seed, BEFORE, AFTER_MAX, share, 0.01) for seed in range(REPETITIONS)]
        known = [float(each) for each in found if each is not None]
        _tell(f"{share:.0%} of calls new: found in {len(known)} of {REPETITIONS} repetitions")
        yield Bar(f"a new topic at {share:.0%} of calls: found, share", len(known) / REPETITIONS, None, "higher")
        if known:
            yield Bar(f"a new topic at {share:.0%} of calls: calls until found", median(known), None, "lower")


def _calls_until_alarm(seed: int, before: int, after: int, new_share: float, level: float) -> int | None:
    """Return how many calls after the change the alarm was raised; None = it was not."""
    drawn = random.Random(seed)  # noqa: S311 - no secret
    held_out = sorted(drawn.gauss(0.0, 1.0) for _ in range(ROWS))
    shift = InputShiftTest(ROWS, level)
    for call in range(before + after):
        mean = NEW_MEAN if call >= before and drawn.random() < new_share else 0.0
        stranger = ROWS - bisect.bisect_left(held_out, drawn.gauss(mean, 1.0))
        if shift.observe((1 + stranger) / (ROWS + 1), float(call)) and call >= before:
            return call - before
    return None


def _tell(said: str) -> None:
    print(said, file=sys.stderr, flush=True)  # noqa: T201 - its progress


if __name__ == "__main__":
    sys.exit(main(bars))
