"""What a site gains from its two models, and what it may not lose: accuracy, the promise, deadlines, time.

    python -m benchmarks.routing [--json] [--only SECTION] [--flywheel FOLDER]

    bookkeeping what serve does of escalation in a call, in microseconds
    flapping    1,000 calls while the link goes down and comes up every second: nobody is late, nothing is sent twice
    flywheel    the whole way from the large model to the small one: as right as the large one, most of it answered here
    risk        how often a threshold for that task risks more than it promises, in 1,000 calibrations

The task of the last two is that of scripts/flywheel, which is run first; it takes minutes. --flywheel names the folder
of a run that is there already. What a section found beside its bars is told on standard error.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import structlog

from benchmarks.asking import bookkeeping, flapping
from benchmarks.bars import Bar, main
from benchmarks.flywheel import held

SECTIONS: dict[str, Callable[[], list[Bar]]] = {
    "bookkeeping": bookkeeping.measure,
    "flapping": flapping.measure,
    "flywheel": held.quality,
    "risk": held.risk,
}


def measure() -> list[Bar]:
    """Run every section, or the one that was asked for."""
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else ""
    if only and only not in SECTIONS:
        sys.exit(f"There is no section {only!r}; there are: {', '.join(SECTIONS)}.")
    return [bar for name, section in SECTIONS.items() if only in ("", name) for bar in section()]


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.exit(main(measure))
