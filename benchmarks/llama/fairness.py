"""A client that asks for 8 labels beside others that ask for 200: how long it waits, and what all of them get done."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from benchmarks.bars import Bar, median
from benchmarks.llama import goals
from benchmarks.llama.comparing import Figure
from benchmarks.llama.tasks import SHORT, Task, bundle
from edge_agent.client.inference_client import AsyncClient
from tests.support import pos_intents
from tests.support.daemon import RunningDaemon

CALLS, OTHERS = 30, 8
WARM_CALLS = 2
ENGINE = {"device": "cpu", "cpu_threads": 1, "tune": True}
_KINDS = ("red", "blue", "green", "small", "large", "wooden", "cheap", "broken", "French", "warm")
_THINGS = (
    *("kettle", "lamp", "shirt", "clock", "chair", "kite", "radio", "ladder", "carpet", "bottle"),
    *("mirror", "candle", "basket", "jacket", "blanket", "hammer", "pillow", "saddle", "teapot", "violin"),
)
_PLACES = ("in the window", "on the shelf", "at the till", "under the counter")
MANY_LABELS = tuple(
    f"{kind} {thing} {_PLACES[(first + second) % len(_PLACES)]}"
    for first, kind in enumerate(_KINDS)
    for second, thing in enumerate(_THINGS)
)
"""Which begin alike in pairs at most, so that each is some rows of its own."""
FEW = Task("few-labels", "classify", SHORT, labels=(*goals.LABELS, "greeting"))
MANY = Task("many-labels", "classify", SHORT, labels=MANY_LABELS)


@dataclass
class Spent:
    """What clients got done in some time."""

    few: int
    many: int
    seconds: float
    waits: list[float]
    """Of the calls with few labels, in seconds."""


def measure(weights: Path, folder: Path, rounds_max: int) -> list[Bar]:
    """Install both tasks on one engine in the daemon's defaults, on one thread."""
    with RunningDaemon(folder, engine=ENGINE) as daemon:
        daemon.install(*(bundle(task, weights, folder / task.name) for task in (FEW, MANY)))
        return asyncio.run(_measured(daemon, weights.stem, max(CALLS // 3, min(CALLS, 3 * rounds_max))))


async def _measured(daemon: RunningDaemon, model: str, calls: int) -> list[Bar]:
    async with AsyncClient(daemon.inference) as client:
        numbers = count()
        for task in (FEW, MANY):
            await _times(client, task, WARM_CALLS, numbers)
        alone = await _times(client, FEW, calls, numbers)
        work = {task.name: median(await _times(client, task, max(calls // 6, 3), numbers)) for task in (FEW, MANY)}
        before = await _crowded(client, calls=0, numbers=numbers)
        beside = await _crowded(client, calls=calls, numbers=numbers)
        after = await _crowded(client, calls=0, numbers=numbers)
    done = [
        (spent.few * work[FEW.name] + spent.many * work[MANY.name]) / spent.seconds for spent in (before, beside, after)
    ]
    waits, usual = median(beside.waits), median(alone)
    about = {"alone, ms": f"{1000 * usual:.1f}", "beside, ms": f"{1000 * waits:.1f}"}
    name = f"classify, {len(FEW.labels)} labels beside {OTHERS} clients with {len(MANY_LABELS)}"
    whole = {"clients": str(OTHERS), "calls with many labels": str(beside.many)}
    return [
        Figure(f"{name}, p50: vs alone", waits / usual, goals.FAIR_WAIT, "lower", about, model),
        Figure(
            f"{name}: work done, vs without",
            done[1] / median([done[0], done[2]]),
            goals.FAIR_WORK,
            "higher",
            whole,
            model,
        ),
    ]


async def _crowded(client: AsyncClient, calls: int, numbers: count[int]) -> Spent:
    """Let the others call all the time: for so many calls with few labels, or else until each has had some answers."""
    ended, finished = [0] * OTHERS, asyncio.Event()

    async def call_on(place: int) -> None:
        while not finished.is_set():
            await client.classify(MANY.name, [_text(next(numbers))], timeout_seconds=120)
            ended[place] += not finished.is_set()
            if not calls and min(ended) >= 2:
                finished.set()

    others = [asyncio.create_task(call_on(place)) for place in range(OTHERS)]
    started = time.perf_counter()
    try:
        waits = await _times(client, FEW, calls, numbers)
        if not calls:
            await finished.wait()
        seconds = time.perf_counter() - started
    finally:
        finished.set()
        await asyncio.gather(*others)
    return Spent(len(waits), sum(ended), seconds, waits)


async def _times(client: AsyncClient, task: Task, calls: int, numbers: count[int]) -> list[float]:
    """Return the seconds of calls, one after the other."""
    found = []
    for _ in range(calls):
        started = time.perf_counter()
        await client.classify(task.name, [_text(next(numbers))], timeout_seconds=120)
        found.append(time.perf_counter() - started)
    return found


def _text(number: int) -> str:
    """Return a text that nobody was asked about before."""
    sentences = [text for text, _ in pos_intents.train() + pos_intents.held_out()]
    return f"{number}: {sentences[number % len(sentences)]}"
