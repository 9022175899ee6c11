"""Whether this machine's llama.cpp computes by kernels of our own: attention by row, Q4_1 (decisions 0043, 0045)."""

from __future__ import annotations

from pathlib import Path

import pytest

_NEEDED = {"avx2", "fma", "f16c"}
_FLAGS = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\nflags")[2].partition("\n")[0].split()

BY_ROW = set(_FLAGS) >= _NEEDED
by_row = pytest.mark.skipif(not BY_ROW, reason="on a processor without AVX2 llama.cpp's own kernels compute")
