"""The client for programs without an event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc

from edge_agent.client import arguments, batches, wire
from edge_agent.client.answers import Classification, Embedding, Extraction, Failure, Finish, Task
from edge_agent.client.connection import Connection
from edge_agent.client.failure import CallFailed
from edge_agent.client.retry import Retry
from edge_agent.client.tls import Tls
from edge_agent.v1 import inference_pb2
from edge_agent.v1.inference_pb2_grpc import InferenceServiceStub

_A = TypeVar("_A")


class GenerateStream:
    """The pieces of one generation, as they are written. Iterate once.

    The call is cancelled when the loop or the `with` block is left early, so the model stops. After a cancel the
    iteration ends quietly and `finish` is None. A client that tries again does so until the first piece has come.
    """

    def __init__(
        self, begin: Callable[[float], Any], connection: Connection, request: Any, timeout_seconds: float
    ) -> None:
        """Start the call: `begin` does so, with the seconds that it has."""
        self.finish: Finish | None = None
        """How the generation ended; set after the last piece."""
        self._begin = begin
        self._connection = connection
        self._request = request
        self._timeout_seconds = timeout_seconds
        self._cancelled = False
        self._tries = connection.tries(timeout_seconds)
        self._call = begin(timeout_seconds)

    def __iter__(self) -> Iterator[str]:
        """Yield the text piece by piece. Raises CallFailed."""
        begun = False
        try:
            while True:
                try:
                    for message in self._call:
                        if message.HasField("finish"):
                            self.finish = wire.finish(message.finish)
                        else:
                            begun = True
                            yield message.text
                except grpc.RpcError as error:
                    if self._cancelled:
                        return
                    self._again(error, begun)
                else:
                    self._connection.answered()
                    return
        finally:
            self.cancel()

    def _again(self, error: grpc.RpcError, begun: bool) -> None:
        """Start the call anew. Raises CallFailed when it may not be, or something has come of it already."""
        failed = self._connection.failed(error, self._timeout_seconds, self._request)
        if begun:
            raise failed from error
        self._connection.wait_for_next(self._tries, failed, error)
        self._call = self._begin(self._connection.seconds_left(self._tries))

    def __enter__(self) -> Self:
        """Use as a block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel what is not finished."""
        self.cancel()

    def cancel(self) -> None:
        """Stop the generation; nothing happens when it has ended. May be called from any thread."""
        self._cancelled = True
        self._call.cancel()


class Client(Connection):
    """Calls of a device. Every method raises CallFailed; an input of a batch that fails alone is a Failure.

    What cannot be sent at all is a ValueError or TypeError: a text that is no text, a client that is closed.
    """

    def __init__(self, target: str, tls: Tls | None = None, *, retry: Retry | None = None) -> None:
        """Name the daemon: "unix:/run/edge-agent/inference.sock", or "host:port" with the files of TLS.

        With `retry`, what can be tried again is, until its timeout; None = each call is made once.
        """
        super().__init__(target, tls, retry=retry)
        self._stub: Any = InferenceServiceStub(self.channel)

    def classify(
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
        return wire.classifications(self.call(self._stub.Classify, request, timeout_seconds))

    def extract(
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
        return wire.extractions(self.call(self._stub.Extract, request, timeout_seconds))

    def embed(
        self, task: str, texts: Sequence[str], *, request_id: str = "", timeout_seconds: float = 10
    ) -> list[Embedding | Failure]:
        """Turn each text into a vector."""
        request = inference_pb2.EmbedRequest(
            task=task, texts=arguments.texts(texts), request_id=self.request_id(request_id)
        )
        return wire.embeddings(self.call(self._stub.Embed, request, timeout_seconds))

    def generate(
        self, task: str, text: str, *, timeout_seconds: float = 60, **options: Unpack[wire.GenerateOptions]
    ) -> GenerateStream:
        """Start a generation; errors come out of the iteration.

        with client.generate("assistant", "Hello", output_tokens_max=64) as stream:
            for piece in stream:
                print(piece, end="")
        print(stream.finish.reason)
        """
        request = wire.generate_request(task, text, options)
        request.request_id = self.request_id(request.request_id)

        def begin(seconds: float) -> Any:
            return self.start(self._stub.Generate, request, seconds)

        return GenerateStream(begin, self, request, timeout_seconds)

    def in_batches(
        self,
        call: Callable[[str, list[str]], list[_A | Failure]],
        task: str,
        texts: Iterable[str],
        *,
        inputs_max: int = batches.INPUTS_MAX,
    ) -> Iterator[tuple[str, _A | Failure]]:
        """Yield each of many texts with its result, in order; ask for a few at a time, as the task allows.

        for text, result in client.in_batches(client.classify, "pos-intent", open("messages.txt")):
            print(text, result)

        `texts` are read as they are needed, so they may be endless. Options go in with functools.partial. Raises
        CallFailed where a request fails as a whole; what concerns one text alone is its Failure.
        """
        size = max(1, min(self.task(task).inputs_max, inputs_max))
        for batch in batches.batched(texts, size):
            found: list[_A | Failure]
            try:
                found = call(task, batch)
            except CallFailed as failed:
                found = [batches.of_input(failed, len(batch))]
            yield from zip(batch, found, strict=True)

    def tasks(self, *, timeout_seconds: float = 10) -> list[Task]:
        """List the installed tasks, by name."""
        tasks: list[Task] = []
        request = inference_pb2.ListTasksRequest(page_size=wire.PAGE_SIZE)
        while True:
            page = self.call(self._stub.ListTasks, request, timeout_seconds)
            tasks += map(wire.task, page.tasks)
            if not page.next_page_token:
                return tasks
            request.page_token = page.next_page_token

    def task(self, name: str, *, timeout_seconds: float = 10) -> Task:
        """Show one installed task."""
        request = inference_pb2.GetTaskRequest(task=name)
        return wire.shown_task(self.call(self._stub.GetTask, request, timeout_seconds))
