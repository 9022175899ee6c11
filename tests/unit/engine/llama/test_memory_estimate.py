"""The parts of a model's memory estimate, computed from its header. Other tests compare the total with real
processes."""

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


def test_mapped_weights_count_completely() -> None:
    """The weights count with the whole size of the file, because the mapped file stays in memory whatever is copied of
    it."""
    assert 12_345 == memory_need(HEADER, 12_345, SHAPE).weights


@pytest.mark.parametrize(("machine", "copies"), [("x86_64", 700), ("aarch64", 709), ("riscv64", 709)])
def test_only_types_that_are_repacked_count_as_copies(machine: str, copies: int) -> None:
    """Q4_0 is repacked on every processor, Q8_0 on ARM and Q4_1 never; an unknown processor is counted as the one that
    copies most."""
    assert copies == memory_need(HEADER, 0, SHAPE, machine).copies


@pytest.mark.parametrize("kind", [10, 12])
def test_file_with_types_that_cannot_be_repacked_has_no_copies(kind: int) -> None:
    """In a file with Q2_K or Q4_K, whose results would depend on the number of rows, Q4_0 tensors are not repacked,
    either."""
    header = dataclasses.replace(HEADER, product_bytes={2: 700, kind: 9})
    assert (True, False) == (HEADER.may_be_repacked, header.may_be_repacked)
    assert 0 == memory_need(header, 0, SHAPE, "x86_64").copies


@pytest.mark.parametrize(("kv_type", "size"), [("f16", 1024 * 128 * 2), ("q8_0", 1024 * 128 * 34 // 32)])
def test_cache_size_is_rounded_up_as_in_llama_cpp(kv_type: str, size: int) -> None:
    """1,000 cells take the memory of 1,024."""
    assert size == memory_need(HEADER, 0, dataclasses.replace(SHAPE, kv_type=kv_type)).cache


def test_compute_memory_grows_with_the_vocabulary() -> None:
    """Each output row has its logits twice, once in the memory of earlier activations, and one further row of logits is
    processed."""
    given = ROWS_MAX * 1000 * 4
    assert given + max(given, activation_bytes(HEADER, SHAPE)) + 1000 * 4 == memory_need(HEADER, 0, SHAPE).compute
    assert memory_need(HEADER, 0, SHAPE).process > PROCESS_BYTES


def test_absurd_header_values_do_not_overflow() -> None:
    """The sizes that a hostile header claims are computed without overflow, so that the model is refused."""
    huge = dataclasses.replace(HEADER, cell_elements=4096 * 2**31 * 2**32, vocabulary=2**31 - 1)
    assert memory_need(huge, 2**40, SHAPE).total > 2**80


def test_encoder_takes_its_file_twice_plus_memory_per_thread(tmp_path) -> None:
    """The estimate of an encoder has its weights, their packed copies, and activations for each thread that grow with
    the file."""
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(1000))
    one, four = (onnx_graph.estimate_memory(str(path), threads) for threads in (1, 4))
    assert (1000, 1000, 0) == (one.weights, one.copies, one.cache)
    assert 4 * one.compute == four.compute
    assert onnx_graph.ARENA_BYTES + 300 == one.compute


def test_missing_encoder_has_an_empty_estimate(tmp_path) -> None:
    """The estimate for a missing encoder file is zero; the loader reports the error."""
    assert 0 == onnx_graph.estimate_memory(str(tmp_path / "gone.onnx"), 1).weights
