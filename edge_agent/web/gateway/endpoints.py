"""The routes of the gateway: chat completions (whole or streamed), embeddings, models, classification, and decisions.

A classify task is the case of one question: a choice among its labels, or a predicate where its labels are yes and no.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, NoReturn, TypeVar

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge_agent.client import (
    Answer,
    AsyncClient,
    AsyncGenerateStream,
    CallFailed,
    Classification,
    Decision,
    DecisionAnswer,
    Embedding,
    Extraction,
    Failure,
    Finish,
    Task,
)
from edge_agent.refusal_log import RefusalLog
from edge_agent.web.gateway import chat_request, decision_requests, openai_responses, request_json
from edge_agent.web.gateway.chat_request import MESSAGES, ChatRequest
from edge_agent.web.gateway.decision_requests import (
    INPUT,
    STATE,
    DecisionRequest,
    MatchedQuestion,
    match_questions,
    own_questions,
)
from edge_agent.web.gateway.http_calls import CallSlots, EventStream, GatewayCall, GatewayEndpoint
from edge_agent.web.gateway.openai_responses import (
    EXTENSION,
    NOT_FOUND,
    CompletionHead,
    GatewayError,
    JsonObject,
    answer_details,
)
from edge_agent.web.gateway.request_json import SHOWN_CHARS_MAX

_UNKNOWN_DATE = "1970-01-01"
"""The format needs a date, and the creation time of a bundle is not known here."""
_DECIDING = ("CLASSIFY", "DECIDE")
CALLS_MAX = 32
"""Limit of calls in progress, streams included; at most half of the console's connections, to leave some for people."""
PATHS = (
    "POST /v1/chat/completions",
    "POST /v1/decisions",
    "POST /v1/embeddings",
    "POST /v1/systemone",
    "GET /v1/models",
    "GET /v1/models/TASK",
    "POST /v1/tasks/TASK:classify",
)


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
            raise openai_responses.from_input_failure(decision, text_member)
        return matched, decision


def _input_tokens(decision: Decision) -> int:
    """Return the tokens of the input, which all questions share."""
    return max((each.input_tokens for each in decision.answers), default=0)


def is_answered(answer: DecisionAnswer) -> bool:
    """Return whether there is a label with probabilities: not if the task abstained or only a large model answered."""
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


SYSTEM_ONE_HEADER = "x-typesafe-sdk"
"""Identifies a client of System One: both APIs list models at the same path, in two formats."""
_A = TypeVar("_A")


class ChatCompletionEndpoint:
    """POST /v1/chat/completions: a task of any kind but embed answers one text."""

    def __init__(self, client: AsyncClient) -> None:
        """Use a client of the daemon."""
        self._client = client

    async def complete(self, call: GatewayCall) -> Response:
        """Answer one request. Raises CallFailed, GatewayError."""
        request = chat_request.parse_chat_request(call.body)
        task = await self._client.task(request.task, timeout_seconds=call.seconds_left)
        request.require_supported(task)
        head = CompletionHead(f"chatcmpl-{uuid.uuid4()}", int(time.time()), request.task)
        if task.kind == "GENERATE":
            stream = self._generation(request, call)
            return await (
                _stream_response(stream, request, head, call) if request.stream else _whole_response(stream, head)
            )
        written, answer = await (self._label(request, call) if task.kind == "CLASSIFY" else self._record(request, call))
        if request.stream:
            return EventStream(_single_chunk_events(head, written, answer, request), call.seconds_left)
        return JSONResponse(openai_responses.completion(head, written, answer))

    def _generation(self, request: ChatRequest, call: GatewayCall) -> AsyncGenerateStream:
        return self._client.generate(
            request.task,
            request.text,
            timeout_seconds=call.seconds_left,
            **request.generate_options(call.request_id),
        )

    async def _label(self, request: ChatRequest, call: GatewayCall) -> tuple[str, Classification]:
        found = await self._client.classify(
            request.task,
            [request.text],
            on_low_confidence=request.on_low_confidence,
            top_k=request.top_k,
            request_id=call.request_id,
            timeout_seconds=call.seconds_left,
        )
        answer = _single(found)
        return answer.label, answer

    async def _record(self, request: ChatRequest, call: GatewayCall) -> tuple[str, Extraction]:
        found = await self._client.extract(
            request.task,
            [request.text],
            on_low_confidence=request.on_low_confidence,
            request_id=call.request_id,
            timeout_seconds=call.seconds_left,
        )
        answer = _single(found)
        return answer.json, answer


def _single(found: Sequence[_A | Failure]) -> _A:
    [answer] = found
    if isinstance(answer, Failure):
        raise openai_responses.from_input_failure(answer, MESSAGES)
    return answer


async def _whole_response(stream: AsyncGenerateStream, head: CompletionHead) -> Response:
    async with stream:
        text = "".join([each async for each in stream])
    return JSONResponse(openai_responses.completion(head, text, _finish(stream)))


async def _stream_response(
    stream: AsyncGenerateStream, request: ChatRequest, head: CompletionHead, call: GatewayCall
) -> Response:
    """Wait for the first chunk: a failure before it becomes an error of the request, not of the stream."""
    pieces = aiter(stream)
    try:
        first = await anext(pieces, None)
    except BaseException:
        stream.cancel()
        raise
    return EventStream(_events(stream, first, pieces, head, request), call.seconds_left)


async def _events(
    stream: AsyncGenerateStream,
    first: str | None,
    pieces: AsyncIterator[str],
    head: CompletionHead,
    request: ChatRequest,
) -> AsyncGenerator[JsonObject, None]:
    async with stream:
        yield openai_responses.stream_chunk(head, {"role": "assistant", "content": "", "refusal": None})
        if first is not None:
            yield openai_responses.stream_chunk(head, {"content": first})
        try:
            async for text in pieces:
                yield openai_responses.stream_chunk(head, {"content": text})
            ended = openai_responses.final_chunks(head, _finish(stream), include_usage=request.include_usage)
        except CallFailed as failed:
            ended = [openai_responses.from_call_failure(failed, MESSAGES).as_json()]
        for chunk in ended:
            yield chunk


async def _single_chunk_events(
    head: CompletionHead, written: str, answer: Answer, request: ChatRequest
) -> AsyncGenerator[JsonObject, None]:
    yield openai_responses.stream_chunk(
        head, {"role": "assistant", **openai_responses.message_content(written, answer)}
    )
    for chunk in openai_responses.final_chunks(head, answer, include_usage=request.include_usage):
        yield chunk


def _finish(stream: AsyncGenerateStream) -> Finish:
    if stream.finish is None:
        message = "the stream ended without a final message"
        raise CallFailed("UNAVAILABLE", "STREAM_BROKEN", message, remedy="Send the request again.", metadata={})
    return stream.finish


_IGNORED_EMBEDDING_MEMBERS = {"user": request_json.parse_string}


class TaskEndpoints:
    """The other calls: embeddings, the list of models, and classification with everything that the daemon reports."""

    def __init__(self, client: AsyncClient) -> None:
        """Use a client of the daemon."""
        self._client = client

    async def models(self, call: GatewayCall) -> Response:
        """Answer GET /v1/models, in the format of System One for its clients, otherwise in that of OpenAI."""
        found = await self._client.tasks(timeout_seconds=call.seconds_left)
        if SYSTEM_ONE_HEADER in call.headers:
            return JSONResponse(system_one_models(found))
        return JSONResponse({"object": "list", "data": [openai_responses.model_entry(task) for task in found]})

    async def model(self, call: GatewayCall) -> Response:
        """Answer GET /v1/models/TASK."""
        return JSONResponse(
            openai_responses.model_entry(await self._client.task(call.path["task"], timeout_seconds=call.seconds_left))
        )

    async def embed(self, call: GatewayCall) -> Response:
        """Answer POST /v1/embeddings. One failed input fails the request, as OpenAI's format has no place for it."""
        request = request_json.parse_body(call.body)
        task, texts = request.required("model", request_json.parse_string), request.required("input", _inputs)
        as_base64 = request.optional("encoding_format", request_json.one_of("float", "base64"), "float") == "base64"
        dimensions = request.optional("dimensions", request_json.integer_in(1, request_json.UINT32_MAX), 0)
        request.present(_IGNORED_EMBEDDING_MEMBERS)
        request.refuse_rest()
        found = await self._client.embed(task, texts, request_id=call.request_id, timeout_seconds=call.seconds_left)
        vectors = [_vector(each, place, len(found)) for place, each in enumerate(found, 1)]
        if dimensions and len(vectors[0].values) != dimensions:
            message = f"'dimensions' is {dimensions}; '{task}' makes vectors of {len(vectors[0].values)}"
            raise GatewayError(message, param="dimensions", remedy="Leave it out.")
        return JSONResponse(openai_responses.embedding_list(task, vectors, as_base64=as_base64))

    async def classify(self, call: GatewayCall) -> Response:
        """Answer POST /v1/tasks/TASK:classify: each text has a label or an error of its own."""
        request = request_json.parse_body(call.body)
        texts = request.required("texts", request_json.parse_strings)
        policy = request.optional(
            "on_low_confidence", request_json.one_of(*chat_request.LOW_CONFIDENCE_POLICIES), chat_request.AS_MODE
        )
        top_k = request.optional("top_k", request_json.integer_in(0, request_json.UINT32_MAX), 0)
        request.refuse_rest()
        found = await self._client.classify(
            call.path["task"],
            texts,
            on_low_confidence=policy,
            top_k=top_k,
            request_id=call.request_id,
            timeout_seconds=call.seconds_left,
        )
        return JSONResponse({"results": list(map(_result, found))})


def _inputs(value: Any) -> list[str]:
    """Parse one text, or several. Token ids are refused: they belong to another tokenizer."""
    if isinstance(value, str):
        return [request_json.parse_string(value)]
    try:
        return request_json.parse_strings(value)
    except ValueError as error:
        raise ValueError(f"{error}, or one; a task makes its own tokens") from None


def _vector(found: Embedding | Failure, place: int, of: int) -> Embedding:
    if isinstance(found, Embedding):
        return found
    error = openai_responses.from_input_failure(found, "input")
    error.message = f"input {place} of {of}: {error.message}"
    raise error


def _result(found: Classification | Failure) -> dict[str, Any]:
    return (
        openai_responses.answer_details(found)
        if isinstance(found, Classification)
        else openai_responses.from_input_failure(found, "texts").as_json()
    )


def routes(client: AsyncClient, refusals: RefusalLog, calls_max: int = CALLS_MAX) -> list[Route]:
    """Return the routes below /v1, which use a daemon's client for devices."""
    slots, tasks, decisions = CallSlots(calls_max), TaskEndpoints(client), DecisionEndpoints(client)
    return [
        Route(
            "/v1/chat/completions",
            GatewayEndpoint(ChatCompletionEndpoint(client).complete, slots, refusals, MESSAGES),
            methods=["POST"],
        ),
        Route(
            "/v1/decisions",
            GatewayEndpoint(decisions.decide, slots, refusals, INPUT),
            methods=["POST"],
        ),
        Route(
            "/v1/systemone",
            GatewayEndpoint(decisions.system_one, slots, refusals, STATE, detailed=True),
            methods=["POST"],
        ),
        Route("/v1/embeddings", GatewayEndpoint(tasks.embed, slots, refusals, "input"), methods=["POST"]),
        Route("/v1/models", GatewayEndpoint(tasks.models, slots, refusals), methods=["GET"]),
        Route("/v1/models/{task}", GatewayEndpoint(tasks.model, slots, refusals), methods=["GET"]),
        Route("/v1/tasks/{task}:classify", GatewayEndpoint(tasks.classify, slots, refusals, "texts"), methods=["POST"]),
        Route("/v1/{path:path}", GatewayEndpoint(_refuse_path, slots, refusals)),
    ]


async def _refuse_path(call: GatewayCall) -> NoReturn:
    message = f"this gateway has no call /v1/{call.path['path'][:SHOWN_CHARS_MAX]} by that method"
    error = GatewayError(message, remedy=f"It has {', '.join(PATHS)}.", reason="PATH_UNKNOWN")
    error.status = NOT_FOUND
    raise error
