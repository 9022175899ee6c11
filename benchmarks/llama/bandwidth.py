"""How fast this machine's memory is read, by as many threads as the engine has: bytes a second.

Started as `python -m benchmarks.llama.bandwidth BYTES THREADS`. What is read over and over is as large as the weights,
because a large cache of the processor may hold part of them: no step can be faster than reading them once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

ROUNDS = 40
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # each thread here is one of its own


def bytes_per_second(size: int, threads: int) -> float:
    """Measure it in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.llama.bandwidth", str(size), str(threads)]
    done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, check=True, capture_output=True, text=True)  # noqa: S603 - our own module
    return float(done.stdout)


def main(size: int, threads: int) -> float:
    """Read, and return the best of the rounds: what the machine can do."""
    parts = [np.ones(size // threads // 4, np.float32) for _ in range(threads)]
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(ROUNDS):
            started = time.perf_counter()
            list(pool.map(lambda part: float(np.dot(part, part)), parts))
            best = min(best, time.perf_counter() - started)
    return sum(part.nbytes for part in parts) / best


if __name__ == "__main__":
    print(main(int(sys.argv[1]), int(sys.argv[2])))  # noqa: T201 - a pipe
