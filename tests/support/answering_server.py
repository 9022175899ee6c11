"""An HTTP server that stores objects and gives bad answers on request.

with AnsweringServer() as server:
    server.answer("503")
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

PAGE = b"<html>Please log in. token=SECRET-OF-THE-SERVER</html>"
XML = b"<Error><Code>SlowDown</Code><Message>SECRET-OF-THE-SERVER</Message></Error>"
DOWNLOAD_WAYS = ("flipped", "endless", "trickling", "overlong", "short", "cut", "without-ranges", "other-range", "416")
WAYS = ("403", "401", "429", "500", "503", "301", "garbage", "silent", "html", "closed", "truncated")


class AnsweringServer:
    """Keeps objects by path while its way is "well"; otherwise each request is answered as the way says:
    "503", or with a code of S3, "403 AccessDenied"."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.sent: dict[str, int] = {}
        """Bytes of content that were sent, by path."""
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
        """Answer requests whose method and path match `only` in that way, and other requests normally."""
        self.only, self.way = only, way
        self.requests.clear()

    def sent_of(self, path: str) -> int:
        """Return how many bytes of content were sent of an object."""
        return self.sent.get(path, 0)

    def hang(self) -> None:
        """Keep a request waiting until the end of the test."""
        self._released.wait(60)

    def pause(self, seconds: float) -> bool:
        """Wait that long; return whether the test has ended."""
        return self._released.wait(seconds)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: AnsweringServer

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.owner.requests.append((self.command, self.path))
        self.owner.authorizations.add(self.headers.get("Authorization", ""))
        way = self.owner.way if self.owner.only(self.command, self.path) else "well"
        if way == "well":
            self._well(body)
        elif way[:3].isdigit():
            status, _, code = way.partition(" ")
            self._send(int(status), XML.replace(b"SlowDown", code.encode()) if code else XML)
        elif way == "html":
            self._send(200, PAGE)
        elif way == "silent":
            self.owner.hang()
        elif way in DOWNLOAD_WAYS:
            self._spoilt(way)
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
            self._give(self.owner.objects[self.path])
        else:
            self._send(404, b"")

    def _give(self, content: bytes) -> None:
        """Send an object, a range of it, or 304 Not Modified."""
        if self.headers.get("If-None-Match") == _tag(content):
            self._send(304, b"", content)
        elif self._range(content):
            part = self._range(content)
            self._send(
                206, content[part.start : part.stop], content, f"bytes {part.start}-{part.stop - 1}/{len(content)}"
            )
        else:
            self._send(200, content, content)

    def _range(self, content: bytes) -> range:
        asked = (self.headers.get("Range") or "").removeprefix("bytes=")
        first, _, last = asked.partition("-")
        return range(int(first), min(len(content), int(last) + 1)) if asked else range(0)

    def _spoilt(self, way: str) -> None:
        content = self.owner.objects.get(self.path, b"?")
        part = self._range(content) or range(len(content))
        asked = content[part.start : part.stop]
        place = f"bytes {part.start}-{part.stop - 1}/{len(content)}"
        if way == "flipped":
            self._send(206, bytes(byte ^ 1 for byte in asked), content, place)
        elif way == "without-ranges":
            self._send(200, content, content)
        elif way == "other-range":
            self._send(206, asked, content, f"bytes {part.start + 1}-{part.stop}/{len(content)}")
        elif way in ("overlong", "short"):
            other = content + b"more" if way == "overlong" else content[:-1]
            self._send(206, other[part.start : part.stop], other, f"bytes {part.start}-{part.stop - 1}/{len(other)}")
        else:
            self._drip(way, asked, content, place)
            self.close_connection = True

    def _drip(self, way: str, asked: bytes, content: bytes, place: str) -> None:
        """Begin a valid answer, then continue byte by byte without end, or stop sending."""
        self.send_response(206)
        self.send_header("ETag", _tag(content))
        self.send_header("Last-Modified", "Wed, 25 Nov 2026 10:00:00 GMT")
        self.send_header("Content-Range", place)
        self.send_header("Connection", "close")
        self.send_header("Content-Length", str(10**12 if way == "endless" else len(asked)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(asked[: len(asked) // 2])
            while way == "endless":
                self.wfile.write(b"for ever " * 1000)
            while way == "trickling" and not self.owner.pause(0.02):
                self.wfile.write(b".")

    def _send(self, status: int, content: bytes, tagged: bytes | None = None, place: str = "") -> None:
        self.owner.sent[self.path] = self.owner.sent.get(self.path, 0) + len(content)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if place:
            self.send_header("Content-Range", place)
        if tagged is not None:
            self.send_header("ETag", _tag(tagged))
            self.send_header("Last-Modified", "Wed, 25 Nov 2026 10:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = handle_any  # noqa: N815 - named by the base class

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'
