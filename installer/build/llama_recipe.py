"""How llama.cpp is built for machines that nobody knows yet.

The code for the processor is not of the machine that builds (GGML_NATIVE=OFF): each kind of x86-64 processor has a
library of its own (GGML_CPU_ALL_VARIANTS), of which llama.cpp loads the best when it starts (GGML_BACKEND_DL). The same
way a GPU's library is one more file, and where its driver is missing the others still compute.
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
        """What cmake is told."""
        return (*PORTABLE, *GPU[self.gpu])

    @property
    def key(self) -> str:
        """Name of the folder where the wheel is kept: another recipe, another name."""
        content = [self.version, *self.cmake_arguments, *(header.read_text(encoding="utf-8") for header in HEADERS)]
        digest = hashlib.sha256("\0".join(content).encode()).hexdigest()[:12]
        return f"llama-{self.version}-{self.gpu or 'cpu'}-{digest}"

    @property
    def tools(self) -> tuple[tuple[str, str], ...]:
        """Programs that the build needs, each with the Debian packages that bring it."""
        return (*TOOLS[""], *(TOOLS[self.gpu] if self.gpu else ()))
