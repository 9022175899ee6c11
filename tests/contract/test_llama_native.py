"""Behaviour of the pinned llama.cpp: sequences, cells, states, and the layout of its structs.

The adapter in engine/runtimes/llama relies on these facts without checking them. After a change of the pin, a failure
here shows which of them changed: compare it with llama.h, then check the code that relies on it, then change the
number.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from typing import Any

import llama_cpp as llama
import numpy as np
import pytest

from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from tests.support.attention import BY_ROW
from tests.support.llama_context import LlamaContext, Logits, Row
from tests.support.models import smollm2_path

PARIS = "The capital of France is"
# Logits of the likeliest next tokens. Between kernels (x64, haswell, zen4, with and without flash attention) they moved
# by 0.25 at most.
GOLDEN = {" Paris": 17.57, " the": 15.03, " London": 13.46}
GOLDEN_TOLERANCE = 0.5
LENGTH, PREFIX = 30, 14
"""Tokens of the prompt, and of its first part."""
NEXT = 28
"""Any token: what comes after the text."""
SPARE = 9
"""A sequence that no test uses but to ask for the next logits."""
# Bytes of each struct that the adapter passes or takes, as gcc lays it out on 64 bits.
SIZES = {
    "llama_model_params": 80,
    "llama_context_params": 160,
    "llama_batch": 56,
    "llama_sampler_chain_params": 1,
}


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaModel]:
    """Load the model once."""
    loaded = LlamaModel(str(smollm2_path()))
    yield loaded
    loaded.close()


@pytest.fixture
def native(model: LlamaModel) -> Iterator[LlamaContext]:
    """Yield an empty context with one thread."""
    made = LlamaContext(model)
    yield made
    made.close()


@pytest.fixture
def tokens(model: LlamaModel) -> list[int]:
    """Return a prompt of LENGTH tokens."""
    shop = "What does the customer want: refund, price, opening hours, or something that was lost?"
    text = f"{shop} Customer: My kettle broke after a week. Wants: refund. Customer: How much is the blue lamp? Wants"
    return model.tokenize(text, special=False)[:LENGTH]


def ask(native: LlamaContext, sequence: int, position: int, *, company: bool = False) -> Logits:
    """Return the logits after a sequence's text and one more token, and leave the sequence unchanged."""
    native.copy(sequence, SPARE)
    beside = [Row(5, 0, (SPARE + 1,), wanted=False)] if company else []
    assert 0 == native.decode([Row(NEXT, position, (SPARE,)), *beside])
    logits = native.logits(0)
    native.drop(SPARE)
    native.drop(SPARE + 1)
    return logits


def same(one: Logits, other: Logits) -> bool:
    """Tell whether two sets of logits are equal to the last bit."""
    return bool(np.array_equal(one, other))


# --- structs --------------------------------------------------------------------------------------------------------


def written(function: str) -> int:
    """Return how many bytes a library function that returns a struct writes to the address in its first argument. It is
    called twice over different bytes, because some written bytes equal those already there."""
    called = getattr(llama.llama_cpp._lib, function)
    restype, argtypes = called.restype, called.argtypes
    end = 0
    try:
        called.restype, called.argtypes = ctypes.c_void_p, [ctypes.c_void_p] + [ctypes.c_int32] * 3
        for filler in (0x55, 0xAA):
            place = ctypes.create_string_buffer(bytes([filler]) * 1024, 1024)
            called(ctypes.addressof(place), 1, 0, 1)
            end = max(end, 1 + max(at for at, byte in enumerate(place.raw) if byte != filler))
    finally:
        called.restype, called.argtypes = restype, argtypes
    return end


@pytest.mark.parametrize(("struct", "size"), SIZES.items())
def test_structs_have_the_expected_size(struct: str, size: int) -> None:
    """Each struct has the size that the adapter was written for; another size means a release with other or moved
    fields."""
    assert size == ctypes.sizeof(getattr(llama, struct)), f"{struct} moved: compare it with llama.h of the pin"


@pytest.mark.skipif(
    platform.machine() != "x86_64", reason="elsewhere the address of a struct is not the first argument"
)
@pytest.mark.parametrize(
    ("function", "struct"),
    [
        ("llama_model_default_params", "llama_model_params"),
        ("llama_context_default_params", "llama_context_params"),
        ("llama_batch_init", "llama_batch"),
    ],
)
def test_library_and_bindings_agree_on_struct_sizes(function: str, struct: str) -> None:
    """The library writes up to the last byte of each struct and not beyond, so bindings and library are of one
    release."""
    size = ctypes.sizeof(getattr(llama, struct))
    assert size - 7 <= written(function) <= size, f"{struct}: library and bindings are not of one release"


def test_defaults_are_in_the_fields_of_their_names() -> None:
    """Each default that llama.h documents is in the field of that name, from the first field to one near the end."""
    params: Any = llama.llama_context_default_params()
    names = ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_threads", "rope_scaling_type", "pooling_type")
    assert (512, 2048, 512, 1, 4, -1, -1) == tuple(getattr(params, name) for name in names)
    names = ("flash_attn_type", "type_k", "type_v", "offload_kqv", "op_offload", "kv_unified", "yarn_beta_fast")
    assert (-1, 1, 1, True, True, False, -1.0) == tuple(getattr(params, name) for name in names)
    params = llama.llama_model_default_params()
    assert (-1, False, False, True) == (
        params.n_gpu_layers,
        params.vocab_only,
        params.check_tensors,
        params.use_extra_bufts,
    )


# --- numbers --------------------------------------------------------------------------------------------------------


def test_known_prompt_has_the_known_answer(model: LlamaModel, native: LlamaContext) -> None:
    """The likeliest tokens after a known prompt have the known order, and their logits differ at most as much as
    between kernels."""
    logits = native.read(0, model.tokenize(PARIS, special=False))
    best = [model.token_text(int(token)).piece.decode() for token in np.argsort(-logits)[:3]]
    assert list(GOLDEN) == best
    found = {piece: float(logits[model.tokenize(piece, special=False)[0]]) for piece in GOLDEN}
    assert found == pytest.approx(GOLDEN, abs=GOLDEN_TOLERANCE)


def test_chunks_below_64_rows_give_the_same_bits(native: LlamaContext, tokens: list[int]) -> None:
    """A text that is read at once, in two parts or next to another text has the same bits (rule 1 of kv_cache.py)."""
    whole = native.read(0, tokens)
    native.read(1, tokens[:20])
    assert same(whole, native.read(1, tokens[20:], 20))
    beside = [Row(token, at, (2,), wanted=False) for at, token in enumerate(tokens[:15])]
    rows = [Row(token, at, (3,), wanted=token is tokens[-1]) for at, token in enumerate(tokens)]
    assert 0 == native.decode([*beside, *rows[:-1], rows[-1]._replace(wanted=True)])
    assert same(whole, native.logits(len(beside) + len(rows) - 1))


@pytest.mark.release  # two threads that wait for each other, in each of 500 nodes: a minute on a busy machine
def test_lone_row_has_the_same_bits_except_with_threads(native: LlamaContext, tokens: list[int]) -> None:
    """A row that is computed alone after more than 256 cells has the same bits as with another row; with two threads
    only attention by row guarantees this (rule 2 of kv_cache.py)."""
    native.read(0, tokens[:PREFIX])
    state = native.save(0)
    for other in (*range(1, SPARE), *range(SPARE + 2, 24)):  # cells that cost nothing
        native.restore(other, state)
    native.read(0, tokens[PREFIX:], PREFIX)
    equal = []
    for threads in (1, 2):
        llama.llama_set_n_threads(native.pointer, threads, threads)
        equal.append(same(ask(native, 0, LENGTH), ask(native, 0, LENGTH, company=True)))
    assert [True, BY_ROW] == equal


# --- sequences and cells --------------------------------------------------------------------------------------------


def test_copied_sequences_share_cells_and_continue_separately(native: LlamaContext, tokens: list[int]) -> None:
    """A copy has the whole text or its first part, and remains when the original is dropped."""
    whole = native.read(0, tokens)
    native.copy(0, 1)
    native.copy(0, 2, 0, PREFIX)
    native.drop(0)
    assert [(-1, -1), (0, LENGTH - 1), (0, PREFIX - 1)] == [native.range(sequence) for sequence in (0, 1, 2)]
    assert same(whole, native.read(2, tokens[PREFIX:], PREFIX))
    assert same(ask(native, 1, LENGTH), ask(native, 2, LENGTH))


def test_removed_end_can_be_rewritten(native: LlamaContext, tokens: list[int]) -> None:
    """After seq_rm of the last positions other tokens can follow, and the removed ones have no effect."""
    clean = native.read(0, tokens)
    native.read(1, tokens[:PREFIX] + tokens[::-1][:6])
    native.drop(1, PREFIX)
    assert (0, PREFIX - 1) == native.range(1)
    assert same(clean, native.read(1, tokens[PREFIX:], PREFIX))


def test_copy_onto_a_sequence_adds_to_it(native: LlamaContext, tokens: list[int]) -> None:
    """seq_cp of the first positions onto a sequence with the later ones joins both parts."""
    native.read(0, tokens)
    native.copy(0, 1)
    native.drop(1, 0, PREFIX)
    assert (PREFIX, LENGTH - 1) == native.range(1)
    native.copy(0, 1, 0, PREFIX)
    assert (0, LENGTH - 1) == native.range(1)
    assert same(ask(native, 0, LENGTH), ask(native, 1, LENGTH))


def test_new_token_takes_the_lowest_free_cell(native: LlamaContext, tokens: list[int]) -> None:
    """A text keeps its bits across gaps that existed before it, and loses them when a lower cell is freed meanwhile
    (rule 3 of kv_cache.py)."""
    clean = native.read(0, tokens)
    native.drop(0)
    native.read(3, tokens[:5])
    native.read(4, tokens[:5])
    native.drop(3)
    assert same(clean, native.read(0, tokens))
    native.drop(0)
    native.read(3, tokens[:5])
    native.read(0, tokens[:PREFIX])
    native.drop(3)
    moved = native.read(0, tokens[PREFIX:], PREFIX)
    assert not same(clean, moved)
    assert int(clean.argmax()) == int(moved.argmax())


def test_row_of_several_sequences_is_computed_once(native: LlamaContext, tokens: list[int]) -> None:
    """A row that belongs to two sequences is computed once, and each continues as if it had computed the row itself."""
    native.read(0, tokens[:PREFIX])
    native.copy(0, 1)
    rows = [Row(token, PREFIX + at, (0, 1)) for at, token in enumerate(tokens[PREFIX:])]
    assert 0 == native.decode(rows)
    assert [(0, LENGTH - 1), (0, LENGTH - 1)] == [native.range(0), native.range(1)]
    assert same(ask(native, 0, LENGTH), ask(native, 1, LENGTH))
    native.drop(0)
    assert (0, LENGTH - 1) == native.range(1)


# --- states ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kv", [llama.GGML_TYPE_F16, llama.GGML_TYPE_Q8_0])
def test_saved_sequence_is_restored_to_the_last_bit(model: LlamaModel, tokens: list[int], kv: int) -> None:
    """A saved sequence is restored exactly in the same context and in another of the same kind; a context of another
    kind refuses it and stays unchanged."""
    one, two = LlamaContext(model, type_k=kv, type_v=kv), LlamaContext(model, type_k=kv, type_v=kv)
    one.read(0, tokens)
    state, wanted = one.save(0), ask(one, 0, LENGTH)
    one.drop(0)
    assert [len(state)] * 2 == [one.restore(3, state), two.restore(5, state)]
    assert same(wanted, ask(one, 3, LENGTH))
    assert same(wanted, ask(two, 5, LENGTH))
    other = LlamaContext(model, type_k=llama.GGML_TYPE_F32, type_v=llama.GGML_TYPE_F32)
    other.read(1, tokens[:PREFIX])
    assert 0 == other.restore(0, state)
    assert [(-1, -1), (0, PREFIX - 1)] == [other.range(0), other.range(1)]
    for context in (one, two, other):
        context.close()


def test_part_of_a_sequence_is_restored_behind_its_prefix(native: LlamaContext, tokens: list[int]) -> None:
    """The part after a prefix is saved separately through a copy; restored onto an empty sequence, also into scattered
    cells, it is joined with the prefix and gives the same bits."""
    native.read(0, tokens)
    wanted = ask(native, 0, LENGTH)
    native.copy(0, 1)
    native.drop(1, 0, PREFIX)
    whole, part = native.save(0), native.save(1)
    assert len(part) < len(whole) * 0.6
    native.drop(1)
    native.drop(0, PREFIX)
    native.read(3, tokens[:5])
    native.read(4, tokens[:5])
    native.drop(3)
    assert len(part) == native.restore(2, part)
    assert (PREFIX, LENGTH - 1) == native.range(2)
    native.copy(0, 2, 0, PREFIX)
    assert (0, LENGTH - 1) == native.range(2)
    assert same(wanted, ask(native, 2, LENGTH))


def test_restore_replaces_the_whole_sequence(native: LlamaContext, tokens: list[int]) -> None:
    """A restore replaces everything in a sequence, so the prefix must be joined after it."""
    native.read(0, tokens)
    native.copy(0, 1)
    native.drop(1, 0, PREFIX)
    part = native.save(1)
    native.drop(1)
    native.copy(0, 1, 0, PREFIX)
    native.restore(1, part)
    assert (PREFIX, LENGTH - 1) == native.range(1)


def test_part_in_cells_below_its_prefix_changes_only_rounding(native: LlamaContext, tokens: list[int]) -> None:
    """A part that is restored into cells below its prefix gives the same result but sums in another order, so a restore
    must keep the order of cells.

    llama.cpp's own attention sums in half floats, so its logits change. Attention by row sums in single precision, and
    activations are rounded to eight bits afterwards, which mostly but not always hides the order.
    """
    native.read(0, tokens)
    wanted = ask(native, 0, LENGTH)
    native.copy(0, 1)
    native.drop(1, 0, PREFIX)
    part = native.save(1)
    native.drop(1)
    native.drop(0, PREFIX)
    prefix = native.save(0)
    native.drop(0)
    native.restore(2, part)
    native.restore(0, prefix)
    native.copy(0, 2, 0, PREFIX)
    found = ask(native, 2, LENGTH)
    assert BY_ROW or not same(wanted, found)
    assert np.abs(wanted - found).max() < 2


def test_truncated_state_is_refused(native: LlamaContext, tokens: list[int]) -> None:
    """Restoring a truncated state fails, leaves that sequence empty and the others unchanged."""
    native.read(0, tokens)
    state, wanted = native.save(0), ask(native, 0, LENGTH)
    assert [0, 0, 0] == [native.restore(1, state[:size]) for size in (8, 1000, len(state) - 1)]
    assert (-1, -1) == native.range(1)
    assert same(wanted, ask(native, 0, LENGTH))
