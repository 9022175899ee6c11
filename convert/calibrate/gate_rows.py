"""Makes the gate of a bundle from held-out rows, counts what it holds up, and limits ordinary inputs. Pure.

The manifest contains the limits, and the agent marks answers to inputs outside of them. Each limit is the k-th smallest
or largest value, k = 1 + rows / 200 rounded down: another text of the same kind is beyond it with probability k / (rows
+ 1), about 0.5% with many rows.

A manifest contains the scores of the held-out rows; edge_agent/formats/calibration_and_gate.py computes p-values from
them. One row of each family takes part, because the scores of its rows depend on each other.

The floor is the least calibrated probability of a single confident answer. It is fixed before the threshold is tested.
The gate is made of the same rows that test the threshold, and the test stays exact: the gate's limit is one of the
scores, the k-th largest, and given this limit the rows below it are independent draws from the inputs below it, which
are the inputs that the gate lets pass (David & Nagaraja 2003, Order Statistics, section 2.5: a sample below its k-th
largest value is a sample of the truncated distribution). So the test counts the rows below the limit, without the row
at the limit, and the risk guarantee is for the answers that pass gate and floor.

That needs scores without ties. Texts that are alike for the tokenizer, such as those of unknown words alone, share a
score; if it is the limit, they pass and would test nothing. Then the gate is made of the rows of the temperature alone,
and the test counts every row that it lets pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.clustered_statistics import share
from convert.evaluate.predictions import ServedPrediction
from edge_agent.formats.calibration_and_gate import GateScore, OodGate, TypicalInputs, rows_needed
from edge_agent.formats.manifest import Manifest

ONE_IN = 200
ROWS_MIN = 30


def measure(label_masses: Sequence[float], input_tokens: Sequence[int]) -> TypicalInputs | None:
    """Return the limits, or None with fewer than ROWS_MIN rows."""
    if len(input_tokens) < ROWS_MIN:
        return None
    rank = len(input_tokens) // ONE_IN
    tokens, masses = sorted(input_tokens), sorted(label_masses)
    return TypicalInputs(
        label_mass_min=math.floor(1e6 * masses[rank]) / 1e6,
        input_tokens_min=tokens[rank],
        input_tokens_max=tokens[-1 - rank],
    )


Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
OUTSIDE = -1.0
"""The confidence of a row that gate or floor holds up; it is below every threshold."""


@dataclass(frozen=True)
class Conditions:
    """Gate and floor, which an answer must pass in addition to the threshold."""

    gate: OodGate | None
    floor: float
    separate_rows: bool = False
    """The rows of the gate are not those of the test, so the test also counts rows at the gate's limit."""

    def held_up(self, predictions: Sequence[ServedPrediction]) -> Flags:
        """Return which answers the gate holds up, [rows]."""
        gate = self.gate
        if gate is None:
            return np.zeros(len(predictions), np.bool_)
        scores = (gate.score_of(each.ood_score, each.label_mass) for each in predictions)
        return np.fromiter((gate.holds_up(score) for score in scores), np.bool_, len(predictions))

    def passing(self, predictions: Sequence[ServedPrediction], confidences: Floats) -> Floats:
        """Return the confidences of calibration rows, with OUTSIDE for those that the test leaves out.

        These are the answers that the gate or the floor holds up, and the row at the limit of a gate of the same rows.
        """
        left_out = self.held_up(predictions) if self.separate_rows else self._at_or_beyond_limit(predictions)
        return np.where(left_out | (confidences < self.floor), OUTSIDE, confidences)

    def _at_or_beyond_limit(self, predictions: Sequence[ServedPrediction]) -> Flags:
        if self.gate is None:
            return np.zeros(len(predictions), np.bool_)
        limit = self.gate.limit
        scores = (self.gate.score_of(each.ood_score, each.label_mass) for each in predictions)
        return np.fromiter((not score < limit for score in map(np.float32, scores)), np.bool_, len(predictions))


def calibrate_gate(score: GateScore | None, held_out: Sequence[ServedPrediction], held_up_max: float) -> OodGate | None:
    """Return the gate of held-out rows, one of each family; None if they are too few or lack finite scores."""
    if score is None or not held_up_max or len(held_out) < rows_needed(held_up_max):
        return None
    scorer = OodGate(score=score, held_up_max=held_up_max, scores=(0.0,))
    scores = np.array([scorer.score_of(each.ood_score, each.label_mass) for each in held_out], np.float32)
    if not np.isfinite(scores).all():
        return None
    return OodGate(score=score, held_up_max=held_up_max, scores=tuple(np.sort(scores).tolist()))


def conditions_of(
    score: GateScore | None,
    rows: tuple[Sequence[ServedPrediction], Sequence[ServedPrediction]],
    held_up_max: float,
    floor: float,
) -> tuple[Conditions, int]:
    """Return gate and floor, and the number of rows that the gate is made of, or could not be made of.

    Args:
        score: of the bundle.
        rows: answers to held-out rows, one of each family: of temperature and test, and of the temperature alone.
        held_up_max: the largest share that the gate holds up.
        floor: the least probability of a confident answer.
    """
    whole, tuning = rows
    gate = calibrate_gate(score, whole, held_up_max)
    if gate is None or gate.scores.count(gate.limit) == 1:
        return Conditions(gate, floor), len(whole)
    return Conditions(calibrate_gate(score, tuning, held_up_max), floor, separate_rows=True), len(tuning)


def score_of(manifest: Manifest, predictions: Sequence[ServedPrediction]) -> GateScore | None:
    """Return the kind of score of a bundle: computed by its graph, or the label mass of a decoder."""
    if manifest.runtime == "onnx":
        return "ood_score" if predictions and all(each.ood_score is not None for each in predictions) else None
    return "label_mass" if manifest.runtime == "llama" and manifest.task.kind == "classify" else None


def reason_without_gate(score: GateScore | None, families: int, held_up_max: float) -> str:
    """Return why a bundle has no gate, as a sentence."""
    if not held_up_max:
        return "The recipe turns the gate off (risk.held_up_max: 0)."
    if score is None:
        return "The model has no out-of-distribution score."
    needed = rows_needed(held_up_max)
    if families >= needed:
        name = "label mass" if score == "label_mass" else "out-of-distribution score"
        return f"Not every {name} of the {families} families of held-out rows is a finite number."
    return f"{families} families of held-out rows are too few for a gate at {held_up_max:g}, which needs {needed}."


def held_up_shares(
    conditions: Conditions, threshold: float | None, predictions: Sequence[ServedPrediction], confidences: Floats
) -> dict[str, Any]:
    """Return the shares of answers that gate, floor and threshold each hold up alone, and the share that passes all."""
    parts: dict[str, Flags] = {
        "gate": conditions.held_up(predictions),
        "floor": confidences < conditions.floor,
        "threshold": confidences < (1.1 if threshold is None else threshold),
    }
    confident = ~np.any(list(parts.values()), axis=0)
    counts = {**parts, "confident": confident}
    return {name: share(int(flags.sum()), len(predictions)).plain() for name, flags in counts.items()}
