"""The calibration in a manifest: temperature, threshold with its proof, gate, and the cut-off of redaction. Pure.

The gate tests whether an input resembles the rows with which the bundle was calibrated. An out-of-distribution score is
higher for an unusual input. Its conformal p-value is the share of held-out rows with at least that score, the input
itself counted: (1 + such rows) / (rows + 1). For an input exchangeable with these rows, the probability of a p-value of
`held_up_max` or less is at most `held_up_max`, for any score and any number of rows (Vovk et al. 2005; Bates et al.,
arXiv 2104.08279). Rows of one family are not independent, so a family counts as one row, and each of its rows as an
equal part of it; the statement holds for an input of a new family (hierarchical conformal prediction: Lee, Barber &
Willett, arXiv 2306.06342). The agent applies the rule and the conversion toolkit proves the threshold with it, so both
use this module.

The section `redaction` defines what a bundle of kind redact counts as personal. Its model is a token classifier with
BIO tags: O, B-x where a value of type x begins, I-x where it continues. A word is personal if the probabilities of the
counted types add up to at least `cutoff`, or next to a personal word to a quarter of it. A lower cut-off misses less
and replaces more; `bound` is the proved bound on the share that it misses.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edge_agent.formats.strict_json import StrictModel

OUTPUT_NAME = "ood_score"
"""The output of an ONNX graph that holds the score: float32, [batch], larger for a more unusual input."""
OUT_OF_DISTRIBUTION = "OUT_OF_DISTRIBUTION"
"""Marks an answer to an input that the gate holds up, in `degraded` and in the reasons of its example."""
ROWS_MAX = 4096
GateScore = Literal["ood_score", "label_mass"]
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class OodGate(StrictModel):
    """The section `confidence.gate` of a manifest; without it a bundle has no gate."""

    score: GateScore
    """ood_score: the output of that name of an ONNX graph. label_mass: -log of a decoder's label mass."""
    held_up_max: float = Field(gt=0.0, lt=1.0)
    """The largest probability that an input that resembles the calibration rows is held up, on average over samples of
    these rows."""
    scores: tuple[_Finite, ...] = Field(min_length=1, max_length=ROWS_MAX)
    """Those of the held-out rows, in ascending order."""
    family_sizes: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """For each score, how many of the rows belong to its family; None = every row is a family of its own."""

    @model_validator(mode="after")
    def _check_scores(self) -> OodGate:
        if any(left > right for left, right in pairwise(self.scores)):
            raise ValueError("'scores' must rise")
        if self.family_sizes is not None and len(self.family_sizes) != len(self.scores):
            raise ValueError(f"{len(self.scores)} 'scores' need as many 'family_sizes', not {len(self.family_sizes)}")
        return self

    @cached_property
    def families(self) -> int:
        """The number of families of the held-out rows, which are the independent observations."""
        return len(self.scores) if self.family_sizes is None else round(self._weights_from[0])

    @cached_property
    def _weights_from(self) -> tuple[float, ...]:
        """[rows + 1]: how many families the rows from each index on add up to."""
        sizes = self.family_sizes or (1,) * len(self.scores)
        return tuple(accumulate((1 / size for size in reversed(sizes)), initial=0.0))[::-1]

    def score_of(self, ood_score: float | None, label_mass: float) -> float:
        """Return the score of an input from the values of its engine; NaN if the engine gave none."""
        if self.score == "label_mass":
            return mass_score(label_mass)
        return math.nan if ood_score is None else ood_score

    def p_value(self, score: float) -> float:
        """Return the p-value of an input; for NaN the smallest possible one."""
        index = len(self.scores) if math.isnan(score) else bisect_left(self.scores, score)
        return (1 + self._weights_from[index]) / (self.families + 1)

    def holds_up(self, score: float) -> bool:
        """Tell whether an input is too unusual for a confident answer."""
        return self.p_value(score) <= self.held_up_max

    @cached_property
    def limit(self) -> float:
        """The largest score of a held-out row that passes; every larger score is held up."""
        return next(score for score in reversed(self.scores) if not self.holds_up(score))


def mass_score(label_mass: float) -> float:
    """Return the score of an input from the probability that a decoder gave to all labels together."""
    return -math.log(max(label_mass, 1e-30))


def rows_needed(held_up_max: float) -> int:
    """Return the fewest families of held-out rows with which a gate can hold up anything."""
    return math.ceil(1 / held_up_max - 1e-9) - 1


class TypicalInputs(StrictModel):
    """The usual ranges of inputs: an input outside is unlike those with which the bundle was calibrated."""

    label_mass_min: float = Field(default=0.0, ge=0.0, le=1.0)
    """The least probability of all labels together, before renormalisation."""
    input_tokens_min: int = Field(default=0, ge=0)
    """Tokens of the prompt with the input, as answers report them."""
    input_tokens_max: int = Field(default=2**31, ge=1)

    def unusual(self, label_mass: float, input_tokens: int) -> tuple[str, ...]:
        """Return the codes for the ways in which an input is unusual."""
        mass = ("LABEL_MASS_UNUSUAL",) if label_mass < self.label_mass_min else ()
        inside = self.input_tokens_min <= input_tokens <= self.input_tokens_max
        return mass if inside else (*mass, "INPUT_LENGTH_UNUSUAL")


class Threshold(StrictModel):
    """Calibrated confidence: see Angelopoulos et al., Learn then Test (arXiv 2110.01052)."""

    policy: Literal["threshold"] = "threshold"
    temperature: float = Field(gt=0.0, le=100.0)
    """Scores are divided by it before the softmax (Guo et al. 2017)."""
    threshold: float = Field(ge=0.0, le=1.0)
    target_risk: float = Field(gt=0.0, lt=1.0)
    delta: float = Field(gt=0.0, lt=1.0)
    n: int = Field(ge=1)
    bound: float = Field(ge=0.0, le=1.0)
    coverage: float = Field(ge=0.0, le=1.0)
    floor: float = Field(default=0.0, ge=0.0, le=1.0)
    """The least confidence of a confident answer, whatever the threshold."""
    novelty: TypicalInputs | None = None
    gate: OodGate | None = None
    """None: the bundle has no gate, and no input is held up."""

    def is_confident(self, probability: float, score: float) -> bool:
        """Tell whether an answer passes threshold, floor and gate.

        Args:
            probability: the calibrated probability of the answer.
            score: the score of the input by `gate.score_of`; ignored without a gate.
        """
        return self.shortfall(probability) is None and not (self.gate is not None and self.gate.holds_up(score))

    def shortfall(self, probability: float) -> Literal["BELOW_THRESHOLD", "BELOW_FLOOR"] | None:
        """Return which of threshold and floor a calibrated probability does not reach; None = it reaches both.

        NaN reaches neither.
        """
        if not probability >= self.threshold:
            return "BELOW_THRESHOLD"
        return None if probability >= self.floor else "BELOW_FLOOR"

    @property
    def confidence_min(self) -> float:
        """The least confidence of a confident answer: threshold and floor are both in force."""
        return max(self.threshold, self.floor)

    @model_validator(mode="after")
    def _check_gate(self) -> Threshold:
        if self.gate:
            check_gate_size(self.gate)
        return self


def check_gate_size(gate: OodGate) -> None:
    """Raise ValueError for a gate with too few rows to hold up anything."""
    if gate.families < (needed := rows_needed(gate.held_up_max)):
        rows, share = gate.families, gate.held_up_max
        raise ValueError(
            f"'gate' has scores of {rows} families; with 'held_up_max' {share:g} it needs {needed} at least"
        )


class AlwaysEscalate(StrictModel):
    """No threshold: no answer is confident. If calibration proved none, its temperature and gate are here."""

    policy: Literal["always_escalate"] = "always_escalate"
    temperature: float = Field(default=1.0, gt=0.0, le=100.0)
    novelty: TypicalInputs | None = None
    gate: OodGate | None = None

    @property
    def is_measured(self) -> bool:
        """Whether anything here was measured on examples."""
        return self.temperature != 1.0 or self.novelty is not None or self.gate is not None


Confidence = Annotated[Threshold | AlwaysEscalate, Field(discriminator="policy")]

NoThreshold = Literal["", "NOT_CALIBRATED", "NONE_PROVED", "SCORES_VARY"]
"""The code of why an answer has no threshold; empty = it has one."""

UNCALIBRATED = AlwaysEscalate()
"""The calibration of a question for which the bundle has none."""


OUTSIDE = "O"
_Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class MissedBound(StrictModel):
    """The share of personal values that remain: a fixed-sequence test of cut-offs, arXiv 2110.01052.

    With probability 1 - `delta` over the calibration documents, at most `bound` of the values in documents like these
    remain. A value remains if a letter or digit of it does, after the model and the built-in rules have read the
    document. One document, or one family of alike ones, is one unit, because its values are not independent.
    """

    target: _Share
    """Largest accepted share of values that remain, 0 to 1."""
    delta: _Share
    """Probability with which the bound may fail to hold."""
    n: int = Field(ge=1)
    """Documents from which it was computed."""
    families: int = Field(ge=1)
    """Families of these: the units of the test."""
    values: int = Field(ge=1)
    """Personal values in these."""
    values_max: int = Field(ge=1)
    """A document with more values counts as if it had this many."""
    bound: float = Field(ge=0.0, le=1.0)
    """Upper bound of the share missed; at most `target`."""
    rules: str = Field(min_length=1, max_length=40)
    """Version of the built-in rules, which also read the documents. A site's own rules can only find more."""
    labeled_by: str = Field(default="", max_length=500)
    """The source of the documents' labels, in words."""


class RedactionSection(StrictModel):
    """Which words count as personal."""

    cutoff: _Share = 0.5
    """A word is personal at this probability or above."""
    labels: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(default=(), max_length=1000)
    """Types whose values are replaced; empty = all types of the tags."""
    bound: MissedBound | None = None
    """None: nothing is proved of what the bundle misses."""

    def counted(self, tags: Sequence[str]) -> tuple[str, ...]:
        """Return the types whose values are replaced."""
        return self.labels or tuple(tag_types(tags))

    def labels_problem(self, tags: Sequence[str]) -> str:
        """Return why the section does not fit a model with these tags; empty = it does."""
        missing = [label for label in self.labels if label not in tag_types(tags)]
        return f"'redaction.labels' has {missing[0]!r}, and the task has no tags of that type" if missing else ""


def tag_types(tags: Sequence[str]) -> list[str]:
    """Return the types behind BIO tags, in their order: "B-PER" and "I-PER" are one."""
    return list(dict.fromkeys(tag[2:] if tag[:2] in ("B-", "I-") else tag for tag in tags if tag != OUTSIDE))


def tags_problem(tags: Sequence[str]) -> str:
    """Return why labels are not the tags of a redaction model; empty = they are."""
    if OUTSIDE not in tags:
        return "a redact task needs the tag 'O' for words that are not personal"
    other_labels = [tag for tag in tags if tag != OUTSIDE and (tag[:2] not in ("B-", "I-") or not tag[2:])]
    if other_labels:
        return f"the tags of a redact task are O, B-... and I-...; {other_labels[0]!r} is not one of them"
    return "" if len(tags) > 1 else "a redact task needs at least one type of personal value"
