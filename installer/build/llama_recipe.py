"""The options for a build of llama.cpp that runs on any x86-64 machine.

The code is not for the processor of the build machine (GGML_NATIVE=OFF): each kind of processor has its own library
(GGML_CPU_ALL_VARIANTS), and llama.cpp loads the best one when it starts (GGML_BACKEND_DL). A GPU's library is one more
file; if its driver is missing, the CPU computes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

GLIBC_HEADER = Path(__file__).with_name("glibc.h")
HEADERS = (GLIBC_HEADER, *(Path(__file__).with_name(name) for name in ("attention.h", "rows.h", "dot.h")))
"""Included before every file of llama.cpp, in this order."""
GLIBC_MAX = (2, 36)
"""Debian 12; Ubuntu 24.04 has 2.39, Debian 13 has 2.41."""
PORTABLE = ("-DGGML_NATIVE=OFF", "-DGGML_BACKEND_DL=ON", "-DGGML_CPU_ALL_VARIANTS=ON", "-DLLAVA_BUILD=OFF")
GPU = {"": (), "vulkan": ("-DGGML_VULKAN=ON",), "cuda": ("-DGGML_CUDA=ON",)}
TOOLS = {
    "": (("gcc", "gcc"), ("g++", "g++"), ("readelf", "binutils"), ("git", "git")),
    "vulkan": (("glslc", "glslc libvulkan-dev spirv-headers"),),
    "cuda": (("nvcc", "nvidia-cuda-toolkit"),),
}


@dataclass(frozen=True)
class BuildRecipe:
    """One way to build llama-cpp-python."""

    version: str
    gpu: str

    @property
    def cmake_arguments(self) -> tuple[str, ...]:
        """The options for cmake."""
        return (*PORTABLE, *GPU[self.gpu])

    @property
    def key(self) -> str:
        """Name of the wheel's folder; each recipe has a different one."""
        content = [self.version, *self.cmake_arguments, *(header.read_text(encoding="utf-8") for header in HEADERS)]
        digest = hashlib.sha256("\0".join(content).encode()).hexdigest()[:12]
        return f"llama-{self.version}-{self.gpu or 'cpu'}-{digest}"

    @property
    def tools(self) -> tuple[tuple[str, str], ...]:
        """Programs that the build needs, each with its Debian packages."""
        return (*TOOLS[""], *(TOOLS[self.gpu] if self.gpu else ()))
