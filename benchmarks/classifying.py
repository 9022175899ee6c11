"""Short texts through the daemon, compared with the prototype and with a direct call of the model.

Small blocks of calls take turns, so that whatever else the machine does hits all three alike. To be hoped for beyond
the limits: 1.0 of what the prototype adds, and 0.85 of the throughput.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import cycle, pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.bare.encoder import Encoder
from benchmarks.bars import Bar, median, quotient
from edge_agent.client import CallFailed
from edge_agent.client.inference_client import AsyncClient
from tests.support import pos_intents
from tests.support.daemon import RunningDaemon

TASK = "pos-intent"
TOKENS_MIN, TOKENS_MAX = 16, 32
CLIENTS = 16
# A session is up to 5% faster or slower than the next, by where its weights happen to lie in memory: that is a third
# of what a call adds. So everything is started again several times.
INSTANCES, ROUNDS, CALLS = 6, 8, 20
WARM_CALLS = 20
THROUGHPUT_SECONDS = 1.0
READY_SECONDS_MAX, AGAIN_SECONDS = 60.0, 0.05

Call = Callable[[str], Awaitable[object]]


def texts_of(encoder: Encoder) -> list[str]:
    """Return texts of TOKENS_MIN to TOKENS_MAX tokens: two sentences from the till each."""
    sentences = [text for text, _ in pos_intents.train() + pos_intents.held_out()]
    pairs = [f"{first} {second}" for first, second in pairwise(sentences)]
    return [text for text in pairs if TOKENS_MIN <= encoder.tokens(text) <= TOKENS_MAX]


def measure_classifying(daemon: RunningDaemon, bundle: Path, texts: Sequence[str]) -> list[Bar]:
    """Measure latency with one client and throughput with CLIENTS, each time with all three started again."""
    with daemon:
        daemon.install(bundle)
    measured = []
    for _ in range(INSTANCES):
        with daemon, Prototype(bundle) as prototype:
            measured.append(asyncio.run(_instance(daemon.inference, prototype.target, Encoder(bundle), texts)))
    daemon_adds, prototype_adds, throughput = (median(list(values)) for values in zip(*measured, strict=True))
    return [
        Bar("classify added p50 vs prototype", quotient(daemon_adds, prototype_adds), 1.35, "lower"),
        Bar(f"classify throughput at {CLIENTS} clients vs in-process", throughput, 0.75, "higher"),
    ]


async def _instance(target: str, bare: str, encoder: Encoder, texts: Sequence[str]) -> tuple[float, float, float]:
    """Return what a call by the daemon and one by the prototype adds, in seconds, and the relative throughput."""

    async def directly(text: str) -> None:
        encoder.classify(text)

    async with AsyncClient(target) as daemon, AsyncClient(bare) as prototype:

        async def by_daemon(text: str) -> None:
            await daemon.classify(TASK, [text])

        async def by_prototype(text: str) -> None:
            await prototype.classify(TASK, [text])

        await _ready(by_daemon, texts[0])
        calls = [by_daemon, by_prototype, directly]
        for call in calls:
            await _latency(call, texts[:WARM_CALLS])
        supply, rounds = cycle(texts), []
        for _ in range(ROUNDS):
            block = [next(supply) for _ in range(CALLS)]
            rounds.append([await _latency(call, block) for call in calls])
        rates = [
            await _rate(directly, 1, texts),
            await _rate(by_daemon, CLIENTS, texts),
            await _rate(directly, 1, texts),
        ]
    return (
        median([a - c for a, _, c in rounds]),
        median([b - c for _, b, c in rounds]),
        rates[1] / ((rates[0] + rates[2]) / 2),
    )


async def _ready(call: Call, text: str) -> None:
    async with asyncio.timeout(READY_SECONDS_MAX):
        while True:
            try:
                await call(text)
                return
            except CallFailed:
                await asyncio.sleep(AGAIN_SECONDS)


async def _latency(call: Call, texts: Sequence[str]) -> float:
    """Return the median seconds of a call."""
    seconds = []
    for text in texts:
        started = time.perf_counter()
        await call(text)
        seconds.append(time.perf_counter() - started)
    return median(seconds)


async def _rate(call: Call, clients: int, texts: Sequence[str]) -> float:
    supply, started, done = cycle(texts), time.perf_counter(), 0

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < started + THROUGHPUT_SECONDS:
            await call(next(supply))
            done += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return done / (time.perf_counter() - started)


class Prototype:
    """A running server.py with its child."""

    def __init__(self, folder: Path) -> None:
        """Note the bundle directory."""
        self._folder = folder
        self._run_dir = tempfile.TemporaryDirectory(prefix="ea-", dir="/tmp")  # socket paths are short
        self.target = f"unix:{self._run_dir.name}/prototype.sock"

    def __enter__(self) -> Self:
        """Start, and wait until it listens."""
        command = [sys.executable, "-m", "benchmarks.bare.server", self.target, str(self._folder)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe)  # noqa: S603 - our own module
        assert self._process.stdout is not None
        self._process.stdout.readline()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self._process.communicate()
        self._run_dir.cleanup()
