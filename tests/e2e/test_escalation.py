"""Escalation from a client's call to the large model and back: real daemons, a scripted large model, and its
failures."""

import re
import signal

import pytest

from tests.support.baseline import nobody_waits
from tests.support.bundles import INTENTS, echo_bundle
from tests.support.escalating_site import TASK, EscalatingSite
from tests.support.eventually import eventually_sync
from tests.support.large_model import LargeModel

SURE, UNSURE = "refund please", "hmm"
CALIBRATED = {
    "policy": "threshold",
    "temperature": 1.0,
    "threshold": 0.9,
    "target_risk": 0.05,
    "delta": 0.1,
    "n": 100,
    "bound": 0.04,
    "coverage": 0.7,
}


def oracle_of(text: str) -> str:
    """Answer with the label in the text, or with "hours"."""
    return next((label for label in INTENTS if label in text), "hours")


@pytest.fixture(scope="module")
def oracle():
    with LargeModel(oracle_of) as server:
        yield server


@pytest.fixture(scope="module")
def site(tmp_path_factory, oracle):
    folder = tmp_path_factory.mktemp("site")
    collect = {"collect": {TASK: "local"}, "commit_seconds": 0.01}
    with EscalatingSite(folder, oracle, {"examples": collect}) as running:
        running.admin.install(echo_bundle(folder / "pos", confidence=CALIBRATED))
        running.admin.install(echo_bundle(folder / "talk", kind="generate"))
        running.start_uplink()
        yield running


@pytest.fixture(autouse=True)
def well(site, oracle):
    """Start every test with a large model that answers correctly."""
    oracle.way, oracle.repairs, oracle.seconds = "well", True, 0.0
    oracle.asked.clear()
    site.admin.set_mode(TASK, None)
    site.await_online(True)
    eventually_sync(lambda: site.large_model().problem_reason != "UPSTREAM_BUSY")  # until the pause is over
    yield
    oracle.way, oracle.seconds = "well", 0.0


def ask(site, text, **options):
    (answer,) = site.client.classify(TASK, [text], **options)
    return answer


def test_hybrid_escalates_only_unconfident_answers(site, oracle):
    """In hybrid mode a confident answer stays local and sends nothing; one that is not confident comes from the large
    model, with its name, route and time."""
    sure, unsure = ask(site, SURE), ask(site, UNSURE)
    assert ("refund", "LOCAL", "SURE", "", ()) == (sure.label, sure.route, sure.route_reason, sure.model, sure.degraded)
    assert ("hours", "UPSTREAM", "BELOW_THRESHOLD", "oracle-1") == (
        unsure.label, unsure.route, unsure.route_reason, unsure.model)  # fmt: skip
    assert unsure.below_threshold
    assert unsure.timings.upstream_ms > 0
    assert 1 == len(oracle.asked)


def test_escalated_text_is_redacted(site, oracle):
    """Personal data is replaced in the text that is sent to the large model."""
    ask(site, "call me at anna@example.org, card 4111 1111 1111 1111")
    (asked,) = oracle.asked
    said = "\n".join(turn["content"] for turn in asked["messages"])
    assert not re.search(r"anna@|4111", said)
    assert "[EMAIL_1]" in said


@pytest.mark.parametrize(
    ("mode", "wish", "route", "reason"),
    [
        ("local", "as_mode", "LOCAL", "BELOW_THRESHOLD"),
        ("local", "escalate", "LOCAL", "MODE_LOCAL"),
        ("local", "abstain", "ABSTAINED", "BELOW_THRESHOLD"),
        ("hybrid", "answer", "LOCAL", "BELOW_THRESHOLD"),
        ("hybrid", "abstain", "UPSTREAM", "BELOW_THRESHOLD"),
        ("shadow", "as_mode", "UPSTREAM", "MODE_SHADOW"),
        ("bootstrap", "as_mode", "UPSTREAM", "MODE_BOOTSTRAP"),
    ],
)
def test_mode_and_caller_policy_determine_route(site, mode, wish, route, reason):
    """A new mode applies to the next call, and together with the caller's low-confidence policy determines the route of
    an answer that is not confident."""
    assert mode.upper() == site.admin.set_mode(TASK, mode).mode
    answer = ask(site, UNSURE, on_low_confidence=wish)
    assert (route, reason) == (answer.route, answer.route_reason)
    assert (answer.label == "") is (route == "ABSTAINED")


def test_shadow_mode_returns_teacher_label_with_local_scores(site, oracle):
    """In shadow mode an input with a confident answer is also sent to the large model; the answer has the large model's
    name and the local scores."""
    site.admin.set_mode(TASK, "shadow")
    answer = ask(site, SURE)
    assert ("refund", "oracle-1") == (answer.label, answer.model)
    assert "refund" == answer.scores[0][0]
    assert answer.confidence > 0.9
    assert 1 == len(oracle.asked)


@pytest.mark.parametrize(
    "way",
    [
        "500",
        "prose",
        "wrong-label",
        "truncated",
        "huge",
        "huge-line",
        "huge-500",
        "packed",
        "cut",
        "lost",
        "html",
        "404",
    ],
)
def test_invalid_teacher_answer_falls_back_to_local(site, oracle, way):
    """After an invalid answer of the large model the caller gets the local answer, marked UPSTREAM_FAILED, within the
    deadline."""
    oracle.way, oracle.repairs = way, False
    answer = ask(site, UNSURE, timeout_seconds=20)
    assert ("LOCAL", "UPSTREAM_FAILED") == (answer.route, answer.route_reason)
    assert ("UPSTREAM_FAILED",) == answer.degraded
    assert answer.label
    assert 1 <= len(oracle.asked) <= 2


@pytest.mark.parametrize("way", ["prose", "wrong-label", "truncated"])
def test_invalid_teacher_answer_is_retried_once(site, oracle, way):
    """The uplink sends the large model the error in its answer once, and uses the second answer."""
    oracle.way = way
    answer = ask(site, UNSURE)
    assert ("UPSTREAM", "hours") == (answer.route, answer.label)
    assert 2 == len(oracle.asked)


@pytest.mark.slow
def test_stalled_teacher_answer_falls_back_before_deadline(site, oracle):
    """When the large model stops in the middle of its answer, the caller gets the local one before the deadline."""
    oracle.way = "stall"
    answer = ask(site, UNSURE, timeout_seconds=3)
    assert ("LOCAL", "UPSTREAM_FAILED") == (answer.route, answer.route_reason)
    assert 1 == len(oracle.asked)


@pytest.mark.parametrize(
    ("way", "reason", "asked"),
    [("429", "UPSTREAM_BUSY", 2), ("503", "UPSTREAM_BUSY", 2), ("401", "UPSTREAM_REFUSED", 0)],
)
def test_refusing_large_model_is_retried_at_most_once(site, oracle, way, reason, asked):
    """The uplink retries a busy server (429, 503) once and a rejected key (401) not at all; the caller gets the local
    answer, and the reason is reported."""
    oracle.way, oracle.retry_after = way, "0"
    answer = ask(site, UNSURE)
    assert "LOCAL" == answer.route
    if way == "401":  # stays so; whether a busy one is back shows at the next look
        site.await_online(False)
        assert reason == site.large_model().problem_reason
    else:
        assert reason == answer.route_reason
    assert asked == len(oracle.asked)


def test_generate_stays_local_unless_caller_escalates(site, oracle):
    """Generate without `escalate` runs locally and sends nothing to the large model."""
    with site.client.generate("assistant", "one two three") as stream:
        here = "".join(stream)
    assert ("one two three", "LOCAL", "UNGRADED") == (here, stream.finish.route, stream.finish.route_reason)
    assert [] == oracle.asked


@pytest.mark.slow
def test_killed_uplink_delays_no_answer(site, oracle):
    """After the uplink is killed, answers are local without delay; once it runs again, calls are escalated."""
    site.stop_uplink(signal.SIGKILL)
    site.await_online(False)
    answers = []
    assert nobody_waits(lambda: answers.append(ask(site, UNSURE)), lambda: ask(site, SURE))
    assert {("LOCAL", "UPSTREAM_OFFLINE")} == {(each.route, each.route_reason) for each in answers}
    assert [] == oracle.asked
    site.start_uplink()
    assert "UPSTREAM" == ask(site, UNSURE).route


@pytest.mark.slow
def test_short_deadline_prevents_escalation(site, oracle):
    """A call with less time than the large model usually takes is not escalated."""
    oracle.seconds = 1.5
    for _ in range(5):
        ask(site, UNSURE)
    eventually_sync(lambda: site.large_model().usual_ms > 1000)
    oracle.asked.clear()
    answer = ask(site, UNSURE, timeout_seconds=1.0)
    assert ("LOCAL", "DEADLINE_TOO_SHORT") == (answer.route, answer.route_reason)
    assert [] == oracle.asked
