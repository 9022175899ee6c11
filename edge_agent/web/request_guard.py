"""The request guard: middleware that checks every request, and adds the security headers of every response.

It checks in this order: host, origin, size, authentication, role, page key; then it bounds body and time. A refusal
reveals nothing about what the console shows.

A page of another site can make a browser send requests here (cross-site request forgery), or make a name of its own
resolve to this console (DNS rebinding). `Origin` and the page key reveal the first, `Host` the second.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_agent.config import Role, sections
from edge_agent.formats.certificates import Certificate
from edge_agent.refusal_log import RefusalLog
from edge_agent.server.roles import ROLES, certificate_roles
from edge_agent.web.gateway import openai_responses

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
HTTP = "http"
"""Name of the HTTP interface in the log of refusals."""
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_DEFAULT_PORTS = (":80", ":443")
"""Ports that browsers leave out of `Host`."""
_ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
Proof = Literal["cookie", "bearer", "certificate"]
# The first match counts; every principal may read a path that is not listed.
_REQUIRED_ROLES: tuple[tuple[str, Role], ...] = (
    ("/v1/", "infer"),
    ("/review", "feedback"),
    ("/tasks/", "admin"),
    ("/charts", "admin"),
    ("/redaction", "admin"),
)
PUBLIC_PATHS = ("/login", "/healthz", "/static/")
"""Paths that need no authentication."""


@dataclass(frozen=True)
class Principal:
    """An authenticated person or program."""

    name: str
    """The certificate's name; empty with a token, which names nobody."""
    roles: frozenset[Role]
    proof: Proof
    identity: str
    """The identity from which the principal's page key is derived."""

    def has_role(self, role: Role) -> bool:
        """Return whether the principal has a role."""
        return role in self.roles


def session_principal(cookie: str) -> Principal:
    """Return the holder of a session, with every role that this console uses."""
    return Principal("", ROLES, "cookie", cookie)


def token_principal() -> Principal:
    """Return a program that sends the token with each request; it has every role."""
    return Principal("", ROLES, "bearer", "")


def certificate_principal(
    certificate: Certificate, configured: Mapping[str, tuple[Role, ...]], now: float
) -> Principal | None:
    """Return the holder of a certificate that the TLS handshake verified; None when it has expired since."""
    if certificate.expires_at <= now:
        return None
    roles = certificate_roles(certificate, configured)
    return Principal(certificate.name, roles, "certificate", certificate.fingerprint)


def client_name(scope: Mapping[str, Any]) -> str:
    """Return who sent a request: the name in the certificate, otherwise the address."""
    certificate: Certificate | None = scope.get("state", {}).get("certificate")
    if certificate:
        return f"tls {certificate.name or certificate.fingerprint[:16]}"
    address = scope.get("client")
    return f"http {address[0]}" if address else ""


def required_role(path: str) -> Role | None:
    """Return the role that a path needs; None when every principal may read it."""
    return next((role for prefix, role in _REQUIRED_ROLES if path.startswith(prefix)), None)


def is_public(path: str) -> bool:
    """Return whether a path needs no authentication."""
    return any(path == each or (each.endswith("/") and path.startswith(each)) for each in PUBLIC_PATHS)


class SessionSigner:
    """Signs sessions and page keys with the console's secret, and verifies them. Another secret ends every session."""

    def __init__(self, secret: str) -> None:
        """`secret`: the text of the token file."""
        self._secret = secret.encode()
        self.cookie_name = f"edge_agent_{self._signature('cookie', '')[:12]}"
        """Name of the session cookie. It depends on the secret, as browsers share cookies between ports of one host."""

    def is_token(self, token: str) -> bool:
        """Return whether a text is the secret, in constant time."""
        return hmac.compare_digest(token.encode(), self._secret)

    def sign_session(self, ends_at: float, nonce: str) -> str:
        """Return the cookie of a session that ends at a time, in seconds since 1970."""
        claim = f"{ends_at:.0f}.{nonce}"
        return f"{claim}.{self._signature('session', claim)}"

    def is_valid_session(self, cookie: str, now: float) -> bool:
        """Return whether a cookie was signed here, and its session has not ended."""
        claim, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature("session", claim).encode()):
            return False
        return float(claim.partition(".")[0]) > now

    def page_key(self, identity: str) -> str:
        """Return the key that a principal's pages send with every change, and that no other site's page has."""
        return self._signature("page", identity)

    def is_page_key(self, identity: str, key: str) -> bool:
        """Return whether a text is the page key of a principal, in constant time."""
        return hmac.compare_digest(key.encode(), self.page_key(identity).encode())

    def _signature(self, purpose: str, text: str) -> str:
        return hmac.new(self._secret, f"{purpose}\0{text}".encode(), hashlib.sha256).hexdigest()


def allowed_hosts(address: str, names: Iterable[str]) -> frozenset[str]:
    """Return the accepted values of `Host`, for the listening address and the names (or name:port) that lead to it."""
    host, port = sections.split_host_port(address)
    hosts_with_port = frozenset(name.lower() for name in names if name.count(":") == 1 or "]:" in name)
    host_names = [_bracket(name.lower()) for name in names if name.lower() not in hosts_with_port]
    host_names += [*_LOOPBACK] if sections.is_loopback(host) or host in _ANY_ADDRESS else []
    host_names += [] if host in _ANY_ADDRESS else [_bracket(host.lower())]
    hosts = hosts_with_port | {f"{name}:{port}" for name in host_names}
    return hosts | {each.rpartition(":")[0] for each in hosts if each.endswith(_DEFAULT_PORTS)}


def is_same_origin(origin: str, host: str, *, secure: bool) -> bool:
    """Return whether a request comes from a page of this console; a request without `Origin` is not from a page."""
    return not origin or origin == f"{'https' if secure else 'http'}://{host}"


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


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
    """Accepted values of `Host`, by configuration."""
    signer: SessionSigner
    roles_by_certificate: Mapping[str, tuple[Role, ...]] | None
    """Roles by certificate name, where clients authenticate by certificate; None where they use the token."""
    body_bytes_max: int
    request_seconds_max: float
    now: Callable[[], float] = time.time
    refusals: RefusalLog = field(default_factory=RefusalLog)
    """Counts and logs refusals."""
    certificate_hosts: Callable[[], frozenset[str]] = frozenset
    """Accepted values of `Host` by the names in the current certificate, which a renewal can change."""

    def accepts_host(self, host: str) -> bool:
        """Return whether a value of `Host` is accepted."""
        return host in self.hosts or host in self.certificate_hosts()


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
        self._app, self._settings = app, settings

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
        except RequestRefused as refusal:
            await response.replace(self._refusal_response(scope, refusal), scope, receive)
        except TimeoutError:
            message = f"no answer within {self._settings.request_seconds_max:g} s"
            timeout_refusal = RequestRefused(504, "DEADLINE_EXPIRED", message)
            await response.replace(self._refusal_response(scope, timeout_refusal), scope, receive)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Write the principal into the scope. Raises RequestRefused."""
        settings, path, is_safe = self._settings, scope["path"], scope["method"] in SAFE_METHODS
        host = headers.get("host", "").lower()
        if not settings.accepts_host(host):
            message = "this console has another host name; 'names' under 'web' in agent.yaml adds one, with its port"
            raise RequestRefused(421, "HOST_UNKNOWN", f"{message} if that is not the console's")
        same_origin = is_same_origin(headers.get("origin", ""), host, secure=scope["scheme"] == "https")
        if not is_safe and not same_origin:
            raise RequestRefused(403, "ORIGIN_FOREIGN", "a page of another site requested a change")
        if int(headers.get("content-length", "0") or 0) > settings.body_bytes_max:
            raise _too_large(settings.body_bytes_max)
        if is_public(path):
            return
        principal = self._authenticate(scope, headers)
        if principal is None:
            raise RequestRefused(401, "TOKEN_MISSING", "the token is missing or wrong, or the session has ended")
        role = required_role(path)
        if role and not principal.has_role(role):
            raise RequestRefused(403, "ROLE_MISSING", f"this page needs the role {role}")
        if not is_safe and not _is_own_request(principal, headers, settings.signer):
            raise RequestRefused(403, "PAGE_STALE", "the page was loaded before the token changed; load it again")
        scope["principal"] = principal

    def _authenticate(self, scope: Scope, headers: Headers) -> Principal | None:
        settings = self._settings
        if settings.roles_by_certificate is not None:
            certificate: Certificate | None = scope.get("state", {}).get("certificate")
            if certificate is None:
                return None
            return certificate_principal(certificate, settings.roles_by_certificate, settings.now())
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return token_principal() if settings.signer.is_token(token.strip()) else None
        cookie = cookie_parser(headers.get("cookie", "")).get(settings.signer.cookie_name, "")
        return (
            session_principal(cookie) if cookie and settings.signer.is_valid_session(cookie, settings.now()) else None
        )

    def _refusal_response(self, scope: Scope, refusal: RequestRefused) -> Response:
        """Record a refusal, and return it: JSON for a program, the sign-in page for a browser without a session."""
        if scope["path"].startswith(API):
            error = openai_responses.GatewayError(refusal.message, reason=refusal.reason)
            error.status = refusal.status
            self._record(scope, refusal)
            return JSONResponse(
                error.as_json(), error.status, error.headers() | (_CHALLENGE if error.status == 401 else {})
            )
        if refusal.status == 401 and self._settings.roles_by_certificate is None:
            if Headers(scope=scope).get("hx-request"):
                return PlainTextResponse("", 401, {"hx-redirect": "/login"})
            if scope["method"] in SAFE_METHODS:
                return RedirectResponse("/login", 303)
        self._record(scope, refusal)
        return PlainTextResponse(f"{refusal.reason}: {refusal.message}.\n", refusal.status)

    def _record(self, scope: Scope, refusal: RequestRefused) -> None:
        self._settings.refusals.record(HTTP, client_name(scope), refusal.reason)


def _is_own_request(principal: Principal, headers: Headers, signer: SessionSigner) -> bool:
    """Return whether a program or one of our pages requests a change. A cookie or certificate, which browsers send
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
        self._receive, self._bytes_max, self._response = receive, bytes_max, response
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
            sent = {name.lower() for name, _ in message.get("headers", ())}
            missing = [(name.encode(), text.encode()) for name, text in HEADERS.items() if name.encode() not in sent]
            message = {**message, "headers": [*message.get("headers", ()), *missing]}
        await self._send(message)

    async def replace(self, response: Response, scope: Scope, receive: Receive) -> None:
        """Send another response, unless one has started."""
        self.is_shut = False
        self.on_start = lambda: None
        if not self._started:
            await response(scope, receive, self)


def _too_large(bytes_max: int) -> RequestRefused:
    return RequestRefused(413, "MESSAGE_TOO_LARGE", f"the request is larger than {bytes_max} bytes")
