"""The client for asyncio programs: the same calls as `Client`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
import grpc.aio

from edge_agent.client import arguments, wire
from edge_agent.client.answers import Classification, Embedding, Extraction, Failure, Finish, Task
from edge_agent.client.failure import CallFailed, call_failed
from edge_agent.client.tls import Tls
from edge_agent.v1 import inference_pb2
from edge_agent.v1.inference_pb2_grpc import InferenceServiceStub


class AsyncGenerateStream:
    """The pieces of one generation, as they are written. Iterate once, and inside `async with`.

    gRPC never cancels a stream that is merely dropped (https://github.com/grpc/grpc/issues/43462), so the block does it
    on leaving. After a cancel the iteration ends quietly and `finish` is None.
    """

    def __init__(self, call: Any, failed: Callable[[grpc.RpcError], CallFailed]) -> None:
        """Wrap a call that has been started; `failed` reads its error."""
        self.finish: Finish | None = None
        """How the generation ended; set after the last piece."""
        self._call = call
        self._failed = failed
        self._cancelled = False

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield the text piece by piece. Raises CallFailed."""
        try:
            async for message in self._call:
                if message.HasField("finish"):
                    self.finish = wire.finish(message.finish)
                else:
                    yield message.text
        except grpc.RpcError as error:
            if not self._cancelled:
                raise self._failed(error) from error
        except asyncio.CancelledError:
            # `cancel()` surfaces here as CancelledError too; only the caller's own cancellation may pass.
            task = asyncio.current_task()
            if not self._cancelled or (task is not None and task.cancelling()):
                raise
        finally:
            self.cancel()

    async def __aenter__(self) -> Self:
        """Use as a block."""
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
        self._call.cancel()


class AsyncClient:
    """Calls of a device. Every method raises CallFailed; an input of a batch that fails alone is a Failure.

    What cannot be sent at all is a ValueError or TypeError: a text that is no text, a client that is closed.
    Create and use it inside one running event loop.
    """

    def __init__(self, target: str, tls: Tls | None = None) -> None:
        """Name the daemon: "unix:/run/edge-agent/inference.sock", or "host:port" with the files of TLS.

        Raises:
            ValueError: the address is none.
            OSError: a file of TLS cannot be read.
        """
        self.target = arguments.target(target)
        self._tls = tls
        self._closed = False
        if tls:
            options = [*wire.CHANNEL_OPTIONS, *tls.options()]
            self._channel = grpc.aio.secure_channel(target, tls.channel_credentials(), options=options)
        else:
            self._channel = grpc.aio.insecure_channel(target, options=wire.CHANNEL_OPTIONS)
        self._stub: Any = InferenceServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        """Open."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    async def close(self) -> None:
        """End the connection; calls in progress are cancelled."""
        self._closed = True
        await self._channel.close(None)

    def _start(self, method: Any, request: Any, timeout_seconds: float) -> Any:
        if self._closed:
            raise arguments.closed()
        return method(request, timeout=arguments.timeout(timeout_seconds))

    def _failed(self, error: grpc.RpcError, timeout_seconds: float) -> CallFailed:
        return call_failed(error, self.target, timeout_seconds, with_tls=self._tls is not None)

    async def _call(self, method: Any, request: Any, timeout_seconds: float) -> Any:
        try:
            return await self._start(method, request, timeout_seconds)
        except grpc.RpcError as error:
            raise self._failed(error, timeout_seconds) from error

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
            request_id=request_id,
            on_low_confidence=wire.on_low_confidence(on_low_confidence),
            top_k=top_k,
        )
        return wire.classifications(await self._call(self._stub.Classify, request, timeout_seconds))

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
            request_id=request_id,
            on_low_confidence=wire.on_low_confidence(on_low_confidence),
        )
        return wire.extractions(await self._call(self._stub.Extract, request, timeout_seconds))

    async def embed(
        self, task: str, texts: Sequence[str], *, request_id: str = "", timeout_seconds: float = 10
    ) -> list[Embedding | Failure]:
        """Turn each text into a vector."""
        request = inference_pb2.EmbedRequest(task=task, texts=arguments.texts(texts), request_id=request_id)
        return wire.embeddings(await self._call(self._stub.Embed, request, timeout_seconds))

    def generate(
        self, task: str, text: str, *, timeout_seconds: float = 60, **options: Unpack[wire.GenerateOptions]
    ) -> AsyncGenerateStream:
        """Start a generation; errors come out of the iteration.

        async with client.generate("assistant", "Hello", output_tokens_max=64) as stream:
            async for piece in stream:
                print(piece, end="")
        """
        request = wire.generate_request(task, text, options)
        call = self._start(self._stub.Generate, request, timeout_seconds)
        return AsyncGenerateStream(call, lambda error: self._failed(error, timeout_seconds))

    async def tasks(self, *, timeout_seconds: float = 10) -> list[Task]:
        """List the installed tasks, by name."""
        tasks: list[Task] = []
        request = inference_pb2.ListTasksRequest(page_size=wire.PAGE_SIZE)
        while True:
            page = await self._call(self._stub.ListTasks, request, timeout_seconds)
            tasks += map(wire.task, page.tasks)
            if not page.next_page_token:
                return tasks
            request.page_token = page.next_page_token

    async def task(self, name: str, *, timeout_seconds: float = 10) -> Task:
        """Show one installed task."""
        request = inference_pb2.GetTaskRequest(task=name)
        return wire.task((await self._call(self._stub.GetTask, request, timeout_seconds)).task)
