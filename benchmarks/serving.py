"""What the daemon adds to the models: latency, throughput, streams, busy neighbours, a killed child."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bare.encoder import Encoder
from benchmarks.bars import Bar, main
from benchmarks.classifying import measure_classifying, texts_of
from benchmarks.killing import measure_killing
from benchmarks.neighbours import measure_neighbours
from benchmarks.streaming import measure_streaming
from tests.support.bundles import minilm_bundle, smollm2_bundle
from tests.support.daemon import RunningDaemon

THREADS = len(os.sched_getaffinity(0))


def measure() -> Iterator[Bar]:
    """Start a daemon for each part: the encoder alone, the decoder alone, both; yield its bars when it is done."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        limits = {"input_tokens_max": 512, "output_tokens_max": 128}
        encoder = minilm_bundle(folder / "encoder", "classify")
        decoder = smollm2_bundle(folder / "decoder", "generate", task={"limits": limits})
        threads = {"engine": {"cpu_threads": THREADS}}
        texts = texts_of(Encoder(encoder))
        yield from measure_classifying(RunningDaemon(folder / "one", **threads), encoder, texts)
        with RunningDaemon(folder / "two", **threads) as daemon:
            daemon.install(decoder)
            yield from asyncio.run(measure_streaming(daemon.inference, decoder / "model.gguf", THREADS))
        yield from measure_neighbours(folder / "neighbours", THREADS)
        both = RunningDaemon(folder / "both", **threads)
        with both:
            both.install(encoder, decoder)
        with both:
            yield from asyncio.run(measure_killing(both, texts))


if __name__ == "__main__":
    sys.exit(main(measure))
