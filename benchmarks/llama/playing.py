"""One model on both sides: starts the daemon and llama-server, both with the model loaded, and runs parts."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bars import Bar
from benchmarks.llama import adapters, beside_bare, fairness, figures, goals, parts, tasks
from benchmarks.llama.bare import BareScorer
from benchmarks.llama.building import Programs
from benchmarks.llama.http import ConnectionPool
from benchmarks.llama.parts import LoadedSides, Part
from benchmarks.llama.running import LlamaServer, Settings
from benchmarks.llama.sides import AgentSide, LlamaServerSide
from benchmarks.llama.tasks import Texts
from edge_agent.client.inference_client import AsyncClient
from tests.support import pos_intents
from tests.support.daemon import RunningDaemon

COMPARED: dict[str, Part] = {
    "generate": parts.generate,
    "first-token": parts.first_token,
    "classify": parts.classify,
    "classify-many": parts.classify_many,
    "extract": parts.extract,
    "stall": parts.stalls,
    "short-prompt": parts.short_prompt,
}
REPORTED: dict[str, Callable[[LoadedSides, BothServers], Awaitable[list[Bar]]]] = {
    "idle": lambda match, table: figures.idle(match, table.server),
    "bandwidth": lambda match, table: figures.bandwidth(match, table.settings),
    "hot-loop": lambda match, table: figures.hot_loop(match, table.settings),
    "prefill": lambda match, table: figures.prefill(match, table.settings, table.programs.bench),
}
APART: dict[str, Callable[[Path, Path, int], list[Bar]]] = {
    "adapters": adapters.measure,
    "bare": beside_bare.measure,
    "fairness": fairness.measure,
}
"""With a daemon of their own, and without llama-server."""
ENGINE = {
    "device": "cpu",
    "cpu_threads": len(os.sched_getaffinity(0)),
    "sequences_max": max(goals.STREAMS),
    "tune": True,
}
PARTS = (*COMPARED, *REPORTED, *APART)


@dataclass(frozen=True)
class BothServers:
    """Where both sides are, with one model."""

    daemon: RunningDaemon
    details: dict[str, str]
    """What the engine says of itself."""
    server: LlamaServer
    bare: BareScorer
    settings: Settings
    programs: Programs
    texts: Texts
    rounds_max: int


@dataclass(frozen=True)
class MeasurementPlan:
    """What to measure."""

    parts: Sequence[str]
    rounds_max: int


def needs_programs(wanted: MeasurementPlan) -> bool:
    """Tell whether llama-server is one of the sides."""
    return any(part not in APART for part in wanted.parts)


def play(weights: Path, programs: Programs | None, wanted: MeasurementPlan) -> Iterator[Bar]:
    """Run the wanted parts with a model; each part's bars as soon as they are known."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        beside = [part for part in PARTS if part in wanted.parts and part not in APART]
        if beside:
            assert programs is not None
            with _laid(weights, programs, folder, wanted.rounds_max) as table:
                yield from figures.told(table.settings, table.details)
                for part in beside:
                    yield from asyncio.run(_played(table, part))
        for part in (part for part in APART if part in wanted.parts):
            yield from APART[part](weights, folder / part, wanted.rounds_max)


@contextmanager
def _laid(weights: Path, programs: Programs, folder: Path, rounds_max: int) -> Iterator[BothServers]:
    """Start both sides, ours first: llama-server gets the settings that the engine reports."""
    with ExitStack() as stack:
        daemon = stack.enter_context(RunningDaemon(folder / "site", engine=ENGINE))
        daemon.install(*(tasks.bundle(task, weights, folder / task.name) for task in tasks.COMPARED))
        with daemon.admin() as admin:
            (engine,) = admin.status().engines
        settings = Settings(
            weights,
            threads=int(engine.details["threads"]),
            cells=int(engine.details["context_cells"]),
            streams=max(goals.STREAMS),
            flash_attention=engine.details.get("flash_attention", "on"),
        )
        server = stack.enter_context(LlamaServer(programs.server, settings, folder / "llama-server.log"))
        bare = stack.enter_context(BareScorer(settings))
        texts = Texts([text for text, _ in pos_intents.train() + pos_intents.held_out()], server.count)
        yield BothServers(daemon, engine.details, server, bare, settings, programs, texts, rounds_max)


async def _played(table: BothServers, part: str) -> list[Bar]:
    count = table.server.count
    prefix = tasks.CLASSIFY.template.partition(" {input}")[0]
    label_tokens = max(count(f" {label}") for label in goals.LABELS)
    async with AsyncClient(table.daemon.inference) as client, ConnectionPool(table.server.port) as pool:
        with table.daemon.admin() as admin:
            match = LoadedSides(
                model=table.settings.weights.stem,
                ours=AgentSide(client, admin),
                theirs=LlamaServerSide(pool, label_tokens),
                bare=table.bare,
                texts=table.texts,
                prefix_tokens=count(prefix),
                rounds_max=table.rounds_max,
            )
            return await (COMPARED[part](match) if part in COMPARED else REPORTED[part](match, table))
