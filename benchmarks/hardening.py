"""What hostile callers, hostile files and twenty minutes of load get out of a daemon: refusals, and right answers.

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
from collections.abc import Callable

import structlog

from benchmarks.attacking import access, crowding, fuzzing, leaving, mixing
from benchmarks.bars import Bar, main

SECTIONS: dict[str, Callable[[], list[Bar]]] = {
    "access": access.measure,
    "crowding": crowding.measure,
    "fuzzing": lambda: fuzzing.measure(int(_given("--cases", fuzzing.CASES))),
    "leaving": leaving.measure,
    "load": lambda: mixing.measure(_given("--minutes", mixing.MINUTES)),
}


def measure() -> list[Bar]:
    """Run every section, or the one that was asked for."""
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else ""
    if only and only not in SECTIONS:
        sys.exit(f"There is no section {only!r}; there are: {', '.join(SECTIONS)}.")
    return [bar for name, section in SECTIONS.items() if only in ("", name) for bar in section()]


def _given(option: str, default: float) -> float:
    return float(sys.argv[sys.argv.index(option) + 1]) if option in sys.argv else default


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.exit(main(measure))
