"""What a child needs to drive a device, beside what every child has: the driver's files, its nodes, its calls.

The libraries themselves lie where every child may read. Nothing of it can be created, renamed or deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DeviceDriver:
    """What the drivers of one kind of device need."""

    readable: tuple[str, ...]
    """Read, with all below."""
    nodes: tuple[str, ...]
    """Patterns of what is opened for reading and writing."""
    families: tuple[int, ...]
    """Types of the ioctls that they make (_IOC_TYPE of ioctl.h)."""
    calls: tuple[str, ...] = ()
    """System calls that other children may not make."""


_DRM, _DMA_BUF, _SYNC_FILE, _NVIDIA, _NVIDIA_MODESET = map(ord, "db>Fm")
_NVIDIA_UVM = 0  # its numbers are bare
_SYSTEM = ("/sys/devices", "/sys/bus/pci", "/proc/devices", "/proc/modules", "/proc/meminfo", "/proc/version")
_NVIDIA_FILES = ("/proc/driver/nvidia", "/sys/module/nvidia", "/sys/module/nvidia_uvm", "/usr/share/nvidia")
DRIVERS = {
    "cuda": DeviceDriver(
        readable=(*_SYSTEM, *_NVIDIA_FILES, "/usr/local/cuda"),
        nodes=("dev/nvidia[0-9]*", "dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia-uvm-tools"),
        families=(_NVIDIA, _NVIDIA_UVM),
    ),
    "vulkan": DeviceDriver(
        readable=(
            *_SYSTEM,
            *_NVIDIA_FILES,
            "/sys/class/drm",
            "/sys/dev/char",
            "/etc/vulkan",
            "/usr/share/vulkan",
            "/usr/local/share/vulkan",
            "/usr/share/drirc.d",
            "/etc/drirc",
            "/usr/share/libdrm",
            "/usr/share/glvnd",
        ),
        # A render node computes and does nothing else: card0 could also set modes, and is not needed.
        nodes=("dev/dri/renderD*", "dev/nvidia[0-9]*", "dev/nvidiactl", "dev/nvidia-modeset"),
        families=(_DRM, _DMA_BUF, _SYNC_FILE, _NVIDIA, _NVIDIA_MODESET),
        # Mesa's software driver has its memory from there. It is outside the child's own limit, not outside the unit's.
        calls=("memfd_create",),
    ),
}


def device_nodes(driver: DeviceDriver, root: Path = Path("/")) -> list[Path]:
    """Return the nodes that there are now."""
    return sorted(path for pattern in driver.nodes for path in root.glob(pattern))
