"""Records, texts and many calls to the large model: its requests, and the use of its answers."""

from __future__ import annotations

import json
import signal

import pytest

from edge_agent.client import CallFailed
from tests.support.bundles import INTENTS, NAMES, echo_bundle
from tests.support.escalating_site import TASK, EscalatingSite
from tests.support.large_model import LargeModel

RECORDS, TALK, ALONE = NAMES["extract"], NAMES["generate"], "returns-triage"
SECRET = "anna@example.org"
CALLS_MAX, CROWD = 2, 40


def oracle_of(text: str) -> str:
    if "receipt" in text:
        return json.dumps({"product": ["lamp", "[EMAIL_1]"], "price": []})
    return "Dear [EMAIL_1], we open at nine." if "write" in text else "hours"


@pytest.fixture(scope="module")
def oracle():
    with LargeModel(oracle_of) as server:
        yield server


@pytest.fixture(scope="module")
def site(tmp_path_factory, oracle):
    folder = tmp_path_factory.mktemp("site")
    modes = {TASK: "hybrid", RECORDS: "hybrid", TALK: "hybrid", ALONE: "bootstrap"}
    with EscalatingSite(folder, oracle, tasks=list(modes), modes=modes, calls_max=CALLS_MAX) as running:
        for kind in ("classify", "extract", "generate"):
            running.admin.install(echo_bundle(folder / kind, kind=kind))
        alone = {"task": {"prompt": {"template": "Sort it: {input}"}}, "runtime": "upstream"}
        running.admin.install(echo_bundle(folder / "alone", ALONE, **alone))
        yield running


@pytest.fixture(autouse=True)
def well(site, oracle):
    """Every test begins with an oracle that answers well, and an uplink that has learnt nothing yet."""
    oracle.way, oracle.repairs, oracle.seconds = "well", True, 0.0
    oracle.asked.clear()
    site.start_uplink()
    yield
    site.stop_uplink(signal.SIGKILL)
    site.await_online(False)


def test_the_answer_is_bound_to_the_labels_and_streamed(site, oracle):
    """The question carries the schema of its answer, a limit of tokens, and asks for a stream that counts them."""
    assert "UPSTREAM" == site.client.classify(TASK, ["hmm"])[0].route
    (asked,) = oracle.asked
    wanted = asked["response_format"]["json_schema"]
    assert ("json_schema", True) == (asked["response_format"]["type"], wanted["strict"])
    assert list(INTENTS) == wanted["schema"]["properties"]["label"]["enum"]
    assert (True, {"include_usage": True}) == (asked["stream"], asked["stream_options"])
    assert 0 < asked["max_tokens"] < 100


def test_a_record_comes_back_with_what_was_replaced(site, oracle):
    """Personal data is a placeholder on the way out, and itself again in the record that the caller gets."""
    (answer,) = site.client.extract(RECORDS, [f"receipt of the lamp for {SECRET}"])
    assert ("UPSTREAM", "BELOW_THRESHOLD", "oracle-1") == (answer.route, answer.route_reason, answer.model)
    assert {"product": ["lamp", SECRET], "price": []} == json.loads(answer.json)
    assert SECRET not in json.dumps(oracle.asked)


@pytest.mark.parametrize(
    "way", [*(pytest.param(way, marks=pytest.mark.slow) for way in ("prose", "truncated")), "wrong-label"]
)
def test_a_record_that_breaks_its_schema_leaves_the_one_from_here(site, oracle, way):
    """Asked twice at most; then the model here stands, and the answer says so."""
    oracle.way, oracle.repairs = way, False
    (answer,) = site.client.extract(RECORDS, ["a receipt over 12"], timeout_seconds=20)
    assert ("LOCAL", "UPSTREAM_FAILED", ("UPSTREAM_FAILED",)) == (answer.route, answer.route_reason, answer.degraded)
    assert "product" in json.loads(answer.json)
    assert 2 == len(oracle.asked)


def test_a_text_is_streamed_back_with_what_was_replaced(site, oracle):
    """On request the large model writes; the caller reads names, which never left."""
    with site.client.generate(TALK, f"write to {SECRET}", escalate=True) as stream:
        said = "".join(stream)
    assert (f"Dear {SECRET}, we open at nine.", "UPSTREAM", "CALLER_ASKED") == (
        said, stream.finish.route, stream.finish.route_reason)  # fmt: skip
    assert SECRET not in json.dumps(oracle.asked)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["slow", "500", "lost", "html", "huge-line"])
def test_a_text_that_does_not_begin_is_written_here_in_time(site, oracle, way):
    """Even a slow model here has the time for it: the large one is waited for no longer than half of the caller's."""
    oracle.way, oracle.seconds = ("well", 20.0) if way == "slow" else (way, 0.0)
    with site.client.generate(TALK, "!slow 50 write this down here", escalate=True, timeout_seconds=4) as stream:
        said = "".join(stream)
    assert ("!slow 50 write this down here", "LOCAL", "UPSTREAM_FAILED") == (
        said, stream.finish.route, stream.finish.route_reason)  # fmt: skip


@pytest.mark.slow
def test_a_text_that_breaks_off_says_so_in_time(site, oracle):
    """What has been read cannot be taken back: the stream ends with an error of its own, before the deadline."""
    oracle.way = "stall"
    stream = site.client.generate(TALK, f"write to {SECRET}", escalate=True, timeout_seconds=3)
    with stream, pytest.raises(CallFailed) as raised:
        list(stream)
    assert "STREAM_BROKEN" == raised.value.reason


@pytest.mark.slow
@pytest.mark.parametrize("way", ["slow", "stall", "500", "lost", "prose", "truncated", "huge", "401", "429"])
def test_without_a_model_here_it_is_a_clear_abstention_in_time(site, oracle, way):
    """Whatever the large model does, its caller has an answer without a label, and the reason, inside the deadline."""
    oracle.way, oracle.repairs, oracle.retry_after = way, False, "20"
    if way == "slow":
        oracle.way, oracle.seconds = "well", 20.0
    (answer,) = site.client.classify(ALONE, ["hmm"], timeout_seconds=3)
    reason = "UPSTREAM_BUSY" if way == "429" else "UPSTREAM_FAILED"
    assert ("", "ABSTAINED", reason, (reason,)) == (answer.label, answer.route, answer.route_reason, answer.degraded)


@pytest.mark.slow
@pytest.mark.parametrize(("wish", "route"), [("as_mode", "LOCAL"), ("abstain", "ABSTAINED")])
@pytest.mark.parametrize("way", ["slow", "429"])
def test_an_unsure_answer_is_given_or_withheld_in_time(site, oracle, way, wish, route):
    """A large model that has not answered yet, or names a pause beyond the deadline, is given up before that."""
    oracle.way, oracle.seconds, oracle.retry_after = ("well", 20.0, "0") if way == "slow" else (way, 0.0, "20")
    (answer,) = site.client.classify(TASK, ["hmm"], timeout_seconds=3, on_low_confidence=wish)
    reason = "UPSTREAM_BUSY" if way == "429" else "UPSTREAM_FAILED"
    assert (route, reason, (reason,)) == (answer.route, answer.route_reason, answer.degraded)
    assert 1 == len(oracle.asked)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "route"), [(TASK, "LOCAL"), (ALONE, "ABSTAINED")])
def test_a_crowd_is_told_that_it_is_busy(site, oracle, task, route):
    """Of many inputs at once so many are asked about as may be; the others learn at once that there is no room."""
    oracle.seconds = 0.5
    found = site.client.classify(task, [f"hmm no. {number}!" for number in range(CROWD)])
    routes = {(answer.route, answer.route_reason) for answer in found if answer.route != "UPSTREAM"}
    assert {(route, "UPSTREAM_BUSY")} == routes
    assert CALLS_MAX == len(oracle.asked) == sum(answer.route == "UPSTREAM" for answer in found)
