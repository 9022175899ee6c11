"""What talks to the daemon: the Open Inference Protocol beside MLServer and our own API, hostile requests, the console.

    python -m benchmarks.protocol [--json] [--only cost|fuzzing|painting] [--rounds N] [--cases N]

The first run makes two environments, for tritonclient and for MLServer; `painting` needs Chromium. Latencies are worth
nothing on a machine that does something else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks.bars import Bar, main
from benchmarks.protocols import cost, fuzzing, painting

SECTIONS: dict[str, Callable[[], list[Bar]]] = {
    "cost": lambda: cost.measure(_given("--rounds", cost.ROUNDS)),
    "fuzzing": lambda: fuzzing.measure(_given("--cases", fuzzing.CASES)),
    "painting": lambda: painting.measure(_given("--predictions", painting.PREDICTIONS)),
}


def measure() -> list[Bar]:
    """Run every section, or the one that was asked for."""
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else ""
    if only and only not in SECTIONS:
        sys.exit(f"There is no section {only!r}; there are: {', '.join(SECTIONS)}.")
    return [bar for name, section in SECTIONS.items() if only in ("", name) for bar in section()]


def _given(option: str, default: int) -> int:
    return int(sys.argv[sys.argv.index(option) + 1]) if option in sys.argv else default


if __name__ == "__main__":
    sys.exit(main(measure))
