"""Who sends a request to the console, what proves it, what it may do, and from which page it comes. Pure.

A page of another site can make a browser send requests here (cross-site request forgery), or make a name of its own
resolve to this console (DNS rebinding). `Origin` and the page key reveal the first, `Host` the second.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edge_agent.config import Role, sections
from edge_agent.formats.certificate_fields import Certificate
from edge_agent.server.roles import ROLES, certificate_roles

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
HTTP = "http"
"""What refuses, in the log of refusals."""
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
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
    """What the principal's page key is derived from."""

    def has_role(self, role: Role) -> bool:
        """Tell whether the principal has a role."""
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
    return next((role for start, role in _REQUIRED_ROLES if path.startswith(start)), None)


def is_public(path: str) -> bool:
    """Tell whether a path needs no authentication."""
    return any(path == each or (each.endswith("/") and path.startswith(each)) for each in PUBLIC_PATHS)


class SessionSigner:
    """Signs sessions and page keys with the console's secret, and verifies them. Another secret ends every session."""

    def __init__(self, secret: str) -> None:
        """Take the secret: the text of the token file."""
        self._secret = secret.encode()
        self.cookie_name = f"edge_agent_{self._signed('cookie', '')[:12]}"
        """Name of the session cookie. It depends on the secret, as browsers share cookies between ports of one host."""

    def is_token(self, given: str) -> bool:
        """Tell whether a text is the secret, in constant time."""
        return hmac.compare_digest(given.encode(), self._secret)

    def sign_session(self, ends_at: float, nonce: str) -> str:
        """Return the cookie of a session that ends at a time, in seconds since 1970."""
        claim = f"{ends_at:.0f}.{nonce}"
        return f"{claim}.{self._signed('session', claim)}"

    def is_valid_session(self, cookie: str, now: float) -> bool:
        """Tell whether a cookie was signed here, and its session has not ended."""
        claim, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signed("session", claim).encode()):
            return False
        return float(claim.partition(".")[0]) > now

    def page_key(self, identity: str) -> str:
        """Return the key that a principal's pages send with every change, and that no other site's page has."""
        return self._signed("page", identity)

    def is_page_key(self, identity: str, given: str) -> bool:
        """Tell whether a text is the page key of a principal, in constant time."""
        return hmac.compare_digest(given.encode(), self.page_key(identity).encode())

    def _signed(self, purpose: str, text: str) -> str:
        return hmac.new(self._secret, f"{purpose}\0{text}".encode(), hashlib.sha256).hexdigest()


def allowed_hosts(address: str, names: Iterable[str]) -> frozenset[str]:
    """Return the accepted values of `Host`, for the listening address and the names (or name:port) that lead to it."""
    host, port = sections.split_host_port(address)
    elsewhere = frozenset(name.lower() for name in names if name.count(":") == 1)
    known = [_bracketed(name.lower()) for name in names if name.count(":") != 1]
    known += [*_LOOPBACK] if sections.is_loopback(host) or host in _ANY else []
    known += [] if host in _ANY else [_bracketed(host.lower())]
    usual = frozenset(known) if port in (80, 443) else frozenset()
    return elsewhere | usual | frozenset(f"{name}:{port}" for name in known)


def is_same_origin(origin: str, host: str, *, secure: bool) -> bool:
    """Tell whether a request comes from a page of this console; a request without `Origin` is not from a page."""
    return not origin or origin == f"{'https' if secure else 'http'}://{host}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
