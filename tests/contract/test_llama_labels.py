"""Labels scored by a real model, SmolLM2-135M-Instruct: seven, two hundred and a thousand, compared with separate
runs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.engine.protocol import FailureReport, JobRequest, JobResult, LoadRequest
from edge_agent.engine.runtimes.llama.llama_bundle import read_bundle
from edge_agent.engine.runtimes.llama.llama_context import (
    ROWS_MAX,
    BatchPart,
    BranchRows,
    ContextShape,
    LlamaContext,
    TokenRows,
)
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from edge_agent.engine.runtimes.llama.token_probabilities import LabelTree, log_probs
from edge_agent.formats.manifest import Manifest
from tests.support.models import smollm2_path

WEIGHTS = smollm2_path()
CONTEXT_TOKENS = 320
STEPS_MAX = 5000
TEXT = "How much is the blue lamp in the window?"
TEMPLATE = "Customer: My kettle broke after a week.\nWants: refund\nCustomer: {input}\nWants:"
FEW = ("refund", "price", "opening hours", "opening hours today", "lost and found", "lost and broken", "Rückgabe")
WISHES = ("price", "refund", "repair", "exchange", "stock", "order", "delivery", "invoice", "warranty", "opening hours")
THINGS = ("lamp", "kettle", "coat", "chair", "charger", "shoes", "coffee", "tyre", "table", "phone", "bread", "milk")
THINGS += ("book", "pen", "shirt", "socks", "bag", "garden chair", "running shoes", "phone charger")
TIMES = ("now", "today", "tomorrow", "next week", "next month")
TWO_HUNDRED = tuple(f"{wish}, {thing}" for wish in WISHES for thing in THINGS)
THOUSAND = tuple(f"{label}, {time}" for label in TWO_HUNDRED for time in TIMES)
TASKS = {"few": FEW, "two hundred": TWO_HUNDRED, "thousand": THOUSAND}


def make(kind: str = "classify", labels: Sequence[str] = ()) -> Manifest:
    """Return a manifest."""
    task = {
        "name": "till",
        "kind": kind,
        "labels": labels,
        "prompt": {"template": TEMPLATE},
        "limits": {"input_tokens_max": CONTEXT_TOKENS - 40, "output_tokens_max": 40},
    }
    whole = {"schema": "edge-agent/bundle/v1", "task": task, "version": "1.0.0", "runtime": "llama"}
    artifact = {"role": "weights", "path": "model.gguf", "sha256": "0" * 64, "size_bytes": 1}
    return Manifest.model_validate({**whole, "engine": {"context_tokens": CONTEXT_TOKENS}, "artifacts": [artifact]})


@pytest.fixture(scope="module")
def runtime() -> Iterator[LlamaRuntime]:
    """Load once: a task for each set of labels, and one that generates."""
    runtime = LlamaRuntime()
    runtime.load(LoadRequest(runtime="llama", weights=str(WEIGHTS), context_tokens=CONTEXT_TOKENS, sequences_max=4))
    for name, labels in TASKS.items():
        runtime.attach(name, make(labels=labels), {})
    runtime.attach("g", make("generate"), {})
    yield runtime
    runtime.close()


def answers(runtime: LlamaRuntime, *jobs: JobRequest) -> dict[str, JobResult]:
    """Compute jobs together."""
    for job in jobs:
        runtime.submit(job)
    ends: dict[str, JobResult] = {}
    for _ in range(STEPS_MAX):
        if not runtime.busy:
            return ends
        for event in runtime.step():
            assert not isinstance(event, FailureReport), event
            if isinstance(event, JobResult):
                ends[event.job_id] = event
    raise AssertionError(f"still busy after {STEPS_MAX} steps")


class Walks:
    """One sequence for each label, after a prompt that is computed once, in a separate context."""

    def __init__(self, path: Path = WEIGHTS) -> None:
        self._model = LlamaModel(str(path))
        self._context = LlamaContext(
            self._model, ContextShape(cells=1024, sequences=ROWS_MAX + 1, kv_type="f16", threads=1)
        )

    def joint(self, text: str, labels: Sequence[str]) -> np.ndarray:
        """Return the labels' joint log-probabilities."""
        prompt = read_bundle("x", make(labels=FEW), self._model).prompt_tokens(self._model, text)
        self._context.decode([TokenRows(0, 0, prompt, logits=1)])
        first = self._context.logits(len(prompt) - 1).copy()
        return np.array([self._walk(first, len(prompt), label) for label in labels])

    def _walk(self, first: Any, position: int, label: str) -> float:
        path = self._model.tokenize(" " + label, special=False)
        sums = float(log_probs(first, path[:1])[0])
        if len(path) > 1:
            self._context.copy(0, 1)
            self._context.decode([TokenRows(1, position, path[:-1], logits=len(path) - 1)])
            behind = enumerate(path[1:])
            sums += sum(float(log_probs(self._context.logits(row), [token])[0]) for row, token in behind)
            self._context.drop(1)
        return sums

    def tree(self, labels: Sequence[str]) -> LabelTree:
        return LabelTree(labels, [tuple(self._model.tokenize(" " + label, special=False)) for label in labels])

    def seconds(self, steps: Iterable[list[BatchPart]], position: int) -> float:
        """Compute steps after tokens at the lowest cells, each branch in a separate sequence; return the thread's CPU
        time."""
        self._context.decode([TokenRows(0, 0, range(100, 100 + position), logits=1)])
        before = time.thread_time()
        for parts in steps:
            for sequence in range(1, ROWS_MAX + 1):
                self._context.copy(0, sequence)
            self._context.decode(parts)
            for sequence in range(1, ROWS_MAX + 1):
                self._context.drop(sequence)
        spent = time.thread_time() - before
        self._context.drop(0)
        return spent

    def close(self) -> None:
        self._context.close()
        self._model.close()


def walked(labels: Sequence[str]) -> np.ndarray:
    """Return the joint log-probabilities of labels after TEXT, each computed separately."""
    walks = Walks()
    joint = walks.joint(TEXT, labels)
    walks.close()
    return joint


def joint(done: JobResult) -> np.ndarray:
    """Return the joint log-probabilities behind an answer's scores, at temperature 1."""
    return np.log(done.scores) + math.log(done.label_mass)


def all_but_few() -> list[Any]:
    """Return the larger tasks, each with all its labels."""
    return [pytest.param(name, 1, marks=pytest.mark.release) for name in ("two hundred", "thousand")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "every"), [("few", 1), ("two hundred", 10), *all_but_few()])
def test_label_scores_equal_separate_computation(runtime: LlamaRuntime, name: str, every: int) -> None:
    """A tree of shared rows, in several steps, gives each label the score that it has when computed separately."""
    done = answers(runtime, JobRequest(job_id="j", digest=name, text=TEXT))["j"]
    expected = walked(TASKS[name][::every])
    assert pytest.approx(expected, abs=1e-6) == joint(done)[::every]
    assert pytest.approx(1.0) == sum(done.scores)


@pytest.mark.parametrize("names", [("few", "two hundred"), pytest.param(tuple(TASKS), marks=pytest.mark.release)])
def test_label_scores_are_the_same_next_to_other_jobs(runtime: LlamaRuntime, names: tuple[str, ...]) -> None:
    """Next to a stream and other label trees, which split a tree at other rows, scores are the same to the last bit."""
    jobs = [JobRequest(job_id=name, digest=name, text=TEXT) for name in names]
    alone = [answers(runtime, job)[job.job_id].scores for job in jobs]
    stream = JobRequest(job_id="g", digest="g", text=TEXT, output_tokens_max=20)
    together = answers(runtime, stream, *jobs)
    assert alone == [together[name].scores for name in names]


def shared(tree: LabelTree, position: int) -> Iterator[list[BatchPart]]:
    """Yield the steps of a tree."""
    for chunk in tree.chunks(ROWS_MAX, ROWS_MAX):
        yield [BranchRows(range(1, chunk.branches + 1), position, chunk)]


def apart(tree: LabelTree, position: int) -> Iterator[list[BatchPart]]:
    """Yield steps in which each branch has its own rows."""
    parts: list[BatchPart] = []
    for branch in tree.branches:
        if sum(len(part.tokens) for part in parts) + len(branch) > ROWS_MAX:
            yield parts
            parts = []
        parts.append(TokenRows(len(parts) + 1, position, branch, logits=len(branch)))
    yield parts


@pytest.mark.release
@pytest.mark.parametrize(("name", "share_max"), [("few", 1.1), ("two hundred", 0.75), ("thousand", 0.75)])
def test_label_tree_takes_less_time_than_separate_branches(name: str, share_max: float) -> None:
    """A tree, in which labels share rows, takes less processor time than its branches computed separately."""
    walks = Walks()
    tree = walks.tree(TASKS[name])
    pairs = [(walks.seconds(shared(tree, 50), 50), walks.seconds(apart(tree, 50), 50)) for _ in range(3)]
    walks.close()
    rows = sum(map(len, tree.branches))
    print(f"{name}: {tree.rows(0)} rows {pairs[1][0] * 1000:.0f} ms, apart {rows} rows {pairs[1][1] * 1000:.0f} ms")  # noqa: T201 docs/labels.md has them
    assert sorted(one / other for one, other in pairs)[1] < share_max
