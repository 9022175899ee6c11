"""The Open Inference Protocol: what it costs beside MLServer and beside our own API, and hostile requests to it.

    python -m benchmarks.protocol [--json] [--only cost|fuzzing] [--rounds N] [--cases N]

The first run makes two environments, for tritonclient and for MLServer. Latencies are worth nothing on a machine that
does something else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks.bars import Bar, main
from benchmarks.protocols import cost, fuzzing

SECTIONS: dict[str, Callable[[], list[Bar]]] = {
    "cost": lambda: cost.measure(_given("--rounds", cost.ROUNDS)),
    "fuzzing": lambda: fuzzing.measure(_given("--cases", fuzzing.CASES)),
}


def measure() -> list[Bar]:
    """Run both sections, or the one that was asked for."""
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else ""
    if only and only not in SECTIONS:
        sys.exit(f"There is no section {only!r}; there are: {', '.join(SECTIONS)}.")
    return [bar for name, section in SECTIONS.items() if only in ("", name) for bar in section()]


def _given(option: str, default: int) -> int:
    return int(sys.argv[sys.argv.index(option) + 1]) if option in sys.argv else default


if __name__ == "__main__":
    sys.exit(main(measure))
