"""The client for programs without an event loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from edge_agent.client import arguments, wire
from edge_agent.client.answers import Classification, Embedding, Extraction, Failure, Finish, Task
from edge_agent.client.connection import Connection
from edge_agent.client.tls import Tls
from edge_agent.v1 import inference_pb2
from edge_agent.v1.inference_pb2_grpc import InferenceServiceStub


class GenerateStream:
    """The pieces of one generation, as they are written. Iterate once.

    The call is cancelled when the loop or the `with` block is left early, so the model stops. After a cancel the
    iteration ends quietly and `finish` is None.
    """

    def __init__(self, call: Any, connection: Connection, timeout_seconds: float) -> None:
        """Wrap a call that has been started."""
        self.finish: Finish | None = None
        """How the generation ended; set after the last piece."""
        self._call = call
        self._connection = connection
        self._timeout_seconds = timeout_seconds
        self._cancelled = False

    def __iter__(self) -> Iterator[str]:
        """Yield the text piece by piece. Raises CallFailed."""
        try:
            for message in self._call:
                if message.HasField("finish"):
                    self.finish = wire.finish(message.finish)
                else:
                    yield message.text
        except grpc.RpcError as error:
            if not self._cancelled:
                raise self._connection.failed(error, self._timeout_seconds) from error
        finally:
            self.cancel()

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

    def __init__(self, target: str, tls: Tls | None = None) -> None:
        """Name the daemon: "unix:/run/edge-agent/inference.sock", or "host:port" with the files of TLS."""
        super().__init__(target, tls)
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
            request_id=request_id,
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
            request_id=request_id,
            on_low_confidence=wire.on_low_confidence(on_low_confidence),
        )
        return wire.extractions(self.call(self._stub.Extract, request, timeout_seconds))

    def embed(
        self, task: str, texts: Sequence[str], *, request_id: str = "", timeout_seconds: float = 10
    ) -> list[Embedding | Failure]:
        """Turn each text into a vector."""
        request = inference_pb2.EmbedRequest(task=task, texts=arguments.texts(texts), request_id=request_id)
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
        call = self.start(self._stub.Generate, request, timeout_seconds)
        return GenerateStream(call, self, timeout_seconds)

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
        return wire.task(self.call(self._stub.GetTask, request, timeout_seconds).task)
