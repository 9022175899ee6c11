"""A server of OpenAI's chat API with scripted answers: over real HTTP, on a free port."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.large_model import REFUSALS

KEY = "secret-key"


@dataclass
class ChatServer:
    """The script, and the received requests."""

    answer: Callable[[int, str], str]
    """From the number of the request and the user's message to what the model says."""
    tokens: int | None = 100
    """What the server says a request used; None = it does not say."""
    statuses: list[int] = field(default_factory=list)
    """Of the first requests; after that 200."""
    refuses: tuple[str, ...] = ()
    """Members of a request that it does not take, among REFUSALS."""
    refused: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        said = self.answer(len(self.asked) - 1, body["messages"][-1]["content"])
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": self.tokens}
        plain = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
        return plain | ({"usage": usage} if self.tokens is not None else {})


@contextmanager
def serving(answer: Callable[[int, str], str], **more: Any) -> Iterator[ChatServer]:
    """Serve until the block is left."""
    script = ChatServer(answer, **more)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status = script.statuses.pop(0) if script.statuses else 200
            if self.headers["authorization"] != f"Bearer {KEY}":
                status = 401
            if member := next((each for each in script.refuses if each in body), ""):
                script.refused += 1
                self.reply(*REFUSALS[member])
                return
            if status != 200:
                self.reply(status, {"error": {"message": f"no: {status}"}})
                return
            script.asked.append(body)
            self.reply(200, script.completion(body))

        def reply(self, status: int, plain: dict[str, Any]) -> None:
            content = json.dumps(plain).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("retry-after-ms", "1")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
