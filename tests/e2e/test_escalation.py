"""From a device's call to the large model and back: real daemons, a scripted oracle, and the ways in which it fails."""

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
    """Whoever asks gets "hours", except about what says something else."""
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
    """Every test begins with an oracle that answers well."""
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


def test_hybrid_asks_about_what_is_unsure_only(site, oracle):
    """A sure answer is given here and costs nothing; an unsure one is the large model's, and says so."""
    sure, unsure = ask(site, SURE), ask(site, UNSURE)
    assert ("refund", "LOCAL", "SURE", "", ()) == (sure.label, sure.route, sure.route_reason, sure.model, sure.degraded)
    assert ("hours", "UPSTREAM", "BELOW_THRESHOLD", "oracle-1") == (
        unsure.label, unsure.route, unsure.route_reason, unsure.model)  # fmt: skip
    assert unsure.below_threshold
    assert unsure.timings.upstream_ms > 0
    assert 1 == len(oracle.asked)


def test_what_leaves_is_redacted(site, oracle):
    """Personal data stays in the building, whatever the large model is asked about it."""
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
def test_a_mode_holds_from_the_next_call_on(site, mode, wish, route, reason):
    """Each mode sends an unsure input where it should, with the caller's wish."""
    assert mode.upper() == site.admin.set_mode(TASK, mode).mode
    answer = ask(site, UNSURE, on_low_confidence=wish)
    assert (route, reason) == (answer.route, answer.route_reason)
    assert (answer.label == "") is (route == "ABSTAINED")


def test_shadow_compares(site, oracle):
    """In shadow mode the large model's label is given, with the scores of the model here."""
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
def test_a_bad_answer_leaves_the_local_one(site, oracle, way):
    """Whatever the large model makes of a question, the caller has the local answer, marked, inside its deadline."""
    oracle.way, oracle.repairs = way, False
    answer = ask(site, UNSURE, timeout_seconds=20)
    assert ("LOCAL", "UPSTREAM_FAILED") == (answer.route, answer.route_reason)
    assert ("UPSTREAM_FAILED",) == answer.degraded
    assert answer.label
    assert 1 <= len(oracle.asked) <= 2


@pytest.mark.parametrize("way", ["prose", "wrong-label", "truncated"])
def test_a_bad_answer_is_mended_once(site, oracle, way):
    """A model that is told what was wrong may answer again, once."""
    oracle.way = way
    answer = ask(site, UNSURE)
    assert ("UPSTREAM", "hours") == (answer.route, answer.label)
    assert 2 == len(oracle.asked)


@pytest.mark.slow
def test_a_stalling_answer_does_not_cost_the_deadline(site, oracle):
    """When the large model stops in the middle, the local answer is there before the caller's time is up."""
    oracle.way = "stall"
    answer = ask(site, UNSURE, timeout_seconds=3)
    assert ("LOCAL", "UPSTREAM_FAILED") == (answer.route, answer.route_reason)
    assert 1 == len(oracle.asked)


@pytest.mark.parametrize(
    ("way", "reason", "asked"),
    [("429", "UPSTREAM_BUSY", 2), ("503", "UPSTREAM_BUSY", 2), ("401", "UPSTREAM_REFUSED", 0)],
)
def test_a_refusal_closes_the_way(site, oracle, way, reason, asked):
    """A server that refuses gets no more than one repeat; the caller has the local answer, and status says why."""
    oracle.way, oracle.retry_after = way, "0"
    answer = ask(site, UNSURE)
    assert "LOCAL" == answer.route
    if way == "401":  # stays so; whether a busy one is back shows at the next look
        site.await_online(False)
        assert reason == site.large_model().problem_reason
    else:
        assert reason == answer.route_reason
    assert asked == len(oracle.asked)


def test_a_text_is_written_upstream_only_on_request(site, oracle):
    """Generation stays here, unless its caller asks for the large model."""
    with site.client.generate("assistant", "one two three") as stream:
        here = "".join(stream)
    assert ("one two three", "LOCAL", "UNGRADED") == (here, stream.finish.route, stream.finish.route_reason)
    assert [] == oracle.asked


@pytest.mark.slow
def test_without_an_uplink_nobody_waits(site, oracle):
    """A killed uplink is known at once: unsure answers are given here; it is asked again when it is back."""
    site.stop_uplink(signal.SIGKILL)
    site.await_online(False)
    answers = []
    assert nobody_waits(lambda: answers.append(ask(site, UNSURE)), lambda: ask(site, SURE))
    assert {("LOCAL", "UPSTREAM_OFFLINE")} == {(each.route, each.route_reason) for each in answers}
    assert [] == oracle.asked
    site.start_uplink()
    assert "UPSTREAM" == ask(site, UNSURE).route


@pytest.mark.slow
def test_a_deadline_that_is_too_short_is_not_tried(site, oracle):
    """Who has less time than the large model usually takes is not sent there."""
    oracle.seconds = 1.5
    for _ in range(5):
        ask(site, UNSURE)
    eventually_sync(lambda: site.large_model().usual_ms > 1000)
    oracle.asked.clear()
    answer = ask(site, UNSURE, timeout_seconds=1.0)
    assert ("LOCAL", "DEADLINE_TOO_SHORT") == (answer.route, answer.route_reason)
    assert [] == oracle.asked
