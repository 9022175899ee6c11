"""Escalation of records, texts and bursts of calls: the requests to the large model, and the use of its answers."""

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
    """Start every test with a large model that answers correctly and an uplink without latency history."""
    oracle.way, oracle.repairs, oracle.seconds = "well", True, 0.0
    oracle.asked.clear()
    site.start_uplink()
    yield
    site.stop_uplink(signal.SIGKILL)
    site.await_online(False)


def test_request_has_label_schema_token_limit_and_streaming(site, oracle):
    """The request to the large model has a strict schema of the labels and a token limit, and requests a stream with
    usage."""
    assert "UPSTREAM" == site.client.classify(TASK, ["hmm"])[0].route
    (asked,) = oracle.asked
    wanted = asked["response_format"]["json_schema"]
    assert ("json_schema", True) == (asked["response_format"]["type"], wanted["strict"])
    assert list(INTENTS) == wanted["schema"]["properties"]["label"]["enum"]
    assert (True, {"include_usage": True}) == (asked["stream"], asked["stream_options"])
    assert 0 < asked["max_tokens"] < 100


def test_record_placeholders_are_restored(site, oracle):
    """Personal data is a placeholder in the request, and the original value in the record that the caller gets."""
    (answer,) = site.client.extract(RECORDS, [f"receipt of the lamp for {SECRET}"])
    assert ("UPSTREAM", "BELOW_THRESHOLD", "oracle-1") == (answer.route, answer.route_reason, answer.model)
    assert {"product": ["lamp", SECRET], "price": []} == json.loads(answer.json)
    assert SECRET not in json.dumps(oracle.asked)


@pytest.mark.parametrize(
    "way", [*(pytest.param(way, marks=pytest.mark.slow) for way in ("prose", "truncated")), "wrong-label"]
)
def test_invalid_teacher_record_falls_back_to_local(site, oracle, way):
    """After two invalid records from the large model the caller gets the local record, marked UPSTREAM_FAILED."""
    oracle.way, oracle.repairs = way, False
    (answer,) = site.client.extract(RECORDS, ["a receipt over 12"], timeout_seconds=20)
    assert ("LOCAL", "UPSTREAM_FAILED", ("UPSTREAM_FAILED",)) == (answer.route, answer.route_reason, answer.degraded)
    assert "product" in json.loads(answer.json)
    assert 2 == len(oracle.asked)


def test_streamed_text_placeholders_are_restored(site, oracle):
    """With `escalate`, the large model generates the text; the caller reads the original names, which were not sent."""
    with site.client.generate(TALK, f"write to {SECRET}", escalate=True) as stream:
        said = "".join(stream)
    assert (f"Dear {SECRET}, we open at nine.", "UPSTREAM", "CALLER_ASKED") == (
        said, stream.finish.route, stream.finish.route_reason)  # fmt: skip
    assert SECRET not in json.dumps(oracle.asked)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["slow", "500", "lost", "html", "huge-line"])
def test_generate_falls_back_when_teacher_does_not_start(site, oracle, way):
    """If the large model does not start its text, the local model writes it within the deadline: at most half of the
    caller's time is spent waiting."""
    oracle.way, oracle.seconds = ("well", 20.0) if way == "slow" else (way, 0.0)
    with site.client.generate(TALK, "!slow 50 write this down here", escalate=True, timeout_seconds=4) as stream:
        said = "".join(stream)
    assert ("!slow 50 write this down here", "LOCAL", "UPSTREAM_FAILED") == (
        said, stream.finish.route, stream.finish.route_reason)  # fmt: skip


@pytest.mark.slow
def test_interrupted_teacher_stream_fails_before_deadline(site, oracle):
    """A text that stalls after it started ends with STREAM_BROKEN before the deadline, because pieces already read
    cannot be withdrawn."""
    oracle.way = "stall"
    stream = site.client.generate(TALK, f"write to {SECRET}", escalate=True, timeout_seconds=3)
    with stream, pytest.raises(CallFailed) as raised:
        list(stream)
    assert "STREAM_BROKEN" == raised.value.reason


@pytest.mark.slow
@pytest.mark.parametrize("way", ["slow", "stall", "500", "lost", "prose", "truncated", "huge", "401", "429"])
def test_task_without_local_model_abstains_in_time(site, oracle, way):
    """When the large model fails, a task without a local model returns an answer without a label, and the reason,
    within the deadline."""
    oracle.way, oracle.repairs, oracle.retry_after = way, False, "20"
    if way == "slow":
        oracle.way, oracle.seconds = "well", 20.0
    (answer,) = site.client.classify(ALONE, ["hmm"], timeout_seconds=3)
    reason = "UPSTREAM_BUSY" if way == "429" else "UPSTREAM_FAILED"
    assert ("", "ABSTAINED", reason, (reason,)) == (answer.label, answer.route, answer.route_reason, answer.degraded)


@pytest.mark.slow
@pytest.mark.parametrize(("wish", "route"), [("as_mode", "LOCAL"), ("abstain", "ABSTAINED")])
@pytest.mark.parametrize("way", ["slow", "429"])
def test_unconfident_answer_is_returned_or_withheld_in_time(site, oracle, way, wish, route):
    """When the large model is slow or names a pause beyond the deadline, the caller gets the local answer or an
    abstention in time, as requested."""
    oracle.way, oracle.seconds, oracle.retry_after = ("well", 20.0, "0") if way == "slow" else (way, 0.0, "20")
    (answer,) = site.client.classify(TASK, ["hmm"], timeout_seconds=3, on_low_confidence=wish)
    reason = "UPSTREAM_BUSY" if way == "429" else "UPSTREAM_FAILED"
    assert (route, reason, (reason,)) == (answer.route, answer.route_reason, answer.degraded)
    assert 1 == len(oracle.asked)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "route"), [(TASK, "LOCAL"), (ALONE, "ABSTAINED")])
def test_inputs_over_escalation_limit_get_upstream_busy(site, oracle, task, route):
    """Of many concurrent inputs the permitted number is escalated, and all others get UPSTREAM_BUSY."""
    oracle.seconds = 0.5
    found = site.client.classify(task, [f"hmm no. {number}!" for number in range(CROWD)])
    routes = {(answer.route, answer.route_reason) for answer in found if answer.route != "UPSTREAM"}
    assert {(route, "UPSTREAM_BUSY")} == routes
    assert CALLS_MAX == len(oracle.asked) == sum(answer.route == "UPSTREAM" for answer in found)
