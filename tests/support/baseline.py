"""Tells whether an operation waits, by comparison with one that does not, in the same run on the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

FACTOR = 10
"""Waiting costs hundreds of times as much."""


def nobody_waits(asked: Callable[[], object], alike: Callable[[], object], times: int = 20) -> bool:
    """Return whether the medians of `asked` and `alike` are close; the two alternate, as other programs use the CPU."""
    taken = [(_seconds(asked), _seconds(alike)) for _ in range(times)]
    return median(each for each, _ in taken) < FACTOR * median(each for _, each in taken)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
