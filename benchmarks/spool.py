"""Cost of capture at twice the peak rate: latency added to a call, processor time and commits for each example."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks import collecting
from benchmarks.bars import Bar, main, median
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.capture.spool_writer import CaptureLimits, SpoolWriter
from edge_agent.client.inference_client import AsyncClient
from tests.support import pos_intents
from tests.support.bundles import echo_bundle, minilm_bundle
from tests.support.daemon import RunningDaemon
from tests.support.site_cases import answered, opener

TASK = "pos-intent"
CHARACTERS = 500
ROUNDS, CALLS, WARM_CALLS = 40, 50, 200
PEAK_CLIENTS, PEAK_SECONDS, PEAK_ROUNDS = 16, 3.0, 3
KEEPING_SECONDS = 10.0
ADDED_MILLISECONDS_MAX, PROCESSOR_MILLISECONDS_MAX = 0.1, 0.3
# What tills and clinics write: in every fourth text something to redact.
SENTENCES = (
    "the customer at the window wants to know whether the blue jacket is still there in size forty two",
    "please give me the money back for the second coffee because it was cold and nobody came for half an hour",
    "table 12 asks for the bill, two soups, one without salt, and the total should be 24.80 as it says on the menu",
    "my order 4471 has not arrived, call me on +49 170 1234567 or write to anna.schmidt@example.com this afternoon",
)


def texts() -> list[str]:
    """Return texts of 500 characters."""
    return [" ".join(islice(cycle(SENTENCES[start:] + SENTENCES[:start]), 6))[:CHARACTERS] for start in range(4)]


def measure() -> Iterator[Bar]:
    """Two daemons in turn for the added time, an encoder for the peak rate, then the writer at twice that rate."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        added = asyncio.run(_added(folder))
        yield Bar("capture adds to Classify, ms p50", added, ADDED_MILLISECONDS_MAX, "lower")
        peak = asyncio.run(_peak(folder / "peak"))
        yield Bar("peak classify rate of the encoder, 1/s", peak, 1, "higher")
        yield from _keeping(folder / "keeping", 2 * peak)
        yield from collecting.measure()


async def _added(folder: Path) -> float:
    """Return what keeping adds to the median call, in milliseconds; blocks of calls take turns."""
    settings: tuple[dict[str, Any], ...] = ({}, {"examples": {"collect": {TASK: "local"}}})
    daemons = [RunningDaemon(folder / str(number), **setting) for number, setting in enumerate(settings)]
    with daemons[0], daemons[1]:
        for daemon in daemons:
            daemon.install(echo_bundle(folder / "echo", TASK, labels=("refund", "price", "hours")))
        async with AsyncClient(daemons[0].inference) as off, AsyncClient(daemons[1].inference) as on:
            for client in (off, on):
                await _latency(client, WARM_CALLS)
            differences = []
            for _ in range(ROUNDS):
                before, kept, after = [await _latency(client, CALLS) for client in (off, on, off)]
                differences.append(kept - (before + after) / 2)
    return median(differences) * 1000


async def _latency(client: AsyncClient, calls: int) -> float:
    seconds = []
    for text in islice(cycle(texts()), calls):
        started = time.perf_counter()
        await client.classify(TASK, [text])
        seconds.append(time.perf_counter() - started)
    return median(seconds)


async def _peak(folder: Path) -> float:
    """Return the most answers a second that the encoder gives to PEAK_CLIENTS, on the short texts of a till."""
    with RunningDaemon(folder, engine={"cpu_threads": len(os.sched_getaffinity(0))}) as daemon:
        daemon.install(minilm_bundle(folder / "bundle", "classify"))
        async with AsyncClient(daemon.inference) as client:
            return max([await _rate(client) for _ in range(PEAK_ROUNDS)])


async def _rate(client: AsyncClient) -> float:
    done, started = 0, time.perf_counter()

    async def ask() -> None:
        nonlocal done
        for text, _ in cycle(pos_intents.held_out()):
            await client.classify(TASK, [text])
            done += 1
            if time.perf_counter() > started + PEAK_SECONDS:
                return

    await asyncio.gather(*(ask() for _ in range(PEAK_CLIENTS)))
    return done / (time.perf_counter() - started)


def _keeping(folder: Path, rate: float) -> list[Bar]:
    """Store examples at a rate for a while; count processor time, syncs and dropped examples."""
    folder.mkdir()
    log = folder / "syncs"
    traced = ["strace", "-f", "-qq", "-c", "-S", "calls", "-e", "trace=fdatasync,fsync", "-o", str(log)]
    examples, milliseconds, commits, dropped = _kept(folder / "plain", rate)
    _kept(folder / "traced", rate, *traced)
    syncs = sum(int(line.split()[3]) for line in log.read_text().splitlines() if line.rstrip().endswith("sync"))
    if not syncs:
        raise AssertionError(f"strace counted no sync of {examples:.0f} examples, and there were {commits:.0f} commits")
    return [
        Bar(f"kept at twice that rate ({rate:.0f}/s), dropped", dropped, 0, "lower"),
        Bar("processor time an example of 500 characters, ms", milliseconds, PROCESSOR_MILLISECONDS_MAX, "lower"),
        Bar("of which redaction, ms", _redaction(), PROCESSOR_MILLISECONDS_MAX, "lower"),
        Bar("commits an example", commits / examples, 0.2, "lower"),
        Bar("synced writes an example (strace)", syncs / examples, 0.2, "lower"),
    ]


def _kept(folder: Path, rate: float, *tracer: str) -> list[float]:
    """Run `keep` in a separate process; return its output."""
    folder.mkdir()
    command = [*tracer, sys.executable, "-m", "benchmarks.spool", "--keep", str(folder), str(rate)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own words
    return [float(word) for word in done.stdout.split()]


def _redaction() -> float:
    """Return the processor time to redact a text, in milliseconds."""
    redactor, every = Redactor(), texts()
    started = time.process_time()
    for text in islice(cycle(every), 4000):
        redactor.start().text(text)
    return (time.process_time() - started) / 4000 * 1000


def keep(folder: Path, rate: float) -> None:
    """Feed a writer at a rate; print examples, processor milliseconds each, commits and drops."""
    limits = CaptureLimits(4096, 16 * 2**20, 256, 0.2, 32_768)
    writer = SpoolWriter(opener(folder), limits)
    writer.start()
    supply, number = cycle(texts()), 0
    answers = [answered(n, text=next(supply)) for n in range(int(rate * KEEPING_SECONDS))]
    began, processor = time.perf_counter(), time.process_time()
    while number < len(answers):
        due = min(len(answers), int((time.perf_counter() - began) * rate) + 1)
        for answer in answers[number:due]:
            writer.queue_answer(answer)
        number = due
        time.sleep(0.005)
    counted = writer.submit(lambda worker: (worker.spool.counters["captured"], worker.commits)).result()
    used = time.process_time() - processor
    writer.stop()
    print(len(answers), used / len(answers) * 1000, counted[1], len(answers) - counted[0])  # noqa: T201 - read by the parent


if __name__ == "__main__":
    if "--keep" in sys.argv:
        keep(Path(sys.argv[2]), float(sys.argv[3]))
        sys.exit(0)
    sys.exit(main(measure))
