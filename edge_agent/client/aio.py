"""The client for asyncio programs: the same calls as `Client`, awaited."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
import grpc.aio

from edge_agent.client import arguments, batches, wire
from edge_agent.client.aio_connection import AsyncConnection
from edge_agent.client.answers import Classification, Embedding, Extraction, Failure, Finish, Task
from edge_agent.client.failure import CallFailed
from edge_agent.client.retry import Retry
from edge_agent.client.tls import Tls
from edge_agent.v1 import inference_pb2
from edge_agent.v1.inference_pb2_grpc import InferenceServiceStub

_A = TypeVar("_A")


class AsyncGenerateStream:
    """The pieces of one generation, as they are written. Iterate once.

    The call starts with the block or the loop, and is cancelled whichever way either is left: by `break`, `return`, an
    exception or a cancelled task. gRPC itself never cancels a stream that is merely dropped
    (https://github.com/grpc/grpc/issues/43462). After a loop without a block the event loop does it in its next turn;
    the block does it at once. After a cancel the iteration ends quietly and `finish` is None. A client that tries again
    does so until the first piece has come.
    """

    def __init__(
        self, begin: Callable[[float], Any], connection: AsyncConnection, request: Any, timeout_seconds: float
    ) -> None:
        """Note what to start: `begin` does so, with the seconds that it has."""
        self.finish: Finish | None = None
        """How the generation ended; set after the last piece."""
        self._begin = begin
        self._connection = connection
        self._request = request
        self._timeout_seconds = timeout_seconds
        self._tries = connection.tries(timeout_seconds)
        self._call: Any = None
        self._cancelled = False

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield the text piece by piece. Raises CallFailed."""
        try:
            self._start()
            while not self._cancelled:
                begun = False
                try:
                    async for message in self._call:
                        if message.HasField("finish"):
                            self.finish = wire.finish(message.finish)
                        else:
                            begun = True
                            yield message.text
                except grpc.RpcError as error:
                    if not self._cancelled:
                        await self._again(error, begun)
                else:
                    self._connection.answered()
                    return
        except asyncio.CancelledError:
            # `cancel()` surfaces here as CancelledError too; only the caller's own cancellation may pass.
            task = asyncio.current_task()
            if not self._cancelled or (task is not None and task.cancelling()):
                raise
        finally:
            self.cancel()

    def _start(self) -> None:
        if self._call is None and not self._cancelled:
            self._call = self._begin(self._timeout_seconds)

    async def _again(self, error: grpc.RpcError, begun: bool) -> None:
        """Start the call anew. Raises CallFailed when it may not be, or something has come of it already."""
        failed = self._connection.failed(error, self._timeout_seconds, self._request)
        if begun:
            raise failed from error
        await self._connection.wait_for_next(self._tries, failed, error)
        self._call = self._begin(self._connection.seconds_left(self._tries))

    async def __aenter__(self) -> Self:
        """Start the call."""
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel what is not finished."""
        self.cancel()

    async def aclose(self) -> None:
        """Cancel what is not finished, for `contextlib.aclosing`."""
        self.cancel()

    def cancel(self) -> None:
        """Stop the generation; nothing happens when it has ended."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()


class AsyncClient(AsyncConnection):
    """Calls of a device. Every method raises CallFailed; an input of a batch that fails alone is a Failure.

    What cannot be sent at all is a ValueError or TypeError: a text that is no text, a client that is closed.
    Create and use it inside one running event loop.
    """

    def __init__(self, target: str, tls: Tls | None = None, *, retry: Retry | None = None) -> None:
        """Name the daemon: "unix:/run/edge-agent/inference.sock", or "host:port" with the files of TLS.

        With `retry`, what can be tried again is, until its timeout; None = each call is made once.
        """
        super().__init__(target, tls, retry=retry)
        self._stub: Any = InferenceServiceStub(self.channel)

    async def classify(
        self,
        task: str,
        texts: Sequence[str],
        *,
        on_low_confidence: wire.OnLowConfidence = "as_mode",
        top_k: int = 0,
        request_id: str = "",
        timeout_seconds: float = 10,
    ) -> list[Classification | Failure]:
        """Choose one label for each text; `top_k` scores are returned, 0 = all."""
        request = inference_pb2.ClassifyRequest(
            task=task,
            texts=arguments.texts(texts),
            request_id=self.request_id(request_id),
            on_low_confidence=wire.on_low_confidence(on_low_confidence),
            top_k=top_k,
        )
        return wire.classifications(await self.call(self._stub.Classify, request, timeout_seconds))

    async def extract(
        self,
        task: str,
        texts: Sequence[str],
        *,
        on_low_confidence: wire.OnLowConfidence = "as_mode",
        request_id: str = "",
        timeout_seconds: float = 10,
    ) -> list[Extraction | Failure]:
        """Find the task's record in each text."""
        request = inference_pb2.ExtractRequest(
            task=task,
            texts=arguments.texts(texts),
            request_id=self.request_id(request_id),
            on_low_confidence=wire.on_low_confidence(on_low_confidence),
        )
        return wire.extractions(await self.call(self._stub.Extract, request, timeout_seconds))

    async def embed(
        self, task: str, texts: Sequence[str], *, request_id: str = "", timeout_seconds: float = 10
    ) -> list[Embedding | Failure]:
        """Turn each text into a vector."""
        request = inference_pb2.EmbedRequest(
            task=task, texts=arguments.texts(texts), request_id=self.request_id(request_id)
        )
        return wire.embeddings(await self.call(self._stub.Embed, request, timeout_seconds))

    def generate(
        self, task: str, text: str, *, timeout_seconds: float = 60, **options: Unpack[wire.GenerateOptions]
    ) -> AsyncGenerateStream:
        """Start a generation; errors come out of the iteration.

        async with client.generate("assistant", "Hello", output_tokens_max=64) as stream:
            async for piece in stream:
                print(piece, end="")
        """
        request = wire.generate_request(task, text, options)
        request.request_id = self.request_id(request.request_id)

        def begin(seconds: float) -> Any:
            return self.start(self._stub.Generate, request, seconds)

        self.require_open()
        return AsyncGenerateStream(begin, self, request, timeout_seconds)

    async def in_batches(
        self,
        call: Callable[[str, list[str]], Awaitable[list[_A | Failure]]],
        task: str,
        texts: Iterable[str],
        *,
        inputs_max: int = batches.INPUTS_MAX,
        calls_max: int = 1,
    ) -> AsyncIterator[tuple[str, _A | Failure]]:
        """Yield each of many texts with its result, in order; ask for a few at a time, as the task allows.

        async for text, result in client.in_batches(client.classify, "pos-intent", texts, calls_max=4):
            print(text, result)

        Up to `calls_max` requests are under way together; leaving the loop cancels them. `texts` are read as they are
        needed. Options go in with functools.partial. Raises CallFailed where a request fails as a whole; what concerns
        one text alone is its Failure.
        """
        size = max(1, min((await self.task(task)).inputs_max, inputs_max))
        waiting: deque[asyncio.Task[list[tuple[str, _A | Failure]]]] = deque()
        try:
            for batch in batches.batched(texts, size):
                waiting.append(asyncio.create_task(_one_batch(call, task, batch)))
                if len(waiting) >= calls_max:
                    for answered in await waiting.popleft():
                        yield answered
            while waiting:
                for answered in await waiting.popleft():
                    yield answered
        finally:
            for under_way in waiting:
                under_way.cancel()

    async def tasks(self, *, timeout_seconds: float = 10) -> list[Task]:
        """List the installed tasks, by name."""
        tasks: list[Task] = []
        request = inference_pb2.ListTasksRequest(page_size=wire.PAGE_SIZE)
        while True:
            page = await self.call(self._stub.ListTasks, request, timeout_seconds)
            tasks += map(wire.task, page.tasks)
            if not page.next_page_token:
                return tasks
            request.page_token = page.next_page_token

    async def task(self, name: str, *, timeout_seconds: float = 10) -> Task:
        """Show one installed task."""
        request = inference_pb2.GetTaskRequest(task=name)
        return wire.shown_task(await self.call(self._stub.GetTask, request, timeout_seconds))


async def _one_batch(
    call: Callable[[str, list[str]], Awaitable[list[_A | Failure]]], task: str, batch: list[str]
) -> list[tuple[str, _A | Failure]]:
    found: list[_A | Failure]
    try:
        found = await call(task, batch)
    except CallFailed as failed:
        found = [batches.of_input(failed, len(batch))]
    return list(zip(batch, found, strict=True))
