"""Decisions: typed questions about one input, answered with probabilities; docs/decisions-api.md is for callers.

A classify task is the case of one question: a choice among its labels, or a predicate where its labels are yes and no.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import JSONResponse, Response

from edge_agent.client import AsyncClient, Decision, DecisionAnswer, Failure, Task
from edge_agent.web.gateway import decision_requests, openai_errors
from edge_agent.web.gateway.decision_matching import MatchedQuestion, match_questions, own_questions
from edge_agent.web.gateway.decision_requests import INPUT, STATE, DecisionRequest
from edge_agent.web.gateway.http_calls import GatewayCall
from edge_agent.web.gateway.openai_responses import EXTENSION, JsonObject, answer_details

_UNKNOWN_DATE = "1970-01-01"
"""When a bundle was made is not known here, and the format needs a date."""
_DECIDING = ("CLASSIFY", "DECIDE")


class DecisionEndpoints:
    """POST /v1/decisions and POST /v1/systemone."""

    def __init__(self, client: AsyncClient) -> None:
        """Use a client of the daemon."""
        self._client = client

    async def decide(self, call: GatewayCall) -> Response:
        """Answer OpenAI's call. Raises CallFailed, GatewayError."""
        request = decision_requests.parse_decisions(call.body, call.headers)
        matched, decision = await self._answer(request, call, INPUT)
        answers = [openai_answer(each, decision[each.question.name]) for each in matched]
        read = _input_tokens(decision)
        usage = {
            "input_tokens": read,
            "output_tokens": 0,
            "total_tokens": read,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        return JSONResponse({"model": request.task, "answers": answers, "usage": usage})

    async def system_one(self, call: GatewayCall) -> Response:
        """Answer TypeSafe's call. Raises CallFailed, GatewayError."""
        request = decision_requests.parse_system_one(call.body, call.headers)
        matched, decision = await self._answer(request, call, STATE)
        answers = {str(each.asked.name): system_one_answer(each, decision[each.question.name]) for each in matched}
        usage = {"input_tokens": _input_tokens(decision), "output_tokens": 0}
        return JSONResponse({"model": request.task, "answers": answers, "usage": usage})

    async def _answer(
        self, request: DecisionRequest, call: GatewayCall, text_member: str
    ) -> tuple[tuple[MatchedQuestion, ...], Decision]:
        task = await self._client.task(request.task, timeout_seconds=call.seconds_left)
        matched = match_questions(request, task)
        questions = [each.question for each in matched]
        of_call = any(each.type for each in questions)
        [decision] = await self._client.decide(
            request.task,
            [request.text],
            questions=() if of_call else [each.name for each in questions],
            open_questions=questions if of_call else (),
            on_low_confidence=request.on_low_confidence,
            request_id=call.request_id,
            timeout_seconds=call.seconds_left,
        )
        if isinstance(decision, Failure):
            raise openai_errors.from_input_failure(decision, text_member)
        return matched, decision


def _input_tokens(decision: Decision) -> int:
    """Return the tokens of the input, which all questions share."""
    return max((each.input_tokens for each in decision.answers), default=0)


def is_answered(answer: DecisionAnswer) -> bool:
    """Tell whether there is a label with probabilities: not where the task abstained, or asked a large model alone."""
    return answer.route != "ABSTAINED" and bool(answer.probabilities)


def openai_answer(matched: MatchedQuestion, answer: DecisionAnswer) -> JsonObject:
    """Return an answer as OpenAI's clients read it, or a refusal."""
    asked, odds = matched.asked, dict(answer.probabilities)
    named = {"name": asked.name, EXTENSION: answer_details(answer)}
    if not is_answered(answer):
        return {"type": "refusal", **named}
    if asked.kind == "predicate":
        return {"type": "predicate", "probability": odds[matched.truth], **named}
    sure = {"confidence": odds[answer.label], **named}
    if asked.kind == "score":
        levels = [
            {"value": place, "label": label, "probability": odds[label]} for place, label in enumerate(matched.labels)
        ]
        return {"type": "score", "score": answer.score, "probabilities": levels, **sure}
    chosen = asked.values[matched.labels.index(answer.label)]
    probabilities = [
        {"value": value, "probability": odds[label]} for value, label in zip(asked.values, matched.labels, strict=True)
    ]
    return {"type": "choice", "choice": chosen, "probabilities": probabilities, **sure}


def system_one_answer(matched: MatchedQuestion, answer: DecisionAnswer) -> JsonObject:
    """Return an answer as TypeSafe's clients read it. They leave out one of type `refusal`, which they do not know."""
    asked, odds, details = matched.asked, dict(answer.probabilities), {EXTENSION: answer_details(answer)}
    if not is_answered(answer):
        return {"type": "refusal", **details}
    if asked.kind == "predicate":
        return {"type": "noul", "noul": odds[matched.truth], **details}
    sure = {"confidence": odds[answer.label], **details}
    if asked.kind == "score":
        legend = {
            str(place): each.description or label
            for place, (each, label) in enumerate(zip(asked.options, matched.labels, strict=True))
        }
        places = {str(place): odds[label] for place, label in enumerate(matched.labels)}
        return {"type": "score", "score": answer.score, "legend": legend, "probabilities": places, **sure}
    return {
        "type": "choice",
        "choice": answer.label,
        "probabilities": {each: odds[each] for each in matched.labels},
        **sure,
    }


def system_one_models(tasks: Sequence[Task]) -> JsonObject:
    """Return the tasks that answer questions, as TypeSafe's clients read a list of models."""
    return {"models": [_model(task) for task in tasks if task.kind in _DECIDING]}


def _model(task: Task) -> JsonObject:
    names = ", ".join(each.name for each in own_questions(task)) or "those of the call"
    what = f"a choice of {len(task.labels)} labels" if task.kind == "CLASSIFY" else f"questions: {names}"
    return {
        "name": task.name,
        "description": f"{what}; bundle version {task.bundle.version}",
        "release_date": _UNKNOWN_DATE,
    }
