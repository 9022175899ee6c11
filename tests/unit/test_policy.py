"""What an answer's confidence leads to: the whole table."""

import math

import pytest

from edge_agent.formats.manifest import AlwaysEscalate, Novelty, Threshold
from edge_agent.routing.policy import Decision, Seen, decide

CALIBRATED = Threshold(temperature=1.0, threshold=0.8, target_risk=0.05, delta=0.1, n=100, bound=0.04, coverage=0.7)
NONE = AlwaysEscalate()
NO_UPSTREAM = ("UPSTREAM_NOT_CONFIGURED",)
JUST_BELOW = math.nextafter(0.8, 0)


@pytest.mark.parametrize(
    ("confidence", "calibration", "wish", "expected"),
    [
        *[(high, CALIBRATED, wish, Decision("local", 0.8, False)) for high in (0.8, 0.9, 1.0) for wish in
          ("answer", "abstain", "escalate")],
        *[(low, CALIBRATED, "answer", Decision("local", 0.8, True)) for low in (0.0, JUST_BELOW)],
        *[(low, CALIBRATED, "abstain", Decision("abstained", 0.8, True)) for low in (0.0, JUST_BELOW)],
        *[(low, CALIBRATED, "escalate", Decision("local", 0.8, True, NO_UPSTREAM)) for low in (0.0, JUST_BELOW)],
        *[(any_, NONE, "answer", Decision("local", None, True)) for any_ in (0.0, 0.8, 1.0)],
        *[(any_, NONE, "abstain", Decision("abstained", None, True)) for any_ in (0.0, 0.8, 1.0)],
        *[(any_, NONE, "escalate", Decision("local", None, True, NO_UPSTREAM)) for any_ in (0.0, 0.8, 1.0)],
    ],
)  # fmt: skip
def test_the_decision(confidence, calibration, wish, expected):
    """At or above the threshold the answer is local and sure; below, or without one, the caller's wish decides."""
    assert expected == decide(confidence, calibration, wish)


def test_a_threshold_of_zero_is_always_met():
    """A bundle whose threshold is 0 answers every input as sure."""
    assert Decision("local", 0.0, False) == decide(0.0, CALIBRATED.model_copy(update={"threshold": 0.0}), "abstain")


@pytest.mark.parametrize("calibration", [CALIBRATED, NONE])
def test_a_confidence_that_is_no_number_is_below(calibration):
    """Not-a-number never counts as sure."""
    decision = decide(math.nan, calibration, "abstain")
    assert "abstained" == decision.route
    assert decision.below_threshold


USUAL = Novelty(label_mass_min=0.5, input_tokens_min=3, input_tokens_max=20)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Seen(3, 0.5), ()),
        (Seen(20, 1.0), ()),
        (Seen(2, 0.9), ("INPUT_LENGTH_UNUSUAL",)),
        (Seen(21, 0.9), ("INPUT_LENGTH_UNUSUAL",)),
        (Seen(10, 0.49), ("LABEL_MASS_UNUSUAL",)),
        (Seen(99, 0.0), ("LABEL_MASS_UNUSUAL", "INPUT_LENGTH_UNUSUAL")),
    ],
)
@pytest.mark.parametrize("calibration", [CALIBRATED, NONE])
def test_an_unusual_input_is_marked(calibration, seen, expected):
    """An answer to an input outside of what is usual says so; whether it is sure stays a matter of its confidence."""
    known = calibration.model_copy(update={"novelty": USUAL})
    for confidence, wish, more in ((0.9, "answer", ()), (0.1, "abstain", ()), (0.1, "escalate", NO_UPSTREAM)):
        plain, marked = decide(confidence, calibration, wish, seen), decide(confidence, known, wish, seen)
        assert (*more[: len(plain.degraded)], *expected) == marked.degraded
        assert (plain.route, plain.below_threshold) == (marked.route, marked.below_threshold)


def test_what_nobody_measured_is_not_unusual():
    """Without limits in the bundle, or without figures of the input, nothing is marked."""
    assert () == decide(0.9, CALIBRATED, "answer", Seen(0, 0.0)).degraded
    assert () == decide(0.9, CALIBRATED.model_copy(update={"novelty": USUAL}), "answer").degraded
