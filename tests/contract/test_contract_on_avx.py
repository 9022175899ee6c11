"""The contract of the llama engine on llama.cpp's code for processors with AVX and without AVX2."""

from __future__ import annotations

import pytest

from tests.support.llama_builds import run_contract


@pytest.mark.release
@pytest.mark.parametrize("name", ["avx", "f16c"])
def test_contract_holds_on_avx(name: str) -> None:
    """Every contract test that asserts bits, scores or texts passes on this build, with half floats converted by a
    table or by the processor."""
    run_contract(name)
