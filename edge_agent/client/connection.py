"""One channel to one daemon, for the sync clients: open, call with a deadline, close."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edge_agent.client import arguments
from edge_agent.client.failure import CallFailed, call_failed
from edge_agent.client.tls import Tls
from edge_agent.client.wire import CHANNEL_OPTIONS


class Connection:
    """A context manager around one channel. Nothing is sent until the first call."""

    def __init__(self, target: str, tls: Tls | None = None) -> None:
        """Name the daemon: "unix:/run/edge-agent/inference.sock", or "host:port" with the files of TLS.

        Raises:
            ValueError: the address is none.
            OSError: a file of TLS cannot be read.
        """
        self.target = arguments.target(target)
        self.tls = tls
        if tls:
            options = [*CHANNEL_OPTIONS, *tls.options()]
            self.channel = grpc.secure_channel(target, tls.channel_credentials(), options=options)
        else:
            self.channel = grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._closed = False
        self._health: Any = health_pb2_grpc.HealthStub(self.channel)

    def __enter__(self) -> Self:
        """Open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; after Ctrl-C only let go.

        gRPC's close waits for every call, and for ever for one whose start Ctrl-C has torn.
        """
        if kind is not KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """End the connection; calls in progress are cancelled."""
        self._closed = True
        self.channel.close()

    def start(self, method: Any, request: Any, timeout_seconds: float) -> Any:
        """Start a call. Raises ValueError when the client is closed or there is no time."""
        if self._closed:
            raise arguments.closed()
        return method(request, timeout=arguments.timeout(timeout_seconds))

    def call(self, method: Any, request: Any, timeout_seconds: float) -> Any:
        """Make a unary call. Raises CallFailed; ValueError like `start`."""
        try:
            return self.start(method, request, timeout_seconds)
        except grpc.RpcError as error:
            raise self.failed(error, timeout_seconds) from error

    def failed(self, error: grpc.RpcError, timeout_seconds: float) -> CallFailed:
        """Read a call of this connection that failed."""
        return call_failed(error, self.target, timeout_seconds, with_tls=self.tls is not None)

    def serving(self, service: str = "", *, timeout_seconds: float = 5) -> bool:
        """Tell what the daemon's health check says of itself or of one service.

        Raises:
            CallFailed: no daemon answers, or it knows no such service.
        """
        request = health_pb2.HealthCheckRequest(service=service)
        answer = self.call(self._health.Check, request, timeout_seconds)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
