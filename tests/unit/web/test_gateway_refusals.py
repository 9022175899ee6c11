"""The HTTP status and retry delay of each error reason."""

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
    """An error that the caller can correct is 4xx, one that passes is 429 or 503, any other is 500."""
    for reason, error in BY_REASON.items():
        code = code_of(error("x")).name
        expected = 500 if code in ("INTERNAL", "FAILED_PRECONDITION", "UNAUTHENTICATED", "PERMISSION_DENIED") else 0
        status = of_call(reason, code).status
        assert expected in (0, status)
        assert status in CALLERS | LATER | {500, 504}


def test_an_input_of_a_batch_has_the_status_that_it_would_have_alone() -> None:
    """The reason of an input has the same status in a batch as alone."""
    for reason, code in openai_responses.INPUT_CODES.items():
        assert code == code_of(BY_REASON[reason]("x")).name
    assert (
        400
        == openai_responses.from_input_failure(
            Failure("INPUT_TOO_LONG", "9 tokens; the limit is 4", {}), "texts"
        ).status
    )
    assert 500 == openai_responses.from_input_failure(Failure("MODEL_FAILED", "x", {}), "texts").status


def test_failed_input_of_a_batch_has_a_retry_delay() -> None:
    """A failed input has a delay only if its status permits a retry."""
    for reason in openai_responses.INPUT_CODES:
        refused = openai_responses.from_input_failure(Failure(reason, "x", {}), "texts")
        later = {"x-should-retry": "true", "retry-after": "1", "retry-after-ms": "1000"}
        assert (later if refused.status in LATER else {"x-should-retry": "false"}) == refused.headers()


def test_error_has_the_form_of_openai() -> None:
    """The message includes the remedy, and the code is our reason."""
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
def test_status_type_and_parameter_of_an_error(
    reason: str, code: str, status: int, kind: str, param: str | None
) -> None:
    """`param` names the member to change, if it is known."""
    found = of_call(reason, code)
    error = found.as_json()["error"]
    assert (status, kind, param) == (found.status, error["type"], error["param"])


def test_retry_delay_headers() -> None:
    """The delay is in whole seconds and in exact milliseconds; without a delay a retry is discouraged."""
    later = {"x-should-retry": "true", "retry-after": "2", "retry-after-ms": "1500"}
    assert later == of_call("QUEUE_FULL", "RESOURCE_EXHAUSTED", 1.5).headers()
    assert {"x-should-retry": "false"} == of_call("DEADLINE_EXPIRED", "DEADLINE_EXCEEDED").headers()
    assert "1" == of_call("UNREACHABLE", "UNAVAILABLE").headers()["retry-after"]
    assert "1" == of_call("STREAM_BROKEN", "UNAVAILABLE").headers()["retry-after"]
