"""What a model takes, by its head: the parts one by one. Whether they add up to the truth is measured on processes."""

from __future__ import annotations

import dataclasses

import pytest

from edge_agent.engine.runtimes import onnx_graph
from edge_agent.engine.runtimes.llama.gguf_header import GgufHeader
from edge_agent.engine.runtimes.llama.llama_context import ROWS_MAX, ContextShape
from edge_agent.engine.runtimes.llama.memory_estimate import PROCESS_BYTES, activation_bytes, memory_need

HEADER = GgufHeader(
    version=3,
    architecture="llama",
    layers=2,
    width=64,
    feed_forward=96,
    cell_elements=128,
    vocabulary=1000,
    product_bytes={2: 700, 3: 80, 8: 9},
)
SHAPE = ContextShape(cells=1000, sequences=80, kv_type="f16", threads=1)


def test_mapped_weights_count_whole() -> None:
    """The file has to stay in memory, whatever is copied of it."""
    assert 12_345 == memory_need(HEADER, 12_345, SHAPE).weights


@pytest.mark.parametrize(("machine", "copies"), [("x86_64", 700), ("aarch64", 709), ("riscv64", 709)])
def test_only_types_that_the_processor_lays_out_anew_are_copied(machine: str, copies: int) -> None:
    """Q4_0 everywhere, Q8_0 on ARM, Q4_1 never; an unknown processor is counted as the one that copies most."""
    assert copies == memory_need(HEADER, 0, SHAPE, machine).copies


@pytest.mark.parametrize("kind", [10, 12])
def test_nothing_is_copied_of_a_file_with_types_that_are_left_as_they_are(kind: int) -> None:
    """Q2_K and Q4_K, whose rows would come out by their number; Q4_0 beside them is not laid out anew, either."""
    header = dataclasses.replace(HEADER, product_bytes={2: 700, kind: 9})
    assert (True, False) == (HEADER.may_be_repacked, header.may_be_repacked)
    assert 0 == memory_need(header, 0, SHAPE, "x86_64").copies


@pytest.mark.parametrize(("kv_type", "size"), [("f16", 1024 * 128 * 2), ("q8_0", 1024 * 128 * 34 // 32)])
def test_the_cache_is_rounded_up_as_llama_cpp_does(kv_type: str, size: int) -> None:
    """1,000 cells take the room of 1,024."""
    assert size == memory_need(HEADER, 0, dataclasses.replace(SHAPE, kv_type=kv_type)).cache


def test_compute_grows_with_the_vocabulary() -> None:
    """Each row that a step gives out has its logits twice, once where activations lie before; one row is worked on."""
    given = ROWS_MAX * 1000 * 4
    assert given + max(given, activation_bytes(HEADER, SHAPE)) + 1000 * 4 == memory_need(HEADER, 0, SHAPE).compute
    assert memory_need(HEADER, 0, SHAPE).process > PROCESS_BYTES


def test_absurd_claims_are_large_numbers() -> None:
    """What a hostile head claims is reckoned without overflow, so that it is refused."""
    huge = dataclasses.replace(HEADER, cell_elements=4096 * 2**31 * 2**32, vocabulary=2**31 - 1)
    assert memory_need(huge, 2**40, SHAPE).total > 2**80


def test_an_encoder_takes_its_file_twice_and_room_for_each_thread(tmp_path) -> None:
    """Weights, their packed copies, and activations that grow with the file up to a limit."""
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(1000))
    one, four = (onnx_graph.estimate_memory(str(path), threads) for threads in (1, 4))
    assert (1000, 1000, 0) == (one.weights, one.copies, one.cache)
    assert 4 * one.compute == four.compute
    assert onnx_graph.ARENA_BYTES + 300 == one.compute


def test_a_missing_encoder_is_left_to_the_loader(tmp_path) -> None:
    """Without a file there is nothing to reckon: the loader says what is wrong."""
    assert 0 == onnx_graph.estimate_memory(str(tmp_path / "gone.onnx"), 1).weights
