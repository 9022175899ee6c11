"""The daemon compared with bare llama.cpp on one thread: streams, clients, and the cost of sampling a token."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.bars import Bar
from benchmarks.llama import goals, tasks
from benchmarks.llama.bare import ENVIRONMENT
from benchmarks.llama.comparing import Figure, MeasuredPair, compared
from benchmarks.llama.sides import AgentSide
from benchmarks.llama.streams import Generation, rate, short
from benchmarks.llama.turns import take_turns
from edge_agent.client.inference_client import AsyncClient
from tests.support import pos_intents
from tests.support.daemon import RunningDaemon

ROUNDS, STEPS, THREADS = 6, 60, 1
ENGINE = {"device": "cpu", "cpu_threads": THREADS, "tune": True}


def measure(weights: Path, folder: Path, rounds_max: int) -> list[Bar]:
    """Start both with the model, in the daemon's defaults but for the threads, and let them take turns."""
    with RunningDaemon(folder, engine=ENGINE) as daemon:
        daemon.install(tasks.bundle(tasks.WRITE, weights, folder / tasks.WRITE.name))
        with daemon.admin() as admin:
            (engine,) = admin.status().engines
        with BareStreams(weights, engine.details.get("flash_attention", "on")) as bare:
            return asyncio.run(_measured(daemon, bare, weights.stem, min(ROUNDS, rounds_max)))


class BareStreams:
    """bare/streams.py as a process."""

    def __init__(self, weights: Path, flash_attention: str) -> None:
        """Note what to load."""
        streams = max(goals.BESIDE_BARE)
        cells = (streams + 1) * tasks.CONTEXT_TOKENS // 4
        options = (str(weights), str(THREADS), str(cells), str(streams), flash_attention)
        self._command = [sys.executable, "-m", "benchmarks.bare.streams", *options]

    def __enter__(self) -> Self:
        """Start it."""
        pipe, environment = subprocess.PIPE, {**os.environ, **ENVIRONMENT}
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True, env=environment)  # noqa: S603 - our own module
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._process.communicate()

    async def ask(self, **what: object) -> Any:
        """Return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return json.loads(await asyncio.to_thread(self._process.stdout.readline))


async def _measured(daemon: RunningDaemon, bare: BareStreams, model: str, rounds: int) -> list[Bar]:
    bars: list[Bar] = []
    written: list[Generation] = []
    async with AsyncClient(daemon.inference) as client:
        with daemon.admin() as admin:
            ours = AgentSide(client, admin)

            async def daemons(streams: int, number: int) -> float:
                asked = (ours.write(tasks.WRITE, text, goals.TOKENS) for text in _stories(streams, number))
                found = await asyncio.gather(*asked)
                written.extend(found)
                return rate(found)

            async def bares(streams: int, number: int) -> float:
                return float(await bare.ask(prompts=_stories(streams, number), tokens=goals.TOKENS))

            for streams, goal in goals.BESIDE_BARE.items():
                sides: list[Callable[[int], Awaitable[float]]] = [partial(each, streams) for each in (daemons, bares)]
                for side in sides:
                    await side(rounds)  # warm
                bars.append(compared(goal, [MeasuredPair(*each) for each in await take_turns(rounds, sides)], model))
    step, drawing = await bare.ask(steps=STEPS)
    about = {"a step of one row, ms": f"{1000 * step:.2f}", "drawing a token, ms": f"{1000 * drawing:.3f}"}
    name = "drawing a token, share of the step that computes it"
    share = Figure(name, drawing / step, goals.DRAWING_SHARE, "lower", about, model)
    ended = Figure(
        "streams beside bare that ended by themselves, share", short(written, goals.TOKENS), None, "lower", {}, model
    )
    return [*bars, share, ended]


def _stories(streams: int, number: int) -> list[str]:
    """Return prompts that were in no earlier call, the same for both sides."""
    sentences = [text for text, _ in pos_intents.train() + pos_intents.held_out()]
    begin = number * streams
    return [
        f"{place}. {sentences[place % len(sentences)]}\nA numbered list of one hundred things in that shop:\n1."
        for place in range(begin, begin + streams)
    ]
