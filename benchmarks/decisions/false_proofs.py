"""How often any threshold of a bundle with several questions breaks its promise, by resamples with a known risk.

Each question has the worst shape of benchmarks/shapes.py: every threshold risks a little more than the target, so each
proof is a false one. The questions are answered by different shares of the rows, one of them by too few for any proof.
Beside the rule, which divides delta among the questions that can be proved, stands the same without the division.
"""

from __future__ import annotations

import numpy as np

from benchmarks.bars import Bar
from benchmarks.resampling import RESAMPLES, broken_max
from benchmarks.shapes import SHAPES, with_start
from convert.calibrate import shared_risk
from convert.calibrate.division import GATE_SHARE, TUNING_ROWS_MAX
from convert.calibrate.threshold import Risk

RISK = Risk(target=0.1, delta=0.1)
ROWS = 1000
ANSWERED = {"intent": 1.0, "urgent": 1.0, "personal": 0.7, "department": 0.5, "severity": 0.3, "rare": 0.01}
"""Question: share of the calibration rows that answer it."""


def measure() -> list[Bar]:
    """Draw, calibrate each question, and count the bundles with a threshold that breaks its promise."""
    rng, shape = np.random.default_rng(1), SHAPES["flat, just over the target"]
    truth = shape.truth()
    tuning = min(round(GATE_SHARE * ROWS), TUNING_ROWS_MAX)
    broken = {"divided": 0, "whole": 0}
    for _ in range(RESAMPLES):
        answers = {}
        for name, share in ANSWERED.items():
            there = rng.random(ROWS) < share
            confidences = rng.beta(*shape.confidences, ROWS)
            right = rng.random(ROWS) >= shape.wrong(confidences)
            parts = (slice(tuning), slice(tuning, None))
            answers[name] = [(confidences[part][there[part]], right[part][there[part]]) for part in parts]
        each, _ = shared_risk({name: len(proving[0]) for name, (_, proving) in answers.items()}, RISK)
        for kind, risk in (("divided", each), ("whole", RISK)):
            chosen = (with_start(known, proving, risk) for known, proving in answers.values())
            broken[kind] += any(one is not None and truth[one][0] > RISK.target for one in chosen)
    limit = broken_max(RISK)
    return [
        Bar("false proofs over all questions of a bundle", round(broken["divided"] / RESAMPLES, 4), limit, "lower"),
        # No promise of ours: the reason for the division.
        Bar("the same with the whole delta for each question", round(broken["whole"] / RESAMPLES, 4), limit, "higher"),
    ]
