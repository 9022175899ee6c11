"""The routing decision: the whole table of cases, and rules that hold in each of them."""

import itertools
import math
from dataclasses import replace

import pytest

from edge_agent.formats.calibration_and_gate import AlwaysEscalate, OodGate, Threshold, TypicalInputs
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
    """Return the decisions of all cases with these values."""
    names = ("mode", "wish", "doubt", "obstacle", "kept")
    return [
        decision
        for case, decision in ROUTES.items()
        if all(dict(zip(names, case, strict=True))[name] in values for name, values in fixed.items())
    ]


def test_document_has_the_current_decision_table():
    """The table in docs/routing.md is the one that the code decides by."""
    assert page() == PAGE.read_text(encoding="utf-8"), "python -m tests.support.decision_table"


def test_large_model_is_not_asked_while_blocked():
    """The large model is asked only if there is no blocker; otherwise the answer names the blocker."""
    assert {"upstream"} == {each.route for each in cases(mode=["bootstrap", "shadow"], obstacle=[None])}
    for each in cases(obstacle=BLOCKERS):
        assert "upstream" != each.route
        assert (each.reason in BLOCKERS) <= (each.reason in each.degraded)


def test_confident_answers_stay_local():
    """In mode local no input leaves the site; in hybrid no confident answer does, and in shadow the local answer is
    returned while the large model is blocked."""
    assert {"local", "abstained"} == {each.route for each in cases(mode=["local"])}
    assert {("local", RouteReason.SURE)} == {
        (each.route, each.reason) for each in cases(mode=["hybrid"], doubt=["sure"])
    }
    assert {"local", "deferred"} == {each.route for each in cases(mode=["shadow"], doubt=["sure"], obstacle=BLOCKERS)}


def test_answer_is_withheld_only_on_request():
    """An existing answer is withheld only if it is below the threshold and the caller requests that."""
    modes, wishes = ["shadow", "hybrid", "local"], [wish for wish in WISHES if wish != "abstain"]
    for each in cases(mode=modes, doubt=["sure", "unusual"]) + cases(mode=modes, wish=wishes):
        assert "abstained" != each.route
    assert {"abstained"} == {each.route for each in cases(mode=["bootstrap"], obstacle=BLOCKERS)}


def test_caller_who_requests_the_local_answer_gets_it():
    """In mode hybrid the large model is not asked if the caller requests the local answer."""
    assert {"local"} == {each.route for each in cases(mode=["hybrid"], wish=["answer"])}


def test_only_captured_inputs_with_a_temporary_blocker_are_deferred():
    """An input is deferred only if it is captured and its blocker is temporary; only a returned answer is marked as
    deferred."""
    for each in cases(kept=[False]):
        assert ("deferred" != each.route, False) == (True, each.later)
    for each in cases(kept=[True]):
        assert each.later is (each.reason in BLOCKERS and each.reason not in PERMANENT_BLOCKERS)
        assert (each.route == "deferred") <= each.later


LOW, ANY = (0.0, JUST_BELOW), (0.0, 0.8, 1.0)
UNSURE, WITHOUT = RouteReason.BELOW_THRESHOLD, RouteReason.UPSTREAM_NOT_CONFIGURED


def unsure(route, reason, threshold, degraded=()):
    """Return the decision on an answer below its threshold."""
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
def test_decision_without_a_large_model(confidences, calibration, wish, expected):
    """At or above the threshold the answer is local and confident; below it, or without one, the caller's request
    decides."""
    for confidence in confidences:
        assert expected == decide_graded(confidence, calibration, EscalationContext(low_confidence=wish))


def test_threshold_of_zero_is_always_met():
    """A bundle whose threshold is 0 answers every input as confident."""
    open_to_all = CALIBRATED.model_copy(update={"threshold": 0.0})
    assert RouteDecision("local", RouteReason.SURE, 0.0) == decide_graded(
        0.0, open_to_all, EscalationContext("hybrid", "abstain", None)
    )


@pytest.mark.parametrize("calibration", [CALIBRATED, NONE])
def test_nan_confidence_is_below_the_threshold(calibration):
    """A confidence of NaN never counts as confident."""
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
    """An answer to an input outside the usual limits is marked as such, and the large model is asked if it is
    available."""
    known = CALIBRATED.model_copy(update={"novelty": USUAL})
    here, asking = (
        decide_graded(0.9, known, EscalationContext(), seen),
        decide_graded(0.9, known, EscalationContext("hybrid", "as_mode", None), seen),
    )
    assert (expected, expected) == (here.degraded, asking.degraded)
    assert ("local", "upstream" if expected else "local") == (here.route, asking.route)
    assert not asking.below_threshold


@pytest.mark.parametrize("confidence", [0.0, 0.8, 1.0])
def test_answer_with_varying_scores_is_never_confident(confidence):
    """If scores depend on what else is computed, the answer is not confident at any value: it is marked, withheld on
    request, and the large model is asked."""
    varying, named = InputObservation(10, scores_vary=True), (RouteReason.SCORES_VARY,)
    expected = RouteDecision("local", RouteReason.SCORES_VARY, None, True, named, held_up=RouteReason.SCORES_VARY)
    assert expected == decide_graded(confidence, CALIBRATED, EscalationContext(), varying)
    assert replace(expected, route="abstained") == decide_graded(
        confidence, CALIBRATED, EscalationContext(low_confidence="abstain"), varying
    )
    assert replace(expected, route="upstream") == decide_graded(
        confidence, CALIBRATED, EscalationContext("hybrid", "as_mode", None), varying
    )


def test_varying_scores_do_not_matter_without_a_threshold():
    """An answer of a bundle that was never calibrated is below its threshold, whether or not scores vary."""
    assert decide_graded(0.9, NONE, EscalationContext()) == decide_graded(
        0.9, NONE, EscalationContext(), InputObservation(10, scores_vary=True)
    )


def test_input_is_not_marked_without_limits_or_measurements():
    """Without limits in the bundle or measurements of the input, nothing is marked as unusual."""
    assert () == decide_graded(0.9, CALIBRATED, EscalationContext(), InputObservation(0, 0.0)).degraded
    assert () == decide_graded(0.9, CALIBRATED.model_copy(update={"novelty": USUAL}), EscalationContext()).degraded


GATE = OodGate(score="ood_score", held_up_max=0.25, scores=(1.0, 2.0, 3.0))
GATED = CALIBRATED.model_copy(update={"gate": GATE, "floor": 0.9})


@pytest.mark.parametrize("score", [3.5, math.inf, math.nan, None])
@pytest.mark.parametrize("confidence", [0.0, 0.8, 1.0])
def test_answer_to_an_out_of_distribution_input_is_never_confident(confidence, score):
    """An answer that the gate holds up is not confident at any value and carries the p-value; a missing score or NaN
    counts as the most unusual."""
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
    """An answer must reach the larger of threshold and floor, which it carries as its threshold; the reason says which
    one it missed."""
    decision = decide_graded(confidence, GATED, EscalationContext(), InputObservation(10, ood_score=1.0))
    assert (held_up, held_up is not None, 0.9) == (decision.held_up, decision.below_threshold, decision.threshold)
    assert (held_up or RouteReason.SURE, 1.0) == (decision.reason, decision.p_value)


@pytest.mark.parametrize("confidence", [0.0, 0.79, 0.8, 0.89, 0.9, 1.0, math.nan])
@pytest.mark.parametrize("score", [0.0, 1.0, 2.5, 3.0, 3.1, math.inf, math.nan])
def test_agent_and_toolkit_agree_on_confident_answers(confidence, score):
    """The agent and the conversion toolkit agree for every confidence and score on whether an answer is confident."""
    decision = decide_graded(confidence, GATED, EscalationContext(), InputObservation(10, ood_score=score))
    assert GATED.is_confident(confidence, score) is not decision.below_threshold


def test_gate_marks_inputs_of_a_bundle_without_a_threshold():
    """A bundle without a threshold has no confident answers, and its gate still marks out-of-distribution inputs."""
    bare = AlwaysEscalate(gate=GATE)
    assert (
        RouteReason.BELOW_THRESHOLD
        is decide_graded(1.0, bare, EscalationContext(), InputObservation(10, ood_score=2.0)).reason
    )
    stranger = decide_graded(1.0, bare, EscalationContext(), InputObservation(10, ood_score=4.0))
    assert (RouteReason.OUT_OF_DISTRIBUTION, ("OUT_OF_DISTRIBUTION",)) == (stranger.reason, stranger.degraded)


def test_bundle_without_a_gate_has_no_p_value():
    """Without a gate there is no p-value, and an out-of-distribution score changes nothing."""
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
def test_first_blocker_is_named(change, seconds, expected):
    """The blocker that an operator must remove first is named; the deadline must exceed the usual duration."""
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
def test_answer_without_a_confidence_is_escalated_on_request(mode, wish, obstacle, route, reason):
    """An answer without a confidence, such as a text, comes from the large model only if the caller requests it or mode
    is bootstrap."""
    decision = decide_ungraded(EscalationContext(mode, wish, obstacle))
    assert (route, reason) == (decision.route, decision.reason)


def test_failed_escalation_is_decided_as_blocked():
    """After the large model failed, the decision is the one for a blocked large model."""
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
def test_confident_answers_are_drawn_for_the_audit(decision, asked, drawn, expected):
    """Only the random draw decides which confident answers are audited; neither load nor a lost connection excludes
    one."""
    assert expected == is_drawn_for_audit(decision, asked, 0.1, drawn)


def test_audit_share_of_zero_and_one():
    """A share of 0 draws no answer, a share of 1 every answer."""
    assert not is_drawn_for_audit(SURE_ANSWER, DRAWN, 0.0, 0.0)
    assert is_drawn_for_audit(SURE_ANSWER, DRAWN, 1.0, 0.999999)
