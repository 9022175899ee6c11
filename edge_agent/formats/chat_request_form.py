"""How a request to OpenAI's chat API is written for a server that refuses a part of it. Pure.

Servers and models of this API take different members: OpenAI's reasoning models refuse `max_tokens`, a temperature of 0
and, for organizations that it has not verified, streams; others refuse `stream_options`, or a JSON schema or a part of
it. They name what they refuse, so the request can be written without it and sent again, which costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Literal

_REFUSAL_STATUSES = (400, 413, 422, 500)
"""Statuses of a request whose form is refused: some servers fail while they read it."""
_OPTIONAL_MEMBERS = {
    "temperature": {"temperature"},
    "stream_options": {"stream_options"},
    "seed": {"seed"},
    "stream": {"stream", "stream_options"},
}
"""Members that can be left out, each with those that must go with it."""
_BROKEN_STREAM_STATUS = 500
"""With this status a server may mention "stream" because its own stream broke: that is no refusal of the member."""
_FORMAT_WORDS = ("response_format", "response format", "json_schema")
_LOOSER_FORMATS: dict[str, Literal["schema", "object", "none"]] = {
    "strict": "schema",
    "schema": "object",
    "object": "none",
}
_REFUSAL_CHARACTERS = 4000
"""How much of a server's message is searched for the name of a member."""


@dataclass(frozen=True)
class ChatRequestForm:
    """How a chat request is written; at first with every member that makes the answer valid, cheap and countable."""

    limit: str = "max_tokens"
    """The member that limits the answer. Reasoning models only know the newer name."""
    format: Literal["strict", "schema", "object", "none"] = "strict"
    """How the server is told to keep to the schema: OpenAI accepts only a part of JSON Schema with `strict`, and other
    servers only JSON objects, or nothing. The schema is also in the question, and every answer is checked."""
    without: frozenset[str] = frozenset()
    """Members that are left out."""

    def adapted(self, status: int, body: object, request_members: Container[str]) -> ChatRequestForm | None:
        """Return the form adapted to a server's refusal; None = the refusal names nothing that can be changed.

        Each member is dropped once, so a request ends after a few refusals, whatever the server answers.

        Args:
            status: the status of the HTTP response.
            body: the body of the response, untrusted.
            request_members: the members of the request.
        """
        if status not in _REFUSAL_STATUSES:
            return None
        refusal = str(body)[:_REFUSAL_CHARACTERS]
        if self.limit in refusal and "max_completion_tokens" in refusal and self.limit != "max_completion_tokens":
            return replace(self, limit="max_completion_tokens")
        for member, members in _OPTIONAL_MEMBERS.items():
            is_broken_stream = (member, status) == ("stream", _BROKEN_STREAM_STATUS)
            if member in request_members and not is_broken_stream and re.search(rf"\b{member}\b", refusal):
                return replace(self, without=self.without | members)
        if "response_format" in request_members and any(word in refusal for word in _FORMAT_WORDS):
            return replace(self, format=_LOOSER_FORMATS[self.format])
        return None
