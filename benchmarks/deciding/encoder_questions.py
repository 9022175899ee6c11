"""Questions to an encoder: seven in one call, compared with one question and with classify calls of seven bundles.

MiniLM with a head for each question, over gRPC; the heads are random, as their worth takes no time. The systems take
turns, and each begins in a third of them. The seven classify bundles share their weights, and so an engine: seven
encoders that were trained apart would be seven processes, which costs more.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bars import Bar, median
from edge_agent.client import Client
from tests.support import bert_onnx, bundles, models
from tests.support.daemon import RunningDaemon

SIZES = {"intent": 8, "urgent": 2, "personal": 2, "department": 5, "severity": 3, "language": 4, "angry": 2}
"""Possible answers of each question."""
ONE = {"intent": 8}
TEXT = "I would like to return this kettle, it broke after a week and I need another one today"
TURNS_A_ROUND, WARM_TURNS = 30, 10
ONE_MAX, CALLS_MAX = 1.25, 0.25


def measure(rounds: int) -> Iterator[Bar]:
    """Install the bundles, and ask by turns."""
    with tempfile.TemporaryDirectory() as made, RunningDaemon(Path(made) / "site") as daemon:
        folder = Path(made)
        single = [f"classify-{name}" for name in SIZES]
        daemon.install(
            _bundle(folder / "seven", "seven", SIZES),
            _bundle(folder / "one", "one", ONE),
            *(bundles.minilm_bundle(folder / name, "classify", name) for name in single),
        )
        with daemon.client() as client:
            taken = _take_turns(client, single, rounds * TURNS_A_ROUND)
    seven, one, calls = (1000 * median(taken[name]) for name in ("seven", "one", "calls"))
    yield Bar("encoder, 7 questions in one call, ms p50", seven, None, "lower")
    yield Bar("encoder, 7 questions in one call / 1 question", seven / one, ONE_MAX, "lower")
    yield Bar("encoder, 7 questions in one call / 7 classify calls", seven / calls, CALLS_MAX, "lower")


def _take_turns(client: Client, single: list[str], turns: int) -> dict[str, list[float]]:
    """Return the seconds of each turn of each system."""

    def calls() -> None:
        for task in single:
            client.classify(task, [TEXT])

    systems: dict[str, Callable[[], object]] = {
        "seven": functools.partial(client.decide, "seven", [TEXT]),
        "one": functools.partial(client.decide, "one", [TEXT]),
        "calls": calls,
    }
    orders = itertools.cycle((("seven", "one", "calls"), ("one", "calls", "seven"), ("calls", "seven", "one")))
    taken: dict[str, list[float]] = {name: [] for name in systems}
    for turn, order in zip(range(WARM_TURNS + turns), orders, strict=False):
        for name in order:
            began = time.perf_counter()
            systems[name]()
            if turn >= WARM_TURNS:
                taken[name].append(time.perf_counter() - began)
    return taken


def _bundle(folder: Path, name: str, sizes: dict[str, int]) -> Path:
    """Write MiniLM with a head for each question."""
    config, weights = bert_onnx.minilm()
    rng, outputs = np.random.default_rng(7), sum(sizes.values())
    head = {
        "classifier.weight": rng.normal(0, 0.1, (outputs, config.hidden)).astype(np.float32),
        "classifier.bias": np.zeros(outputs, np.float32),
    }
    model = bert_onnx.split_by_question(bert_onnx.build(config, {**weights, **head}, "classify"), sizes)
    files: dict[str, tuple[str, bytes | Path]] = {
        "weights": ("model.onnx", model),
        "tokenizer": ("tokenizer.json", models.minilm_dir() / "tokenizer.json"),
    }
    fields = bundles.fields_of("onnx", name, "decide")
    fields["task"]["questions"] = [task_question(question, size) for question, size in sizes.items()]
    return bundles.write(folder, fields, {}, files)


def task_question(name: str, size: int) -> dict[str, Any]:
    """Return a question as a task declares it: a predicate, or a choice of that many labels."""
    labels = [] if size == 2 else [f"{name}-{place}" for place in range(size)]
    return {"name": name, "type": "choice" if labels else "predicate", "instructions": "Which?", "labels": labels}
