"""The device's clients, for the inference socket: `Client`, and `AsyncClient` for asyncio programs."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, Self, TypeVar, Unpack

import grpc

from edge_agent.client import results, translation
from edge_agent.client.call_failed import CallFailed, Tls
from edge_agent.client.daemon_connection import (
    PAGE_SIZE,
    AsyncConnection,
    Connection,
    DaemonConnection,
    Retry,
    blocking,
    require_count,
    require_several,
    require_text,
    require_texts,
    run_blocking,
)
from edge_agent.client.results import (
    Classification,
    Decision,
    Embedding,
    Extraction,
    Failure,
    Finish,
    GenerateOptions,
    OnLowConfidence,
)
from edge_agent.client.task_description import Task, TaskQuestion
from edge_agent.v1 import inference_pb2
from edge_agent.v1.inference_pb2_grpc import InferenceServiceStub

INPUTS_MAX = 16
"""Default number of inputs of a request: small, so that results arrive while further inputs are still read."""
# Errors that fail a request with one input, but are that input's own error among others (proto: InferenceService).
_REASONS_OF_INPUTS = {"INPUT_EMPTY", "INPUT_TOO_LONG", "INPUT_QUARANTINED", "MODEL_FAILED", "ENGINE_CRASHED"}
_A = TypeVar("_A")
_C = TypeVar("_C", bound=DaemonConnection)


class _InferenceCalls:
    """The calls of a device, written once: see daemon_connection.py."""

    unary: Any
    request_id: Callable[[str], str]
    _stub: Any

    async def classify(
        self,
        task: str,
        texts: Sequence[str],
        *,
        on_low_confidence: OnLowConfidence = "as_mode",
        top_k: int = 0,
        request_id: str = "",
        timeout_seconds: float = 10,
    ) -> list[Classification | Failure]:
        """Choose one label for each text; `top_k` scores are returned, 0 = all."""
        request = inference_pb2.ClassifyRequest(
            task=task,
            texts=require_texts(texts),
            request_id=self.request_id(request_id),
            on_low_confidence=results.on_low_confidence(on_low_confidence),
            top_k=require_count(top_k, "top_k"),
        )
        return results.classifications(await self.unary(self._stub.Classify, request, timeout_seconds))

    async def decide(
        self,
        task: str,
        texts: Sequence[str],
        *,
        questions: Sequence[str] = (),
        open_questions: Sequence[TaskQuestion] = (),
        on_low_confidence: OnLowConfidence = "as_mode",
        request_id: str = "",
        timeout_seconds: float = 10,
    ) -> list[Decision | Failure]:
        """Answer questions about each text.

        Args:
            task: a decide task, or a classify task, whose only question has the task's name.
            texts: the inputs.
            questions: names of the task's questions to answer; empty = all of them.
            open_questions: questions of this call instead, where the task takes them.
            on_low_confidence: what to do with each answer that is not confident.
            request_id: as for `classify`.
            timeout_seconds: for the whole call.
        """
        request = inference_pb2.DecideRequest(
            task=task,
            texts=require_texts(texts),
            request_id=self.request_id(request_id),
            on_low_confidence=results.on_low_confidence(on_low_confidence),
            questions=questions,
            open_questions=map(results.question, open_questions),
        )
        return results.decisions(await self.unary(self._stub.Decide, request, timeout_seconds))

    async def extract(
        self,
        task: str,
        texts: Sequence[str],
        *,
        on_low_confidence: OnLowConfidence = "as_mode",
        request_id: str = "",
        timeout_seconds: float = 10,
    ) -> list[Extraction | Failure]:
        """Find the task's record in each text."""
        request = inference_pb2.ExtractRequest(
            task=task,
            texts=require_texts(texts),
            request_id=self.request_id(request_id),
            on_low_confidence=results.on_low_confidence(on_low_confidence),
        )
        return results.extractions(await self.unary(self._stub.Extract, request, timeout_seconds))

    async def embed(
        self, task: str, texts: Sequence[str], *, request_id: str = "", timeout_seconds: float = 10
    ) -> list[Embedding | Failure]:
        """Turn each text into a vector."""
        request = inference_pb2.EmbedRequest(
            task=task, texts=require_texts(texts), request_id=self.request_id(request_id)
        )
        return results.embeddings(await self.unary(self._stub.Embed, request, timeout_seconds))

    async def tasks(self, *, timeout_seconds: float = 10) -> list[Task]:
        """List the installed tasks, by name."""
        tasks: list[Task] = []
        request = inference_pb2.ListTasksRequest(page_size=PAGE_SIZE)
        while True:
            page = await self.unary(self._stub.ListTasks, request, timeout_seconds)
            tasks += map(translation.task, page.tasks)
            if not page.next_page_token:
                return tasks
            request.page_token = page.next_page_token

    async def task(self, name: str, *, timeout_seconds: float = 10) -> Task:
        """Show one installed task."""
        request = inference_pb2.GetTaskRequest(task=name)
        response = await self.unary(self._stub.GetTask, request, timeout_seconds)
        return translation.task(response.task, response.record_schema)


def _generate_request(connection: DaemonConnection, task: str, text: str, options: GenerateOptions) -> Any:
    """Write the request of a generation; an option that is None stays unset."""
    fields: dict[str, Any] = {key: require_count(value, key) for key, value in options.items() if value is not None}
    request = inference_pb2.GenerateRequest(task=task, text=require_text(text), **fields)
    request.request_id = connection.request_id(request.request_id)
    return request


class _Generation(Generic[_C]):
    """One call of Generate, which is retried until its first piece arrives."""

    def __init__(self, connection: _C, method: Any, request: Any, timeout_seconds: float) -> None:
        self.finish: Finish | None = None
        """How the generation ended; set after the last piece."""
        self._connection, self._method, self._request = connection, method, request
        self._timeout_seconds = timeout_seconds
        self._attempts = connection.attempts(timeout_seconds)
        self._call: Any = None
        self._cancelled = False

    def _start(self, seconds: float) -> None:
        self._call = self._connection.start(self._method, self._request, seconds)
        if self._cancelled:  # by another thread, while this one waited for its next try
            self._call.cancel()

    async def _restart(self, error: grpc.RpcError, has_begun: bool) -> None:
        """Start the call again. Raises CallFailed if that is not safe or a piece has already arrived."""
        failed = self._connection.failed(error, self._timeout_seconds, self._request)
        if has_begun:
            raise failed from error
        await self._connection.wait_for_next(self._attempts, failed, error)
        self._start(self._attempts.seconds_left(time.monotonic()))

    def cancel(self) -> None:
        """Stop the generation, if it has not ended. With a sync client, any thread can call this."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()


class GenerateStream(_Generation[Connection]):
    """The pieces of one generation, as they are written. Iterate once.

    The call is cancelled when the loop or the `with` block is left early, so the model stops. After a cancel the
    iteration ends quietly and `finish` is None. A client with `retry` tries again until the first piece has come.
    """

    def __init__(self, connection: Connection, method: Any, request: Any, timeout_seconds: float) -> None:
        """Start the call."""
        super().__init__(connection, method, request, timeout_seconds)
        self._start(timeout_seconds)

    def __iter__(self) -> Iterator[str]:
        """Yield the text piece by piece. Raises CallFailed."""
        has_begun = False
        try:
            while True:
                try:
                    for message in self._call:
                        if message.HasField("finish"):
                            self.finish = results.finish(message.finish)
                        else:
                            has_begun = True
                            yield message.text
                except grpc.RpcError as error:
                    if self._cancelled:
                        return
                    run_blocking(self._restart(error, has_begun))
                else:
                    self._connection.note_answer()
                    return
        finally:
            self.cancel()

    def __enter__(self) -> Self:
        """Use as a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel what is not finished."""
        self.cancel()


class AsyncGenerateStream(_Generation[AsyncConnection]):
    """The pieces of one generation, as they are written. Iterate once.

    The call starts with the block or the loop, and is cancelled whichever way either is left: by `break`, `return`, an
    exception or a cancelled task. gRPC itself never cancels a stream that is merely dropped
    (https://github.com/grpc/grpc/issues/43462). After a loop without a block the event loop cancels it in its next
    turn; the block does so at once. After a cancel the iteration ends quietly and `finish` is None. A client with
    `retry` tries again until the first piece has come.
    """

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield the text piece by piece. Raises CallFailed."""
        try:
            self._start_once()
            while not self._cancelled:
                has_begun = False
                try:
                    async for message in self._call:
                        if message.HasField("finish"):
                            self.finish = results.finish(message.finish)
                        else:
                            has_begun = True
                            yield message.text
                except grpc.RpcError as error:
                    if not self._cancelled:
                        await self._restart(error, has_begun)
                else:
                    self._connection.note_answer()
                    return
        except asyncio.CancelledError:
            # `cancel()` and the client's `close()` arrive here as CancelledError, too; only the caller's own
            # cancellation may pass.
            task = asyncio.current_task()
            if not self._cancelled or (task is not None and task.cancelling()):
                self._connection.raise_if_closed(self._request)
                raise
        finally:
            self.cancel()

    def _start_once(self) -> None:
        if self._call is None and not self._cancelled:
            self._start(self._timeout_seconds)

    async def __aenter__(self) -> Self:
        """Start the call."""
        self._start_once()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel what is not finished."""
        self.cancel()

    async def aclose(self) -> None:
        """Cancel what is not finished, for `contextlib.aclosing`."""
        self.cancel()


class Client(Connection):
    """Calls of a device. Every method raises CallFailed; an input of a batch that fails alone is a Failure.

    A request that cannot be sent is a ValueError or TypeError: a text that is not a string, a client that is closed.
    """

    def __init__(self, target: str, tls: Tls | None = None, *, retry: Retry | None = None) -> None:
        """Name the daemon: "unix:/run/edge-agent/inference.sock", or "host:port" with the files of TLS.

        With `retry` a call is made again until its timeout, where that is safe; None = each call is made once.
        """
        super().__init__(target, tls, retry=retry)
        self._stub: Any = InferenceServiceStub(self.channel)

    classify = blocking(_InferenceCalls.classify)
    decide = blocking(_InferenceCalls.decide)
    extract = blocking(_InferenceCalls.extract)
    embed = blocking(_InferenceCalls.embed)
    tasks = blocking(_InferenceCalls.tasks)
    task = blocking(_InferenceCalls.task)

    def generate(
        self, task: str, text: str, *, timeout_seconds: float = 60, **options: Unpack[GenerateOptions]
    ) -> GenerateStream:
        """Start a generation; errors come out of the iteration.

        with client.generate("assistant", "Hello", output_tokens_max=64) as stream:
            for piece in stream:
                print(piece, end="")
        print(stream.finish.reason)
        """
        request = _generate_request(self, task, text, options)
        return GenerateStream(self, self._stub.Generate, request, timeout_seconds)

    def in_batches(
        self,
        call: Callable[[str, list[str]], list[_A | Failure]],
        task: str,
        texts: Iterable[str],
        *,
        inputs_max: int = INPUTS_MAX,
    ) -> Iterator[tuple[str, _A | Failure]]:
        """Yield each of many texts with its result, in order; ask for a few at a time, as the task allows.

        for text, result in client.in_batches(client.classify, "pos-intent", open("messages.txt")):
            print(text, result)

        `texts` are read as they are needed, so they can be endless. Options go in with functools.partial. Raises
        CallFailed where a request fails as a whole; an error of one text alone is its Failure.
        """
        size = max(1, min(self.task(task).inputs_max, inputs_max))
        for batch in _batched(texts, size):
            results: list[_A | Failure]
            try:
                results = call(task, batch)
            except CallFailed as failed:
                results = [_failure_of_input(failed, len(batch))]
            yield from zip(batch, results, strict=True)


class AsyncClient(_InferenceCalls, AsyncConnection):
    """Calls of a device, awaited. Every method raises CallFailed; an input of a batch that fails alone is a Failure.

    A request that cannot be sent is a ValueError or TypeError: a text that is not a string, a client that is closed.
    It belongs to the event loop of its first call, and can be created before that runs.
    """

    @functools.cached_property
    def _stub(self) -> Any:
        return InferenceServiceStub(self.channel)

    def generate(
        self, task: str, text: str, *, timeout_seconds: float = 60, **options: Unpack[GenerateOptions]
    ) -> AsyncGenerateStream:
        """Start a generation; errors come out of the iteration.

        async with client.generate("assistant", "Hello", output_tokens_max=64) as stream:
            async for piece in stream:
                print(piece, end="")
        """
        request = _generate_request(self, task, text, options)
        self.require_open()
        return AsyncGenerateStream(self, self._stub.Generate, request, timeout_seconds)

    async def in_batches(
        self,
        call: Callable[[str, list[str]], Awaitable[list[_A | Failure]]],
        task: str,
        texts: Iterable[str],
        *,
        inputs_max: int = INPUTS_MAX,
        calls_max: int = 1,
    ) -> AsyncIterator[tuple[str, _A | Failure]]:
        """Yield each of many texts with its result, in order; ask for a few at a time, as the task allows.

        async for text, result in client.in_batches(client.classify, "pos-intent", texts, calls_max=4):
            print(text, result)

        Up to `calls_max` requests are in progress together; leaving the loop cancels them. `texts` are read as they
        are needed. Options go in with functools.partial. Raises CallFailed where a request fails as a whole; an error
        of one text alone is its Failure.
        """
        size = max(1, min((await self.task(task)).inputs_max, inputs_max))
        in_progress: deque[asyncio.Task[list[tuple[str, _A | Failure]]]] = deque()
        try:
            for batch in _batched(texts, size):
                in_progress.append(asyncio.create_task(_one_batch(call, task, batch)))
                if len(in_progress) >= calls_max:
                    for pair in await in_progress.popleft():
                        yield pair
            while in_progress:
                for pair in await in_progress.popleft():
                    yield pair
        finally:
            for each in in_progress:
                each.cancel()


async def _one_batch(
    call: Callable[[str, list[str]], Awaitable[list[_A | Failure]]], task: str, batch: list[str]
) -> list[tuple[str, _A | Failure]]:
    results: list[_A | Failure]
    try:
        results = await call(task, batch)
    except CallFailed as failed:
        results = [_failure_of_input(failed, len(batch))]
    return list(zip(batch, results, strict=True))


def _batched(items: Iterable[_A], size: int) -> Iterator[list[_A]]:
    """Yield the items in lists of `size`, the last one shorter; read no further than needed."""
    rest = iter(require_several(items))
    while batch := list(islice(rest, size)):
        yield batch


def _failure_of_input(failed: CallFailed, inputs: int) -> Failure:
    """Return the error of the only input of a request. Raises `failed` when the error is of the whole request."""
    if inputs > 1 or failed.reason not in _REASONS_OF_INPUTS:
        raise failed
    return Failure(failed.reason, failed.message, failed.metadata, failed.remedy)
