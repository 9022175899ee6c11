"""The gate: what every request passes before a page or the gateway sees it, and what every answer carries.

In this order: is it meant for this console, who is it, may they, did one of our pages make it, is it small and quick
enough. A refusal says nothing of what is inside.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_agent.config import Role
from edge_agent.formats.certificate_fields import Certificate
from edge_agent.web import visitors
from edge_agent.web.gateway import refusals
from edge_agent.web.origin import SAFE_METHODS, is_ours
from edge_agent.web.seal import Seal
from edge_agent.web.visitors import Visitor

PAGE_KEY = "x-page-key"
API = "/v1/"
_SHOW = {"www-authenticate": "Bearer"}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Rules:
    """What the gate goes by."""

    hosts: frozenset[str]
    """What `Host` may say."""
    seal: Seal
    certified: Mapping[str, tuple[Role, ...]] | None
    """Roles by names in certificates, which visitors then come with; None = they come with the token."""
    body_bytes_max: int
    request_seconds_max: float
    now: Callable[[], float] = time.time


class Refused(Exception):
    """A request that goes no further."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        """Keep what is answered."""
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


class Gate:
    """Wraps the whole application."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        """Guard an application."""
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or let it through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            self._admit(scope, Headers(scope=scope))
            body = _Body(receive, self._rules.body_bytes_max, answer)
            async with asyncio.timeout(self._rules.request_seconds_max) as clock:
                answer.begun = lambda: clock.reschedule(None)
                if scope["path"].startswith(API):  # a call that is here has its caller's deadline: gateway/calls.py
                    body.ended = answer.begun
                await self._app(scope, body, answer)
        except Refused as refused:
            await answer.instead(self._refusal(scope, refused), scope, receive)
        except TimeoutError:
            late = Refused(504, "DEADLINE_EXPIRED", f"no answer within {self._rules.request_seconds_max:g} s")
            await answer.instead(self._refusal(scope, late), scope, receive)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Raise Refused, or write into the scope who it is."""
        rules, path, safe = self._rules, scope["path"], scope["method"] in SAFE_METHODS
        host = headers.get("host", "").lower()
        if host not in rules.hosts:
            raise Refused(421, "HOST_UNKNOWN", "this console does not go by that name; 'names' under 'web' adds one")
        ours = is_ours(headers.get("origin", ""), host, secure=scope["scheme"] == "https")
        if not safe and not ours:
            raise Refused(403, "ORIGIN_FOREIGN", "a page from elsewhere asks for a change here")
        if int(headers.get("content-length", "0") or 0) > rules.body_bytes_max:
            raise _too_large(rules.body_bytes_max)
        if visitors.is_open(path):
            return
        visitor = self._visitor(scope, headers)
        if visitor is None:
            raise Refused(401, "TOKEN_MISSING", "the token is missing or wrong, or the session has ended")
        needed = visitors.needs(path)
        if needed and not visitor.may(needed):
            raise Refused(403, "ROLE_MISSING", f"this needs the role {needed}")
        if not safe and not _made_here(visitor, headers, rules.seal):
            raise Refused(403, "PAGE_STALE", "this page was opened before a change of the token; load it again")
        scope["visitor"] = visitor

    def _visitor(self, scope: Scope, headers: Headers) -> Visitor | None:
        rules = self._rules
        if rules.certified is not None:
            found: Certificate | None = scope.get("state", {}).get("certificate")
            return visitors.by_certificate(found, rules.certified, rules.now()) if found else None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return visitors.by_token() if rules.seal.is_token(token.strip()) else None
        cookie = cookie_parser(headers.get("cookie", "")).get(rules.seal.cookie_name, "")
        return visitors.by_cookie(cookie) if cookie and rules.seal.holds(cookie, rules.now()) else None

    def _refusal(self, scope: Scope, refused: Refused) -> Response:
        """Say no in the words of who asks: a program gets JSON, a browser without a session the way in."""
        if scope["path"].startswith(API):
            said = refusals.Refused(refused.message, reason=refused.reason)
            said.status = refused.status
            return JSONResponse(said.plain(), said.status, said.headers() | (_SHOW if said.status == 401 else {}))
        if refused.status == 401 and self._rules.certified is None:
            if Headers(scope=scope).get("hx-request"):
                return PlainTextResponse("", 401, {"hx-redirect": "/login"})
            if scope["method"] in SAFE_METHODS:
                return RedirectResponse("/login", 303)
        return PlainTextResponse(f"{refused.reason}: {refused.message}.\n", refused.status)


def _made_here(visitor: Visitor, headers: Headers, seal: Seal) -> bool:
    """Tell whether a page of ours, or a program, asks for a change: what a browser adds by itself proves nothing."""
    if visitor.proof == "bearer":
        return True
    by_browser = "origin" in headers or "sec-fetch-site" in headers or "cookie" in headers
    if visitor.proof == "certificate" and not by_browser:
        return True
    return seal.is_page_key(visitor.identity, headers.get(PAGE_KEY, ""))


class _Body:
    """Hands on what a visitor sends, up to a size."""

    def __init__(self, receive: Receive, bytes_max: int, answer: _Answer) -> None:
        self._answer = answer
        self._receive = receive
        self._bytes_max = bytes_max
        self._bytes = 0
        self.ended: Callable[[], object] = lambda: None

    async def __call__(self) -> Message:
        message = await self._receive()
        if not message.get("more_body"):
            self.ended()
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._bytes_max:
            self._answer.shut = True
            raise _too_large(self._bytes_max)
        return message


class _Answer:
    """Hands on what is answered, with the headers that every answer has."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False
        self.shut = False
        """Nothing that is said inside is sent any more: an application makes an error of its own of a refusal."""
        self.begun: Callable[[], object] = lambda: None

    async def __call__(self, message: Message) -> None:
        if self.shut:
            return
        if message["type"] == "http.response.start":
            self._started = True
            self.begun()
            given = {name.lower() for name, _ in message.get("headers", ())}
            more = [(name.encode(), said.encode()) for name, said in HEADERS.items() if name.encode() not in given]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await self._send(message)

    async def instead(self, response: Response, scope: Scope, receive: Receive) -> None:
        """Answer otherwise, if nothing was answered yet."""
        self.shut = False
        self.begun = lambda: None
        if not self._started:
            await response(scope, receive, self)


def _too_large(bytes_max: int) -> Refused:
    return Refused(413, "MESSAGE_TOO_LARGE", f"the request is larger than {bytes_max} bytes")
