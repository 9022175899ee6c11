"""The llama engine while other programs keep the processor busy, and after they have ended.

Beside one busy core the daemon, which chooses its threads itself, is compared with two that compute with one thread
and with all threads, whatever happens: by turns, beside the same busy core. Its p50 may be NEAR_BEST times the better
one's.

Then programs take all cores until calls with a deadline that a quiet machine keeps are refused or late, and end. The
bar is the time from their end until such a call is answered: nobody calls with more time meanwhile. It says
nothing unless such calls fail beside the load, which is a bar of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

from benchmarks.bars import Bar, median
from benchmarks.llama.turns import take_turns
from benchmarks.streaming import TEXT, THINGS, write_together
from edge_agent.client import CallFailed
from edge_agent.client.inference_client import AsyncClient
from tests.support.bundles import smollm2_bundle
from tests.support.daemon import RunningDaemon

BUSY = [sys.executable, "-c", "while True: pass"]
NEAR_BEST = 1.3
ROUNDS, CALLS, STREAM_ROUNDS = 6, 8, 3
SETTLE_CALLS, SETTLE_STREAMS = 60, 2
"""Before what counts: the engine finds out about the neighbour."""
WARM_CALLS = 40
LOADS_PER_CORE = 3
SLOW_CALLS, TILL_CALLS, CALLS_AFTER = 12, 20, 20
TIGHT = 4.0
"""A deadline, by the p50 of a quiet machine."""
LONG_SECONDS = 120.0
FAILED_SHARE_MIN = 1 / TILL_CALLS
"""Of the calls beside the load: at least one."""
AGAIN_SECONDS, AGAIN_PAUSE_SECONDS, AGAIN_SECONDS_MAX = 2.0, 0.05, 60.0
SORT, WRITE = "sorter", "assistant"


class Site:
    """A daemon with one engine for labels and text."""

    def __init__(self, client: AsyncClient) -> None:
        """Take an open client."""
        self._client = client
        self._numbers = itertools.count()

    async def seconds(self, timeout_seconds: float = LONG_SECONDS) -> float:
        """Return the seconds of one call, with a text that was in no earlier call. Raises CallFailed."""
        text = f"{next(self._numbers)}: I bought a coat here on Monday and the zip broke, can I have my money back?"
        started = time.perf_counter()
        await self._client.classify(SORT, [text], timeout_seconds=timeout_seconds)
        return time.perf_counter() - started

    async def block(self, _number: int) -> list[float]:
        """Return the seconds of some calls in a row."""
        return [await self.seconds() for _ in range(CALLS)]

    async def step(self, _number: int) -> float:
        """Return the seconds of a step of eight streams."""
        return (await write_together(self._client, [TEXT.format(thing) for thing in THINGS])).step

    async def in_time(self, seconds: float) -> bool:
        """Tell whether a call is answered within so long."""
        try:
            await self.seconds(seconds)
        except CallFailed:
            return False
        return True


def measure_neighbours(folder: Path, threads: int) -> list[Bar]:
    """Start the three daemons, and measure."""
    limits = {"input_tokens_max": 512, "output_tokens_max": 128}
    sorter = smollm2_bundle(folder / "sorter", "classify", name=SORT)
    writer = smollm2_bundle(folder / "writer", "generate", name=WRITE, task={"limits": limits})
    engines = {"chosen": (threads, True), "one": (1, False), "all": (threads, False)}
    with ExitStack() as stack:
        targets = []
        for name, (count, tune) in engines.items():
            engine = {"cpu_threads": count, "tune": tune}
            daemon = stack.enter_context(RunningDaemon(folder / name, engine=engine))
            daemon.install(sorter, writer)
            targets.append(daemon.inference)
        return asyncio.run(_measured(targets, threads))


async def _measured(targets: Sequence[str], threads: int) -> list[Bar]:
    async with AsyncExitStack() as stack:
        sites = [Site(await stack.enter_async_context(AsyncClient(target))) for target in targets]
        for site in sites:
            for _ in range(WARM_CALLS):
                await site.seconds()
        return [*await _beside_one(sites, threads), *await _after_all(sites[0], threads)]


async def _beside_one(sites: Sequence[Site], threads: int) -> list[Bar]:
    with neighbours(1):
        for _ in range(SETTLE_CALLS):
            await sites[0].seconds()
        blocks = await take_turns(ROUNDS, [site.block for site in sites])
        for number in range(SETTLE_STREAMS):
            await sites[0].step(number)
        steps = await take_turns(STREAM_ROUNDS, [site.step for site in sites])
    calls = [median([taken for block in side for taken in block]) for side in zip(*blocks, strict=True)]
    streams = [median(list(side)) for side in zip(*steps, strict=True)]
    better = f"vs the better of 1 and {threads} threads"
    return [
        Bar(f"llama call beside a busy core {better}", calls[0] / min(calls[1:]), NEAR_BEST, "lower"),
        Bar(f"llama step beside a busy core {better}", streams[0] / min(streams[1:]), NEAR_BEST, "lower"),
        Bar("llama call beside a busy core: 1 thread, ms", 1000 * calls[1], None, "lower"),
        Bar(f"llama call beside a busy core: {threads} threads, ms", 1000 * calls[2], None, "lower"),
    ]


async def _after_all(site: Site, threads: int) -> list[Bar]:
    quiet = median([await site.seconds() for _ in range(WARM_CALLS)])
    deadline = TIGHT * quiet
    with neighbours(LOADS_PER_CORE * threads):
        for _ in range(SLOW_CALLS):
            await site.seconds()
        failed = [not await site.in_time(deadline) for _ in range(TILL_CALLS)]
    ended = time.perf_counter()
    while not await site.in_time(deadline) and time.perf_counter() < ended + AGAIN_SECONDS_MAX:  # noqa: ASYNC110 - another process
        await asyncio.sleep(AGAIN_PAUSE_SECONDS)
    again = time.perf_counter() - ended
    after = [await site.in_time(deadline) for _ in range(CALLS_AFTER)]
    return [
        Bar("calls answered again after a load, s", again, AGAIN_SECONDS, "lower"),
        Bar("calls in time after that, share", sum(after) / len(after), None, "higher"),
        Bar("calls not in time beside the load, share", sum(failed) / len(failed), FAILED_SHARE_MIN, "higher"),
    ]


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep as many cores busy, or try to, while the block runs."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            program = subprocess.Popen(BUSY)  # noqa: S603 - our own program
            stack.callback(program.wait)
            stack.callback(program.kill)
        yield
