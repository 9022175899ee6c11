"""A client that requests 8 labels next to others that request 200: its latency, and the throughput of all."""

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

CALLS, OTHERS, ROUNDS = 30, 8, 2
"""With two answers of each there is one time between them for each of eight clients."""
WARM_CALLS = 2
CALL_SECONDS = 900
"""How long a call may take: on a slow core eight calls with many labels at once take minutes."""
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
class ClientWork:
    """What clients got done in some time."""

    few: float
    """Calls a second."""
    many: float
    """Calls a second of all clients together, from the first answer of each to its last."""
    ended: int
    """Calls with many labels."""
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
        before = await _crowded(client, ROUNDS, numbers, calls=0)
        beside = await _crowded(client, ROUNDS, numbers, calls=calls)
        after = await _crowded(client, ROUNDS, numbers, calls=0)
    done = [spent.few * work[FEW.name] + spent.many * work[MANY.name] for spent in (before, beside, after)]
    waits, usual = median(beside.waits), median(alone)
    about = {"alone, ms": f"{1000 * usual:.1f}", "beside, ms": f"{1000 * waits:.1f}"}
    name = f"classify, {len(FEW.labels)} labels beside {OTHERS} clients with {len(MANY_LABELS)}"
    whole = {"clients": str(OTHERS), "calls with many labels": str(beside.ended)}
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


async def _crowded(client: AsyncClient, rounds: int, numbers: count[int], *, calls: int) -> ClientWork:
    """Let the others call until each has had `rounds` answers; meanwhile call with few labels, at least `calls` times.

    How fast a client is served is taken from its first answer to its last, since a call that is cut off at the end was
    worked on, too: without the one client all others end together and begin together, and nothing is cut off; beside
    it they drift apart, and eight calls are cut off somewhere.
    """
    answers: list[list[float]] = [[] for _ in range(OTHERS)]
    finished, waits = asyncio.Event(), list[float]()

    def is_finished() -> bool:
        return min(map(len, answers)) >= rounds and len(waits) >= calls

    async def call_on(place: int) -> None:
        while not finished.is_set():
            await client.classify(MANY.name, [_text(next(numbers))], timeout_seconds=CALL_SECONDS)
            if not finished.is_set():
                answers[place].append(time.perf_counter())
                if is_finished():
                    finished.set()

    async def call_few() -> None:
        while not finished.is_set():
            waits.extend(await _times(client, FEW, 1, numbers))
            if is_finished():
                finished.set()

    started = time.perf_counter()
    async with asyncio.TaskGroup() as clients:
        for place in range(OTHERS):
            clients.create_task(call_on(place))
        if calls:
            await call_few()
        await finished.wait()
        seconds = time.perf_counter() - started
    many = sum((len(times) - 1) / (times[-1] - times[0]) for times in answers)
    return ClientWork(len(waits) / seconds, many, sum(map(len, answers)), waits)


async def _times(client: AsyncClient, task: Task, calls: int, numbers: count[int]) -> list[float]:
    """Return the seconds of calls, one after the other."""
    found = []
    for _ in range(calls):
        started = time.perf_counter()
        await client.classify(task.name, [_text(next(numbers))], timeout_seconds=CALL_SECONDS)
        found.append(time.perf_counter() - started)
    return found


def _text(number: int) -> str:
    """Return a text that was in no earlier call."""
    sentences = [text for text, _ in pos_intents.train() + pos_intents.held_out()]
    return f"{number}: {sentences[number % len(sentences)]}"
