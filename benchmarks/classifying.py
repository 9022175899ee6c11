"""Short texts through the daemon, beside the prototype and beside the model called directly in this process.

Small blocks of calls take turns, so that whatever else the machine does hits all three alike.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import cycle, pairwise
from pathlib import Path

from benchmarks.bare.encoder import Encoder
from benchmarks.bare.prototype import Prototype
from benchmarks.bars import Bar, median
from edge_agent.client.aio import AsyncClient
from tests import pos_intents

TASK = "pos-intent"
TOKENS_MIN, TOKENS_MAX = 16, 32
CLIENTS = 16
WARM_CALLS = 50
ROUNDS, CALLS = 30, 30
THROUGHPUT_ROUNDS, THROUGHPUT_SECONDS = 8, 1.0

Call = Callable[[str], Awaitable[object]]


def texts_of(encoder: Encoder) -> list[str]:
    """Return texts of TOKENS_MIN to TOKENS_MAX tokens: two sentences from the till each."""
    sentences = [text for text, _ in pos_intents.train() + pos_intents.held_out()]
    pairs = [f"{first} {second}" for first, second in pairwise(sentences)]
    return [text for text in pairs if TOKENS_MIN <= encoder.tokens(text) <= TOKENS_MAX]


async def measure_classifying(target: str, bundle: Path, texts: Sequence[str]) -> list[Bar]:
    """Measure latency with one client and throughput with CLIENTS."""
    encoder = Encoder(bundle)

    async def directly(text: str) -> None:
        encoder.classify(text)

    with Prototype(bundle) as prototype:
        async with AsyncClient(target) as daemon, AsyncClient(prototype.target) as bare:

            async def by_daemon(text: str) -> None:
                await daemon.classify(TASK, [text])

            async def by_prototype(text: str) -> None:
                await bare.classify(TASK, [text])

            added = await _added([by_daemon, by_prototype, directly], texts)
            throughput = await _throughput(by_daemon, directly, texts)
    return [
        Bar("classify added p50 vs prototype", added, 1.35, "lower"),
        Bar(f"classify throughput at {CLIENTS} clients vs in-process", throughput, 0.75, "higher"),
    ]


async def _added(calls: Sequence[Call], texts: Sequence[str]) -> float:
    """Return what the first call adds to the third, in relation to what the second one adds."""
    for call in calls:
        await _latency(call, texts[:WARM_CALLS])
    rounds = []
    supply = cycle(texts)
    for _ in range(ROUNDS):
        block = [next(supply) for _ in range(CALLS)]
        rounds.append([await _latency(call, block) for call in calls])
    first = median([a - c for a, _, c in rounds])
    second = median([b - c for _, b, c in rounds])
    return first / second


async def _latency(call: Call, texts: Sequence[str]) -> float:
    """Return the median seconds of a call."""
    seconds = []
    for text in texts:
        started = time.perf_counter()
        await call(text)
        seconds.append(time.perf_counter() - started)
    return median(seconds)


async def _throughput(call: Call, reference: Call, texts: Sequence[str]) -> float:
    """Return the answers a second with CLIENTS at once, in relation to one after the other by the reference."""
    ratios = []
    for _ in range(THROUGHPUT_ROUNDS):
        before = await _rate(reference, 1, texts)
        rate = await _rate(call, CLIENTS, texts)
        ratios.append(rate / ((before + await _rate(reference, 1, texts)) / 2))
    return median(ratios)


async def _rate(call: Call, clients: int, texts: Sequence[str]) -> float:
    supply, started, done = cycle(texts), time.perf_counter(), 0

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < started + THROUGHPUT_SECONDS:
            await call(next(supply))
            done += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return done / (time.perf_counter() - started)
