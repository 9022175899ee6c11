"""The gate of a bundle: whether an input resembles what the bundle was calibrated with. Pure.

A score measures how strange an input is. Its conformal p-value is the share of held-out rows at least as strange, the
input itself counted: (1 + rows at least as strange) / (rows + 1). For an input exchangeable with these rows the
probability of a p-value of `held_up_max` or less is at most `held_up_max`, whatever the score, with any number of rows
(Vovk et al. 2005; Bates et al., arXiv 2104.08279). Rows of one family are not independent, so a family counts as one
row, and each of its rows as an equal part of it; the statement holds for an input of a new family (hierarchical
conformal prediction: Lee, Barber & Willett, arXiv 2306.06342). The agent applies the rule and the conversion toolkit
proves the threshold with it, so both use this module.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import cached_property
from itertools import accumulate, pairwise
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
    family_sizes: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """For each score, how many of the rows belong to its family; None = every row is a family of its own."""

    @model_validator(mode="after")
    def _consistent(self) -> OodGate:
        if any(left > right for left, right in pairwise(self.scores)):
            raise ValueError("'scores' must rise")
        if self.family_sizes is not None and len(self.family_sizes) != len(self.scores):
            raise ValueError(f"{len(self.scores)} 'scores' need as many 'family_sizes', not {len(self.family_sizes)}")
        return self

    @cached_property
    def families(self) -> int:
        """How many families the held-out rows are of: as many observations are independent."""
        return len(self.scores) if self.family_sizes is None else round(self._weights_from[0])

    @cached_property
    def _weights_from(self) -> tuple[float, ...]:
        """[rows + 1]: how many families the rows from a place on amount to."""
        sizes = self.family_sizes or (1,) * len(self.scores)
        return tuple(accumulate((1 / size for size in reversed(sizes)), initial=0.0))[::-1]

    def score_of(self, ood_score: float | None, label_mass: float) -> float:
        """Return the score of an input from what its engine said of it; NaN where it said nothing."""
        if self.score == "label_mass":
            return mass_score(label_mass)
        return math.nan if ood_score is None else ood_score

    def p_value(self, score: float) -> float:
        """Return the p-value of an input; the smallest there is for a score that is not a number."""
        place = len(self.scores) if math.isnan(score) else bisect_left(self.scores, score)
        return (1 + self._weights_from[place]) / (self.families + 1)

    def holds_up(self, score: float) -> bool:
        """Tell whether an input is too strange for a confident answer."""
        return self.p_value(score) <= self.held_up_max


def mass_score(label_mass: float) -> float:
    """Return the score of an input from the probability that a decoder gave to all labels together."""
    return -math.log(max(label_mass, 1e-30))


def rows_needed(held_up_max: float) -> int:
    """Return the fewest families of held-out rows with which a gate can hold up anything."""
    return math.ceil(1 / held_up_max - 1e-9) - 1
