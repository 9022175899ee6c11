"""The memory that a GGUF model needs, and how many of its layers fit on a device, computed before it is loaded. Pure.

Both follow from the file's header and the shape of the context. The figures were measured with llama.cpp of
llama-cpp-python 0.3.36, as the resident memory of a child that had filled its cache, its stored prompts and its rows of
logits. tests/process/test_memory.py keeps the estimate within 10% for SmolLM2 and Gemma 3.

llama.cpp counts the output as one more layer, and places it on the device first, then the last layer, the one before,
and so on: `count` layers there are the output and the last `count - 1` layers. Each takes its weights and, except the
output, its share of the key-value cache. The working memory of a step is there as soon as one layer is.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import NamedTuple

from edge_agent.engine.memory_cap import MemoryNeed, format_megabytes
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
STATE_BYTES = 512  # a state of the automaton of one record: 450 measured
ADAPTER_COST = 1.2  # times its file: the tensors, and what each loaded adapter adds to the graph; measured with 100
KV_BITS = {"f16": 16.0, "q8_0": 8.5}
# Types of which ggml-cpu may keep a second copy, laid out for the processor (repack.cpp), by ggml's numbers: Q4_0,
# IQ4_NL, MXFP4 on x86; on ARM also Q8_0, Q5_K, Q6_K, Q1_0. Whether it does depends on the processor and on the number
# of rows: the copy is always counted. A file with Q2_K or Q4_K in it is not copied (GgufHeader.may_be_repacked).
_REPACKED = {2, 20, 39}
_REPACKED_ELSEWHERE = _REPACKED | {8, 13, 14, 41}


def memory_need(
    header: GgufHeader, file_bytes: int, shape: ContextShape, machine: str = platform.machine()
) -> MemoryNeed:
    """Return what loading the file and a context of that shape take."""
    repacked = _REPACKED if machine in ("x86_64", "AMD64") else _REPACKED_ELSEWHERE
    # Logits exist twice, as computed and as returned. Their buffers are larger, but pages that no step uses take no
    # memory. In the graph's own buffer, logits reuse the place of activations.
    returned = ROWS_MAX * header.vocabulary * LOGIT_BYTES
    computed = max(returned, activation_bytes(header, shape))
    return MemoryNeed(
        weights=file_bytes,
        copies=sum(size for kind, size in header.product_bytes.items() if kind in repacked) * header.may_be_repacked,
        cache=cache_bytes(header.cell_elements, shape),
        compute=returned + computed + header.vocabulary * LOGIT_BYTES,  # a copy of one row while it is read
        process=PROCESS_BYTES + header.vocabulary * TOKEN_BYTES,
    )


def cache_bytes(cell_elements: int, shape: ContextShape) -> int:
    """Return the bytes of the keys and values of all cells, with `cell_elements` in each."""
    return int(_cells(shape) * cell_elements * KV_BITS[shape.kv_type] / 8)


def activation_bytes(header: GgufHeader, shape: ContextShape) -> int:
    """Return the working memory of one batch without its logits."""
    return shape.rows * (4 * (8 * header.width + 4 * header.feed_forward) + _cells(shape) * MASK_BYTES)


def _cells(shape: ContextShape) -> int:
    return -(-shape.cells // CELLS_STEP) * CELLS_STEP


def need_beside_device(need: MemoryNeed, device_weights: int, device_cache: int, driver: int) -> MemoryNeed:
    """Return the part of a need that stays in the machine's memory when a device with its own memory takes the rest.

    The file stays mapped, but the device's part is not read again. Copies for the processor are counted in full while
    it has at least one layer.
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
    """Return the bytes for writing records in all bundles: the vocabulary as a trie, and an automaton for each job."""
    return vocabulary * GUIDE_TOKEN_BYTES + jobs * STATES_MAX * STATE_BYTES


def adapter_bytes(file_bytes: int) -> int:
    """Return the bytes of one loaded LoRA adapter."""
    return int(file_bytes * ADAPTER_COST)


# --- how many requests an engine computes together, if the site sets no number: as many as memory allows --------------
# A request needs a sequence, which costs next to nothing, and cells of the key-value cache for its tokens, which cost
# memory. So there are sequences for PLACES_MAX requests, and cells for as many requests of full length as fit into a
# share of the memory: short requests, the usual ones, come in as long as their own cells do (`kv_cache.py`,
# `CacheAdmission`).
PLACES_MAX = 32
"""With more, llama.cpp would allocate logits for 192 rows instead of 128."""
FULL_MAX, FULL_USUAL = 16, 8
"""The most requests of full length that get cells; more than FULL_USUAL only within CACHE_SHARE."""
CACHE_SHARE = 0.25
"""The share of available memory that the cache may take if it has cells for more than FULL_USUAL requests."""


class ContextCapacity(NamedTuple):
    """How many requests an engine computes together, and what that needs."""

    places: int
    """Requests computed together."""
    shape: ContextShape
    need: MemoryNeed


def context_capacity(header: GgufHeader, file_bytes: int, spec: LoadRequest) -> ContextCapacity:
    """Return as many places as `spec` sets, or else as many as fit into memory, at least one."""
    if spec.sequences_max:
        return _capacity_with(header, file_bytes, spec, spec.sequences_max, spec.sequences_max)
    available = spec.memory_bytes_max
    full_max = FULL_MAX if available and spec.device == "cpu" else FULL_USUAL  # on a device, cells take layers' place
    for full in range(full_max, 0, -1):
        capacity = _capacity_with(header, file_bytes, spec, PLACES_MAX, full)
        usual = full <= FULL_USUAL or capacity.need.cache <= CACHE_SHARE * available
        if not available or (usual and capacity.need.total <= available):
            break
    bytes_left = available - capacity.need.total
    # Memory for writing records is claimed when the first task that writes some is attached.
    fits = (each for each in range(PLACES_MAX, full, -1) if record_bytes(header.vocabulary, each) <= bytes_left)
    return capacity._replace(places=next(fits, full) if available else PLACES_MAX)


def _capacity_with(header: GgufHeader, file_bytes: int, spec: LoadRequest, places: int, full: int) -> ContextCapacity:
    """Return the capacity for `places` requests, with cells for `full` of full length."""
    shape = context_shape(spec.context_tokens, full, spec.kv_type, spec.threads)
    shape = replace(shape, sequences=shape.sequences + places - full)
    need = memory_need(header, file_bytes, shape)
    # Stored prompts are made from a copy of one job's sequence.
    copy = cache_bytes(header.cell_elements, replace(shape, cells=spec.context_tokens))
    return ContextCapacity(places, shape, replace(need, cache=need.cache + copy + spec.prompt_cache_bytes_max))


# The part of a device's memory that stays free for the screen, other programs and the driver itself.
RESERVE_BYTES = 128 * 2**20
RESERVE_SHARE = 0.02
# What a backend takes in addition to the model: contexts, code, and buffers for copying. The figure for CUDA is from
# its documents and published measurements; it has not been measured with this agent.
DRIVER_BYTES = {"cuda": 512 * 2**20, "vulkan": 64 * 2**20}
HALF_BYTES = 2


@dataclass(frozen=True)
class GpuOffload:
    """The part of a model that a device gets."""

    layers: int
    """As llama.cpp counts them, the output as one."""
    layers_all: int
    weights_bytes: int
    """Of the device's layers."""
    cache_bytes: int
    compute_bytes: int
    wanted_bytes: int
    """Device memory that all layers would need."""
    free_bytes: int
    """Device memory that may be taken."""

    @property
    def needed_bytes(self) -> int:
        """Device memory that is taken."""
        return self.weights_bytes + self.cache_bytes + self.compute_bytes


def usable_bytes(free: int, total: int, bytes_max: int) -> int:
    """Return how much of a device's memory an engine may take; `bytes_max` 0 = what is free, less a reserve."""
    usable = free - RESERVE_BYTES - int(total * RESERVE_SHARE)
    return max(0, min(usable, bytes_max) if bytes_max else usable)


def plan_offload(header: GgufHeader, shape: ContextShape, device: str, free: int, layers_max: int = -1) -> GpuOffload:
    """Return how many layers fit into `free` bytes; at most `layers_max`, -1 = no such limit.

    Raises:
        DeviceUnusable: not even one fits, which may change.
    """
    weights = [header.output_bytes, *reversed(header.layer_bytes)]
    caches = [0, *(cache_bytes(elements, shape) for elements in reversed(header.layer_cell_elements))]
    logits = shape.outputs * header.vocabulary * LOGIT_BYTES
    # Some kernels compute with the largest matrix in float16.
    largest_matrix = max(header.vocabulary, header.feed_forward) * header.width * HALF_BYTES
    compute = logits + activation_bytes(header, shape) + largest_matrix + DRIVER_BYTES[device]
    sums = [compute + size for size in accumulate(map(sum, zip(weights, caches, strict=True)))]
    fitting = sum(size <= free for size in sums)
    if not fitting:
        need_text, free_text = format_megabytes(sums[0]), format_megabytes(free)
        message = f"one layer and its working memory need {need_text}; {free_text} is free on the device"
        raise DeviceUnusable(message, needed_bytes=sums[0], available_bytes=free)
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
    """Describe that fewer layers fit than were asked for, with the numbers; empty = all of those fit."""
    layers_asked = offload.layers_all if layers_max < 0 else min(layers_max, offload.layers_all)
    if offload.layers >= layers_asked:
        return ""
    return (
        f"{offload.layers} of {layers_asked} layers fit on the device: all {offload.layers_all} need "
        f"{format_megabytes(offload.wanted_bytes)}, and {format_megabytes(offload.free_bytes)} is free there"
    )


# Where a model is placed: on the processor, or with as many layers as fit on a device.
# What a driver takes of the machine's memory in this process. Measured with Mesa's software driver, which contains a
# compiler; for CUDA it is a published figure.
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
        """How many layers the device gets, as llama.cpp counts them."""
        return self.offload.layers if self.offload else 0

    def beside(self, need: MemoryNeed) -> MemoryNeed:
        """Return the part of a need that stays in the machine's memory."""
        if self.offload is None:
            return need
        if self.shares_memory:  # the device's part lies in the machine's memory, too
            extra_bytes = self.offload.compute_bytes + self.driver_bytes
            return replace(need, process=need.process + extra_bytes)
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
    if partial := shortfall(offload, spec.gpu_layers):
        details["device_partial"] = partial
    driver = HOST_DRIVER_BYTES[spec.device]
    return ModelPlacement(device.name, device.pointer, offload, driver, device.shares_memory, details)
