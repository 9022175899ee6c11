"""A server with the part of Google's XML API that obstore uses: objects, ranges, lists, multipart uploads.

with GoogleStore("fleet") as server:
    from_url("gs://fleet/examples", config={"service_account_key": server.account})

Written from https://cloud.google.com/storage/docs/xml-api/overview. It asks for no token, which
`disable_oauth` in the account tells the client; otherwise that is the one that speaks to Google.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

MODIFIED = "Wed, 25 Nov 2026 10:00:00 GMT"
LISTED = "2026-11-25T10:00:00.000Z"


class GoogleStore:
    """Keeps the objects of one bucket by name."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        keys = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        address = f"http://127.0.0.1:{self._server.server_port}"
        self.account = json.dumps({"gcs_base_url": address, "disable_oauth": True, **keys})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: GoogleStore

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        bucket, _, name = parts.path.lstrip("/").partition("/")
        query = {key: value[0] for key, value in parse_qs(parts.query, keep_blank_values=True).items()}
        if bucket != self.owner.bucket:
            self._refuse("NoSuchBucket")
        elif not name:
            self._list(query)
        elif "uploads" in query or "uploadId" in query:
            self._upload(unquote(name), query, body)
        elif self.command == "PUT":
            self.owner.objects[unquote(name)] = body
            self._send(200, b"", body)
        elif unquote(name) not in self.owner.objects:
            self._refuse("NoSuchKey")
        elif self.command == "DELETE":
            del self.owner.objects[unquote(name)]
            self._send(204, b"")
        else:
            self._give(self.owner.objects[unquote(name)])

    def _give(self, content: bytes) -> None:
        if self.headers.get("If-None-Match") == _tag(content):
            self._send(304, b"", content)
        elif asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or ""):
            part = content[int(asked[1]) : int(asked[2]) + 1]
            place = f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(content)}"
            self._send(206, part, content, {"Content-Range": place})
        else:
            self._send(200, content, content)

    def _list(self, query: dict[str, str]) -> None:
        found = sorted(name for name in self.owner.objects if name.startswith(query.get("prefix", "")))
        entries = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>{LISTED}</LastModified>"
            f"<ETag>{escape(_tag(self.owner.objects[name]))}</ETag><Size>{len(self.owner.objects[name])}</Size></Contents>"
            for name in found
        )
        self._send(200, f"<ListBucketResult>{entries}</ListBucketResult>".encode())

    def _upload(self, name: str, query: dict[str, str], body: bytes) -> None:
        """Begin a multipart upload, accept a part, complete it, or abort it."""
        upload = query.get("uploadId", f"upload-{len(self.owner.parts)}")
        parts = self.owner.parts.setdefault(upload, {})
        if self.command == "PUT":
            parts[int(query["partNumber"])] = body
            self._send(200, b"", body)
        elif self.command == "DELETE":
            self._send(204, b"")
        elif "uploads" in query:
            said = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            self._send(200, said.encode())
        else:
            whole = b"".join(parts[number] for number in sorted(parts))
            self.owner.objects[name] = whole
            said = f"<CompleteMultipartUploadResult><ETag>{escape(_tag(whole))}</ETag></CompleteMultipartUploadResult>"
            self._send(200, said.encode(), whole)

    def _refuse(self, code: str) -> None:
        self._send(404, f"<Error><Code>{code}</Code></Error>".encode())

    def _send(
        self, status: int, content: bytes, tagged: bytes | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Last-Modified": MODIFIED, **(headers or {})}.items():
            self.send_header(name, value)
        if tagged is not None:
            self.send_header("ETag", _tag(tagged))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815 - named by the base class

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'
