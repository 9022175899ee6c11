"""Several adapters on one base, called in turns, compared with one adapter called as often."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from gguf import GGUFReader

from benchmarks.bars import Bar
from benchmarks.llama import goals, tasks
from benchmarks.llama.comparing import ComparisonGoal, Figure, MeasuredPair, compared
from benchmarks.llama.sides import AgentSide
from benchmarks.llama.streams import Generation, rate, short
from benchmarks.llama.tasks import Task
from benchmarks.llama.turns import calls_per_second, take_turns
from edge_agent.client.inference_client import AsyncClient
from tests.support import gguf_adapter, pos_intents
from tests.support.daemon import RunningDaemon

ROUNDS, CALLS, TOKENS = 8, 48, 50
ENGINE = {"device": "cpu", "cpu_threads": len(os.sched_getaffinity(0)), "sequences_max": goals.CLIENTS}


def measure(weights: Path, folder: Path, rounds_max: int) -> list[Bar]:
    """Install the same two tasks with each adapter; clients take the adapters by turns, or all take the first one."""
    if not fits(weights):
        why = {"why": "the adapters of this benchmark fit SmolLM2-135M only"}
        return [Figure("adapters", 0, None, "higher", why, weights.stem)]
    folder.mkdir(parents=True)
    files = [gguf_adapter.write_adapter(folder / f"{seed}.gguf", seed) for seed in range(goals.ADAPTERS)]
    scoring = [replace(tasks.CLASSIFY_SHORT, name=f"tuned-{n}", adapter=each) for n, each in enumerate(files)]
    writing = [replace(tasks.WRITE, name=f"writer-{n}", adapter=each) for n, each in enumerate(files)]
    with RunningDaemon(folder / "site", engine=ENGINE) as daemon:
        daemon.install(*(tasks.bundle(task, weights, folder / task.name) for task in (*scoring, *writing)))
        found, streams = asyncio.run(_measured(daemon, scoring, writing, min(ROUNDS, rounds_max)))
    bars: list[Bar] = [
        compared(goal, [MeasuredPair(*each) for each in rounds], weights.stem) for goal, rounds in found.items()
    ]
    about = {"why": "fewer of them write at the end then, with several adapters or with one"}
    share = Figure(
        "streams with adapters that ended by themselves, share",
        short(streams, TOKENS),
        None,
        "lower",
        about,
        weights.stem,
    )
    return [*bars, share]


def fits(weights: Path) -> bool:
    """Tell whether tests/support/gguf_adapter.py writes adapters for this model."""
    shapes = {tensor.name: tuple(map(int, tensor.shape)) for tensor in GGUFReader(weights).tensors}
    width, count = gguf_adapter.SMOLLM2
    layers = {name: shape for name, shape in shapes.items() if name.endswith(".attn_q.weight")}
    return len(layers) == count and set(layers.values()) == {(width, width)}


async def _measured(
    daemon: RunningDaemon, scoring: list[Task], writing: list[Task], rounds: int
) -> tuple[dict[ComparisonGoal, list[list[float]]], list[Generation]]:
    """Return the pairs of each goal, and every stream that was written."""
    streams: list[Generation] = []
    async with AsyncClient(daemon.inference) as client:
        with daemon.admin() as admin:
            ours = AgentSide(client, admin)
            classified = [partial(_classified, ours, scoring), partial(_classified, ours, scoring[:1])]
            written = [partial(_written, ours, writing, streams), partial(_written, ours, writing[:1], streams)]
            for system in (*classified, *written):
                await system(rounds)  # warm
            found = {
                goals.ADAPTERS_CLASSIFY: await take_turns(rounds, classified),
                goals.ADAPTERS_GENERATE: await take_turns(rounds, written),
            }
            return found, streams


async def _classified(ours: AgentSide, of: Sequence[Task], number: int) -> float:
    calls = [partial(ours.classify, of[client % len(of)]) for client in range(goals.CLIENTS)]
    return await calls_per_second(calls, _texts(len(of), number, CALLS))


async def _written(ours: AgentSide, of: Sequence[Task], streams: list[Generation], number: int) -> float:
    each = enumerate(_texts(len(of), number, goals.CLIENTS))
    written = await asyncio.gather(*(ours.write(of[n % len(of)], text, TOKENS) for n, text in each))
    streams += written
    return rate(written)


def _texts(adapters: int, number: int, count: int) -> list[str]:
    """Return texts that were in no earlier call."""
    sentences = [text for text, _ in pos_intents.train() + pos_intents.held_out()]
    places = range(number * count, number * count + count)
    return [f"{place} for {adapters}: {sentences[place % len(sentences)]}" for place in places]
