"""Behaviour of the pinned llama.cpp: refused inputs, aborted batches, adapters, forced tokens.

Like test_llama_native.py: facts that the code in engine/runtimes/llama relies on, checked with the C API alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp as llama
import llguidance
import numpy as np
import pytest

from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.engine.runtimes.llama.record_grammar import guide_tokens
from tests.support.gguf_adapter import write_adapter
from tests.support.llama_context import LlamaContext, Row
from tests.support.models import smollm2_path

ABORTED = 2
PROMPT = 24
# Graph nodes that a step computes, each of which asks whether to stop: 515 for this model.
NODES_MIN, NODES_MAX = 300, 900


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaModel]:
    """Load the model once."""
    loaded = LlamaModel(str(smollm2_path()))
    yield loaded
    loaded.close()


@pytest.fixture
def native(model: LlamaModel) -> Iterator[LlamaContext]:
    """Yield an empty context with one thread and micro-batches of 8 rows."""
    made = LlamaContext(model, n_ubatch=8)
    yield made
    made.close()


@pytest.fixture
def tokens(model: LlamaModel) -> list[int]:
    """Return a prompt of PROMPT tokens."""
    text = "What does the customer want? My kettle broke after a week. How much is the blue lamp over there?"
    return model.tokenize(text * 2, special=False)[:PROMPT]


def rows(tokens: list[int], *sequences: int, start: int = 0) -> list[Row]:
    """Return rows of consecutive tokens, the last with logits."""
    made = [Row(token, start + at, sequences, wanted=False) for at, token in enumerate(tokens)]
    return [*made[:-1], made[-1]._replace(wanted=True)]


# --- stopping a batch -----------------------------------------------------------------------------------------------


class Flag:
    """An abort callback without Python: strlen of a text that is empty until the batch should stop."""

    def __init__(self, native: LlamaContext) -> None:
        self.text = ctypes.create_string_buffer(8)
        self._callback = ctypes.cast(ctypes.CDLL(None).strlen, llama.ggml_abort_callback)
        llama.llama_set_abort_callback(native.pointer, self._callback, ctypes.addressof(self.text))

    def set(self, *, stop: bool) -> None:
        """Set or clear the flag."""
        self.text[0] = b"\x01" if stop else b"\0"


def stop_after(native: LlamaContext, nodes: float) -> Callable[[], int]:
    """Stop a batch after this many nodes of its graphs; return a function that counts them. Keep it as long as it may
    be called."""
    count = 0

    @llama.ggml_abort_callback
    def ask(_data: Any) -> bool:
        nonlocal count
        count += 1
        return count > nodes

    llama.llama_set_abort_callback(native.pointer, ask, None)

    def asked(_keep: Any = ask) -> int:
        return count

    return asked


def test_c_callback_aborts_a_batch_and_lets_the_next_pass(native: LlamaContext, tokens: list[int]) -> None:
    """While strlen is not 0, llama_decode returns 2 and has no logits; after the flag is cleared, the same batch gives
    the same bits as without an abort."""
    clean = native.read(5, tokens)
    flag = Flag(native)
    flag.set(stop=True)
    assert [ABORTED, ABORTED] == [native.decode(rows(tokens, 0)), native.decode(rows(tokens, 0))]
    assert not llama.llama_get_logits_ith(native.pointer, PROMPT - 1)
    assert (-1, -1) == native.range(0)
    flag.set(stop=False)
    assert np.array_equal(clean, native.read(0, tokens))


def test_abort_callback_is_called_at_every_node(native: LlamaContext, tokens: list[int]) -> None:
    """The abort callback is called some hundred times for a row, so a batch stops within the time of one node."""
    asked = stop_after(native, float("inf"))
    native.read(0, tokens[:1])
    assert NODES_MIN < asked() < NODES_MAX


def test_completed_micro_batches_survive_an_abort(native: LlamaContext, tokens: list[int]) -> None:
    """An abort removes the current micro-batch and keeps the earlier ones; continuing from there gives the same
    bits."""
    clean = native.read(5, tokens)
    kept = stop_after(native, 2 * NODES_MIN + NODES_MIN / 2)
    assert ABORTED == native.decode(rows(tokens, 0))
    assert (0, 7) == native.range(0)
    kept = stop_after(native, float("inf"))
    assert np.array_equal(clean, native.read(0, tokens[8:], 8))
    assert kept()


def test_abort_removes_every_row_of_a_mixed_batch(native: LlamaContext, tokens: list[int]) -> None:
    """After an abort of a batch with rows of a stream and of a prompt, both sequences are as before, others are
    unchanged, and the batch can be repeated."""
    native.read(1, tokens[:10])
    native.read(2, tokens[:10])
    native.copy(2, 3)
    clean = native.read(3, tokens[10:11], 10)
    stream = [Row(tokens[10], 10, (1,))]
    flag = Flag(native)
    flag.set(stop=True)
    assert ABORTED == native.decode([*stream, *rows(tokens[:5], 0)])
    assert [(-1, -1), (0, 9), (0, 9)] == [native.range(sequence) for sequence in (0, 1, 2)]
    flag.set(stop=False)
    assert 0 == native.decode([*stream, *rows(tokens[:5], 0)])
    assert np.array_equal(clean, native.logits(0))


def test_abort_cleans_only_one_of_coupled_sequences(native: LlamaContext, tokens: list[int]) -> None:
    """After an abort of rows that belong to two sequences, one of these still has the rows that were not computed, so
    the caller must remove them from each."""
    flag = Flag(native)
    flag.set(stop=True)
    assert ABORTED == native.decode(rows(tokens[:5], 2, 3))
    assert {(-1, -1), (0, 4)} == {native.range(2), native.range(3)}
    flag.set(stop=False)
    for sequence in (2, 3):
        native.drop(sequence)
    clean = native.read(5, tokens[:5])
    assert 0 == native.decode(rows(tokens[:5], 2, 3))
    assert np.array_equal(clean, native.logits(4))


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "row"),
    [
        ("a token that is none", Row(-1, 4, (0,))),
        ("a token behind the vocabulary", Row(10**6, 4, (0,))),
        ("a sequence that is none", Row(5, 0, (-1,))),
        ("a sequence behind the last", Row(5, 0, (24,))),
        ("a gap behind what the sequence has", Row(5, 6, (0,))),
        ("a position that is taken", Row(5, 2, (0,))),
        ("a position below 0", Row(5, -1, (0,))),
    ],
)
def test_invalid_row_refuses_its_batch(native: LlamaContext, tokens: list[int], what: str, row: Row) -> None:
    """llama_decode returns -1 for a batch with an invalid row, and no sequence changes, including those of valid
    rows."""
    native.read(0, tokens[:4])
    assert -1 == native.decode([Row(7, 0, (2,)), row]), what
    assert [(0, 3), (-1, -1), (-1, -1)] == [native.range(sequence) for sequence in (0, 1, 2)]


def test_empty_batch_is_refused(native: LlamaContext) -> None:
    """llama_decode returns -1 for an empty batch."""
    assert -1 == native.decode([])


def test_coupled_sequences_must_have_equal_length(native: LlamaContext, tokens: list[int]) -> None:
    """llama_decode refuses a row for two sequences of different length, and both stay unchanged."""
    native.read(0, tokens[:4])
    native.read(1, tokens[:3])
    assert -1 == native.decode([Row(5, 4, (0, 1))])
    assert [(0, 3), (0, 2)] == [native.range(0), native.range(1)]


def test_full_buffer_is_reported_and_changes_nothing(model: LlamaModel, tokens: list[int]) -> None:
    """llama_decode returns 1 if a batch does not fit, even if its first micro-batches would; after a sequence is
    dropped, the batch fits."""
    native = LlamaContext(model, n_ctx=256, n_ubatch=8)
    native.read(0, tokens)
    state, others = native.save(0), range(1, 10)
    assert all(native.restore(other, state) for other in others)
    assert 0 == native.restore(10, state)
    assert [(0, PROMPT - 1), (-1, -1)] == [native.range(9), native.range(10)]
    assert 1 == native.decode(rows(tokens, 10))
    assert (-1, -1) == native.range(10)
    native.drop(9)
    assert 0 == native.decode(rows(tokens, 10))
    native.close()


def test_context_with_over_256_sequences_is_not_created(model: LlamaModel) -> None:
    """A context with 257 sequences cannot be created (LLAMA_MAX_SEQ is 256)."""
    with pytest.raises(AssertionError, match="makes no context"):
        LlamaContext(model, n_seq_max=257)


# --- adapters -------------------------------------------------------------------------------------------------------


def test_switching_adapters_leaves_no_trace(
    model: LlamaModel, native: LlamaContext, tokens: list[int], tmp_path: Path
) -> None:
    """Each step computes with the adapter that is set; switching between two adapters and none gives the same bits as
    each alone."""
    adapters = [None, *(model.load_adapter(str(write_adapter(tmp_path / f"{seed}.gguf", seed))) for seed in (1, 2))]
    alone = []
    for adapter in adapters:
        native.use(adapter)
        native.read(0, tokens[:8])
        alone.append(native.read(0, tokens[8:10], 8))
        native.drop(0)
    assert all(np.abs(alone[one] - alone[other]).max() > 0.1 for one, other in ((0, 1), (0, 2), (1, 2)))
    for part in (tokens[:8], tokens[8:10]):
        for sequence, adapter in enumerate(adapters):
            native.use(adapter)
            found = native.read(sequence, part, tokens.index(part[0]))
            assert len(part) == 8 or np.array_equal(alone[sequence], found)
    native.use(None)
    for adapter in adapters[1:]:
        model.free_adapter(adapter)
    assert np.array_equal(alone[0], native.read(4, tokens[:10]))


def test_adapter_with_nan_loads_and_computes_nan(
    model: LlamaModel, native: LlamaContext, tokens: list[int], tmp_path: Path
) -> None:
    """llama.cpp loads an adapter with NaN, and only its logits show it, so the runtime must compute once before it
    accepts an adapter."""
    adapter = model.load_adapter(str(write_adapter(tmp_path / "nan.gguf", 3, spoil=True)))
    native.use(adapter)
    assert np.isnan(native.read(0, tokens[:4])).all()
    native.use(None)
    assert not np.isnan(native.read(1, tokens[:4])).any()
    model.free_adapter(adapter)


def test_adapter_that_does_not_load_is_false_but_not_none(model: LlamaModel, tmp_path: Path) -> None:
    """For a missing file, invalid data, and a model instead of an adapter the binding returns a null pointer that is
    false but not None, so `is None` would not detect it."""
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"GGUF" + bytes(64))
    for path in (tmp_path / "missing.gguf", junk, smollm2_path()):
        adapter = llama.llama_adapter_lora_init(model.pointer, str(path).encode())
        assert adapter is not None
        assert not adapter


# --- llguidance -----------------------------------------------------------------------------------------------------


def test_forced_tokens_are_those_of_the_tokenizer(model: LlamaModel) -> None:
    """Tokens that a schema forces equal those of the tokenizer, without the last ones that could still merge with the
    next text. A refused token is a reported error, not a crash."""
    vocabulary = guide_tokens(model)
    schema = {"type": "object", "properties": {"size": {"enum": [1, 2]}}, "required": ["size"]}
    style: Any = {"whitespace_flexible": False}
    text = llguidance.LLMatcher.grammar_from_json_schema(schema | {"additionalProperties": False}, overrides=style)
    matcher = llguidance.LLMatcher(vocabulary, text, log_level=0)
    forced = matcher.compute_ff_tokens()
    assert ['{"', "size", '":'] == [model.token_text(token).piece.decode() for token in forced]
    assert forced == model.tokenize('{"size":1}', special=False)[: len(forced)]
    assert matcher.consume_tokens(forced)
    assert not matcher.is_error()
    assert not matcher.consume_token(model.tokenize("x", special=False)[0])
    assert matcher.is_error()
    assert matcher.get_error()
