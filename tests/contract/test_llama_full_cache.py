"""A full key-value cache: streams release their cells to jobs, and a stream that cannot be moved continues.

The cells that others leave below a stream are held, so that its tokens stay in order (decision 66). Held cells are a
reserve: a job that needs them gets them, and the stream is then moved down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_agent.engine.runtimes.llama.kv_cache import KvCache, context_shape
from edge_agent.engine.runtimes.llama.kv_cells import PromptPrefix, SequenceSlot, StreamBatch
from edge_agent.engine.runtimes.llama.llama_context import ROWS_MAX, TokenRows
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.engine.runtimes.llama.step_costs import PADDING_ROWS_MAX
from tests.support import tiny_gguf

JOBS, CELLS = 4, 900
BELOW, TEXT, OUTPUTS = 40, 30, 20
"""Tokens of who stands below the stream, of the stream's own input, and that it may write behind it."""
NO_PROMPT = PromptPrefix((), "", exact=False)
SENTENCE = "How much is the blue lamp over there, next to the green one? "


class Writing:
    """A cache of a tiny model in which streams are written."""

    def __init__(self, path: Path) -> None:
        self.model = LlamaModel(str(path))
        shape = replace(context_shape(1, jobs=JOBS, kv_type="f16", threads=1), cells=CELLS)
        self.cache = KvCache(self.model, JOBS, shape, 2**26)
        self.cells = self.cache._cells
        self.tokens = tuple(self.model.tokenize(SENTENCE * 60, special=False))

    def begin(self, tokens: int, outputs: int, prompt: PromptPrefix = NO_PROMPT) -> SequenceSlot | None:
        """Admit a stream and read this many tokens after its prompt; None = it does not fit."""
        text = self.tokens[7 : 7 + tokens]
        entered = self.cache.enter(prompt, text, outputs)
        if entered is None:
            return None
        slot, found = entered
        whole = [*prompt.tokens, *text]
        for start in range(found, len(whole), ROWS_MAX):
            self.cache.compact([slot])
            chunk = whole[start : start + ROWS_MAX]
            self.cache.decode([TokenRows(slot.sequence, start, chunk, logits=1)], None, exact=False)
        return slot

    def write(self, slot: SequenceSlot) -> np.ndarray:
        """Write one more token of a stream, always the same one, and return the logits after it."""
        self.cache.tidy()
        self.cache.decode_streams(StreamBatch([slot], [slot.sequence]), [slot.tokens], [self.tokens[0]], None)
        logits = self.cache.context.logits(0).copy()
        self.cache.tidy()
        return logits

    def room(self) -> int:
        """Return the tokens of the largest job that fits once no cells are held."""
        reserved = sum(slot.reserved - slot.taken for slot in self.cache._slots.values())
        return self.cells.free + self.cells.held - reserved - ROWS_MAX - PADDING_ROWS_MAX

    def close(self) -> None:
        """Free cache and model."""
        self.cache.close()
        self.model.close()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with the usual kind of heads."""
    return tiny_gguf.narrow(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def writing(weights: Path) -> Iterator[Writing]:
    opened = Writing(weights)
    yield opened
    opened.close()


def alone(weights: Path, prompt: PromptPrefix = NO_PROMPT) -> list[np.ndarray]:
    """Return the logits of two tokens of a stream that is written alone."""
    opened = Writing(weights)
    if prompt.tokens:
        opened.cache.fill(prompt, opened.tokens[:1], None)
    stream = opened.begin(TEXT, OUTPUTS, prompt)
    assert stream is not None
    told = [opened.write(stream), opened.write(stream)]
    opened.close()
    return told


def test_job_gets_held_cells_and_the_stream_above_is_moved(weights: Path, writing: Writing) -> None:
    """The largest job that fits is admitted into held cells, a job with one more token is not, and the moved stream has
    the same bits as alone."""
    below, stream = writing.begin(BELOW, 0), writing.begin(TEXT, OUTPUTS)
    assert below is not None
    assert stream is not None
    first = writing.write(stream)
    writing.cache.leave(below)
    writing.cache.tidy()
    assert BELOW == writing.cells.held
    assert list(range(BELOW, BELOW + TEXT + 1)) == stream.cells
    largest = writing.room()
    assert writing.cells.free < largest + ROWS_MAX + PADDING_ROWS_MAX + OUTPUTS  # not without what is held
    assert writing.cache.enter(NO_PROMPT, writing.tokens[:1], largest) is None
    assert writing.cache.enter(NO_PROMPT, writing.tokens[:1], largest - 1) is not None
    assert 0 == writing.cells.held
    second = writing.write(stream)
    assert list(range(TEXT + 2)) == stream.cells
    assert [told.tobytes() for told in alone(weights)] == [first.tobytes(), second.tobytes()]


def test_stream_that_cannot_be_moved_continues(weights: Path, writing: Writing) -> None:
    """If a full cache has no room to move a stream's prompt, the stream is written into a lower cell: its last bits
    differ, but it does not fail."""
    prompt = PromptPrefix(writing.tokens[20:320], "", exact=False)
    first_below, second_below = writing.begin(BELOW, 0), writing.begin(BELOW, 0)
    assert first_below is not None
    assert second_below is not None
    writing.cache.fill(prompt, writing.tokens[:1], None)
    stream = writing.begin(TEXT, OUTPUTS, prompt)
    assert stream is not None
    assert stream.pinned is not None
    first = writing.write(stream)
    lies = list(stream.cells)
    writing.cache.leave(first_below)
    writing.cache.tidy()
    assert writing.begin(writing.room(), 0) is not None
    writing.cache.leave(second_below)
    writing.cache.tidy()
    assert BELOW == writing.cells.held
    assert writing.begin(writing.room() + 1, 0) is None  # it takes what is held, and that does not do
    assert 0 == writing.cells.held
    assert writing.cells.free < len(prompt.tokens)
    second = writing.write(stream)
    assert [*lies, BELOW] == stream.cells
    assert not stream.lost
    for expected, told in zip(alone(weights, prompt), (first, second), strict=True):
        assert np.abs(expected - told).max() < 0.1
