"""The memory that a GGUF model needs, and how many of its layers a device holds: known before it is loaded. Pure.

From the file's header and the shape of the context. Measured on llama.cpp of llama-cpp-python 0.3.36 against the
resident memory of a child that has filled what it has: stored prompts, and rows of logits, by labels.
tests/process/test_memory.py keeps the estimate within 10% for SmolLM2 and Gemma 3.

llama.cpp counts the output as one layer more, and gives it to the device first, then the last layer, the one before and
so on: with `count` layers there, the output and the last `count - 1` are. Each takes its weights and, but for the
output, its share of the key-value cache. What a step works with is there as soon as one of them is.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import NamedTuple

from edge_agent.engine.memory_cap import MemoryNeed
from edge_agent.engine.protocol import LoadRequest
from edge_agent.engine.runtimes.llama import llama_backends
from edge_agent.engine.runtimes.llama.gguf_header import GgufHeader
from edge_agent.engine.runtimes.llama.kv_cache import context_shape
from edge_agent.engine.runtimes.llama.llama_context import ROWS_MAX, ContextShape
from edge_agent.engine.runtimes.llama.record_grammar import STATES_MAX
from edge_agent.errors import DeviceUnusable

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


# Of a device's memory, what stays for the screen and for others; the driver itself takes from it, too.
RESERVE_BYTES = 128 * 2**20
RESERVE_SHARE = 0.02
# What a backend holds beside what the model asks for: contexts, code, and buffers that it copies through. CUDA's own is
# from its documents and other people's measurements; nobody has measured it with this agent.
DRIVER_BYTES = {"cuda": 512 * 2**20, "vulkan": 64 * 2**20}
HALF_BYTES = 2


@dataclass(frozen=True)
class GpuOffload:
    """What of a model a device gets."""

    layers: int
    """As llama.cpp counts them, the output as one."""
    layers_all: int
    weights_bytes: int
    """Those that the device holds."""
    cache_bytes: int
    compute_bytes: int
    wanted_bytes: int
    """What all layers would need there."""
    free_bytes: int
    """What may be taken there."""

    @property
    def needed_bytes(self) -> int:
        """What is taken of the device's memory."""
        return self.weights_bytes + self.cache_bytes + self.compute_bytes

    @property
    def whole(self) -> bool:
        """Whether the device computes everything."""
        return self.layers == self.layers_all


def usable_bytes(free: int, total: int, most: int) -> int:
    """Return how much of a device's memory an engine may take; `most` 0 = what is free, less a reserve."""
    left = free - RESERVE_BYTES - int(total * RESERVE_SHARE)
    return max(0, min(left, most) if most else left)


def plan_offload(header: GgufHeader, shape: ContextShape, device: str, free: int, layers_max: int = -1) -> GpuOffload:
    """Return how many layers fit into `free` bytes; at most `layers_max`, -1 = no such limit.

    Raises:
        DeviceUnusable: not even one does. It has the numbers, and may pass.
    """
    weights = [header.output_bytes, *reversed(header.layer_bytes)]
    caches = [0, *(cache_bytes(elements, shape) for elements in reversed(header.layer_cell_elements))]
    compute = _compute_bytes(header, shape, device)
    sums = [compute + taken for taken in accumulate(map(sum, zip(weights, caches, strict=True)))]
    fitting = sum(taken <= free for taken in sums)
    if not fitting:
        said = f"one layer and its work need {_megabytes(sums[0])}; {_megabytes(free)} are free on the device"
        raise DeviceUnusable(said, needed_bytes=sums[0], available_bytes=free)
    count = fitting if layers_max < 0 else min(fitting, layers_max)
    return GpuOffload(
        layers=count,
        layers_all=len(sums),
        weights_bytes=sum(weights[:count]),
        cache_bytes=sum(caches[:count]),
        compute_bytes=compute,
        wanted_bytes=sums[-1],
        free_bytes=free,
    )


def shortfall(offload: GpuOffload, layers_max: int) -> str:
    """Return that fewer layers are there than were asked for, with the numbers; empty = as many as that."""
    asked = offload.layers_all if layers_max < 0 else min(layers_max, offload.layers_all)
    if offload.layers >= asked:
        return ""
    return (
        f"{offload.layers} of {asked} layers fit on the device: all {offload.layers_all} need "
        f"{_megabytes(offload.wanted_bytes)}, and {_megabytes(offload.free_bytes)} are free there"
    )


def _compute_bytes(header: GgufHeader, shape: ContextShape, device: str) -> int:
    """Return what a step takes: logits, activations, and the largest matrix as half floats, which some kernels want."""
    logits = shape.outputs * header.vocabulary * LOGIT_BYTES
    widest = max(header.vocabulary, header.feed_forward) * header.width * HALF_BYTES
    return logits + activation_bytes(header, shape) + widest + DRIVER_BYTES[device]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


# Where a model is put: on the processor, or as many of its layers as fit on a device, which is asked first.
# What a driver takes of the machine's memory in this process. Measured with Mesa's software driver, which brings a
# compiler with it; for CUDA it is what others report.
HOST_DRIVER_BYTES = {"cuda": 640 * 2**20, "vulkan": 192 * 2**20}


@dataclass(frozen=True)
class ModelPlacement:
    """Where the layers of a model go."""

    name: str
    pointer: int | None = None
    """The device, as llama.cpp knows it; None = the processor."""
    offload: GpuOffload | None = None
    driver_bytes: int = 0
    shares_memory: bool = False
    details: dict[str, str] = field(default_factory=dict)
    """For status."""

    @property
    def layers(self) -> int:
        """How many the device gets, as llama.cpp counts them."""
        return self.offload.layers if self.offload else 0

    def beside(self, need: MemoryNeed) -> MemoryNeed:
        """Return what of a need is left to the machine's memory."""
        if self.offload is None:
            return need
        if self.shares_memory:  # nothing is spared: what the device holds lies in the same memory
            more = self.offload.compute_bytes + self.driver_bytes
            return replace(need, process=need.process + more)
        return need_beside_device(need, self.offload.weights_bytes, self.offload.cache_bytes, self.driver_bytes)


ON_CPU = ModelPlacement("cpu")


def place_on_device(spec: LoadRequest, header: GgufHeader, shape: ContextShape) -> ModelPlacement:
    """Open the device and choose the layers for it. Raises DeviceUnusable."""
    device = llama_backends.open_device(spec.device, spec.device_index)
    free = usable_bytes(device.free_bytes, device.total_bytes, spec.device_memory_bytes_max)
    offload = plan_offload(header, shape, spec.device, free, spec.gpu_layers)
    details = {
        "device_description": device.description,
        "gpu_layers": f"{offload.layers} of {offload.layers_all}",
        "device_memory_estimated_bytes": str(offload.needed_bytes),
        "device_memory_free_bytes": str(device.free_bytes),
        "device_memory_total_bytes": str(device.total_bytes),
    }
    if short := shortfall(offload, spec.gpu_layers):
        details["device_partial"] = short
    driver = HOST_DRIVER_BYTES[spec.device]
    return ModelPlacement(device.name, device.pointer, offload, driver, device.shares_memory, details)
