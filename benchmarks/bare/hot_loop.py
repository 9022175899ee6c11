"""Overhead of the llama runtime's step loop: processor time of its thread, less llama.cpp's.

Started as `python -m benchmarks.bare.hot_loop WEIGHTS THREADS STREAMS`; prints microseconds a step, the median of many,
while all streams write; one that ends starts again. The largest value of the logits, which numpy finds in machine code,
is told apart: it counts as the model's, as a sampler of llama.cpp's would. What it costs to look is taken off.

A slow processor takes longer for any Python. So a fixed piece of it, `reference`, runs behind each step, where the
model has pushed Python out of the processor's caches likewise, and is timed in the same way.
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
from edge_agent.engine.protocol import FailureReport, JobRequest, JobResult, LoadRequest
from edge_agent.engine.runtimes.llama.llama_context import LlamaContext
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from tests.support.bundles import digest_of, manifest_of

WARM_STEPS, STEPS, LOOKS = 20, 150, 10_000
TEXT = "A {} is for sale in a small shop by the sea. A numbered list of one hundred more things in that shop:\n1."
THINGS = ("kettle", "lamp", "shirt", "clock", "chair", "kite", "radio", "ladder")


class Stream:
    """What `reference` does its work on."""

    def __init__(self, number: int) -> None:
        """Begin with nothing written."""
        self.tokens = [number]
        self.text = ""
        self.due = 0.0
        self.known = {place: (f" word{place}", place % 97 == 0) for place in range(64)}

    def write(self, token: int, now: float) -> tuple[str, int] | None:
        """Take one more token; return a piece of text now and then."""
        piece, ends = self.known[token % 64]
        if ends and len(self.tokens) > 40:
            self.tokens = self.tokens[:1]
        self.tokens.append(token)
        self.text += piece
        if now < self.due:
            return None
        self.due = now + 0.025
        text, self.text = self.text, ""
        return text, len(self.tokens)


def reference(streams: list[Stream]) -> int:
    """Do what Python does around a step, on objects of its own: lists, attributes, calls, dicts, short texts.

    It is never changed: the limit of the bar is a multiple of what it takes.
    """
    last = [stream.tokens[-1] for stream in streams]
    lengths = [len(stream.tokens) for stream in streams]
    written = []
    for place, stream in enumerate(streams):
        token = (last[place] * 31 + lengths[place]) % 49152
        piece = stream.write(token, time.perf_counter())
        if piece is not None:
            written.append({"stream": place, "text": piece[0], "tokens": piece[1]})
    return sum(len(str(each["text"])) for each in written)


class NativeTime:
    """Processor time that this thread has spent in machine code, in seconds."""

    _inside = False
    """One of them counts already."""

    def __init__(self) -> None:
        """Start at zero."""
        self.seconds, self.calls = 0.0, 0

    def counting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, counted, unless one that is counted calls it."""

        def counted(*arguments: Any) -> Any:
            if NativeTime._inside:
                return function(*arguments)
            NativeTime._inside, started = True, time.thread_time()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.thread_time() - started
                self.calls += 1
                NativeTime._inside = False

        return counted


def looking() -> float:
    """Return the seconds that counting one call adds to its caller."""
    nothing = NativeTime()
    counted = nothing.counting(int)
    started = time.thread_time()
    for _ in range(LOOKS):
        counted()
    return (time.thread_time() - started - nothing.seconds) / LOOKS


def microseconds(weights: Path, threads: int, streams: int) -> tuple[float, float, float]:
    """Return the medians of a step without what the model takes, with the search for the largest logit, and of
    `reference`.
    """
    native, chosen, look = NativeTime(), NativeTime(), looking()
    _look_into(native, chosen)
    with tempfile.TemporaryDirectory() as path:
        folder = tasks.bundle(tasks.WRITE, weights, Path(path) / "bundle")
        runtime = LlamaRuntime()
        context = tasks.CONTEXT_TOKENS
        spec = LoadRequest(
            runtime="llama", weights=str(weights), threads=threads, sequences_max=streams, context_tokens=context
        )
        runtime.load(spec)
        runtime.attach(digest_of(folder), manifest_of(folder), {})
        begin = [_run(digest_of(folder), str(stream)) for stream in range(streams)]
        without, all_of_it, fixed = [], [], []
        beside = [Stream(number) for number in range(streams)]
        for number in range(WARM_STEPS + STEPS):
            for run in begin:
                runtime.submit(run)
            native.seconds, native.calls, chosen.seconds, chosen.calls = 0.0, 0, 0.0, 0
            started = time.thread_time()
            events = runtime.step()
            spent = time.thread_time() - started - look * (native.calls + chosen.calls)
            ended = [event.job_id for event in events if isinstance(event, JobResult | FailureReport)]
            if number >= WARM_STEPS and not (begin or ended):  # all of them wrote one token, and go on
                all_of_it.append(spent - native.seconds)
                without.append(spent - native.seconds - chosen.seconds)
                fixed.append(_seconds_of_reference(beside))
            begin = [_run(digest_of(folder), job_id) for job_id in ended]
        runtime.close()
    return _median(without), _median(all_of_it), _median(fixed)


def _look_into(native: NativeTime, chosen: NativeTime) -> None:
    """Count calls from now on."""
    looked_into: tuple[tuple[Any, str, NativeTime], ...] = (
        (llama_cpp, "llama_decode", native),
        (llama_cpp, "llama_get_logits_ith", native),
        (LlamaContext, "choose", chosen),
    )
    for owner, name, counter in looked_into:
        setattr(owner, name, counter.counting(getattr(owner, name)))


def _seconds_of_reference(streams: list[Stream]) -> float:
    started = time.thread_time()
    reference(streams)
    return time.thread_time() - started


def _median(seconds: list[float]) -> float:
    return 1e6 * statistics.median(seconds)


def _run(digest: str, job_id: str) -> JobRequest:
    text = TEXT.format(THINGS[int(job_id) % len(THINGS)])
    return JobRequest(job_id=job_id, digest=digest, text=text, output_tokens_max=WARM_STEPS + STEPS + 100)


if __name__ == "__main__":
    print(json.dumps(microseconds(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))), flush=True)  # noqa: T201 - a pipe
