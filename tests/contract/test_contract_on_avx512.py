"""The contract of the llama engine on llama.cpp's code for processors with AVX-512."""

# A file of its own, so that a worker takes it by itself.

from __future__ import annotations

import pytest

from tests.support.llama_builds import run_contract


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_contract_holds_on_avx512() -> None:
    """Every contract test that asserts bits, scores or texts passes on this build."""
    run_contract("avx512")
