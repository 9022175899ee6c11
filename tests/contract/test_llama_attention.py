"""The attention kernel that this agent builds into llama.cpp (decision 0043): correct, and independent for each row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import llama_cpp as llama
import numpy as np
import pytest
import torch

from convert.quantize import gguf_files
from edge_agent.engine.runtimes.llama.llama_context import (
    ROWS_MAX,
    ContextShape,
    LlamaContext,
    Logits,
    StepAborted,
    TokenRows,
)
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.engine.runtimes.llama.step_costs import BULK_ROWS
from tests.support import tiny_decoder, tiny_gguf
from tests.support.attention import by_row
from tests.support.models import smollm2_path

TOKENS = 300
"""More than a block of cells, more than four of them, and no multiple."""
ASKED = 40
FEW = 70
"""Tokens of the text that is computed on slow builds, too."""


def cut(
    model: LlamaModel, tokens: list[int], steps: int, *, before: int = 0, threads: int = 1, lead: int = 0
) -> list[Logits]:
    """Return the logits of the last ASKED tokens, computed in steps of this many rows.

    `before` tokens of another text precede those of each step in the buffer and in its batch; the first `lead` tokens
    are read in one step, whatever the size of the others.
    """
    context = LlamaContext(
        model, ContextShape(cells=2048, sequences=2, kv_type="f16", threads=threads, rows=2 * BULK_ROWS)
    )
    found: list[Logits] = []
    try:
        if lead:
            context.decode([TokenRows(0, 0, tokens[:lead], logits=0)])
        for start in range(lead, len(tokens), steps):
            step = tokens[start : start + steps]
            other = start // steps * before
            beside = [TokenRows(1, other, tokens[:before], logits=0)] if before else []
            asked = max(min(start + len(step) - (len(tokens) - ASKED), len(step)), 0)
            context.decode([*beside, TokenRows(0, start, step, logits=asked)])
            found += [context.logits(before + row).copy() for row in range(len(step) - asked, len(step))]
    finally:
        context.close()
    return found


@pytest.fixture(scope="module", params=["Q4_0", "Q4_1", "Q8_0"])
def smollm2(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    """SmolLM2 at each of the usual quantizations: nine heads, three of which share keys and values."""
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.gguf"
    gguf_files.quantize(gguf_files.QuantizeRequest(smollm2_path(), path, request.param, requantize=True))
    model = LlamaModel(str(path))
    yield model
    model.close()


@pytest.mark.slow
def test_row_is_identical_in_small_steps_and_after_an_abort(smollm2: LlamaModel):
    """In steps of fewer than 64 rows, next to other rows, and after an aborted step the logits of a row are the same
    bits, on every build, also with llama.cpp's own kernels."""
    tokens = (smollm2.tokenize("How much is the blue lamp over there? ", special=False) * FEW)[:FEW]
    usual, first = np.array(cut(smollm2, tokens, 16)), FEW - ASKED
    others = {f"steps of {rows}": cut(smollm2, tokens, rows) for rows in (1, 3, ROWS_MAX)}
    others["beside others"] = cut(smollm2, tokens, 17, before=5)
    context = LlamaContext(smollm2, ContextShape(cells=2048, sequences=2, kv_type="f16", threads=1))
    try:
        context.decode([TokenRows(0, 0, tokens[:first], logits=0)])
        context.abort()
        with pytest.raises(StepAborted):
            context.decode([TokenRows(0, first, tokens[first:], logits=1), TokenRows(1, 0, tokens[:5], logits=1)])
        context.forget_abort()
        assert [first, 0] == [llama.llama_memory_seq_pos_max(context._memory, sequence) + 1 for sequence in (0, 1)]
        context.decode([TokenRows(0, first, tokens[first:], logits=ASKED)])
        others["after an aborted step"] = [context.logits(row).copy() for row in range(ASKED)]
    finally:
        context.close()
    assert [] == [name for name, found in others.items() if not np.array_equal(usual, np.array(found))]


@pytest.mark.slow
@by_row
def test_row_is_identical_in_steps_of_any_size(smollm2: LlamaModel):
    """The logits of a row are the same bits alone, in small and in bulk steps, on two threads, and with another text's
    cells between its own."""
    tokens = (smollm2.tokenize("How much is the blue lamp over there? ", special=False) * TOKENS)[:TOKENS]
    usual = np.array(cut(smollm2, tokens, 16))
    others = {
        **{f"steps of {rows}": cut(smollm2, tokens, rows, lead=TOKENS - ASKED) for rows in (1, 2)},
        **{f"steps of {rows}": cut(smollm2, tokens, rows) for rows in (33, 63, 64, 128, BULK_ROWS, TOKENS)},
        "two threads": cut(smollm2, tokens, 63, threads=2),
        "beside others": cut(smollm2, tokens, 17, before=5),
        "beside more": cut(smollm2, tokens, 100, before=70),
    }
    assert (ASKED,) == usual.shape[:1]
    assert [] == [name for name, found in others.items() if not np.array_equal(usual, np.array(found))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "heads", "shared"),
    [(64, 4, 1), (64, 4, 2), (64, 6, 3), (64, 4, 4), (64, 7, 7), (128, 2, 1), (128, 10, 5), (192, 2, 2), (256, 2, 2)],
)
@by_row
def test_attention_kernel_agrees_with_pytorch(tmp_path: Path, depth: int, heads: int, shared: int):
    """For heads of many shapes the result agrees with PyTorch within the precision of half floats (0.5%); llama.cpp's
    own kernel is off by 2%."""
    assert off(tmp_path, depth, heads, shared) < 0.005


def test_unsupported_heads_are_computed_by_llama_cpp(tmp_path: Path):
    """Heads of 32 numbers are left to llama.cpp's own kernel, and its result is right within the precision of a
    half-float sum (4%)."""
    assert off(tmp_path, 32, 4, 2) < 0.04


def off(folder: Path, depth: int, heads: int, shared: int) -> float:
    """Return the largest error of logits, in steps of different size, relative to how much they differ."""
    decoder = tiny_decoder.model(layers=2, hidden=depth * heads, heads=heads, shared=shared)
    with torch.no_grad():
        for name, weights in decoder.named_parameters():
            if "q_proj" in name or "k_proj" in name:  # so that scores differ by one or two: all cells count
                weights.div_(0.2 * math.sqrt(depth * heads))
    model = LlamaModel(str(tiny_gguf.write_model(folder / "tiny.gguf", decoder)))
    tokens = [int(token) for token in np.random.default_rng(1).integers(3, 600, TOKENS)]
    with torch.no_grad():
        expected = decoder(torch.tensor([tokens])).logits[0, -ASKED:].numpy()
    try:
        found = [np.array(cut(model, tokens, steps)) for steps in (1, 20, TOKENS)]
    finally:
        model.close()
    return max(float(np.abs(each - expected).max()) for each in found) / float(expected.std())
