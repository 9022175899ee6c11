"""What a walked flywheel is held to: sections of `scripts/bench routing`."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bars import Bar, option
from benchmarks.flywheel.central import BUNDLE, RISK_DELTA, RISK_TARGET
from benchmarks.flywheel.commands import ProgressLog
from benchmarks.flywheel.loop import FIGURES_NAME, UNSEEN_NAME, WORK, FlywheelRun, LoopSize, fresh
from benchmarks.resampling import Population, broken_max, resample
from convert.calibrate.threshold import Risk
from convert.evaluate.predictions import matrix
from convert.evaluate.serving import predict

LOST_POINTS_MAX, LOCAL_SHARE_MIN = 1.0, 0.7
_OPTION = "--flywheel"
_AT_ONCE = 4


def quality() -> list[Bar]:
    """Bars: as accurate as the large model, and most answers given locally; a run with --small has too few calls."""
    hybrid = _figures()["modes"]["hybrid"]
    gained = 100 * (hybrid["accuracy"] - hybrid["large_accuracy"])
    return [
        Bar("flywheel: calls in hybrid mode", hybrid["calls"], LoopSize().hybrid_calls, "higher"),
        Bar("flywheel: hybrid over the large model, points", gained, -LOST_POINTS_MAX, "higher"),
        Bar("flywheel: share answered here", hybrid["local_share"], LOCAL_SHARE_MIN, "higher"),
    ]


def risk() -> list[Bar]:
    """Calibrate its model again and again, on as many rows as it was calibrated on."""
    promised = Risk(target=RISK_TARGET, delta=RISK_DELTA)
    population = _population(_folder())
    found = resample(population, promised, int(_figures()["model"]["rows"]["calibration"]))
    said = f"{len(population.truth)} unseen rows, the small model errs on {100 * (1 - population.right.mean()):.1f}%"
    sys.stderr.write(f"{said}; coverage {found.covered:.3f}, of the oracle {found.oracle:.3f}\n")
    return [Bar("flywheel: calibrations over the risk target", found.broken, broken_max(promised), "lower")]


def _population(folder: Path) -> Population:
    """Let the bundle answer the texts that it was not trained on, through the engine."""
    rows = [json.loads(line) for line in (folder / UNSEEN_NAME).read_text("utf-8").splitlines()]
    labels = json.loads((folder / BUNDLE / "manifest.json").read_text("utf-8"))["task"]["labels"]
    said = predict(folder / BUNDLE, [row["text"] for row in rows], at_once=_AT_ONCE)
    return Population(matrix(said), np.array([labels.index(row["label"]) for row in rows]))


def _figures() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_folder() / FIGURES_NAME).read_text("utf-8"))
    return found


@functools.cache
def _folder() -> Path:
    """Return the folder of a walked flywheel: the one that was named, or one that is walked now."""
    if named := option(_OPTION):
        if not (Path(named) / FIGURES_NAME).is_file():
            sys.exit(f"{named} holds no walk that went all the way.")
        return Path(named)
    FlywheelRun(fresh(WORK), LoopSize(), ProgressLog()).walk()
    return WORK
