"""The public-data benchmark counts the same answers as confident as the agent does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.public import RECIPE, DataSetResults, bars, is_sure
from benchmarks.public_data import PublicData
from convert.pipeline.recipe import Recipe
from tests.support.bundles import echo_bundle

THRESHOLD = {"threshold": 0.4, "temperature": 1.0, "target_risk": 0.05, "delta": 0.1, "n": 40, "bound": 0.04}
GATE = {"score": "label_mass", "held_up_max": 0.25, "scores": [0.1, 0.2, 0.3]}


def row(confidence: float, label_mass: float = 1.0) -> dict[str, Any]:
    return {"confidence": confidence, "label_mass": label_mass}


@pytest.mark.parametrize(
    ("measured", "sure"),
    [
        pytest.param(row(0.6), True, id="passes all three"),
        pytest.param(row(0.3), False, id="below the threshold"),
        pytest.param(row(0.45), False, id="above the threshold, below the floor"),
        pytest.param(row(0.6, label_mass=0.01), False, id="held up by the gate"),
    ],
)
def test_confident_answer_passes_threshold_floor_and_gate(tmp_path: Path, measured: dict[str, Any], sure: bool) -> None:
    """An answer counts as confident only if it passes the threshold, the floor and the gate."""
    confidence = {"policy": "threshold", **THRESHOLD, "coverage": 0.8, "floor": 0.5, "gate": GATE}
    assert sure == is_sure(echo_bundle(tmp_path, confidence=confidence), measured)


def test_bundle_without_a_threshold_has_no_confident_answers(tmp_path: Path) -> None:
    """A bundle that always escalates has no confident answers."""
    assert not is_sure(echo_bundle(tmp_path), row(1.0))


@pytest.mark.parametrize(("sure", "missed"), [(90, []), (0, ["x: share of confident answers"])])
def test_bundle_without_confident_answers_misses_a_bar(sure: int, missed: list[str]) -> None:
    """A bundle without confident answers misses the bar on their share: its risk guarantee would be met without a
    test."""
    flags = np.arange(100) < sure
    data = PublicData("x", (), (), (), official=False, notes=())
    measured = DataSetResults(data, np.ones(100, bool), flags, 0.9, 0.01, None, 1.0, Recipe.model_validate(RECIPE))
    assert missed == [bar.bar for bar in bars(measured) if not bar.ok]
    assert all(bar.ok for bar in bars(measured, judged=False))
