"""Decisions: typed questions about one input, answered with probabilities; docs/decisions-api.md is for callers.

A classify task is the case of one question: a choice among its labels, or a predicate where its labels are yes and no.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import JSONResponse, Response

from edge_agent.client import AsyncClient, Classification, Failure, Task
from edge_agent.web.gateway import decision_requests, openai_errors
from edge_agent.web.gateway.decision_requests import INPUT, STATE, DecisionRequest, Question
from edge_agent.web.gateway.http_calls import GatewayCall
from edge_agent.web.gateway.openai_responses import EXTENSION, JsonObject, answer_details

_UNKNOWN_DATE = "1970-01-01"
"""When a bundle was made is not known here, and the format needs a date."""


class DecisionEndpoints:
    """POST /v1/decisions and POST /v1/systemone."""

    def __init__(self, client: AsyncClient) -> None:
        """Use a client of the daemon."""
        self._client = client

    async def decide(self, call: GatewayCall) -> Response:
        """Answer OpenAI's call. Raises CallFailed, GatewayError."""
        request = decision_requests.parse_decisions(call.body)
        task, question, answer = await self._answer(request, call, INPUT)
        counted = {"input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens}
        usage = {
            **counted,
            "total_tokens": sum(counted.values()),
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        answers = [openai_answer(question, answer, task)]
        return JSONResponse({"model": request.task, "answers": answers, "usage": usage})

    async def system_one(self, call: GatewayCall) -> Response:
        """Answer TypeSafe's call. Raises CallFailed, GatewayError."""
        request = decision_requests.parse_system_one(call.body)
        task, question, answer = await self._answer(request, call, STATE)
        answers = {str(question.name): system_one_answer(question, answer, task)}
        usage = {"input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens}
        return JSONResponse({"model": request.task, "answers": answers, "usage": usage})

    async def _answer(
        self, request: DecisionRequest, call: GatewayCall, text_member: str
    ) -> tuple[Task, Question, Classification]:
        task = await self._client.task(request.task, timeout_seconds=call.seconds_left)
        question = request.require_supported(task)
        [answer] = await self._client.classify(
            request.task,
            [request.text],
            on_low_confidence=request.on_low_confidence,
            request_id=call.request_id,
            timeout_seconds=call.seconds_left,
        )
        if isinstance(answer, Failure):
            raise openai_errors.from_input_failure(answer, text_member)
        return task, question, answer


def is_answered(answer: Classification) -> bool:
    """Tell whether there is a label with probabilities: not where the task abstained, or asked a large model alone."""
    return answer.route != "ABSTAINED" and bool(answer.scores)


def openai_answer(question: Question, answer: Classification, task: Task) -> JsonObject:
    """Return an answer as OpenAI's clients read it, or a refusal."""
    named = {"name": question.name, EXTENSION: decision_details(answer)}
    if not is_answered(answer):
        return {"type": "refusal", **named}
    scores = dict(answer.scores)
    if question.kind == "predicate":
        return {"type": "predicate", "probability": _truth(scores, task), **named}
    probabilities = [
        {"value": value, "probability": scores.get(decision_requests.label_of(value), 0.0)} for value in question.values
    ]
    chosen = next(value for value in question.values if decision_requests.label_of(value) == answer.label)
    confidence = scores.get(answer.label, 0.0)
    return {"type": "choice", "choice": chosen, "confidence": confidence, "probabilities": probabilities, **named}


def system_one_answer(question: Question, answer: Classification, task: Task) -> JsonObject:
    """Return an answer as TypeSafe's clients read it. They leave out one of type `refusal`, which they do not know."""
    details = {EXTENSION: decision_details(answer)}
    if not is_answered(answer):
        return {"type": "refusal", **details}
    scores = dict(answer.scores)
    if question.kind == "predicate":
        return {"type": "noul", "noul": _truth(scores, task), **details}
    probabilities = {str(value): scores.get(str(value), 0.0) for value in question.values}
    confidence = scores.get(answer.label, 0.0)
    return {
        "type": "choice",
        "choice": answer.label,
        "confidence": confidence,
        "probabilities": probabilities,
        **details,
    }


def decision_details(answer: Classification) -> JsonObject:
    """Return what the daemon reports of an answer, with whether it is confident: above the proved threshold."""
    confident = not answer.below_threshold and answer.route != "ABSTAINED"
    return {"confident": confident, "calibrated": answer.threshold is not None, **answer_details(answer)}


def _truth(scores: dict[str, float], task: Task) -> float:
    label = decision_requests.truth_label(task.labels)
    assert label is not None  # require_supported
    return scores.get(label, 0.0)


def system_one_models(tasks: Sequence[Task]) -> JsonObject:
    """Return the tasks that answer questions, as TypeSafe's clients read a list of models."""
    return {"models": [_model(task) for task in tasks if task.kind == "CLASSIFY"]}


def _model(task: Task) -> JsonObject:
    description = f"a choice of {len(task.labels)} labels; bundle version {task.bundle.version}"
    return {"name": task.name, "description": description, "release_date": _UNKNOWN_DATE}
