"""How much memory a GGUF model takes, from its head and the shape of its context. Pure.

Measured on llama.cpp as of llama-cpp-python 0.3.36, against the resident memory of a child that has filled what it has:
prompts kept, and rows of logits, by labels. tests/process/test_memory.py holds it to 10 % for SmolLM2 and Gemma 3.
"""

from __future__ import annotations

import platform
from dataclasses import replace

from edge_agent.engine.memory_need import MemoryNeed
from edge_agent.engine.runtimes.llama.context import ROWS_MAX, Shape
from edge_agent.engine.runtimes.llama.grammar import STATES_MAX
from edge_agent.engine.runtimes.llama.header import Header

PROCESS_BYTES = 64 * 2**20  # Python with numpy, jinja2 and llama_cpp: 55 MiB resident
TOKEN_BYTES = 256  # a token in the vocabulary, with its text and its merges
LOGIT_BYTES = 4
CELLS_STEP = 256  # llama.cpp rounds the cells of a context up to it
MASK_BYTES = 6  # the attention mask as float32 and as float16
GUIDE_TOKEN_BYTES = 512  # a token in the trie from which masks are made: 430 measured
STATE_BYTES = 512  # of the automaton of one record: 450 measured
ADAPTER_COST = 1.2  # of its file: the tensors, and what each loaded adapter adds to the graph; measured on 100 of them
KV_BITS = {"f16": 16.0, "q8_0": 8.5}
# Types of which ggml-cpu may keep a second copy, laid out for the processor (repack.cpp), by ggml's numbers: Q4_0,
# IQ4_NL, MXFP4 on x86; on ARM also Q8_0, Q5_K, Q6_K, Q1_0. Whether it does depends on the processor and on the number
# of rows: the copy is always counted. Of a file with Q2_K or Q4_K in it there is none (Header.may_be_repacked).
_REPACKED = {2, 20, 39}
_REPACKED_ELSEWHERE = _REPACKED | {8, 13, 14, 41}


def need_of(header: Header, file_bytes: int, shape: Shape, machine: str = platform.machine()) -> MemoryNeed:
    """Return what loading the file and a context of that shape take."""
    repacked = _REPACKED if machine in ("x86_64", "AMD64") else _REPACKED_ELSEWHERE
    # Rows that a step gives out, once as computed and once as given out. The buffers are larger, but what no step uses
    # takes no memory. In the graph's own buffer logits lie where activations lay.
    given = ROWS_MAX * header.vocabulary * LOGIT_BYTES
    computed = max(given, activation_bytes(header, shape))
    return MemoryNeed(
        weights=file_bytes,
        copies=sum(size for kind, size in header.product_bytes.items() if kind in repacked) * header.may_be_repacked,
        cache=cache_bytes(header.cell_elements, shape),
        compute=given + computed + header.vocabulary * LOGIT_BYTES,  # of one row, while it is read
        process=PROCESS_BYTES + header.vocabulary * TOKEN_BYTES,
    )


def cache_bytes(cell_elements: int, shape: Shape) -> int:
    """Return what the keys and values of all cells take, with so many elements in each."""
    return int(_cells(shape) * cell_elements * KV_BITS[shape.kv_type] / 8)


def activation_bytes(header: Header, shape: Shape) -> int:
    """Return what one batch works with, but for its logits."""
    return shape.rows * (4 * (8 * header.width + 4 * header.feed_forward) + _cells(shape) * MASK_BYTES)


def _cells(shape: Shape) -> int:
    return -(-shape.cells // CELLS_STEP) * CELLS_STEP


def kept_bytes(header: Header, shape: Shape, context_tokens: int, kept_bytes_max: int) -> int:
    """Return what is kept of prompts takes, with the copy of one job's sequence from which it is made."""
    return kept_bytes_max + cache_bytes(header.cell_elements, replace(shape, cells=context_tokens))


def beside_device(need: MemoryNeed, device_weights: int, device_cache: int, driver: int) -> MemoryNeed:
    """Return what of a need stays in the machine's memory when a device of its own memory takes some of it.

    The file stays mapped, but what the device has is not read again. Copies for the processor are counted whole as long
    as one layer is left to it.
    """
    weights = max(0, need.weights - device_weights)
    return replace(
        need,
        weights=weights,
        copies=min(need.copies, weights),
        cache=max(0, need.cache - device_cache),
        process=need.process + driver,
    )


def record_bytes(vocabulary: int, jobs: int) -> int:
    """Return what writing records takes, for all bundles: the vocabulary as a trie, and the automata of `jobs` jobs."""
    return vocabulary * GUIDE_TOKEN_BYTES + jobs * STATES_MAX * STATE_BYTES


def adapter_bytes(file_bytes: int) -> int:
    """Return what one loaded LoRA adapter takes."""
    return int(file_bytes * ADAPTER_COST)
