"""Hostile callers, hostile files and twenty minutes of load: the daemon gives only refusals and right answers.

    python -m benchmarks.hardening [--json] [--only SECTION] [--cases N] [--minutes N]

    access      who may call what: every call by every kind of caller
    crowding    a good client's latency among idle, slow, malformed and flooding ones
    fuzzing     hostile requests and files
    leaving     what serve sends of its own accord; needs root, iproute2 and nftables
    load        everything at once, with kills, checked answer by answer

It takes about 45 minutes, on a machine that does nothing else: latencies and slopes are worth nothing otherwise. What
is found is named on standard error.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import structlog

from benchmarks.attacking import crowding, fuzzing, leaving, mixing
from benchmarks.bars import Bar, main, option, run_sections
from tests.support.access_matrix import AccessMatrix
from tests.support.rpcs import METHODS

CALLERS = 13
"""Kinds of them; each makes every call."""


def measure_access() -> list[Bar]:
    """Make every call by every kind of caller; cells that differ from the table in docs are named on stderr."""
    with tempfile.TemporaryDirectory() as folder, AccessMatrix(Path(folder)) as matrix:
        cells = list(matrix.cells())
        effects = int(matrix.drained())
    wrong = [str(cell) for cell in cells if cell.wrong]
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)  # noqa: T201
    tried = {(cell.caller, cell.method) for cell in cells}
    return [
        Bar("access: cells of the matrix tried", len(tried), CALLERS * len(METHODS), "higher"),
        Bar("access: cells that differ from the table", len(wrong), 0, "lower"),
        Bar("access: calls that were refused and done all the same", effects, 0, "lower"),
    ]


SECTIONS: dict[str, Callable[[], list[Bar]]] = {
    "access": measure_access,
    "crowding": crowding.measure,
    "fuzzing": lambda: fuzzing.measure(int(option("--cases", str(fuzzing.CASES)))),
    "leaving": leaving.measure,
    "load": lambda: mixing.measure(float(option("--minutes", str(mixing.MINUTES)))),
}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.exit(main(lambda: run_sections(SECTIONS)))
