"""What the installed libraries and this machine offer to compute on, seen without loading any of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from edge_agent.engine.accelerator_policy import DeviceSupport

NODES = {"cuda": ("dev/nvidia[0-9]*",), "vulkan": ("dev/dri/renderD*", "dev/nvidia[0-9]*")}
# Runtime and device: where the library that a build for it brings may lie, below the folder of the packages.
LIBRARIES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "llama": {
        "cuda": ("bin/libggml-cuda.so", "llama_cpp/lib/libggml-cuda.so"),
        "vulkan": ("bin/libggml-vulkan.so", "llama_cpp/lib/libggml-vulkan.so"),
    },
    "onnx": {"cuda": ("onnxruntime/capi/libonnxruntime_providers_cuda.so",)},
}
_PACKAGES = {"llama": "llama_cpp", "onnx": "onnxruntime"}


def detect_support(runtime: str, root: Path = Path("/"), packages: Path | None = None) -> DeviceSupport:
    """Look at what a runtime could compute on.

    Args:
        runtime: llama, onnx or echo; echo computes nothing.
        root: where dev is mounted.
        packages: where the libraries are installed; None = where this interpreter finds them.
    """
    libraries = LIBRARIES.get(runtime, {})
    packages = packages or _packages_of(_PACKAGES.get(runtime, "echo"))
    return DeviceSupport(known=tuple(libraries), built=_found(packages, libraries), present=devices_present(root))


def devices_present(root: Path = Path("/")) -> list[str]:
    """Return the devices of which this machine has a node."""
    return _found(root, NODES)


def _found(root: Path, patterns: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the devices of which a file is there."""
    return [device for device, each in patterns.items() if any(any(root.glob(pattern)) for pattern in each)]


def _packages_of(package: str) -> Path:
    """Return where a package is installed; it is not imported."""
    found = importlib.util.find_spec(package)
    return Path(found.origin).parent.parent if found and found.origin else Path("/nowhere")
