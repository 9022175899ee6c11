"""One channel to one daemon, for the aio clients: as `Connection`, awaited."""

from __future__ import annotations

import asyncio
import random
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edge_agent.client.calling import Calling
from edge_agent.client.failure import CallFailed
from edge_agent.client.retry import Retry, Tries
from edge_agent.client.tls import Tls


class AsyncConnection(Calling):
    """A context manager around one channel. Create and use it inside one running event loop."""

    def __init__(self, target: str, tls: Tls | None = None, *, retry: Retry | None = None) -> None:
        """Name the daemon: "unix:/run/edge-agent/inference.sock", or "host:port" with the files of TLS.

        With `retry`, what can be tried again is, until its timeout; None = each call is made once.

        Raises:
            ValueError: the address is none.
            OSError: a file of TLS cannot be read.
        """
        super().__init__(target, tls, retry)
        self.channel = (
            grpc.aio.secure_channel(target, tls.channel_credentials(), options=self.options())
            if tls
            else grpc.aio.insecure_channel(target, options=self.options())
        )
        self._health: Any = health_pb2_grpc.HealthStub(self.channel)

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
        await self.channel.close(None)

    async def call(self, method: Any, request: Any, timeout_seconds: float) -> Any:
        """Make a unary call, again where it may be. Raises CallFailed; ValueError like `start`."""
        tries = self.tries(timeout_seconds)
        while True:
            try:
                answer = await self.start(method, request, self.seconds_left(tries))
            except grpc.RpcError as error:
                await self.wait_for_next(tries, self.failed(error, timeout_seconds, request), error)
            else:
                self.answered()
                return answer

    def tries(self, timeout_seconds: float) -> Tries:
        """Begin the tries of one call. Raises ValueError when there is no time."""
        return self.begin(timeout_seconds, asyncio.get_running_loop().time())

    def seconds_left(self, tries: Tries) -> float:
        """Return what is left for a try that begins now."""
        return tries.seconds_left(asyncio.get_running_loop().time())

    async def wait_for_next(self, tries: Tries, failed: CallFailed, error: grpc.RpcError) -> None:
        """Wait until the call may be made again. Raises `failed` when it may not."""
        pause = tries.pause(failed, asyncio.get_running_loop().time(), random.random())  # noqa: S311 no secret
        if pause is None:
            raise failed from error
        await asyncio.sleep(pause)

    async def serving(self, service: str = "", *, timeout_seconds: float = 5) -> bool:
        """Tell what the daemon's health check says of itself or of one service.

        Raises:
            CallFailed: no daemon answers, or it knows no such service.
        """
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await self.call(self._health.Check, request, timeout_seconds)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
