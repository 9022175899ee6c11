"""What the step loop of the llama runtime costs beside the model: processor time of its thread, less llama.cpp's.

Started as `python -m benchmarks.bare.hot_loop WEIGHTS THREADS STREAMS`; prints microseconds a step, the median of many,
while all streams write. The largest value of the logits, which numpy finds in machine code, is told apart: it counts as
the model's, as a sampler of llama.cpp's would.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp

from benchmarks.llama import tasks
from edge_agent.engine.protocol import Load, Run
from edge_agent.engine.runtimes.llama.context import Context
from edge_agent.engine.runtimes.llama.runtime import LlamaRuntime
from tests.bundles import digest_of, manifest_of

WARM_STEPS, STEPS = 20, 150
TEXT = "A {} is for sale in a small shop by the sea. A numbered list of one hundred more things in that shop:\n1."


class Native:
    """Processor time that this thread has spent in machine code, in seconds."""

    def __init__(self) -> None:
        """Start at none."""
        self.seconds = 0.0

    def counting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, counted."""

        def counted(*arguments: Any) -> Any:
            started = time.thread_time()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.thread_time() - started

        return counted


def microseconds(weights: Path, threads: int, streams: int) -> tuple[float, float]:
    """Return the median of a step without what the model takes, and with the search for the largest logit."""
    native, chosen = Native(), Native()
    looked_into: tuple[tuple[Any, str, Native], ...] = (
        (llama_cpp, "llama_decode", native),
        (llama_cpp, "llama_get_logits_ith", native),
        (Context, "choose", chosen),
    )
    for owner, name, counter in looked_into:
        setattr(owner, name, counter.counting(getattr(owner, name)))
    with tempfile.TemporaryDirectory() as path:
        folder = tasks.bundle(tasks.WRITE, weights, Path(path) / "bundle")
        runtime = LlamaRuntime()
        context = tasks.CONTEXT_TOKENS
        spec = Load(runtime="llama", threads=threads, sequences_max=streams, context_tokens=context)
        spec.weights = str(weights)
        runtime.load(spec)
        runtime.attach(digest_of(folder), manifest_of(folder), {})
        for stream in range(streams):
            text = TEXT.format(("kettle", "lamp", "shirt", "clock", "chair", "kite", "radio", "ladder")[stream % 8])
            limit = WARM_STEPS + STEPS + 100
            runtime.submit(Run(job_id=str(stream), digest=digest_of(folder), text=text, output_tokens_max=limit))
        for _ in range(WARM_STEPS):
            runtime.step()
        without, all_of_it = [], []
        for _ in range(STEPS):
            native.seconds = chosen.seconds = 0.0
            started = time.thread_time()
            runtime.step()
            spent = time.thread_time() - started
            all_of_it.append(spent - native.seconds)
            without.append(spent - native.seconds - chosen.seconds)
        runtime.close()
    return 1e6 * statistics.median(without), 1e6 * statistics.median(all_of_it)


if __name__ == "__main__":
    print(json.dumps(microseconds(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))), flush=True)  # noqa: T201 - a pipe
