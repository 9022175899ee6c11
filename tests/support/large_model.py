"""A scripted oracle with OpenAI's chat API over real HTTP, streamed; it gives bad answers on request.

with LargeModel(lambda task, text: "refund") as oracle:
    oracle.way = "429"
"""

from __future__ import annotations

import contextlib
import gzip
import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

KEY = "sk-oracle"


def _openai(message: str, param: str | None = None) -> tuple[int, dict[str, Any]]:
    return 400, {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}


REFUSALS: dict[str, tuple[int, dict[str, Any]]] = {
    "max_tokens": _openai(
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "max_tokens",
    ),
    "temperature": _openai(
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.",
        "temperature",
    ),
    "stream_options": (
        422,
        {
            "detail": [
                {"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not allowed"}
            ]
        },
    ),
    "stream": _openai(
        "Your organization must be verified to stream this model. If you just verified, it can take up to 15 minutes.",
        "stream",
    ),
    "strict": _openai(
        "Invalid schema for response_format 'answer': In context=(), 'required' has to include every key.",
        "response_format",
    ),
    "response_format": _openai("This response_format type is unavailable now"),
    "seed": (
        422,
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not allowed"}]},
    ),
    "reasoning_effort": _openai("Unrecognized request argument supplied: reasoning_effort"),
    "messages": _openai("max_tokens max_completion_tokens temperature stream stream_options response_format"),
}
"""What servers answer to a member of a request that they do not take: OpenAI's reasoning models, FastAPI, DeepSeek."""
CHARACTERS_PER_TOKEN = 4
"""About as many as large models make of English."""
TEN_MEGABYTES = 10 * 1000 * 1000
WAYS = (
    *("401", "404", "429", "500", "503", "prose", "wrong-label", "truncated", "huge", "stall", "cut", "html", "lost"),
    *("huge-line", "huge-500", "packed"),
)


class LargeModel:
    """Answers with what `answer` makes of the user's text; as JSON `{"label": …}` where a schema asks for it."""

    def __init__(self, answer: Callable[[str], str], host: str = "127.0.0.1") -> None:
        self.answer = answer
        self.way = "well"
        self.listing = "well"
        self.typed = b""
        """The body of its answer to typed questions."""
        self.refuses: tuple[str, ...] = ()
        """Members of a request that it does not take, among REFUSALS; the first one is named."""
        self.thoughts = ""
        """What it writes before its answer; each piece counts as a token."""
        self.beside = ""
        """What it thinks, in a member of its own."""
        self.piece_characters = 3
        """Of a piece of its answer."""
        self.repairs = True
        """When asked again after a bad answer, give a good one."""
        self.retry_after = "0"
        self.seconds = 0.0
        """What an answer takes."""
        self.tokens = 0
        """Of all questions and answers that it has counted."""
        self.asked: list[dict[str, Any]] = []
        """Questions that had a good key."""
        self.received: list[str] = []
        """Every request to its last byte, whatever became of it."""
        self._released = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _QuietServer((host, 0), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://{host}:{self.port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def pause(self, seconds: float) -> None:
        """Wait, at most until the end of the test."""
        self._released.wait(seconds)

    def release(self) -> None:
        """Wait no longer for anything."""
        self._released.set()

    def times_asked(self, text: str) -> int:
        """Return how many requests held a text."""
        return sum(text in request for request in self.received)

    def way_of(self, body: dict[str, Any]) -> str:
        """Return how a request is answered; a retry can get a good answer."""
        again = any(turn["role"] == "assistant" for turn in body["messages"])
        return "well" if again and self.repairs else self.way

    def said(self, body: dict[str, Any], way: str) -> str:
        """Return the answer to a request."""
        text = next(turn["content"] for turn in body["messages"] if turn["role"] == "user")
        if way == "prose":
            return "I think that this is probably about money."
        value = "no-such-label" if way == "wrong-label" else self.answer(text)
        if body.get("response_format") is None or value.startswith("{"):
            return value
        return json.dumps({"label": value})

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


def _is_strict(body: dict[str, Any]) -> bool:
    """Return whether an answer has to keep to a schema."""
    return bool(body.get("response_format", {}).get("json_schema", {}).get("strict"))


class _QuietServer(ThreadingHTTPServer):
    """Does not log connections that clients have closed: many tests do that."""

    def handle_error(self, *_: Any) -> None:
        """Suppress the message of a lost connection only."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(*_)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: LargeModel

    def do_GET(self) -> None:
        self._receive()
        listing = "401" if self._refused() else self.owner.listing
        if not self._odd(listing):
            self._plain(200, [] if listing == "array" else {"object": "list", "data": []})

    def do_POST(self) -> None:
        body = json.loads(self._receive())
        if self._refused():
            self._plain(401, {})
            return
        if not body.get("messages", True) and self.owner.way != "404":
            self._plain(
                *_openai("Invalid 'messages': empty array. Expected an array with minimum length 1.", "messages")
            )
            return
        for member in self.owner.refuses:
            if member in body or (member == "strict" and _is_strict(body)):
                self._plain(*REFUSALS[member])
                return
        self.owner.asked.append(body)
        self.owner.pause(self.owner.seconds)
        if not self._odd(self.owner.way):
            if "questions" in body:
                self._whole(200, self.owner.typed, {"Content-Type": "application/json"})
                return
            with contextlib.suppress(OSError):
                self._stream(body) if body.get("stream") else self._at_once(body)

    def _receive(self) -> str:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.owner.received.append(f"{self.requestline}\n{self.headers}\n{body}")
        return body

    def _odd(self, way: str) -> bool:
        """Give an answer that violates the API, if requested; return whether it did."""
        if way.isdigit():
            self._plain(int(way), {"error": {"message": "SECRET-OF-THE-SERVER"}})
        elif way == "html":
            self._plain(200, "<html>log in</html>")
        elif way == "lost":
            self.close_connection = True
        elif way == "packed":
            self._whole(200, gzip.compress(b" " * 20 * TEN_MEGABYTES), {"Content-Encoding": "gzip"})
        elif way.startswith("huge-") or (way == "huge" and self.command == "GET"):
            self._whole(500 if way == "huge-500" else 200, b"data: " + b"x" * TEN_MEGABYTES, {})
        else:
            return False
        return True

    def _refused(self) -> bool:
        return self.headers["Authorization"] != f"Bearer {KEY}" or self.owner.way == "401"

    def _at_once(self, body: dict[str, Any]) -> None:
        """Answer in one piece."""
        message = {"role": "assistant", "content": self.owner.thoughts + self.owner.said(body, self.owner.way_of(body))}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
        self._plain(200, {**_chunk(body), "object": "chat.completion", "choices": [choice], "usage": usage})

    def _stream(self, body: dict[str, Any]) -> None:
        way = self.owner.way_of(body)
        said = self.owner.said(body, way)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        said = self.owner.thoughts + said
        size = self.owner.piece_characters
        pieces = [said[at : at + size] for at in range(0, len(said), size)]
        limit = body.get("max_completion_tokens", body.get("max_tokens", len(pieces)))
        if len(pieces) > limit:
            pieces, way = pieces[:limit], "limited"
        if way in ("truncated", "stall", "cut"):
            pieces = pieces[: max(1, len(pieces) // 2)]
        if self.owner.beside:
            self._event(body, {"reasoning_content": self.owner.beside}, None)
        for piece in pieces:
            self._event(body, {"content": piece}, None)
        while way == "huge":
            self._event(body, {"content": "x" * 10_000}, None)
        if way == "stall":
            self.owner.pause(60)
        if way == "cut":
            return
        self._event(body, {}, "length" if way in ("truncated", "limited") else "stop")
        asked = sum(len(turn["content"]) for turn in body["messages"]) // CHARACTERS_PER_TOKEN
        usage = {"prompt_tokens": asked, "completion_tokens": len(pieces), "total_tokens": asked + len(pieces)}
        self.owner.tokens += usage["total_tokens"]
        if body.get("stream_options", {}).get("include_usage"):
            self._data({**_chunk(body), "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, body: dict[str, Any], delta: dict[str, str], finish: str | None) -> None:
        self._data({**_chunk(body), "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    def _data(self, plain: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(plain).encode() + b"\n\n")
        self.wfile.flush()

    def _plain(self, status: int, plain: Any) -> None:
        content = plain.encode() if isinstance(plain, str) else json.dumps(plain).encode()
        kind = "text/html" if isinstance(plain, str) else "application/json"
        self._whole(status, content, {"Content-Type": kind, "Retry-After": self.owner.retry_after})

    def _whole(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "text/event-stream",
            "Content-Length": str(len(content)),
            **headers,
        }.items():
            self.send_header(name, value)
        with contextlib.suppress(OSError):  # who asked may have gone by then
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


def _chunk(body: dict[str, Any]) -> dict[str, Any]:
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
