"""How much memory a GGUF model takes, and for how many requests an engine makes room. Pure.

From the file's header and the shape of the context. Measured on llama.cpp of llama-cpp-python 0.3.36 against the
resident memory of a child that has filled what it has: stored prompts, and rows of logits, by labels.
tests/process/test_memory.py keeps the estimate within 10% for SmolLM2 and Gemma 3.
"""

from __future__ import annotations

import platform
from dataclasses import replace
from typing import NamedTuple

from edge_agent.engine.memory_cap import MemoryNeed
from edge_agent.engine.protocol import LoadRequest
from edge_agent.engine.runtimes.llama.gguf_header import GgufHeader
from edge_agent.engine.runtimes.llama.kv_cache import context_shape
from edge_agent.engine.runtimes.llama.llama_context import ROWS_MAX, ContextShape
from edge_agent.engine.runtimes.llama.record_grammar import STATES_MAX

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


def memory_need(
    header: GgufHeader, file_bytes: int, shape: ContextShape, machine: str = platform.machine()
) -> MemoryNeed:
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


def cache_bytes(cell_elements: int, shape: ContextShape) -> int:
    """Return what the keys and values of all cells take, with so many elements in each."""
    return int(_cells(shape) * cell_elements * KV_BITS[shape.kv_type] / 8)


def activation_bytes(header: GgufHeader, shape: ContextShape) -> int:
    """Return what one batch works with, but for its logits."""
    return shape.rows * (4 * (8 * header.width + 4 * header.feed_forward) + _cells(shape) * MASK_BYTES)


def _cells(shape: ContextShape) -> int:
    return -(-shape.cells // CELLS_STEP) * CELLS_STEP


def kept_bytes(header: GgufHeader, shape: ContextShape, context_tokens: int, kept_bytes_max: int) -> int:
    """Return what is kept of prompts takes, with the copy of one job's sequence from which it is made."""
    return kept_bytes_max + cache_bytes(header.cell_elements, replace(shape, cells=context_tokens))


def need_beside_device(need: MemoryNeed, device_weights: int, device_cache: int, driver: int) -> MemoryNeed:
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


# --- how many requests an engine computes together, if the site sets no number: as many as memory allows --------------
# A request needs a sequence, which costs next to nothing, and cells of the key-value cache for its tokens, which cost
# memory. So there are sequences for PLACES_MAX requests, and cells for as many requests of full length as fit into a
# share of the memory: short requests, the usual ones, come in as long as their own cells do (`kv_cache.py`,
# `CacheAdmission`).
PLACES_MAX = 32
"""With more llama.cpp would keep room for the logits of 192 rows instead of 128."""
FULL_MAX, FULL_USUAL = 16, 8
"""Requests of full length that there are cells for, at most, and where they would take more than CACHE_SHARE."""
CACHE_SHARE = 0.25
"""Of the memory that there is, what more cells than those of FULL_USUAL requests may take."""


class ContextCapacity(NamedTuple):
    """What an engine makes room for."""

    places: int
    """Requests computed together."""
    shape: ContextShape
    need: MemoryNeed


def context_capacity(header: GgufHeader, file_bytes: int, spec: LoadRequest) -> ContextCapacity:
    """Return as many places as are asked for, or else as many as the memory holds; at least one, if it holds that."""
    if spec.sequences_max:
        return _with(header, file_bytes, spec, spec.sequences_max, spec.sequences_max)
    available = spec.memory_bytes_max
    most = FULL_MAX if available and spec.device == "cpu" else FULL_USUAL  # on a device, cells take layers' place
    for full in range(most, 0, -1):
        found = _with(header, file_bytes, spec, PLACES_MAX, full)
        usual = full <= FULL_USUAL or found.need.cache <= CACHE_SHARE * available
        if not available or (usual and found.need.total <= available):
            break
    left = available - found.need.total
    # What a record holds while it is written is asked for when the first task that writes some comes.
    fits = (each for each in range(PLACES_MAX, full, -1) if record_bytes(header.vocabulary, each) <= left)
    return found._replace(places=next(fits, full) if available else PLACES_MAX)


def _with(header: GgufHeader, file_bytes: int, spec: LoadRequest, places: int, full: int) -> ContextCapacity:
    """Return places for so many requests, with cells for so many of full length."""
    shape = context_shape(spec.context_tokens, full, spec.kv_type, spec.threads)
    shape = replace(shape, sequences=shape.sequences + places - full)
    need = memory_need(header, file_bytes, shape)
    kept = kept_bytes(header, shape, spec.context_tokens, spec.prompt_cache_bytes_max)
    return ContextCapacity(places, shape, replace(need, cache=need.cache + kept))
