"""Damaged model files in real child processes: each ends in a load error, a clean crash or a working model, within
limits of time and memory, and the parent survives."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bundles import smollm2_bundle, tiny_onnx_bundle
from tests.support.spoiled_models import CASE_SECONDS_MAX, RESIDENT_BYTES_MAX

QUICK, ALL = 20, 200


def gguf(folder: Path) -> Path:
    """Return a bundle with two labels and a short prompt: attaching it computes them."""
    prompt = {"template": "{input}\nWants:"}
    return smollm2_bundle(folder, labels=("refund", "price"), task={"prompt": prompt})


@pytest.mark.slow
@pytest.mark.parametrize("build", [gguf, tiny_onnx_bundle], ids=["gguf", "onnx"])
@pytest.mark.parametrize("count", [QUICK, pytest.param(ALL, marks=pytest.mark.release)])
def test_damaged_model_file_affects_only_its_child(tmp_path: Path, build: Callable[[Path], Path], count: int) -> None:
    """For every seed a damaged model file ends in a load error, a clean crash or a working model, within the deadline
    and below 2 GiB of memory."""
    build(tmp_path / "intact")
    command = [sys.executable, "-m", "tests.support.spoiled_models", str(tmp_path), str(count)]
    seconds_max = CASE_SECONDS_MAX * (count + 1)
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=seconds_max, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    outcomes, kinds = found["outcomes"], Counter(found["outcomes"].values())
    assert count == len(outcomes)
    assert [] == [seed for seed, outcome in outcomes.items() if outcome == "hang"], kinds
    assert kinds["LoadRequest failed"] > count / 4, kinds
    assert found["resident_bytes"] < RESIDENT_BYTES_MAX
    assert "works" == found["intact"]
