"""Gains and costs of routing between a small and a large model: accuracy, risk guarantee, deadlines, time.

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
from benchmarks.bars import Bar, main, run_sections
from benchmarks.flywheel import held

SECTIONS: dict[str, Callable[[], list[Bar]]] = {
    "bookkeeping": bookkeeping.measure,
    "flapping": flapping.measure,
    "flywheel": held.quality,
    "risk": held.risk,
}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.exit(main(lambda: run_sections(SECTIONS)))
