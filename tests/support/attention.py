"""Whether this run's llama.cpp uses the project's own kernels (decisions 0043, 0045, 0051)."""

from __future__ import annotations

import pytest

from tests.support import llama_builds

_NEEDED = {"avx2", "fma", "f16c"}
_BUILD = llama_builds.chosen()

BY_ROW = llama_builds.processor_flags() >= _NEEDED if _BUILD is None else _BUILD.by_row
by_row = pytest.mark.skipif(not BY_ROW, reason="on a processor without AVX2 llama.cpp's own kernels compute")
