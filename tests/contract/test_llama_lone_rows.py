"""A score's row that is computed alone has the same bits as with other rows, and gets a padding row only where that is
needed."""

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
        """Return the logits after this many tokens and one more, computed alone or with the one before it."""
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
        """Free cache and model."""
        self.cache.close()
        self.model.close()


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    """SmolLM2 with four-bit weights and two threads."""
    found = Opened(smollm2_path(), 2)
    yield found
    found.close()


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """A model with eight-bit weights and two threads whose heads are computed by llama.cpp's own attention."""
    found = Opened(tiny_gguf.narrow(tmp_path_factory.mktemp("narrow")), 2)
    yield found
    found.close()


@pytest.mark.slow
def test_lone_row_with_few_cells_is_computed_alone(opened: Opened) -> None:
    """With few cells, four-bit weights give a lone row the same bits as two rows, so it gets no padding row."""
    together = opened.row(SHALLOW, alone=False)
    assert together == opened.row(SHALLOW, alone=True)
    assert 1 == opened.rows[-1]


def test_lone_row_with_many_cells_gets_a_padding_row(narrow: Opened) -> None:
    """With two threads and many cells, llama.cpp's own attention would split the cells of a lone row between threads
    and sum in another order, so the row gets a padding row."""
    together = narrow.row(DEEP, alone=False)
    assert together == narrow.row(DEEP, alone=True)
    assert 2 == narrow.rows[-1]


def test_lone_row_with_few_cells_needs_no_padding_row(narrow: Opened) -> None:
    """Few cells are not split between threads, so a lone row needs no padding row."""
    assert narrow.row(SHALLOW, alone=False) == narrow.row(SHALLOW, alone=True)
    assert 1 == narrow.rows[-1]


@pytest.mark.slow
@by_row
def test_lone_row_needs_no_padding_with_attention_by_row(opened: Opened) -> None:
    """The agent's attention by row does not split cells between threads, so a lone row with many cells needs no padding
    row."""
    assert opened.row(DEEP, alone=False) == opened.row(DEEP, alone=True)
    assert 1 == opened.rows[-1]


def test_lone_row_needs_no_padding_with_one_thread(narrow: Opened) -> None:
    """With one thread cells are never split, so a lone row needs no padding row at any depth."""
    single = Opened(narrow.path, 1)
    try:
        assert narrow.row(DEEP, alone=False) == single.row(DEEP, alone=True)
        assert 1 == single.rows[-1]
    finally:
        single.close()


def test_lone_row_of_float_weights_has_the_same_bits(tmp_path: Path) -> None:
    """For float weights it depends on the build whether a lone row gets a padding row; the bits are the same in both
    cases."""
    single = Opened(tiny_gguf.write(tmp_path / "tiny.gguf", sharpened=True), 1)
    try:
        assert single.row(SHALLOW, alone=False) == single.row(SHALLOW, alone=True)
    finally:
        single.close()


def test_idle_long_prompt_is_evicted_for_a_record(narrow: Opened) -> None:
    """A long unused prompt is evicted when a record is written after a short one, so that its lone rows have few cells;
    otherwise it may stay."""
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
