"""What of the file system a confined child may read, the files of device drivers included (landlock(7)).

Nothing can be written or executed, but for devices. Holds for the calling thread and those it starts later. Names,
sizes and times of other files stay visible to stat(2).

To drive a device, a child needs the driver's files, its nodes and its calls. The libraries themselves lie where every
child may read. Nothing of it can be created, renamed or deleted.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.engine.confinement import linux_calls


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


# The same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE, _READ_FILE, _READ_DIR, _IOCTL_DEVICE = 1 << 1, 1 << 2, 1 << 3, 1 << 15
_IOCTL_SINCE = 5  # the version of the interface that restricts ioctl of devices; older ones leave it free
_NET_TCP = 0b11  # bind and connect
_SCOPES = 0b11  # abstract Unix sockets and signals

_REASONS = {
    errno.ENOSYS: "the kernel has no Landlock",
    errno.EOPNOTSUPP: "Landlock is not enabled: the kernel's parameter 'lsm' leaves it out",
}


def restrict(readable: Iterable[Path], devices: Iterable[Path] = ()) -> str:
    """Leave only reading at and below these paths, as they are now, and use of these devices; return "on" or why not.

    Paths that this process cannot open are left out. Needs PR_SET_NO_NEW_PRIVS.
    """
    threads = len(list(Path("/proc/self/task").iterdir()))
    try:
        _restrict(readable, devices)
    except OSError as error:
        return _REASONS.get(error.errno or 0, f"the kernel refuses Landlock: {error.strerror}")
    return "on" if threads == 1 else f"not on all threads: {threads - 1} were started before it"


def ruleset(abi: int) -> bytes:
    """Return struct landlock_ruleset_attr with every restriction that this version of the interface has."""
    rights = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)  # files; + refer; + truncate; + ioctl of devices
    fields = [(1 << rights) - 1]
    if abi >= 4:
        fields.append(_NET_TCP)
    if abi >= 6:
        fields.append(_SCOPES)
    return struct.pack(f"={len(fields)}Q", *fields)


def _restrict(readable: Iterable[Path], devices: Iterable[Path]) -> None:
    version = linux_calls.call(_CREATE_RULESET, ctypes.c_void_p(), 0, _VERSION)
    attributes = ruleset(version)
    descriptor = linux_calls.call(_CREATE_RULESET, attributes, len(attributes), 0)
    using = _READ_FILE | _WRITE_FILE | (_IOCTL_DEVICE if version >= _IOCTL_SINCE else 0)
    try:
        for path in readable:
            _allow(descriptor, path, _READ_FILE | _READ_DIR if path.is_dir() else _READ_FILE)
        for path in devices:
            _allow(descriptor, path, using)
        linux_calls.call(_RESTRICT_SELF, descriptor, 0)
    finally:
        os.close(descriptor)


def _allow(descriptor: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return
    try:
        # struct landlock_path_beneath_attr is packed
        linux_calls.call(_ADD_RULE, descriptor, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)
