"""Who answers: the whole table of decisions, and what holds in every row of it."""

import itertools
import math
from dataclasses import replace

import pytest

from edge_agent.formats.calibration import AlwaysEscalate, OodGate, Threshold, TypicalInputs
from edge_agent.routing.policy import (
    BLOCKERS,
    PERMANENT_BLOCKERS,
    EscalationContext,
    InputObservation,
    LargeModelAvailability,
    RouteDecision,
    RouteReason,
    decide_graded,
    decide_ungraded,
    escalation_blocker,
    is_drawn_for_audit,
    with_blocker,
)
from tests.support.decision_table import DOUBTS, MODES, OBSTACLES, PAGE, WISHES, decided, page

CALIBRATED = Threshold(temperature=1.0, threshold=0.8, target_risk=0.05, delta=0.1, n=100, bound=0.04, coverage=0.7)
NONE = AlwaysEscalate()
NO_UPSTREAM = ("UPSTREAM_NOT_CONFIGURED",)
JUST_BELOW = math.nextafter(0.8, 0)
CASES = list(itertools.product(MODES, WISHES, DOUBTS, OBSTACLES, (False, True)))
ROUTES = {
    case: decided(case[0], case[1], case[2], case[3], kept=case[4])  # in the order of CASES
    for case in CASES
}


def cases(**fixed):
    """Return the decisions of all cases that have these values."""
    names = ("mode", "wish", "doubt", "obstacle", "kept")
    return [
        decision
        for case, decision in ROUTES.items()
        if all(dict(zip(names, case, strict=True))[name] in values for name, values in fixed.items())
    ]


def test_the_page_has_the_table_of_today():
    """docs/routing.md shows what the code decides."""
    assert page() == PAGE.read_text(encoding="utf-8"), "python -m tests.support.decision_table"


def test_nobody_is_sent_where_something_is_in_the_way():
    """The large model is asked only if there is no blocker; otherwise the answer names the blocker."""
    assert {"upstream"} == {each.route for each in cases(mode=["bootstrap", "shadow"], obstacle=[None])}
    for each in cases(obstacle=BLOCKERS):
        assert "upstream" != each.route
        assert (each.reason in BLOCKERS) <= (each.reason in each.degraded)


def test_local_and_sure_answers_stay():
    """In mode local nothing leaves, whatever is wished; in hybrid nothing that is sure does, and shadow's stands by."""
    assert {"local", "abstained"} == {each.route for each in cases(mode=["local"])}
    assert {("local", RouteReason.SURE)} == {
        (each.route, each.reason) for each in cases(mode=["hybrid"], doubt=["sure"])
    }
    assert {"local", "deferred"} == {each.route for each in cases(mode=["shadow"], doubt=["sure"], obstacle=BLOCKERS)}


def test_only_who_wishes_it_gets_nothing():
    """An answer that exists is withheld only below the threshold, and only on the caller's wish."""
    modes, wishes = ["shadow", "hybrid", "local"], [wish for wish in WISHES if wish != "abstain"]
    for each in cases(mode=modes, doubt=["sure", "unusual"]) + cases(mode=modes, wish=wishes):
        assert "abstained" != each.route
    assert {"abstained"} == {each.route for each in cases(mode=["bootstrap"], obstacle=BLOCKERS)}


def test_who_wants_an_answer_now_waits_for_nobody():
    """With the wish for the local answer nothing is asked in hybrid mode."""
    assert {"local"} == {each.route for each in cases(mode=["hybrid"], wish=["answer"])}


def test_put_off_is_what_can_be_made_up_for():
    """Only what is kept, and only where a later moment helps, is put off; only a given answer is called deferred."""
    for each in cases(kept=[False]):
        assert ("deferred" != each.route, False) == (True, each.later)
    for each in cases(kept=[True]):
        assert each.later is (each.reason in BLOCKERS and each.reason not in PERMANENT_BLOCKERS)
        assert (each.route == "deferred") <= each.later


LOW, ANY = (0.0, JUST_BELOW), (0.0, 0.8, 1.0)
UNSURE, WITHOUT = RouteReason.BELOW_THRESHOLD, RouteReason.UPSTREAM_NOT_CONFIGURED


def unsure(route, reason, threshold, degraded=()):
    """Return the decision on an answer that is below its threshold."""
    return RouteDecision(route, reason, threshold, True, degraded, held_up=UNSURE)


@pytest.mark.parametrize(
    ("confidences", "calibration", "wish", "expected"),
    [
        *[((0.8, 0.9, 1.0), CALIBRATED, wish, RouteDecision("local", RouteReason.SURE, 0.8)) for wish in WISHES],
        (LOW, CALIBRATED, "as_mode", unsure("local", UNSURE, 0.8)),
        (LOW, CALIBRATED, "answer", unsure("local", UNSURE, 0.8)),
        (LOW, CALIBRATED, "abstain", unsure("abstained", UNSURE, 0.8)),
        (LOW, CALIBRATED, "escalate", unsure("local", WITHOUT, 0.8, NO_UPSTREAM)),
        (ANY, NONE, "answer", unsure("local", UNSURE, None)),
        (ANY, NONE, "abstain", unsure("abstained", UNSURE, None)),
        (ANY, NONE, "escalate", unsure("local", WITHOUT, None, NO_UPSTREAM)),
    ],
)
def test_without_a_large_model(confidences, calibration, wish, expected):
    """At or above the threshold the answer is local and sure; below, or without one, the caller's wish decides."""
    for confidence in confidences:
        assert expected == decide_graded(confidence, calibration, EscalationContext(low_confidence=wish))


def test_a_threshold_of_zero_is_always_met():
    """A bundle whose threshold is 0 answers every input as sure."""
    open_to_all = CALIBRATED.model_copy(update={"threshold": 0.0})
    assert RouteDecision("local", RouteReason.SURE, 0.0) == decide_graded(
        0.0, open_to_all, EscalationContext("hybrid", "abstain", None)
    )


@pytest.mark.parametrize("calibration", [CALIBRATED, NONE])
def test_a_confidence_that_is_no_number_is_below(calibration):
    """Not-a-number never counts as sure."""
    assert "upstream" == decide_graded(math.nan, calibration, EscalationContext("hybrid", "as_mode", None)).route
    decision = decide_graded(math.nan, calibration, EscalationContext(low_confidence="abstain"))
    assert ("abstained", True) == (decision.route, decision.below_threshold)


USUAL = TypicalInputs(label_mass_min=0.5, input_tokens_min=3, input_tokens_max=20)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (InputObservation(3, 0.5), ()),
        (InputObservation(20, 1.0), ()),
        (InputObservation(2, 0.9), ("INPUT_LENGTH_UNUSUAL",)),
        (InputObservation(21, 0.9), ("INPUT_LENGTH_UNUSUAL",)),
        (InputObservation(10, 0.49), ("LABEL_MASS_UNUSUAL",)),
        (InputObservation(99, 0.0), ("LABEL_MASS_UNUSUAL", "INPUT_LENGTH_UNUSUAL")),
    ],
)
def test_an_unusual_input_is_marked(seen, expected):
    """An answer to an input outside of what is usual says so; with a large model at hand that one is asked."""
    known = CALIBRATED.model_copy(update={"novelty": USUAL})
    here, asking = (
        decide_graded(0.9, known, EscalationContext(), seen),
        decide_graded(0.9, known, EscalationContext("hybrid", "as_mode", None), seen),
    )
    assert (expected, expected) == (here.degraded, asking.degraded)
    assert ("local", "upstream" if expected else "local") == (here.route, asking.route)
    assert not asking.below_threshold


@pytest.mark.parametrize("confidence", [0.0, 0.8, 1.0])
def test_an_answer_whose_score_varies_is_never_confident(confidence):
    """Where scores depend on what else is computed no threshold holds, whatever the confidence: the answer says so, is
    withheld from callers who want none that is unsure, and a large model is asked."""
    varying, named = InputObservation(10, scores_vary=True), (RouteReason.SCORES_VARY,)
    expected = RouteDecision("local", RouteReason.SCORES_VARY, None, True, named, held_up=RouteReason.SCORES_VARY)
    assert expected == decide_graded(confidence, CALIBRATED, EscalationContext(), varying)
    assert replace(expected, route="abstained") == decide_graded(
        confidence, CALIBRATED, EscalationContext(low_confidence="abstain"), varying
    )
    assert replace(expected, route="upstream") == decide_graded(
        confidence, CALIBRATED, EscalationContext("hybrid", "as_mode", None), varying
    )


def test_without_a_threshold_it_does_not_matter_whether_scores_vary():
    """A bundle that was never calibrated is below its threshold, and nothing else."""
    assert decide_graded(0.9, NONE, EscalationContext()) == decide_graded(
        0.9, NONE, EscalationContext(), InputObservation(10, scores_vary=True)
    )


def test_what_nobody_measured_is_not_unusual():
    """Without limits in the bundle, or without figures of the input, nothing is marked."""
    assert () == decide_graded(0.9, CALIBRATED, EscalationContext(), InputObservation(0, 0.0)).degraded
    assert () == decide_graded(0.9, CALIBRATED.model_copy(update={"novelty": USUAL}), EscalationContext()).degraded


GATE = OodGate(score="ood_score", held_up_max=0.25, scores=(1.0, 2.0, 3.0))
GATED = CALIBRATED.model_copy(update={"gate": GATE, "floor": 0.9})


@pytest.mark.parametrize("score", [3.5, math.inf, math.nan, None])
@pytest.mark.parametrize("confidence", [0.0, 0.8, 1.0])
def test_an_answer_to_a_stranger_is_never_confident(confidence, score):
    """What the gate holds up is not confident, whatever the confidence; the answer says so and carries the p-value. A
    score that is not a number, or not there, counts as the strangest."""
    seen, named = InputObservation(10, ood_score=score), ("OUT_OF_DISTRIBUTION",)
    outside = RouteReason.OUT_OF_DISTRIBUTION
    expected = RouteDecision("local", outside, 0.9, True, named, held_up=outside, p_value=0.25)
    assert expected == decide_graded(confidence, GATED, EscalationContext(), seen)
    assert replace(expected, route="abstained") == decide_graded(
        confidence, GATED, EscalationContext(low_confidence="abstain"), seen
    )
    assert replace(expected, route="upstream") == decide_graded(
        confidence, GATED, EscalationContext("hybrid", "as_mode", None), seen
    )


@pytest.mark.parametrize(
    ("confidence", "held_up"),
    [
        (0.79, RouteReason.BELOW_THRESHOLD),
        (0.8, RouteReason.BELOW_FLOOR),
        (0.89, RouteReason.BELOW_FLOOR),
        (0.9, None),
        (1.0, None),
    ],
)
def test_threshold_and_floor_are_both_in_force(confidence, held_up):
    """An answer needs the larger one of the two, which it carries as its threshold; the reason says which it missed."""
    decision = decide_graded(confidence, GATED, EscalationContext(), InputObservation(10, ood_score=1.0))
    assert (held_up, held_up is not None, 0.9) == (decision.held_up, decision.below_threshold, decision.threshold)
    assert (held_up or RouteReason.SURE, 1.0) == (decision.reason, decision.p_value)


@pytest.mark.parametrize("confidence", [0.0, 0.79, 0.8, 0.89, 0.9, 1.0, math.nan])
@pytest.mark.parametrize("score", [0.0, 1.0, 2.5, 3.0, 3.1, math.inf, math.nan])
def test_what_is_confident_here_is_what_the_threshold_was_proved_for(confidence, score):
    """The agent and the conversion toolkit agree on every answer."""
    decision = decide_graded(confidence, GATED, EscalationContext(), InputObservation(10, ood_score=score))
    assert GATED.is_confident(confidence, score) is not decision.below_threshold


def test_without_a_threshold_a_stranger_is_still_marked():
    """A bundle that proves nothing has no confident answer; a gate of its own says which inputs are strangers."""
    bare = AlwaysEscalate(gate=GATE)
    assert (
        RouteReason.BELOW_THRESHOLD
        is decide_graded(1.0, bare, EscalationContext(), InputObservation(10, ood_score=2.0)).reason
    )
    stranger = decide_graded(1.0, bare, EscalationContext(), InputObservation(10, ood_score=4.0))
    assert (RouteReason.OUT_OF_DISTRIBUTION, ("OUT_OF_DISTRIBUTION",)) == (stranger.reason, stranger.degraded)


def test_an_old_bundle_has_neither_gate_nor_floor():
    """Without a gate there is no p-value, and a score changes nothing."""
    assert decide_graded(0.8, CALIBRATED, EscalationContext(), InputObservation(10)) == decide_graded(
        0.8, CALIBRATED, EscalationContext(), InputObservation(10, ood_score=1e9)
    )
    assert (RouteReason.SURE, None) == (
        decide_graded(0.8, CALIBRATED, EscalationContext(), InputObservation(10)).reason,
        decide_graded(0.8, NONE, EscalationContext()).p_value,
    )


GOOD = LargeModelAvailability(
    configured=True, allowed=True, online=True, affordable=True, free=True, seconds_expected=0.5
)


@pytest.mark.parametrize(
    ("change", "seconds", "expected"),
    [
        ({}, 0.6, None),
        ({}, 0.5, RouteReason.DEADLINE_TOO_SHORT),
        ({"seconds_expected": 0.0}, 0.0, RouteReason.DEADLINE_TOO_SHORT),
        ({"seconds_expected": 0.0}, 0.01, None),
        ({"free": False}, 9, RouteReason.UPSTREAM_BUSY),
        ({"affordable": False, "free": False}, 9, RouteReason.UPSTREAM_BUDGET_SPENT),
        ({"online": False, "affordable": False}, 9, RouteReason.UPSTREAM_OFFLINE),
        ({"allowed": False, "online": False}, 9, RouteReason.UPSTREAM_NOT_ALLOWED),
        ({"configured": False, "allowed": False}, 9, RouteReason.UPSTREAM_NOT_CONFIGURED),
    ],
)
def test_the_first_obstacle_is_named(change, seconds, expected):
    """What an operator must mend first is named first; enough time means more than it usually takes."""
    standing = LargeModelAvailability(**{**vars(GOOD), **change})
    assert expected == escalation_blocker(standing, seconds)


@pytest.mark.parametrize(
    ("mode", "wish", "obstacle", "route", "reason"),
    [
        ("hybrid", "as_mode", None, "local", RouteReason.UNGRADED),
        ("shadow", "as_mode", None, "local", RouteReason.UNGRADED),
        ("hybrid", "escalate", None, "upstream", RouteReason.CALLER_ASKED),
        ("local", "escalate", None, "local", RouteReason.MODE_LOCAL),
        ("local", "escalate", RouteReason.UPSTREAM_NOT_ALLOWED, "local", RouteReason.UPSTREAM_NOT_ALLOWED),
        ("hybrid", "escalate", RouteReason.UPSTREAM_OFFLINE, "local", RouteReason.UPSTREAM_OFFLINE),
        ("bootstrap", "as_mode", None, "upstream", RouteReason.MODE_BOOTSTRAP),
        ("bootstrap", "as_mode", RouteReason.UPSTREAM_OFFLINE, "abstained", RouteReason.UPSTREAM_OFFLINE),
    ],
)
def test_what_has_no_confidence_leaves_on_request(mode, wish, obstacle, route, reason):
    """Text is the large model's only when the caller asks for it, or where there is no other."""
    decision = decide_ungraded(EscalationContext(mode, wish, obstacle))
    assert (route, reason) == (decision.route, decision.reason)


def test_after_a_failure_it_is_decided_anew():
    """Who asked and got nothing usable is treated like who could not ask."""
    asked = EscalationContext("hybrid", "abstain", None)
    assert "upstream" == decide_graded(0.1, CALIBRATED, asked).route
    after = decide_graded(0.1, CALIBRATED, with_blocker(asked))
    assert ("abstained", RouteReason.UPSTREAM_FAILED) == (after.route, after.reason)


SURE_ANSWER = RouteDecision("local", RouteReason.SURE, 0.8)
DRAWN = EscalationContext("hybrid", "as_mode", None, deferrable=True)


@pytest.mark.parametrize(
    ("decision", "asked", "drawn", "expected"),
    [
        (SURE_ANSWER, DRAWN, 0.0, True),
        (SURE_ANSWER, DRAWN, 0.0999, True),
        (SURE_ANSWER, DRAWN, 0.1, False),
        *((SURE_ANSWER, replace(DRAWN, blocker=each), 0.0, each not in PERMANENT_BLOCKERS) for each in BLOCKERS),
        (SURE_ANSWER, replace(DRAWN, deferrable=False), 0.0, False),
        (SURE_ANSWER, replace(DRAWN, mode="local"), 0.0, False),
        (SURE_ANSWER, replace(DRAWN, mode="shadow"), 0.0, False),
        (replace(SURE_ANSWER, reason=RouteReason.INPUT_UNUSUAL), DRAWN, 0.0, False),
        (replace(SURE_ANSWER, reason=RouteReason.BELOW_THRESHOLD), DRAWN, 0.0, False),
    ],
)
def test_sure_answers_are_drawn_to_be_checked(decision, asked, drawn, expected):
    """The draw alone decides: neither what passes, such as load, nor the way being cut, keeps an answer out."""
    assert expected == is_drawn_for_audit(decision, asked, 0.1, drawn)


def test_a_share_of_zero_draws_nothing():
    """And one of 1 draws all."""
    assert not is_drawn_for_audit(SURE_ANSWER, DRAWN, 0.0, 0.0)
    assert is_drawn_for_audit(SURE_ANSWER, DRAWN, 1.0, 0.999999)
