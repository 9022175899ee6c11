"""An HTTP server that keeps what is PUT, and answers badly when it is told to.

with AnsweringServer() as server:
    server.answer("503")
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

PAGE = b"<html>Please log in. token=SECRET-OF-THE-SERVER</html>"
XML = b"<Error><Code>SlowDown</Code><Message>SECRET-OF-THE-SERVER</Message></Error>"
WAYS = ("403", "401", "429", "500", "503", "301", "garbage", "silent", "html", "closed", "truncated")


class AnsweringServer:
    """Keeps objects by path while its way is "well"; otherwise each request is answered as the way says."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.authorizations: set[str] = set()
        self.way = "well"
        self.only: Callable[[str, str], bool] = lambda *_: True
        self._released = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def answer(self, way: str, only: Callable[[str, str], bool] = lambda *_: True) -> None:
        """Answer requests whose method and path `only` takes in that way, the others well."""
        self.only, self.way = only, way
        self.requests.clear()

    def hang(self) -> None:
        """Keep a request waiting until the end of the test."""
        self._released.wait(60)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: AnsweringServer

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.owner.requests.append((self.command, self.path))
        self.owner.authorizations.add(self.headers.get("Authorization", ""))
        way = self.owner.way if self.owner.only(self.command, self.path) else "well"
        if way == "well":
            self._well(body)
        elif way.isdigit():
            self._send(int(way), XML)
        elif way == "html":
            self._send(200, PAGE)
        elif way == "silent":
            self.owner.hang()
        elif way == "truncated":
            self.owner.objects[self.path] = body[: len(body) // 2]
            self._send(200, b"", self.owner.objects[self.path])
        else:
            if way == "garbage":
                self.wfile.write(b"\x00\xff\x00 not HTTP\r\n\r\n")
            self.close_connection = True

    def _well(self, body: bytes) -> None:
        if self.command == "PUT":
            self.owner.objects[self.path] = body
            self._send(200, b"", body)
        elif self.path in self.owner.objects:
            self._send(200, self.owner.objects[self.path], self.owner.objects[self.path])
        else:
            self._send(404, b"")

    def _send(self, status: int, content: bytes, tagged: bytes | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if tagged is not None:
            self.send_header("ETag", f'"{hashlib.md5(tagged).hexdigest()}"')
            self.send_header("Last-Modified", "Wed, 25 Nov 2026 10:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = handle_any  # noqa: N815 - named by the base class

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""
