"""What a caller reads instead of an answer: an HTTP status for each of our reasons, and when to come back."""

from __future__ import annotations

import pytest

from edge_agent.client import CallFailed, Failure
from edge_agent.errors import BY_REASON
from edge_agent.server.error_status import code_of
from edge_agent.web.gateway import openai_responses

CALLERS = {400, 404, 413, 499}
LATER = {429, 503}


def of_call(reason: str, code: str, seconds: float | None = None) -> openai_responses.GatewayError:
    failed = CallFailed(code, reason, "64 inputs wait; the limit is 64", remedy="Try again.", metadata={})
    failed.retry_after_seconds = seconds
    return openai_responses.from_call_failure(failed, "input")


def test_every_reason_has_a_status_by_who_must_act() -> None:
    """What the caller changes is 4xx, what comes later 429 or 503, what neither can mend 500."""
    for reason, error in BY_REASON.items():
        code = code_of(error("x")).name
        expected = 500 if code in ("INTERNAL", "FAILED_PRECONDITION", "UNAUTHENTICATED", "PERMISSION_DENIED") else 0
        status = of_call(reason, code).status
        assert expected in (0, status)
        assert status in CALLERS | LATER | {500, 504}


def test_an_input_of_a_batch_has_the_status_that_it_would_have_alone() -> None:
    """The table agrees with the one place that knows both errors and codes."""
    for reason, code in openai_responses.INPUT_CODES.items():
        assert code == code_of(BY_REASON[reason]("x")).name
    assert (
        400
        == openai_responses.from_input_failure(
            Failure("INPUT_TOO_LONG", "9 tokens; the limit is 4", {}), "texts"
        ).status
    )
    assert 500 == openai_responses.from_input_failure(Failure("MODEL_FAILED", "x", {}), "texts").status


def test_an_input_of_a_batch_says_when_to_come_back() -> None:
    """Where its status says that it may be answered later, as the engine starts again, and nowhere else."""
    for reason in openai_responses.INPUT_CODES:
        refused = openai_responses.from_input_failure(Failure(reason, "x", {}), "texts")
        later = {"x-should-retry": "true", "retry-after": "1", "retry-after-ms": "1000"}
        assert (later if refused.status in LATER else {"x-should-retry": "false"}) == refused.headers()


def test_an_error_is_written_as_openai_does() -> None:
    """Its message stands alone with what to do; its code is our reason."""
    expected = {
        "message": "64 inputs wait; the limit is 64. Try again.",
        "type": "rate_limit_error",
        "param": None,
        "code": "QUEUE_FULL",
    }
    assert {"error": expected} == of_call("QUEUE_FULL", "RESOURCE_EXHAUSTED", 1.2).as_json()


@pytest.mark.parametrize(
    ("reason", "code", "status", "kind", "param"),
    [
        ("TASK_UNKNOWN", "NOT_FOUND", 404, "invalid_request_error", "model"),
        ("TASK_KIND_MISMATCH", "INVALID_ARGUMENT", 400, "invalid_request_error", "model"),
        ("INPUT_TOO_LONG", "INVALID_ARGUMENT", 400, "invalid_request_error", "input"),
        ("MESSAGE_TOO_LARGE", "RESOURCE_EXHAUSTED", 413, "invalid_request_error", None),
        ("DEADLINE_EXPIRED", "DEADLINE_EXCEEDED", 504, "server_error", None),
        ("ENGINE_NOT_READY", "UNAVAILABLE", 503, "server_error", None),
        ("MODEL_LOAD_FAILED", "FAILED_PRECONDITION", 500, "server_error", None),
        ("CERTIFICATE_EXPIRED", "UNAUTHENTICATED", 500, "server_error", None),
    ],
)
def test_a_status_says_who_must_act(reason: str, code: str, status: int, kind: str, param: str | None) -> None:
    """And `param` which member to change, where it is known."""
    found = of_call(reason, code)
    error = found.as_json()["error"]
    assert (status, kind, param) == (found.status, error["type"], error["param"])


def test_when_to_come_back_is_said_in_seconds() -> None:
    """Whole ones for everybody, exact ones for whoever knows the header; without a time it does not help."""
    later = {"x-should-retry": "true", "retry-after": "2", "retry-after-ms": "1500"}
    assert later == of_call("QUEUE_FULL", "RESOURCE_EXHAUSTED", 1.5).headers()
    assert {"x-should-retry": "false"} == of_call("DEADLINE_EXPIRED", "DEADLINE_EXCEEDED").headers()
    assert "1" == of_call("UNREACHABLE", "UNAVAILABLE").headers()["retry-after"]
    assert "1" == of_call("STREAM_BROKEN", "UNAVAILABLE").headers()["retry-after"]
