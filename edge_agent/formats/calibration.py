"""How sure the answers of a bundle are: temperature, threshold with its proof, typical inputs; parts of a manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge_agent.formats.ood_gate import OodGate, rows_needed


class _CalibrationSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class TypicalInputs(_CalibrationSection):
    """What inputs usually look like: an input outside is unlike those that the bundle was calibrated with."""

    label_mass_min: float = Field(default=0.0, ge=0.0, le=1.0)
    """What the model gave to all labels together, before they were renormalised."""
    input_tokens_min: int = Field(default=0, ge=0)
    """Of the prompt with the input in it, as answers report it."""
    input_tokens_max: int = Field(default=2**31, ge=1)

    def unusual(self, label_mass: float, input_tokens: int) -> tuple[str, ...]:
        """Return in which ways an input is unlike them, as answers say it."""
        mass = ("LABEL_MASS_UNUSUAL",) if label_mass < self.label_mass_min else ()
        inside = self.input_tokens_min <= input_tokens <= self.input_tokens_max
        return mass if inside else (*mass, "INPUT_LENGTH_UNUSUAL")


class Threshold(_CalibrationSection):
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
    """A confident answer is at least so probable on its own, whatever the threshold."""
    novelty: TypicalInputs | None = None
    gate: OodGate | None = None
    """None: the bundle has no gate, and no input is held up."""

    def is_confident(self, probability: float, score: float) -> bool:
        """Tell whether an answer passes threshold, floor and gate.

        Args:
            probability: of the answer, calibrated.
            score: of the input, as `gate.score_of` has it; without a gate it does not matter.
        """
        return probability >= self.confidence_min and not (self.gate is not None and self.gate.holds_up(score))

    @property
    def confidence_min(self) -> float:
        """The least confidence of a confident answer: threshold and floor are both in force."""
        return max(self.threshold, self.floor)

    @model_validator(mode="after")
    def _gate_can_hold_up(self) -> Threshold:
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


class AlwaysEscalate(_CalibrationSection):
    """No threshold: no answer counts as sure. Where calibration proved none, its temperature and gate are here."""

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
"""Why an answer has no threshold, as answers say it; empty = it has one."""

UNCALIBRATED = AlwaysEscalate()
"""Of a question whose bundle has no calibration for it."""
