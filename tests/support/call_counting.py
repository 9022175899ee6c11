"""How many functions a piece of work calls, for tests that bound work without a clock."""

from __future__ import annotations

import cProfile
import gc
from collections.abc import Callable


def calls_of(work: Callable[[], object]) -> int:
    """Return how many functions a piece of work calls, those of C included.

    Without the garbage collector, whose callbacks (hypothesis has one) would count as calls of the work.
    """
    profile = cProfile.Profile()
    gc.collect()
    gc.disable()
    try:
        profile.runcall(work)
    finally:
        gc.enable()
    return sum(each.callcount for each in profile.getstats())
