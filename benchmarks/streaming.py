"""Streams of the decoder through the daemon: one compared with the bare loop, eight compared with one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.bars import Bar, median
from edge_agent.client.inference_client import AsyncClient

TASK = "assistant"
TOKENS = 100
STREAMS = 8
ROUNDS = 8
SYSTEM = "You help the staff of a shop. Answer in one or two short sentences."
TEXT = "Tell me a long story about a {} that was sold in a small shop by the sea. Do not stop early."
THINGS = ("kettle", "lamp", "shirt", "clock", "chair", "kite", "radio", "ladder")
SPINS = {"GOMP_SPINCOUNT": "5000"}  # as the engine's child has it


@dataclass(frozen=True)
class Stream:
    """The times of its pieces, in seconds, and how many tokens they were; the first piece is one token."""

    times: Sequence[float]
    tokens: int

    @property
    def rate(self) -> float:
        """Tokens a second between the first and the last."""
        return (self.tokens - 1) / (self.times[-1] - self.times[0])


@dataclass(frozen=True)
class ConcurrentStreams:
    """Streams that ran at the same time, seen while all of them wrote."""

    streams: Sequence[Stream]

    def _window(self) -> list[list[float]]:
        start, end = max(s.times[0] for s in self.streams), min(s.times[-1] for s in self.streams)
        return [[at for at in stream.times if start <= at <= end] for stream in self.streams]

    @property
    def rate(self) -> float:
        """Tokens a second of all streams."""
        seen = [at for times in self._window() for at in times]
        return len(seen) * self._tokens_per_piece / (max(seen) - min(seen))

    @property
    def _tokens_per_piece(self) -> float:
        return sum(s.tokens for s in self.streams) / sum(len(s.times) for s in self.streams)

    @property
    def step(self) -> float:
        """Median seconds from one piece of a stream to its next, for each token in it."""
        return median([b - a for times in self._window() for a, b in pairwise(times)]) / self._tokens_per_piece


class BareLoop:
    """A running bare/decoder.py."""

    def __init__(self, weights: Path, threads: int) -> None:
        """Start it."""
        command = [sys.executable, "-m", "benchmarks.bare.decoder", str(weights), str(threads)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **SPINS})  # noqa: S603 - our own module

    def __enter__(self) -> Self:
        """Use as a block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._process.communicate()

    def rate(self, text: str) -> float:
        """Return its tokens a second for the prompt that the daemon makes of a text."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        turns = ("system", SYSTEM), ("user", text)
        said = "".join(f"<|im_start|>{who}\n{what}<|im_end|>\n" for who, what in turns)
        print(json.dumps(f"{said}<|im_start|>assistant\n"), file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())


async def measure_streaming(target: str, weights: Path, threads: int) -> list[Bar]:
    """Measure rates and steps."""
    texts = [TEXT.format(thing) for thing in THINGS]
    async with AsyncClient(target) as client:
        with BareLoop(weights, threads) as bare:
            bare.rate(texts[0])
            await write_together(client, texts)  # both are warm now
            against_bare, against_one = [], []
            for place in range(ROUNDS):
                (one,) = (await write_together(client, [texts[place % STREAMS]])).streams
                against_bare.append(one.rate / bare.rate(texts[place % STREAMS]))
                against_one.append((await write_together(client, texts)).rate / one.rate)
    return [
        Bar(f"{STREAMS} llama streams vs one stream", median(against_one), 1.3, "higher"),
        Bar("one llama stream vs bare low-level loop", median(against_bare), 0.95, "higher"),
    ]


async def write_together(client: AsyncClient, texts: Sequence[str]) -> ConcurrentStreams:
    """Have all texts written at the same time."""
    return ConcurrentStreams(await asyncio.gather(*(_stream(client, text) for text in texts)))


async def _stream(client: AsyncClient, text: str) -> Stream:
    times = []
    async with client.generate(TASK, text, output_tokens_max=TOKENS, temperature=0) as stream:
        async for _ in stream:
            times.append(time.perf_counter())
    assert stream.finish is not None
    return Stream(times, stream.finish.output_tokens)
