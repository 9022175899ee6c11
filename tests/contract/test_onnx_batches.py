"""Scores of encoders alone and in batches, for each way in which `edge-convert` stores their weights (decision 52)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from convert.quantize import onnx_quantizer
from edge_agent.engine.protocol import JobRequest, JobResult, LoadRequest
from edge_agent.engine.runtimes.onnx_runtime import OnnxRuntime
from tests.support import bundles

WORDS = (
    "refund",
    "price",
    "stock",
    "where is",
    "my parcel",
    "42",
    "hours",
    "a",
    "the red jacket",
    "in size XL",
    "cost",
)


def texts(count: int) -> list[str]:
    """Return different texts of 1 to 40 words."""
    drawn = random.Random(24)
    return [" ".join(drawn.choices(WORDS, k=1 + place % 40)) for place in range(count)]


def opened(folder: Path, stored: str, threads: int = 1) -> OnnxRuntime:
    """Store the weights of a bundle in this way, and load it as "a"."""
    made = folder / "stored.onnx"
    onnx_quantizer.quantize(folder / "model.onnx", made, stored)
    made.replace(folder / "model.onnx")
    runtime = OnnxRuntime()
    runtime.load(LoadRequest(runtime="onnx", weights=str(folder / "model.onnx"), threads=threads))
    runtime.attach("a", bundles.manifest_of(folder), bundles.paths_of(folder))
    return runtime


def answered(runtime: OnnxRuntime, asked: list[str]) -> dict[str, tuple[object, ...]]:
    """Compute texts together; return all compared parts of each answer, by text."""
    for place, text in enumerate(asked):
        runtime.submit(JobRequest(job_id=str(place), digest="a", text=text))
    found = {}
    while runtime.busy:
        for event in runtime.step():
            assert isinstance(event, JobResult)
            entities = tuple((each.label, each.start, each.end, each.score) for each in event.entities)
            found[asked[int(event.job_id)]] = (event.scores, event.label_mass, event.confidence, entities)
    return found


def require_the_same_in_company(runtime: OnnxRuntime, asked: list[str], sizes: Sequence[int]) -> None:
    """Require the same bits alone, in batches of these sizes, and in other orders."""
    alone = {text: answered(runtime, [text])[text] for text in asked}
    for size in sizes:
        shuffled = random.Random(size).sample(asked, len(asked))
        for start in range(0, len(shuffled), size):
            batch = shuffled[start : start + size]
            assert {text: alone[text] for text in batch} == answered(runtime, batch)
    assert "" == runtime.score_variance("a")


@pytest.mark.parametrize("kind", ["classify", "extract"])
@pytest.mark.parametrize("stored", onnx_quantizer.TYPES)
def test_scores_are_the_same_alone_and_in_batches(tmp_path, stored, kind):
    """No bit of a score depends on the number, lengths or order of the other inputs."""
    runtime = opened(bundles.tiny_onnx_bundle(tmp_path, kind), stored)
    require_the_same_in_company(runtime, texts(64), (2, 3, 5, 8, 64))
    runtime.close()


@pytest.mark.slow
@pytest.mark.parametrize("stored", onnx_quantizer.TYPES)
def test_minilm_scores_are_the_same_alone_and_in_batches(tmp_path, stored):
    """MiniLM on two threads gives the same scores alone and in batches."""
    runtime = opened(bundles.minilm_bundle(tmp_path, "classify"), stored, threads=2)
    require_the_same_in_company(runtime, texts(50), (8, 50))
    runtime.close()


@pytest.mark.parametrize(
    ("kind", "stored", "expected"),
    [
        ("classify", "fp32", 1),
        ("classify", "dynamic-int8", 1),
        ("extract", "dynamic-int8", 1),
        ("embed", "dynamic-int8", 1),
        ("embed", "fp32", 8),
    ],
)
def test_inputs_share_a_batch_only_where_it_changes_nothing(tmp_path, kind, stored, expected):
    """Inputs to classify, and all inputs of a dynamically quantized model, are computed one by one; other inputs share
    a batch."""
    runtime = opened(bundles.tiny_onnx_bundle(tmp_path, kind), stored)
    for place, text in enumerate(texts(8)):
        runtime.submit(JobRequest(job_id=str(place), digest="a", text=text))
    assert expected == len(runtime.step())
    while runtime.busy:
        runtime.step()
    runtime.close()
