"""Between the messages of escalation.proto and the uplink's own words: translation, with limits on what comes in."""

from __future__ import annotations

import json

from edge_agent.errors import CapacityError, EdgeAgentError, InvalidRequest
from edge_agent.uplink.escalation.large_model import Question
from edge_agent.v1 import escalation_pb2 as pb

TURNS_MAX = 16
BYTES_MAX = 1024 * 1024
ROLES = frozenset({"system", "user", "assistant"})


def question_of(request: pb.AskRequest, answer_tokens_max: int) -> Question:
    """Read a question.

    Raises:
        InvalidRequest: it breaks a rule.
    """
    size = request.ByteSize()
    if not 0 < len(request.turns) <= TURNS_MAX or size > BYTES_MAX:
        said = f"the question has {len(request.turns)} turns and {size} bytes; the limits are {TURNS_MAX}, {BYTES_MAX}"
        raise InvalidRequest(said)
    if {turn.role for turn in request.turns} - ROLES:
        raise InvalidRequest(f"a turn has another role than {', '.join(sorted(ROLES))}")
    try:
        schema = json.loads(request.answer_schema) if request.answer_schema else None
    except (ValueError, RecursionError):
        raise InvalidRequest("answer_schema is not JSON") from None
    tokens = min(request.output_tokens_max or answer_tokens_max, answer_tokens_max)
    turns = tuple((turn.role, turn.text) for turn in request.turns)
    return Question(turns, schema, tokens, request.background)


def failure_of(error: EdgeAgentError) -> pb.AskResponse:
    """Write why there is no answer."""
    retry_seconds = error.retry_seconds if isinstance(error, CapacityError) else 0.0
    failure = pb.AskFailure(
        reason=error.reason, message=error.message, remedy=error.remedy, retry_seconds=retry_seconds
    )
    return pb.AskResponse(failure=failure)
