"""Where a model is put: on the processor, or as many of its layers as fit on a device, which is asked first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from edge_agent.engine.memory_need import MemoryNeed
from edge_agent.engine.protocol import LoadRequest
from edge_agent.engine.runtimes.llama import backends
from edge_agent.engine.runtimes.llama.context import Shape
from edge_agent.engine.runtimes.llama.header import Header
from edge_agent.engine.runtimes.llama.need import beside_device
from edge_agent.engine.runtimes.llama.offload import Offload, offload_of, shortfall, usable_bytes

# What a driver takes of the machine's memory in this process. Measured with Mesa's software driver, which brings a
# compiler with it; for CUDA it is what others report.
HOST_DRIVER_BYTES = {"cuda": 640 * 2**20, "vulkan": 192 * 2**20}


@dataclass(frozen=True)
class Place:
    """Where the layers of a model go."""

    name: str
    pointer: int | None = None
    """The device, as llama.cpp knows it; None = the processor."""
    offload: Offload | None = None
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
        return beside_device(need, self.offload.weights_bytes, self.offload.cache_bytes, self.driver_bytes)


ON_CPU = Place("cpu")


def placed(spec: LoadRequest, header: Header, shape: Shape) -> Place:
    """Open the device and choose the layers for it. Raises DeviceUnusable."""
    device = backends.open_device(spec.device, spec.device_index)
    free = usable_bytes(device.free_bytes, device.total_bytes, spec.device_memory_bytes_max)
    offload = offload_of(header, shape, spec.device, free, spec.gpu_layers)
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
    return Place(device.name, device.pointer, offload, driver, device.shares_memory, details)
