"""The gate of a bundle: whether an input resembles what the bundle was calibrated with. Pure.

A score says how strange an input is. Its conformal p-value is the share of held-out rows at least as strange, the input
itself counted: (1 + rows at least as strange) / (rows + 1). For an input exchangeable with these rows the probability
of a p-value of `held_up_max` or less is at most `held_up_max`, whatever the score, with any number of rows (Vovk et al.
2005; Bates et al., arXiv 2104.08279). The agent applies the rule and the conversion toolkit proves the threshold with
it, so it stands here once.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

OUTPUT_NAME = "ood_score"
"""The output of an ONNX graph that holds the score: float32, [batch], larger for a stranger input."""
OUT_OF_DISTRIBUTION = "OUT_OF_DISTRIBUTION"
"""How an answer to an input that the gate holds up is marked, in `degraded` and in the reasons of its example."""
ROWS_MAX = 4096
GateScore = Literal["ood_score", "label_mass"]
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class OodGate(BaseModel):
    """The section `confidence.gate` of a manifest; without it a bundle has no gate."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    score: GateScore
    """ood_score: the output of that name of an ONNX graph. label_mass: -log of what a decoder gave to all labels."""
    held_up_max: float = Field(gt=0.0, lt=1.0)
    """At most so many of the inputs that resemble the calibration rows are held up, as a probability."""
    scores: tuple[_Finite, ...] = Field(min_length=1, max_length=ROWS_MAX)
    """Of the held-out rows, rising."""

    @model_validator(mode="after")
    def _rising(self) -> OodGate:
        if any(left > right for left, right in pairwise(self.scores)):
            raise ValueError("'scores' must rise")
        return self

    def score_of(self, ood_score: float | None, label_mass: float) -> float:
        """Return the score of an input from what its engine said of it; NaN where it said nothing."""
        if self.score == "label_mass":
            return mass_score(label_mass)
        return math.nan if ood_score is None else ood_score

    def p_value(self, score: float) -> float:
        """Return the p-value of an input; the smallest there is for a score that is not a number."""
        rows = len(self.scores)
        stranger = 0 if math.isnan(score) else rows - bisect_left(self.scores, score)
        return (1 + stranger) / (rows + 1)

    def holds_up(self, score: float) -> bool:
        """Tell whether an input is too strange for a confident answer."""
        return self.p_value(score) <= self.held_up_max


def mass_score(label_mass: float) -> float:
    """Return the score of an input from the probability that a decoder gave to all labels together."""
    return -math.log(max(label_mass, 1e-30))


def rows_needed(held_up_max: float) -> int:
    """Return the fewest held-out rows with which a gate can hold up anything."""
    return math.ceil(1 / held_up_max - 1e-9) - 1
