"""Figures in addition to the comparison: the physical limits, and the fairness."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from gguf import GGUFReader

from benchmarks.bars import Bar
from benchmarks.llama import goals, tasks
from benchmarks.llama.bandwidth import bytes_per_second
from benchmarks.llama.bare import ENVIRONMENT
from benchmarks.llama.comparing import Figure, MeasuredPair, compared
from benchmarks.llama.parts import TRIES_MAX, LoadedSides
from benchmarks.llama.running import LlamaServer, Settings
from benchmarks.llama.streams import Generation, pace, short
from convert.export.gguf_export import VERSION

ROUNDS = 5
PROMPT_TOKENS = 512
IDLE_SECONDS = 1.0
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""How OpenMP's threads wait for each other, where somebody has set it for llama-server: not to be done in earnest."""
HOT_LOOP_STREAMS, HOT_LOOP_RATIO = 8, 4.1
"""Python in a step may take so many times what a fixed piece of Python takes behind the same step (bare/hot_loop.py).

It was 100 microseconds, on two cores of an AMD EPYC with AVX-512, where the loop took 70 (docs/performance.md). The
loop of then takes 2.9 times the fixed piece (2.90 and 2.97, measured beside others), so the piece takes 24 microseconds
there, and 100 are 4.1 of it. On a slow processor both take longer: where the loop took 145, so would the piece, 50.
"""


def machine() -> Figure:
    """Return a description of the machine."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    about = {
        "processor": _processor(),
        "cores": str(cores),
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load": f"{os.getloadavg()[0]:.1f}",
        "llama.cpp": f"that of llama-cpp-python {VERSION}",
    }
    return Figure("processor cores", cores, None, "higher", about)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    widest = next((name for name in ("amx_int8", "avx512_vnni", "avx512f", "avx2") if name in " ".join(lines)), "")
    return f"{models[0] if models else platform.machine()} ({widest})"


def weights_read(weights: Path) -> int:
    """Return the bytes of the tensors that every token reads: not of embeddings that are looked up and no more."""
    tensors = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(weights).tensors}
    looked_up = tensors.get("token_embd.weight", 0) if "output.weight" in tensors else 0
    return sum(tensors.values()) - looked_up


async def idle(match: LoadedSides, server: LlamaServer) -> list[Bar]:
    """Whether llama-server takes time of the processor while ours is measured."""
    await match.theirs.write(tasks.WRITE, tasks.story(match.texts), goals.TOKENS)
    await match.theirs.rest()
    before = server.processor_seconds
    await asyncio.sleep(IDLE_SECONDS)
    taken = (server.processor_seconds - before) / IDLE_SECONDS
    return [Figure("llama-server at rest, cores busy", taken, None, "lower", {}, match.model)]


async def bandwidth(match: LoadedSides, settings: Settings) -> list[Bar]:
    """One stream's tokens per second, compared with how often the weights can be read per second."""
    read = weights_read(settings.weights)
    pairs, speeds = [], []
    for _ in range(ROUNDS):
        speeds.append(bytes_per_second(read, settings.threads))
        if (written := await _lasting(match)) is not None:
            pairs.append(MeasuredPair(pace(written), speeds[-1] / read))
    about = {"bytes of weights that a token reads": str(read), "threads": str(settings.threads)}
    speed = Figure("memory read, GB/s", max(speeds) / 1e9, None, "higher", about, match.model)
    return [speed, *([compared(goals.BANDWIDTH, pairs, match.model)] if pairs else [])]


async def _lasting(match: LoadedSides) -> Generation | None:
    """Return a stream of the requested length; None if the model ended all of them earlier."""
    for _ in range(TRIES_MAX):
        written = await match.ours.write(tasks.WRITE, tasks.story(match.texts), goals.TOKENS)
        if not short([written], goals.TOKENS):
            return written
    return None


async def prefill(match: LoadedSides, settings: Settings, program: Path) -> list[Bar]:
    """A whole call with a new prompt, compared with the decode alone that llama-bench measures."""
    pairs = []
    for _ in range(ROUNDS):
        text = match.texts.short(PROMPT_TOKENS)
        written = await match.ours.write(tasks.WRITE, text, 1)
        pairs.append(MeasuredPair(PROMPT_TOKENS / written.first, _llama_bench(settings, program)))
    return [compared(goals.PREFILL, pairs, match.model)]


def _llama_bench(settings: Settings, program: Path) -> float:
    flash_attention = "1" if settings.flash_attention == "on" else "0"
    command = [
        *(str(program), "-m", str(settings.weights), "-t", str(settings.threads), "-fa", flash_attention),
        *("-p", str(PROMPT_TOKENS), "-n", "0", "-r", "2", "-o", "json"),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - that we have built
    (row,) = json.loads(done.stdout)
    return float(row["avg_ts"])


async def hot_loop(match: LoadedSides, settings: Settings) -> list[Bar]:
    """What Python costs in a step of the engine's own loop, in a process of its own."""
    options = (str(settings.weights), str(settings.threads), str(HOT_LOOP_STREAMS))
    command = [sys.executable, "-m", "benchmarks.bare.hot_loop", *options]
    done = subprocess.run(  # noqa: ASYNC221, S603 - our own module, and nothing else shall run
        command, check=True, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT}
    )
    python, choosing, fixed = json.loads(done.stdout)
    about = {"with the search for the largest logit": f"{choosing:.0f}", "fixed piece": f"{fixed:.0f}"}
    name = f"Python in a step of {HOT_LOOP_STREAMS} streams"
    return [
        Figure(f"{name}, by a fixed piece of Python", python / fixed, HOT_LOOP_RATIO, "lower", about, match.model),
        Figure(f"{name}, microseconds", python, None, "lower", about, match.model),
    ]


def told(settings: Settings, details: dict[str, str]) -> Iterator[Bar]:
    """Say how both sides are set up."""
    waiting = [f"{name}={os.environ[name]}" for name in WAITING if name in os.environ]
    about = {"llama-server": " ".join([*waiting, *settings.arguments()[2:]]), **details}
    yield Figure("threads of each side", settings.threads, None, "higher", about, settings.weights.stem)
