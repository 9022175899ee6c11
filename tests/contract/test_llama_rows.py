"""A row has the same result in steps of any number of rows, for each type of weights (decision 0051)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from convert.quantize import gguf_files
from edge_agent.engine.protocol import JobRequest, JobResult, LoadRequest
from edge_agent.engine.runtimes.llama import autotune, gguf_header
from edge_agent.engine.runtimes.llama.llama_context import ROWS_MAX, ContextShape
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from tests.contract.test_llama_attention import ASKED, FEW, cut
from tests.contract.test_llama_runtime import make
from tests.support import llama_builds, pos_intents, products, tiny_decoder, tiny_gguf
from tests.support.attention import by_row
from tests.support.gguf_adapter import write_adapter
from tests.support.llama_mixed_jobs import finish
from tests.support.models import smollm2_path

FORMATS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "IQ4_NL")
"""What edge-convert makes: `convert.pipeline.recipe.GgufType`."""
WIDTH, LAYERS = 256, 2
"""Rows of 256 numbers, which K types need."""
ROUNDING = 1e-5
"""Of the numbers' spread: ten times what sums in single precision are off by."""
ROWS = (2, 3, 5, 8, 9, 17, 30, 64)
BATCHES, BESIDE = (2, 3, 7, 16, 50, 64), 30
"""Texts that are computed together, and how many are beside other work."""
TEXTS = [text for text, _ in pos_intents.held_out()[:50]]
LABELS = ("refund", "price", "opening hours", "opening hours today")
CONTEXT_TOKENS = 96
format_of_weights = pytest.mark.parametrize(
    "kind", [pytest.param(each, marks=() if each in ("F16", "Q4_K_M") else pytest.mark.slow) for each in FORMATS]
)


@functools.cache
def _whole(folder: Path) -> Path:
    return tiny_gguf.write_model(folder / "whole.gguf", tiny_decoder.model(layers=LAYERS, hidden=WIDTH))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder for weights."""
    return tmp_path_factory.mktemp("weights")


def weights(folder: Path, kind: str) -> Path:
    """Return a tiny decoder in a format."""
    path = folder / f"{kind}.gguf"
    if not path.exists():
        gguf_files.quantize(gguf_files.QuantizeRequest(_whole(folder), path, kind))
    return path


@pytest.mark.parametrize("kind", products.TYPES)
def test_product_is_right_and_identical_for_any_number_of_rows(kind: str) -> None:
    """The product agrees with float64 on the same rounded numbers and is the same for any number of rows, in plain and
    repacked layout; the unused repacked layout of Q2_K and Q4_K is left out."""
    matrix, given = products.weights(kind, 32, 512), products.activations(max(ROWS), 512)
    right = products.exact(matrix, given)
    again = products.is_repacked(kind) and kind not in ("Q2_K", "Q4_K")
    for layout in (products.PLAIN, products.REPACKED)[: 1 + again]:
        alone = np.concatenate([products.product(matrix, row[None], layout=layout) for row in given])
        assert np.abs(alone - right).max() < ROUNDING * right.std()
        moved = [
            rows
            for rows in ROWS
            if not np.array_equal(alone[:rows], products.product(matrix, given[:rows], layout=layout))
        ]
        assert [] == moved, layout


@pytest.mark.parametrize(
    ("kind", "repacked"),
    [("Q4_K_M", False), *(pytest.param(kind, True, marks=pytest.mark.slow) for kind in ("Q5_K_M", "Q6_K", "Q4_0"))],
)
def test_only_types_with_identical_rows_are_repacked(folder: Path, kind: str, repacked: bool) -> None:
    """A Q4_K_M file is not repacked; files such as Q4_0 are, which is twice as fast and keeps the results of rows."""
    assert repacked == gguf_header.read_header(str(weights(folder, kind))).may_be_repacked


@format_of_weights
def test_logits_are_the_same_in_steps_of_any_size(folder: Path, kind: str) -> None:
    """Logits are the same in steps of one row, of few, of as many as use other kernels, and after another text's
    rows."""
    model = LlamaModel(str(weights(folder, kind)))
    try:
        same_in_any_step(model)
        shape = ContextShape(cells=300, sequences=4, kv_type="f16", threads=1)
        found = autotune.autotune(LoadRequest(runtime="llama", threads=1), model, shape, "this one").bulk_scores
        assert autotune.OTHERS == found, "unasked, only small steps are measured"
    finally:
        model.close()


@pytest.mark.slow
@pytest.mark.skipif(llama_builds.chosen() is not None, reason="once is enough: builds are told apart by small models")
@pytest.mark.parametrize("kind", ["Q4_K_M", "Q5_K_M", "Q6_K"])
def test_real_model_has_the_same_logits_in_steps_of_any_size(tmp_path: Path, kind: str) -> None:
    """SmolLM2 in K formats, with the types that replace K types in narrow rows, has the same logits in steps of any
    size."""
    path = tmp_path / "weights.gguf"
    gguf_files.quantize(gguf_files.QuantizeRequest(smollm2_path(), path, kind, requantize=True))
    model = LlamaModel(str(path))
    try:
        same_in_any_step(model, sizes=(7, 8, ROWS_MAX))
    finally:
        model.close()


def same_in_any_step(model: LlamaModel, sizes: Sequence[int] = (1, 2, 3, 5, 7, 8, 17, ROWS_MAX)) -> None:
    """Require that the logits of a text's last rows are the same in steps of these sizes."""
    tokens = (model.tokenize("How much is the blue lamp over there? ", special=False) * FEW)[:FEW]
    usual = np.array(cut(model, tokens, 16, threads=1))
    others = {f"steps of {rows}": cut(model, tokens, rows, threads=1) for rows in sizes}
    others["beside others"] = cut(model, tokens, 5, before=4, threads=1)
    assert (ASKED,) == usual.shape[:1]
    assert [] == [name for name, found in others.items() if not np.array_equal(usual, np.array(found))]


@by_row
@pytest.mark.parametrize("kind", ["F16", "Q4_K_M"])
def test_scores_may_be_in_bulk_steps(folder: Path, kind: str) -> None:
    """With the agent's kernels, autotuning measures that bulk steps do not change scores, for floats and K types."""
    model = LlamaModel(str(weights(folder, kind)))
    try:
        shape = ContextShape(cells=600, sequences=4, kv_type="f16", threads=1)
        spec, limits = (
            LoadRequest(runtime="llama", threads=1, tune=True),
            autotune.TuningLimits(seconds=0, share=0.0),
        )
        assert autotune.SAME == autotune.autotune(spec, model, shape, "this one", limits).bulk_scores
    finally:
        model.close()


@by_row
def test_repacked_q4_k_is_measured_as_dependent(folder: Path) -> None:
    """For Q4_K that llama.cpp repacks, the engine measures that scores depend on neighbours, with and without tuning
    and with the steps of a device."""
    path = str(weights(folder, "Q4_K_M"))
    model = LlamaModel(path, header=replace(gguf_header.read_header(path), product_bytes={}))
    try:
        shape = ContextShape(cells=300, sequences=4, kv_type="f16", threads=1)
        limits = autotune.TuningLimits(seconds=0, share=0.0)
        for tune, device in ((False, "cpu"), (True, "cpu"), (True, "vulkan")):
            spec = LoadRequest(runtime="llama", threads=1, tune=tune, device=device)
            tuned = autotune.autotune(spec, model, shape, "this one", limits)
            assert autotune.DEPENDENT == tuned.bulk_scores == tuned.details()["bulk_scores"]
    finally:
        model.close()


class Company:
    """A runtime that answers many jobs at once, in bulk steps if it is loaded as at a site."""

    def __init__(self, path: Path, folder: Path, *, bulk: bool = False) -> None:
        more: dict[str, Any] = {"context_tokens": CONTEXT_TOKENS, "threads": 1, "sequences_max": max(BATCHES) + 1}
        spec = LoadRequest(runtime="llama", weights=str(path), **more)
        self.runtime = LlamaRuntime()
        self.details = self.runtime.load(spec)
        if bulk:  # with the usual settings, however busy the machine is; what moves scores is measured
            self.runtime.close()
            settings = {name: value for name, value in self.details.items() if name != "bulk_scores"}
            self.runtime = LlamaRuntime()
            self.details = self.runtime.load(msgspec.structs.replace(spec, tune=True, settings=settings))
        self.rows: list[int] = []
        decode = self.runtime._cache.context.decode

        def counted(parts: Any) -> None:
            self.rows.append(sum(len(part.tokens) for part in parts))
            decode(parts)

        self.runtime._cache.context.decode = counted  # type: ignore[method-assign]  # to look at what it is given
        limits = {"input_tokens_max": CONTEXT_TOKENS - 30, "output_tokens_max": 24}
        sort = {"prompt": {"template": "{input}\nWants:"}, "labels": LABELS, "limits": limits}
        adapter = {"adapter": str(write_adapter(folder / "tuned.gguf", 1, model=(WIDTH, LAYERS)))}
        self.runtime.attach("sort", make(**sort), {})
        self.runtime.attach("tuned", make(**sort), adapter)
        self.runtime.attach("write", make("generate", prompt={"template": "{input}"}, limits=limits), {})

    def scores(self, texts: Sequence[str], digest: str = "sort", *, beside: str = "") -> list[tuple[float, ...]]:
        """Return the scores of texts that are computed together, next to jobs of another bundle."""
        events = []
        if beside:
            self.runtime.submit(JobRequest(job_id="beside", digest=beside, text=TEXTS[-1], output_tokens_max=24))
            events = [event for _ in range(2) if self.runtime.busy for event in self.runtime.step()]
        for place, text in enumerate(texts):
            self.runtime.submit(JobRequest(job_id=str(place), digest=digest, text=text))
            if beside in ("sort", "tuned"):
                self.runtime.submit(JobRequest(job_id=f"beside {place}", digest=beside, text=text))
        events += finish(self.runtime)
        self.runtime.tidy()
        done = {event.job_id: event for event in events if isinstance(event, JobResult)}
        return [(*done[str(place)].scores, done[str(place)].label_mass) for place in range(len(texts))]

    def require_the_same(self, sizes: Sequence[int]) -> None:
        """Require that texts have the same bits alone, in batches of these sizes, in another order, and next to other
        jobs."""
        given = {"sort": TEXTS, "tuned": TEXTS[:BESIDE]}
        alone = {digest: {text: self.scores([text], digest)[0] for text in given[digest]} for digest in given}
        assert len(TEXTS) + BESIDE == len({scores for each in alone.values() for scores in each.values()})
        asked = [*TEXTS, *TEXTS[: max(BATCHES) - len(TEXTS)]]
        found = {}
        for size in sizes:
            batches = [asked[start : start + size] for start in range(0, len(asked), size)]
            found["sort", f"batches of {size}"] = [scores for batch in batches for scores in self.scores(batch)]
        found["sort", "the other way round"] = self.scores(asked[::-1])[::-1]
        for digest, beside in (("sort", "write"), ("sort", "tuned"), ("tuned", "write"), ("tuned", "sort")):
            found[digest, f"beside {beside}"] = self.scores(asked[:BESIDE], digest, beside=beside)
        wrong = {
            (digest, name): sum(alone[digest][text] != scores for text, scores in zip(asked, each, strict=False))
            for (digest, name), each in found.items()
        }
        assert dict.fromkeys(found, 0) == wrong


@format_of_weights
def test_fifty_texts_score_the_same_alone_and_in_batches(folder: Path, kind: str) -> None:
    """Scores are the same to the last bit alone, in batches of 2 to 64, in another order, next to a generated text, and
    with or without an adapter."""
    company = Company(weights(folder, kind), folder)
    company.require_the_same(BATCHES)
    assert max(company.rows) <= ROWS_MAX
    company.runtime.close()


@by_row
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_1", "Q4_0"])
def test_fifty_texts_score_the_same_alone_and_in_bulk_steps(folder: Path, kind: str) -> None:
    """With `tune: true`, as at a site, scores in bulk steps are the same as alone."""
    company = Company(weights(folder, kind), folder, bulk=True)
    assert ("remembered", autotune.SAME) == (company.details["tuned"], company.details["bulk_scores"])
    company.require_the_same(BATCHES[-1:])
    assert max(company.rows) > ROWS_MAX
    company.runtime.close()
