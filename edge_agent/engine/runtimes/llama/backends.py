"""llama.cpp's backends: the code that computes, as a build brings it.

A build for one machine has its processor code linked in. The portable build that the installer carries has one library
for each kind of x86-64 processor, and llama.cpp takes the best that this one can run, but only when it is told where
they are. `python -m edge_agent.engine.runtimes.llama.backends` says which one that is.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from pathlib import Path

import llama_cpp

PACKAGE = Path(llama_cpp.__file__).parent
# Where the wheel of a portable build puts them; nothing looks there unless it is told to.
FOLDER = PACKAGE.parent / "bin"
# The name that libllama itself needs: libggml.so is a second copy of the file, with an empty list of its own.
REGISTRY = PACKAGE / "lib" / "libggml.so.0"
_CPU_LIBRARY = re.compile(r"/libggml-cpu(?:-(\w+))?\.so")


@functools.cache
def load() -> None:
    """Load the backends that lie beside llama.cpp; does nothing where they are linked in.

    Call it before the first model, and before the process is confined: a backend may open devices.
    """
    if any(FOLDER.glob("libggml-*.so")):
        ctypes.CDLL(str(REGISTRY)).ggml_backend_load_all_from_path(os.fsencode(FOLDER))


def cpu_variant() -> str:
    """Return the kind of processor whose code is loaded; "native" where llama.cpp was built for one machine."""
    return variant_in(Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace"))


def variant_in(maps: str) -> str:
    """Find the processor code among the mapped files; "none" when llama.cpp can compute nothing."""
    found = _CPU_LIBRARY.search(maps)
    return (found.group(1) or "native") if found else "none"


if __name__ == "__main__":
    load()
    sys.stdout.write(f"{cpu_variant()}\n")
