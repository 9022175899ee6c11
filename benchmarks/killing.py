"""A child killed under load: when its engine answers again, and whether the other engine noticed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.bars import Bar
from edge_agent.client import CallFailed
from edge_agent.client.inference_client import AsyncClient
from tests.support.daemon import RunningDaemon

CALLERS = 4
KILLS = 2  # of each engine
WARM_SECONDS, AFTER_SECONDS, ANSWER_SECONDS_MAX = 1.0, 1.0, 60.0
AGAIN_SECONDS = 0.02
LAST_WORDS_SECONDS = 0.25  # what the dead child had said is read by then, and the next one still loads
TASKS = {"onnx": "pos-intent", "llama": "assistant"}


@dataclass
class CallLoad:
    """Callers of one engine that never stop, and what became of their calls."""

    call: Callable[[], Awaitable[None]]
    good: list[float] = field(default_factory=list)
    """When each good call ended."""
    failed: list[float] = field(default_factory=list)
    """When each failed call ended."""
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def caller(self) -> None:
        """Call for ever."""
        while True:
            try:
                await self.call()
                self.good.append(time.monotonic())
                self.news.set()
            except CallFailed:
                self.failed.append(time.monotonic())
                await asyncio.sleep(AGAIN_SECONDS)

    async def answered(self, after: float) -> float:
        """Wait for the first good call that ended after that time; return when."""
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            while not (ends := [end for end in self.good if end > after]):
                self.news.clear()
                await self.news.wait()
        return ends[0]


async def measure_killing(daemon: RunningDaemon, texts: Sequence[str]) -> list[Bar]:
    """Kill each engine's child in turn."""
    async with AsyncClient(daemon.inference) as client:

        async def classify() -> None:
            await client.classify(TASKS["onnx"], [texts[0]])

        async def generate() -> None:
            async with client.generate(TASKS["llama"], texts[0], output_tokens_max=16) as stream:
                async for _ in stream:
                    pass

        loads = {"onnx": CallLoad(classify), "llama": CallLoad(generate)}
        callers = [asyncio.create_task(load.caller()) for load in loads.values() for _ in range(CALLERS)]
        for load in loads.values():
            await load.answered(0.0)
        beyond, lost = [], 0
        for runtime in list(loads) * KILLS:
            await asyncio.sleep(WARM_SECONDS)
            seconds, failed = await _kill(daemon, runtime, loads)
            beyond.append(seconds)
            lost += failed
        for caller in callers:
            caller.cancel()
        ended = await asyncio.gather(*callers, return_exceptions=True)
    if wrong := [each for each in ended if not isinstance(each, asyncio.CancelledError)]:
        raise AssertionError(f"callers ended before they were told to: {wrong}")
    return [
        Bar("first good answer after a kill under load, s beyond load time", max(beyond), 2, "lower"),
        Bar("calls to other engines failed during that", lost, 0, "lower"),
    ]


async def _kill(daemon: RunningDaemon, runtime: str, loads: dict[str, CallLoad]) -> tuple[float, int]:
    """Return the seconds to the first good answer beyond the load time, and the failures of the other engine."""
    with daemon.admin() as admin:
        engine = next(each for each in admin.status().engines if each.runtime == runtime)
    killed = time.monotonic()
    os.kill(engine.pid, signal.SIGKILL)
    answered = await loads[runtime].answered(killed + LAST_WORDS_SECONDS)
    await asyncio.sleep(AFTER_SECONDS)
    others = [load for name, load in loads.items() if name != runtime]
    failed = sum(at > killed for load in others for at in load.failed)
    return answered - killed - _load_seconds(daemon, engine.name), failed


def _load_seconds(daemon: RunningDaemon, engine: str) -> float:
    """Return how long the engine's first load took since the daemon was started last, by its own log."""
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines() if line.startswith("{")]
    begin = max(place for place, line in enumerate(lines) if line["event"] == "stopped")
    ready = (line for line in lines[begin:] if line["event"] == "engine_ready" and line["engine"] == engine)
    return float(next(ready)["seconds"])
