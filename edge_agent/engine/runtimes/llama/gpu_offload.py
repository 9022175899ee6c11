"""How many layers of a GGUF model a device holds, computed before anything is loaded. Pure.

llama.cpp counts the output as one layer more, and gives it to the device first, then the last layer, the one before and
so on: with `count` layers there, the output and the last `count - 1` are. Each takes its weights and, but for the
output, its share of the key-value cache. What a step works with is there as soon as one of them is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import accumulate

from edge_agent.engine.memory_cap import MemoryNeed
from edge_agent.engine.protocol import LoadRequest
from edge_agent.engine.runtimes.llama import llama_backends
from edge_agent.engine.runtimes.llama.gguf_header import GgufHeader
from edge_agent.engine.runtimes.llama.llama_context import ContextShape
from edge_agent.engine.runtimes.llama.memory_estimate import (
    LOGIT_BYTES,
    activation_bytes,
    cache_bytes,
    need_beside_device,
)
from edge_agent.errors import DeviceUnusable

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
