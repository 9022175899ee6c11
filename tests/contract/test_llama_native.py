"""Behaviour of the pinned llama.cpp: sequences, cells, states, and the layout of its structs.

The adapter in engine/runtimes/llama builds on these facts without checking them. When the pin moves, a failure here
says which of them moved: first look whether llama.h says so too, then at the code that builds on it, then change the
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
from tests.support.models import smollm2_path
from tests.support.native import Logits, Native, Row

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
    """Load once."""
    loaded = LlamaModel(str(smollm2_path()))
    yield loaded
    loaded.close()


@pytest.fixture
def native(model: LlamaModel) -> Iterator[Native]:
    """An empty context with one thread."""
    made = Native(model)
    yield made
    made.close()


@pytest.fixture
def tokens(model: LlamaModel) -> list[int]:
    """A prompt of LENGTH tokens."""
    shop = "What does the customer want: refund, price, opening hours, or something that was lost?"
    text = f"{shop} Customer: My kettle broke after a week. Wants: refund. Customer: How much is the blue lamp? Wants"
    return model.tokenize(text, special=False)[:LENGTH]


def ask(native: Native, sequence: int, position: int, *, company: bool = False) -> Logits:
    """Return the logits behind a sequence's text and one token more, and leave the sequence as it was."""
    native.copy(sequence, SPARE)
    beside = [Row(5, 0, (SPARE + 1,), wanted=False)] if company else []
    assert 0 == native.decode([Row(NEXT, position, (SPARE,)), *beside])
    logits = native.logits(0)
    native.drop(SPARE)
    native.drop(SPARE + 1)
    return logits


def same(one: Logits, other: Logits) -> bool:
    """Tell whether they are equal to the last bit."""
    return bool(np.array_equal(one, other))


# --- structs --------------------------------------------------------------------------------------------------------


def written(function: str) -> int:
    """Return how many bytes a function of the library writes that returns a struct: the caller says where, the first
    argument being that address. Twice over different bytes, for some that it writes are those that lie there."""
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
def test_structs_have_the_size_that_the_adapter_was_written_for(struct: str, size: int) -> None:
    """Another size means another release: fields have come or gone, or have moved."""
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
def test_the_library_lays_structs_out_as_the_bindings_do(function: str, struct: str) -> None:
    """It writes to the last byte of the struct and not past it: bindings and library are of one release."""
    size = ctypes.sizeof(getattr(llama, struct))
    assert size - 7 <= written(function) <= size, f"{struct}: library and bindings are not of one release"


def test_defaults_lie_in_the_fields_that_have_their_names() -> None:
    """Each default that llama.h documents is found under its name, from the first field to one near the end."""
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


def test_a_known_prompt_has_its_known_answer(model: LlamaModel, native: Native) -> None:
    """The likeliest tokens come in their order, each logit within what other kernels change."""
    logits = native.read(0, model.tokenize(PARIS, special=False))
    best = [model.token_text(int(token)).piece.decode() for token in np.argsort(-logits)[:3]]
    assert list(GOLDEN) == best
    found = {piece: float(logits[model.tokenize(piece, special=False)[0]]) for piece in GOLDEN}
    assert found == pytest.approx(GOLDEN, abs=GOLDEN_TOLERANCE)


def test_chunks_below_64_rows_give_the_same_bits(native: Native, tokens: list[int]) -> None:
    """A text read at once, in two parts or beside another one: rule 1 of kv_cache.py."""
    whole = native.read(0, tokens)
    native.read(1, tokens[:20])
    assert same(whole, native.read(1, tokens[20:], 20))
    beside = [Row(token, at, (2,), wanted=False) for at, token in enumerate(tokens[:15])]
    rows = [Row(token, at, (3,), wanted=token is tokens[-1]) for at, token in enumerate(tokens)]
    assert 0 == native.decode([*beside, *rows[:-1], rows[-1]._replace(wanted=True)])
    assert same(whole, native.logits(len(beside) + len(rows) - 1))


@pytest.mark.release  # two threads that wait for each other, in each of 500 nodes: a minute on a busy machine
def test_a_lone_row_is_computed_as_others_are(native: Native, tokens: list[int]) -> None:
    """Behind more than 256 cells, alone, with two threads: not by llama.cpp's own attention. Rule 2 of kv_cache.py."""
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


def test_copies_share_cells_and_go_on_by_themselves(native: Native, tokens: list[int]) -> None:
    """A copy is the whole text or its first part, and outlives what it was copied from."""
    whole = native.read(0, tokens)
    native.copy(0, 1)
    native.copy(0, 2, 0, PREFIX)
    native.drop(0)
    assert [(-1, -1), (0, LENGTH - 1), (0, PREFIX - 1)] == [native.range(sequence) for sequence in (0, 1, 2)]
    assert same(whole, native.read(2, tokens[PREFIX:], PREFIX))
    assert same(ask(native, 1, LENGTH), ask(native, 2, LENGTH))


def test_a_removed_end_can_be_written_anew(native: Native, tokens: list[int]) -> None:
    """After seq_rm of the last positions the next ones may differ, and nothing of what was there is seen."""
    clean = native.read(0, tokens)
    native.read(1, tokens[:PREFIX] + tokens[::-1][:6])
    native.drop(1, PREFIX)
    assert (0, PREFIX - 1) == native.range(1)
    assert same(clean, native.read(1, tokens[PREFIX:], PREFIX))


def test_a_copy_onto_a_sequence_adds_to_it(native: Native, tokens: list[int]) -> None:
    """seq_cp of the first positions onto a sequence that has the later ones joins both."""
    native.read(0, tokens)
    native.copy(0, 1)
    native.drop(1, 0, PREFIX)
    assert (PREFIX, LENGTH - 1) == native.range(1)
    native.copy(0, 1, 0, PREFIX)
    assert (0, LENGTH - 1) == native.range(1)
    assert same(ask(native, 0, LENGTH), ask(native, 1, LENGTH))


def test_a_new_token_takes_the_lowest_free_cell(native: Native, tokens: list[int]) -> None:
    """So a text keeps its bits across holes that were there before, and loses them when a lower cell is freed midway:
    rule 3 of kv_cache.py."""
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


def test_a_row_of_several_sequences_is_computed_once_for_all(native: Native, tokens: list[int]) -> None:
    """Each of them then has it, and goes on as if it had computed it alone."""
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
def test_a_saved_sequence_comes_back_to_the_last_bit(model: LlamaModel, tokens: list[int], kv: int) -> None:
    """In the same context and in another one of the same kind; one of another kind refuses it and stays as it was."""
    one, two = Native(model, type_k=kv, type_v=kv), Native(model, type_k=kv, type_v=kv)
    one.read(0, tokens)
    state, wanted = one.save(0), ask(one, 0, LENGTH)
    one.drop(0)
    assert [len(state)] * 2 == [one.restore(3, state), two.restore(5, state)]
    assert same(wanted, ask(one, 3, LENGTH))
    assert same(wanted, ask(two, 5, LENGTH))
    other = Native(model, type_k=llama.GGML_TYPE_F32, type_v=llama.GGML_TYPE_F32)
    other.read(1, tokens[:PREFIX])
    assert 0 == other.restore(0, state)
    assert [(-1, -1), (0, PREFIX - 1)] == [other.range(0), other.range(1)]
    for context in (one, two, other):
        context.close()


def test_a_part_of_a_sequence_comes_back_behind_its_prefix(native: Native, tokens: list[int]) -> None:
    """What stands behind a prefix is saved alone, by way of a copy; restored onto an empty sequence, also into cells
    that do not lie together, it is joined with the prefix, and the next logits are the same bits."""
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


def test_a_restore_replaces_all_that_a_sequence_had(native: Native, tokens: list[int]) -> None:
    """So the prefix is joined after it and not before."""
    native.read(0, tokens)
    native.copy(0, 1)
    native.drop(1, 0, PREFIX)
    part = native.save(1)
    native.drop(1)
    native.copy(0, 1, 0, PREFIX)
    native.restore(1, part)
    assert (PREFIX, LENGTH - 1) == native.range(1)


def test_a_part_in_cells_below_its_prefix_means_the_same(native: Native, tokens: list[int]) -> None:
    """But it is added up in another order: who restores has to see to the order of the cells.

    llama.cpp's own attention, which sums in half floats, moves logits by it. Attention by row sums in single precision,
    and activations are rounded to eight bits behind it, which mostly hides the order, and sometimes does not.
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


def test_a_state_that_was_cut_off_is_refused(native: Native, tokens: list[int]) -> None:
    """The sequence is empty then, and the others are as they were."""
    native.read(0, tokens)
    state, wanted = native.save(0), ask(native, 0, LENGTH)
    assert [0, 0, 0] == [native.restore(1, state[:size]) for size in (8, 1000, len(state) - 1)]
    assert (-1, -1) == native.range(1)
    assert same(wanted, ask(native, 0, LENGTH))
