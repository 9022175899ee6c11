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
_DECISION_KINDS = ("CLASSIFY", "DECIDE")
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
        matches, decision = await self._answer(request, call, INPUT)
        answers = [openai_answer(each, decision[each.question.name]) for each in matches]
        input_tokens = _input_tokens(decision)
        usage = {
            "input_tokens": input_tokens,
            "output_tokens": 0,
            "total_tokens": input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        return JSONResponse({"model": request.task, "answers": answers, "usage": usage})

    async def system_one(self, call: GatewayCall) -> Response:
        """Answer TypeSafe's call. Raises CallFailed, GatewayError."""
        request = decision_requests.parse_system_one(call.body, call.headers)
        matches, decision = await self._answer(request, call, STATE)
        answers = {str(each.requested.name): system_one_answer(each, decision[each.question.name]) for each in matches}
        usage = {"input_tokens": _input_tokens(decision), "output_tokens": 0}
        return JSONResponse({"model": request.task, "answers": answers, "usage": usage})

    async def _answer(
        self, request: DecisionRequest, call: GatewayCall, text_member: str
    ) -> tuple[tuple[MatchedQuestion, ...], Decision]:
        task = await self._client.task(request.task, timeout_seconds=call.seconds_left)
        matches = match_questions(request, task)
        questions = [each.question for each in matches]
        is_open = any(each.type for each in questions)
        [decision] = await self._client.decide(
            request.task,
            [request.text],
            questions=() if is_open else [each.name for each in questions],
            open_questions=questions if is_open else (),
            on_low_confidence=request.on_low_confidence,
            request_id=call.request_id,
            timeout_seconds=call.seconds_left,
        )
        if isinstance(decision, Failure):
            raise openai_responses.from_input_failure(decision, text_member)
        return matches, decision


def _input_tokens(decision: Decision) -> int:
    """Return the tokens of the input, which all questions share."""
    return max((each.input_tokens for each in decision.answers), default=0)


def is_answered(answer: DecisionAnswer) -> bool:
    """Return whether there is a label with probabilities: not if the task abstained or only a large model answered."""
    return answer.route != "ABSTAINED" and bool(answer.probabilities)


def openai_answer(match: MatchedQuestion, answer: DecisionAnswer) -> JsonObject:
    """Return an answer as OpenAI's clients read it, or a refusal."""
    requested, by_label = match.requested, dict(answer.probabilities)
    members = {"name": requested.name, EXTENSION: answer_details(answer)}
    if not is_answered(answer):
        return {"type": "refusal", **members}
    if requested.kind == "predicate":
        return {"type": "predicate", "probability": by_label[match.truth], **members}
    graded = {"confidence": by_label[answer.label], **members}
    if requested.kind == "score":
        levels = [
            {"value": level, "label": label, "probability": by_label[label]} for level, label in enumerate(match.labels)
        ]
        return {"type": "score", "score": answer.score, "probabilities": levels, **graded}
    choice = requested.values[match.labels.index(answer.label)]
    probabilities = [
        {"value": value, "probability": by_label[label]}
        for value, label in zip(requested.values, match.labels, strict=True)
    ]
    return {"type": "choice", "choice": choice, "probabilities": probabilities, **graded}


def system_one_answer(match: MatchedQuestion, answer: DecisionAnswer) -> JsonObject:
    """Return an answer as TypeSafe's clients read it. They leave out one of type `refusal`, which they do not know."""
    requested, by_label, details = match.requested, dict(answer.probabilities), {EXTENSION: answer_details(answer)}
    if not is_answered(answer):
        return {"type": "refusal", **details}
    if requested.kind == "predicate":
        return {"type": "noul", "noul": by_label[match.truth], **details}
    graded = {"confidence": by_label[answer.label], **details}
    if requested.kind == "score":
        legend = {
            str(level): option.description or label
            for level, (option, label) in enumerate(zip(requested.options, match.labels, strict=True))
        }
        probabilities = {str(level): by_label[label] for level, label in enumerate(match.labels)}
        return {"type": "score", "score": answer.score, "legend": legend, "probabilities": probabilities, **graded}
    return {
        "type": "choice",
        "choice": answer.label,
        "probabilities": {option: by_label[option] for option in match.labels},
        **graded,
    }


def system_one_models(tasks: Sequence[Task]) -> JsonObject:
    """Return the tasks that answer questions, as TypeSafe's clients read a list of models."""
    return {"models": [_model(task) for task in tasks if task.kind in _DECISION_KINDS]}


def _model(task: Task) -> JsonObject:
    names = ", ".join(each.name for each in own_questions(task)) or "those of the call"
    description = f"a choice of {len(task.labels)} labels" if task.kind == "CLASSIFY" else f"questions: {names}"
    return {
        "name": task.name,
        "description": f"{description}; bundle version {task.bundle.version}",
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
            options = request.generate_options(call.request_id)
            stream = self._client.generate(request.task, request.text, timeout_seconds=call.seconds_left, **options)
            if request.stream:
                return await _stream_response(stream, request, head, call)
            async with stream:
                text = "".join([piece async for piece in stream])
            return JSONResponse(openai_responses.completion(head, text, _finish(stream)))
        text, answer = await (self._label(request, call) if task.kind == "CLASSIFY" else self._record(request, call))
        if request.stream:
            return EventStream(_single_chunk_events(head, text, answer, request), call.seconds_left)
        return JSONResponse(openai_responses.completion(head, text, answer))

    async def _label(self, request: ChatRequest, call: GatewayCall) -> tuple[str, Classification]:
        answers = await self._client.classify(
            request.task,
            [request.text],
            on_low_confidence=request.on_low_confidence,
            top_k=request.top_k,
            request_id=call.request_id,
            timeout_seconds=call.seconds_left,
        )
        answer = _single_answer(answers)
        return answer.label, answer

    async def _record(self, request: ChatRequest, call: GatewayCall) -> tuple[str, Extraction]:
        answers = await self._client.extract(
            request.task,
            [request.text],
            on_low_confidence=request.on_low_confidence,
            request_id=call.request_id,
            timeout_seconds=call.seconds_left,
        )
        answer = _single_answer(answers)
        return answer.json, answer


def _single_answer(answers: Sequence[_A | Failure]) -> _A:
    [answer] = answers
    if isinstance(answer, Failure):
        raise openai_responses.from_input_failure(answer, MESSAGES)
    return answer


async def _stream_response(
    stream: AsyncGenerateStream, request: ChatRequest, head: CompletionHead, call: GatewayCall
) -> Response:
    """Wait for the first chunk: a failure before it becomes an error of the request, not of the stream."""
    texts = aiter(stream)
    try:
        first_text = await anext(texts, None)
    except BaseException:
        stream.cancel()
        raise
    return EventStream(_generation_events(stream, first_text, texts, head, request), call.seconds_left)


async def _generation_events(
    stream: AsyncGenerateStream,
    first_text: str | None,
    texts: AsyncIterator[str],
    head: CompletionHead,
    request: ChatRequest,
) -> AsyncGenerator[JsonObject, None]:
    async with stream:
        yield openai_responses.stream_chunk(head, {"role": "assistant", "content": "", "refusal": None})
        if first_text is not None:
            yield openai_responses.stream_chunk(head, {"content": first_text})
        try:
            async for text in texts:
                yield openai_responses.stream_chunk(head, {"content": text})
            last_chunks = openai_responses.final_chunks(head, _finish(stream), include_usage=request.include_usage)
        except CallFailed as error:
            last_chunks = [openai_responses.from_call_failure(error, MESSAGES).as_json()]
        for chunk in last_chunks:
            yield chunk


async def _single_chunk_events(
    head: CompletionHead, text: str, answer: Answer, request: ChatRequest
) -> AsyncGenerator[JsonObject, None]:
    yield openai_responses.stream_chunk(head, {"role": "assistant", **openai_responses.message_content(text, answer)})
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
        tasks = await self._client.tasks(timeout_seconds=call.seconds_left)
        if SYSTEM_ONE_HEADER in call.headers:
            return JSONResponse(system_one_models(tasks))
        return JSONResponse({"object": "list", "data": [openai_responses.model_entry(task) for task in tasks]})

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
        results = await self._client.embed(task, texts, request_id=call.request_id, timeout_seconds=call.seconds_left)
        vectors = [_require_embedding(each, number, len(results)) for number, each in enumerate(results, 1)]
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
        results = await self._client.classify(
            call.path["task"],
            texts,
            on_low_confidence=policy,
            top_k=top_k,
            request_id=call.request_id,
            timeout_seconds=call.seconds_left,
        )
        answers = [
            openai_responses.answer_details(each)
            if isinstance(each, Classification)
            else openai_responses.from_input_failure(each, "texts").as_json()
            for each in results
        ]
        return JSONResponse({"results": answers})


def _inputs(value: Any) -> list[str]:
    """Parse one text, or several. Token ids are refused: they belong to another tokenizer."""
    if isinstance(value, str):
        return [request_json.parse_string(value)]
    try:
        return request_json.parse_strings(value)
    except ValueError as error:
        raise ValueError(f"{error}, or one; a task makes its own tokens") from None


def _require_embedding(result: Embedding | Failure, number: int, count: int) -> Embedding:
    if isinstance(result, Embedding):
        return result
    error = openai_responses.from_input_failure(result, "input")
    error.message = f"input {number} of {count}: {error.message}"
    raise error


def routes(client: AsyncClient, refusals: RefusalLog, calls_max: int = CALLS_MAX) -> list[Route]:
    """Return the routes below /v1, which use a daemon's client for devices."""
    slots, tasks, decisions = CallSlots(calls_max), TaskEndpoints(client), DecisionEndpoints(client)
    return [
        Route(
            "/v1/chat/completions",
            GatewayEndpoint(ChatCompletionEndpoint(client).complete, slots, refusals, MESSAGES),
            methods=["POST"],
        ),
        Route("/v1/decisions", GatewayEndpoint(decisions.decide, slots, refusals, INPUT), methods=["POST"]),
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
