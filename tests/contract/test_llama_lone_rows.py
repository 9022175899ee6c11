"""A score's row that is computed alone: the same bits as in company, and company only where it needs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.engine.runtimes.llama.kv_cache import KvCache, context_shape
from edge_agent.engine.runtimes.llama.kv_cells import PromptPrefix
from edge_agent.engine.runtimes.llama.llama_context import LONE_CELLS_MAX, TokenRows
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from tests.support import tiny_gguf
from tests.support.attention import by_row
from tests.support.models import smollm2_path

TEXT = "How much is the blue lamp over there, next to the green one? "
SHALLOW, DEEP = 24, LONE_CELLS_MAX + 20


class Opened:
    """A cache whose batches are counted."""

    def __init__(self, weights: Path, threads: int) -> None:
        self.path, self.model = weights, LlamaModel(str(weights))
        self.cache = KvCache(self.model, 2, context_shape(600, jobs=2, kv_type="f16", threads=threads), 2**26)
        self.rows: list[int] = []
        decode = self.cache.context.decode

        def counted(parts: Any) -> None:
            self.rows.append(sum(len(part.tokens) for part in parts))
            decode(parts)

        self.cache.context.decode = counted  # type: ignore[method-assign]  # to look at what it is given

    def row(self, depth: int, *, alone: bool) -> bytes:
        """Return the logits behind so many tokens and one more, computed alone or with the one before it."""
        tokens = self.model.tokenize(TEXT * 30, special=False)[: depth + 1]
        entered = self.cache.enter(PromptPrefix((), "", exact=True), tokens, 0)
        assert entered is not None
        place, _ = entered
        try:
            last = depth if alone else depth - 1
            for start, end in [*((at, min(at + 60, last)) for at in range(0, last, 60)), (last, depth + 1)]:
                self.cache.decode([TokenRows(place.sequence, start, tokens[start:end], logits=1)], None, exact=True)
            return self.cache.context.logits(depth - last).tobytes()
        finally:
            self.cache.leave(place)

    def close(self) -> None:
        """Free both."""
        self.cache.close()
        self.model.close()


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    """SmolLM2 in four bits, with two threads."""
    found = Opened(smollm2_path(), 2)
    yield found
    found.close()


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Weights with heads that llama.cpp's own attention computes, in eight bits, with two threads."""
    found = Opened(tiny_gguf.narrow(tmp_path_factory.mktemp("narrow")), 2)
    yield found
    found.close()


@pytest.mark.slow
def test_a_lone_row_among_few_cells_is_computed_alone(opened: Opened) -> None:
    """Four-bit weights compute it as they compute two rows."""
    together = opened.row(SHALLOW, alone=False)
    assert together == opened.row(SHALLOW, alone=True)
    assert 1 == opened.rows[-1]


def test_a_lone_row_among_many_cells_gets_company(narrow: Opened) -> None:
    """With two threads llama.cpp's own attention would share its cells out to them, and add up otherwise."""
    together = narrow.row(DEEP, alone=False)
    assert together == narrow.row(DEEP, alone=True)
    assert 2 == narrow.rows[-1]


def test_a_lone_row_among_few_cells_needs_none(narrow: Opened) -> None:
    """They are not shared out."""
    assert narrow.row(SHALLOW, alone=False) == narrow.row(SHALLOW, alone=True)
    assert 1 == narrow.rows[-1]


@pytest.mark.slow
@by_row
def test_with_attention_by_row_it_needs_none(opened: Opened) -> None:
    """Nor are they with the agent's."""
    assert opened.row(DEEP, alone=False) == opened.row(DEEP, alone=True)
    assert 1 == opened.rows[-1]


def test_one_thread_needs_no_company(narrow: Opened) -> None:
    """Whatever the depth, there is nobody to share cells with."""
    single = Opened(narrow.path, 1)
    try:
        assert narrow.row(DEEP, alone=False) == single.row(DEEP, alone=True)
        assert 1 == single.rows[-1]
    finally:
        single.close()


def test_float_weights_score_alike_alone(tmp_path: Path) -> None:
    """Where weights are floats it depends on the build: the bits are the same, with company or without."""
    single = Opened(tiny_gguf.write(tmp_path / "tiny.gguf", sharpened=True), 1)
    try:
        assert single.row(SHALLOW, alone=False) == single.row(SHALLOW, alone=True)
    finally:
        single.close()


def test_idle_prompts_leave_room_for_who_writes_alone(narrow: Opened) -> None:
    """A long prompt that nobody uses goes when a record is to be written behind a short one; alone it may stay."""
    cache = narrow.cache
    tokens = narrow.model.tokenize(TEXT * 30, special=False)
    long, short = (PromptPrefix(tuple(tokens[:count]), "", exact=True) for count in (LONE_CELLS_MAX, 100))
    for prompt in (short, long, short, long):
        cache.fill(prompt, tokens[:1], None)
    assert LONE_CELLS_MAX <= cache.use().cells_in_use
    entered = cache.enter(short, tokens[:10], 40)
    assert entered is not None
    assert 100 == cache.use().cells_in_use
    cache.leave(entered[0])
