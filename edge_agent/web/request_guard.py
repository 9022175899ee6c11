"""The request guard: middleware that checks every request, and adds the security headers of every response.

It checks in this order: host, origin, size, authentication, role, page key; then it bounds body and time. A refusal
reveals nothing about what the console shows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_agent.config import Role
from edge_agent.formats.certificate_fields import Certificate
from edge_agent.refusal_log import RefusalLog
from edge_agent.web import authentication
from edge_agent.web.authentication import SAFE_METHODS, Principal, SessionSigner, is_same_origin
from edge_agent.web.gateway import openai_responses

PAGE_KEY = "x-page-key"
API = "/v1/"
_CHALLENGE = {"www-authenticate": "Bearer"}
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
class GuardSettings:
    """What the guard checks against."""

    hosts: frozenset[str]
    """Accepted values of `Host`."""
    signer: SessionSigner
    certified: Mapping[str, tuple[Role, ...]] | None
    """Roles by certificate name, where clients authenticate by certificate; None where they use the token."""
    body_bytes_max: int
    request_seconds_max: float
    now: Callable[[], float] = time.time
    refusals: RefusalLog = field(default_factory=RefusalLog)
    """Counts and logs what is refused."""


class RequestRefused(Exception):
    """A request that the guard refuses."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        """Keep HTTP status, reason and message."""
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


class RequestGuard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: GuardSettings) -> None:
        """Guard an application."""
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse one request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response = _GuardedResponse(send)
        try:
            self._admit(scope, Headers(scope=scope))
            body = _LimitedRequestBody(receive, self._settings.body_bytes_max, response)
            async with asyncio.timeout(self._settings.request_seconds_max) as clock:
                response.on_start = lambda: clock.reschedule(None)
                if scope["path"].startswith(API):  # once read, a call has its caller's deadline: gateway/http_calls.py
                    body.on_end = response.on_start
                await self._app(scope, body, response)
        except RequestRefused as refused:
            await response.replace(self._refusal(scope, refused), scope, receive)
        except TimeoutError:
            late = RequestRefused(504, "DEADLINE_EXPIRED", f"no answer within {self._settings.request_seconds_max:g} s")
            await response.replace(self._refusal(scope, late), scope, receive)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Write the principal into the scope. Raises RequestRefused."""
        settings, path, safe = self._settings, scope["path"], scope["method"] in SAFE_METHODS
        host = headers.get("host", "").lower()
        if host not in settings.hosts:
            raise RequestRefused(
                421, "HOST_UNKNOWN", "this console has another host name; 'names' under 'web' in agent.yaml adds one"
            )
        same_origin = is_same_origin(headers.get("origin", ""), host, secure=scope["scheme"] == "https")
        if not safe and not same_origin:
            raise RequestRefused(403, "ORIGIN_FOREIGN", "a page of another site requested a change")
        if int(headers.get("content-length", "0") or 0) > settings.body_bytes_max:
            raise _too_large(settings.body_bytes_max)
        if authentication.is_public(path):
            return
        principal = self._authenticate(scope, headers)
        if principal is None:
            raise RequestRefused(401, "TOKEN_MISSING", "the token is missing or wrong, or the session has ended")
        needed = authentication.required_role(path)
        if needed and not principal.has_role(needed):
            raise RequestRefused(403, "ROLE_MISSING", f"this page needs the role {needed}")
        if not safe and not _is_own_request(principal, headers, settings.signer):
            raise RequestRefused(403, "PAGE_STALE", "the page was loaded before the token changed; load it again")
        scope["principal"] = principal

    def _authenticate(self, scope: Scope, headers: Headers) -> Principal | None:
        settings = self._settings
        if settings.certified is not None:
            found: Certificate | None = scope.get("state", {}).get("certificate")
            return authentication.certificate_principal(found, settings.certified, settings.now()) if found else None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return authentication.token_principal() if settings.signer.is_token(token.strip()) else None
        cookie = cookie_parser(headers.get("cookie", "")).get(settings.signer.cookie_name, "")
        return (
            authentication.session_principal(cookie)
            if cookie and settings.signer.is_valid_session(cookie, settings.now())
            else None
        )

    def _refusal(self, scope: Scope, refused: RequestRefused) -> Response:
        """Record a refusal, and return it: JSON for a program, the sign-in page for a browser without a session."""
        if scope["path"].startswith(API):
            error = openai_responses.GatewayError(refused.message, reason=refused.reason)
            error.status = refused.status
            self._record(scope, refused)
            return JSONResponse(
                error.as_json(), error.status, error.headers() | (_CHALLENGE if error.status == 401 else {})
            )
        if refused.status == 401 and self._settings.certified is None:
            if Headers(scope=scope).get("hx-request"):
                return PlainTextResponse("", 401, {"hx-redirect": "/login"})
            if scope["method"] in SAFE_METHODS:
                return RedirectResponse("/login", 303)
        self._record(scope, refused)
        return PlainTextResponse(f"{refused.reason}: {refused.message}.\n", refused.status)

    def _record(self, scope: Scope, refused: RequestRefused) -> None:
        self._settings.refusals.record(authentication.HTTP, authentication.client_name(scope), refused.reason)


def _is_own_request(principal: Principal, headers: Headers, signer: SessionSigner) -> bool:
    """Tell whether a program or one of our pages requests a change. A cookie or certificate, which browsers send
    automatically, does not prove it.
    """
    if principal.proof == "bearer":
        return True
    by_browser = "origin" in headers or "sec-fetch-site" in headers or "cookie" in headers
    if principal.proof == "certificate" and not by_browser:
        return True
    return signer.is_page_key(principal.identity, headers.get(PAGE_KEY, ""))


class _LimitedRequestBody:
    """Passes a request's body on, up to a size."""

    def __init__(self, receive: Receive, bytes_max: int, response: _GuardedResponse) -> None:
        self._response = response
        self._receive = receive
        self._bytes_max = bytes_max
        self._bytes = 0
        self.on_end: Callable[[], object] = lambda: None

    async def __call__(self) -> Message:
        message = await self._receive()
        if not message.get("more_body"):
            self.on_end()
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._bytes_max:
            self._response.is_shut = True
            raise _too_large(self._bytes_max)
        return message


class _GuardedResponse:
    """Passes a response on, with the security headers."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False
        self.is_shut = False
        """Drop what the application sends: it turns a refusal into an error of its own."""
        self.on_start: Callable[[], object] = lambda: None

    async def __call__(self, message: Message) -> None:
        if self.is_shut:
            return
        if message["type"] == "http.response.start":
            self._started = True
            self.on_start()
            given = {name.lower() for name, _ in message.get("headers", ())}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await self._send(message)

    async def replace(self, response: Response, scope: Scope, receive: Receive) -> None:
        """Send another response, unless one has started."""
        self.is_shut = False
        self.on_start = lambda: None
        if not self._started:
            await response(scope, receive, self)


def _too_large(bytes_max: int) -> RequestRefused:
    return RequestRefused(413, "MESSAGE_TOO_LARGE", f"the request is larger than {bytes_max} bytes")
