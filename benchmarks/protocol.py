"""Interfaces of the daemon: Open Inference Protocol compared with MLServer and our API, hostile requests, console.

    python -m benchmarks.protocol [--json] [--only cost|fuzzing|painting] [--rounds N] [--cases N]

The first run makes two environments, for tritonclient and for MLServer; `painting` needs Chromium. Latencies are worth
nothing on a machine that does something else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks.bars import Bar, main, option, run_sections
from benchmarks.protocols import cost, fuzzing, painting

SECTIONS: dict[str, Callable[[], list[Bar]]] = {
    "cost": lambda: cost.measure(int(option("--rounds", str(cost.ROUNDS)))),
    "fuzzing": lambda: fuzzing.measure(int(option("--cases", str(fuzzing.CASES)))),
    "painting": lambda: painting.measure(int(option("--predictions", str(painting.PREDICTIONS)))),
}


if __name__ == "__main__":
    sys.exit(main(lambda: run_sections(SECTIONS)))
