"""The prototype: grpc.aio on uvloop, handing each text to one child over a socketpair.

It speaks the API's messages, so that the same client calls it and the daemon, but fills in the scores alone. It checks
nothing, bounds nothing and survives nothing: it is what a call must cost with this division into processes.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
import sys

import grpc
import grpc.aio
import msgspec
import uvloop

from benchmarks.bare.child import LENGTH
from edge_agent.v1 import inference_pb2 as pb

SERVICE, METHOD = "edge_agent.v1.InferenceService", "Classify"


class _Pipe(asyncio.Protocol):
    """The server's end of the socketpair."""

    def __init__(self) -> None:
        self.ready = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport
        self._buffer = b""
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[list[float]]] = {}
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(tuple[int, list[float]]).decode

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            body, self._buffer = self._buffer[LENGTH.size : end], self._buffer[end:]
            if not body:
                self.ready.set_result(None)
                continue
            number, scores = self._decode(body)
            self._waiting.pop(number).set_result(scores)

    async def classify(self, text: str) -> list[float]:
        number = next(self._numbers)
        answer: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        body = self._encode((number, text))
        self._transport.write(LENGTH.pack(len(body)) + body)
        return await answer


async def _serve(address: str, folder: str) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "benchmarks.bare.child", str(theirs.fileno()), folder]
        child = subprocess.Popen(command, pass_fds=(theirs.fileno(),))  # noqa: ASYNC220, S603 - our own module
    _, pipe = await asyncio.get_running_loop().create_unix_connection(_Pipe, sock=ours)
    await pipe.ready

    async def classify(request: pb.ClassifyRequest, _context: object) -> pb.ClassifyResponse:
        response = pb.ClassifyResponse()
        add = response.results.add().classification.scores.add
        for score in await pipe.classify(request.texts[0]):
            add().score = score
        return response

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        classify, pb.ClassifyRequest.FromString, pb.ClassifyResponse.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    server.add_insecure_port(address)
    await server.start()
    print("listening", flush=True)  # noqa: T201 - a pipe
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # ends with the benchmark
    child.kill()


if __name__ == "__main__":
    uvloop.run(_serve(*sys.argv[1:]))
