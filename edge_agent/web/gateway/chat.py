"""POST /v1/chat/completions: one text, answered by a task of any kind but embed, whole or in pieces."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TypeVar

from starlette.responses import JSONResponse, Response

from edge_agent.client import (
    Answer,
    AsyncClient,
    AsyncGenerateStream,
    CallFailed,
    Classification,
    Extraction,
    Failure,
    Finish,
)
from edge_agent.web.gateway import answers, asking, refusals
from edge_agent.web.gateway.answers import Head, Plain
from edge_agent.web.gateway.asking import Completion
from edge_agent.web.gateway.calls import Call, EventStream

INPUTS = "messages"
_A = TypeVar("_A")


class Chat:
    """See the module."""

    def __init__(self, client: AsyncClient) -> None:
        """Ask that daemon."""
        self._client = client

    async def complete(self, call: Call) -> Response:
        """Answer one request. Raises CallFailed, Refused."""
        asked = asking.completion(call.body)
        task = await self._client.task(asked.task, timeout_seconds=call.seconds_left)
        asked.check(task)
        head = Head(f"chatcmpl-{uuid.uuid4()}", int(time.time()), asked.task)
        if task.kind == "GENERATE":
            stream = self._generation(asked, call)
            return await (_live(stream, asked, head, call) if asked.stream else _whole(stream, head))
        written, answer = await (self._label(asked, call) if task.kind == "CLASSIFY" else self._record(asked, call))
        if asked.stream:
            return EventStream(_at_once(head, written, answer, asked), call.seconds_left)
        return JSONResponse(answers.completion(head, written, answer))

    def _generation(self, asked: Completion, call: Call) -> AsyncGenerateStream:
        return self._client.generate(
            asked.task,
            asked.text,
            timeout_seconds=call.seconds_left,
            **asked.generate_options(call.request_id),
        )

    async def _label(self, asked: Completion, call: Call) -> tuple[str, Classification]:
        found = await self._client.classify(
            asked.task,
            [asked.text],
            on_low_confidence=asked.on_low_confidence,
            top_k=asked.top_k,
            request_id=call.request_id,
            timeout_seconds=call.seconds_left,
        )
        answer = _only(found)
        return answer.label, answer

    async def _record(self, asked: Completion, call: Call) -> tuple[str, Extraction]:
        found = await self._client.extract(
            asked.task,
            [asked.text],
            on_low_confidence=asked.on_low_confidence,
            request_id=call.request_id,
            timeout_seconds=call.seconds_left,
        )
        answer = _only(found)
        return answer.json, answer


def _only(found: Sequence[_A | Failure]) -> _A:
    [answer] = found
    if isinstance(answer, Failure):
        raise refusals.of_input(answer, INPUTS)
    return answer


async def _whole(stream: AsyncGenerateStream, head: Head) -> Response:
    async with stream:
        text = "".join([each async for each in stream])
    return JSONResponse(answers.completion(head, text, _finish(stream)))


async def _live(stream: AsyncGenerateStream, asked: Completion, head: Head, call: Call) -> Response:
    """Wait for the first piece: what fails before it is an error of the request, not of the stream."""
    pieces = aiter(stream)
    try:
        first = await anext(pieces, None)
    except BaseException:
        stream.cancel()
        raise
    return EventStream(_events(stream, first, pieces, head, asked), call.seconds_left)


async def _events(
    stream: AsyncGenerateStream, first: str | None, pieces: AsyncIterator[str], head: Head, asked: Completion
) -> AsyncGenerator[Plain, None]:
    async with stream:
        yield answers.piece(head, {"role": "assistant", "content": "", "refusal": None})
        if first is not None:
            yield answers.piece(head, {"content": first})
        try:
            async for text in pieces:
                yield answers.piece(head, {"content": text})
            ended = answers.last(head, _finish(stream), include_usage=asked.include_usage)
        except CallFailed as failed:
            ended = [refusals.of_call(failed, INPUTS).plain()]
        for plain in ended:
            yield plain


async def _at_once(head: Head, written: str, answer: Answer, asked: Completion) -> AsyncGenerator[Plain, None]:
    yield answers.piece(head, {"role": "assistant", **answers.content(written, answer)})
    for plain in answers.last(head, answer, include_usage=asked.include_usage):
        yield plain


def _finish(stream: AsyncGenerateStream) -> Finish:
    if stream.finish is None:
        said = "the text ended without its end"
        raise CallFailed("UNAVAILABLE", "STREAM_BROKEN", said, remedy="Send the request again.", metadata={})
    return stream.finish
