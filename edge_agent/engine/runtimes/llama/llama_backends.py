"""llama.cpp's backends: the code that computes, as a build brings it.

A build for one machine has its processor code linked in. The portable build that the installer carries has one library
for each kind of x86-64 processor and one for each kind of other device, and uses none of them until it is told where
they are. `python -m edge_agent.engine.runtimes.llama.llama_backends` prints the name of the processor code used here.
"""

from __future__ import annotations

import _ctypes
import ctypes
import functools
import hashlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

from edge_agent.errors import DeviceUnusable

_PACKAGE = Path(llama_cpp.__file__).parent
_OTHER_BUILD = os.environ.get("LLAMA_CPP_LIB_PATH")
LIBRARIES = _PACKAGE / "lib" if _OTHER_BUILD is None else Path(_OTHER_BUILD)
"""Folder of the libraries that llama_cpp has loaded: its package's, or another build's by LLAMA_CPP_LIB_PATH."""
# Where the wheel of a portable build puts the code for processors and devices; llama.cpp does not look there itself.
FOLDER = _PACKAGE.parent / "bin" if _OTHER_BUILD is None else LIBRARIES
# The name that libllama itself needs: libggml.so is a second copy of the file, with an empty list of its own.
REGISTRY = LIBRARIES / "libggml.so.0"
_CPU_LIBRARY = re.compile(r"(?:/\S.*)?/libggml-cpu(?:-(\w+))?\.so\S*")
_NUMBERED = re.compile(r"^([a-z]+)(\d+)$")
_INDEX_VARIABLES = {"cuda": "CUDA_VISIBLE_DEVICES", "vulkan": "GGML_VK_VISIBLE_DEVICES"}
_DEVICE_INTEGRATED = 2  # GGML_BACKEND_DEVICE_TYPE_IGPU of ggml-backend.h
_SOFTWARE = ("llvmpipe", "SwiftShader")  # drivers that compute on the processor


@dataclass(frozen=True)
class BackendDevice:
    """A device other than the processor."""

    pointer: int
    """Its ggml_backend_dev_t."""
    name: str
    """As answers name it, such as vulkan:0."""
    description: str
    shares_memory: bool
    """Its memory is that of the machine."""
    free_bytes: int
    total_bytes: int


@functools.cache
def load() -> None:
    """Load the code for this processor; does nothing where it is linked in.

    Call it before the first model. It opens only libraries.
    """
    libraries = sorted(FOLDER.glob("libggml-cpu-*.so"), key=_library_score)
    if libraries:
        _registry().ggml_backend_load(os.fsencode(libraries[-1]))


def open_device(kind: str, index: int) -> BackendDevice:
    """Load the code for a kind of device, and return its driver's device of that index, or the first one.

    Call it after the process was confined: a driver is a lot of foreign code. Index -1 leaves the choice to llama.cpp.

    Raises:
        DeviceUnusable: this build has no such code, or there is no such device.
    """
    if index >= 0:
        os.environ[_INDEX_VARIABLES[kind]] = str(index)
    registry = _registry()
    library = FOLDER / f"libggml-{kind}.so"
    if library.exists():
        registry.ggml_backend_load(os.fsencode(library))
    elif not (LIBRARIES / library.name).exists():
        raise DeviceUnusable(f"this build of llama.cpp has no code for {kind}", lasting=True)
    devices = [_describe(registry, device_index) for device_index in range(registry.ggml_backend_dev_count())]
    matching = [device for device in devices if device.name.startswith(kind)]
    if not matching:
        which = "" if index < 0 else f" {index}"
        raise DeviceUnusable(f"the driver has no {kind} device{which} for this process", lasting=True, index=index)
    return matching[0]


def cpu_variant() -> str:
    """Return the kind of processor whose code is loaded; "native" where llama.cpp was built for one machine."""
    return variant_in(Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace"))


def cpu_code() -> str:
    """Return a digest of the library with this code: speed and exactness differ between builds."""
    match = _CPU_LIBRARY.search(Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace"))
    return hashlib.blake2b(Path(match[0]).read_bytes(), digest_size=4).hexdigest() if match else ""


def variant_in(maps: str) -> str:
    """Find the processor code among the mapped files; "none" when llama.cpp can compute nothing."""
    match = _CPU_LIBRARY.search(maps)
    return (match.group(1) or "native") if match else "none"


@functools.cache
def _registry() -> ctypes.CDLL:
    library = ctypes.CDLL(str(REGISTRY))
    library.ggml_backend_dev_count.restype = ctypes.c_size_t
    for name, argument, result in (
        ("load", ctypes.c_char_p, ctypes.c_void_p),
        ("dev_get", ctypes.c_size_t, ctypes.c_void_p),
        ("dev_name", ctypes.c_void_p, ctypes.c_char_p),
        ("dev_description", ctypes.c_void_p, ctypes.c_char_p),
        ("dev_type", ctypes.c_void_p, ctypes.c_int),
    ):
        function = getattr(library, f"ggml_backend_{name}")
        function.argtypes, function.restype = [argument], result
    library.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    library.ggml_backend_dev_memory.restype = None
    return library


def _describe(registry: Any, index: int) -> BackendDevice:
    pointer = registry.ggml_backend_dev_get(index)
    name = _NUMBERED.sub(r"\1:\2", registry.ggml_backend_dev_name(pointer).decode().lower())
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    registry.ggml_backend_dev_memory(pointer, ctypes.byref(free), ctypes.byref(total))
    description = registry.ggml_backend_dev_description(pointer).decode("utf-8", "replace")
    integrated = registry.ggml_backend_dev_type(pointer) == _DEVICE_INTEGRATED
    shares_memory = integrated or any(each in description for each in _SOFTWARE)
    return BackendDevice(pointer, name, description, shares_memory, free.value, total.value)


def _library_score(library: Path) -> int:
    """Return how well a library's code suits this processor, by llama.cpp's own score; 0 = not at all."""
    loaded = ctypes.CDLL(str(library))
    score = int(loaded.ggml_backend_score())
    _ctypes.dlclose(loaded._handle)  # otherwise the maps of this process would show it as in use
    return score


if __name__ == "__main__":
    load()
    sys.stdout.write(f"{cpu_variant()}\n")
