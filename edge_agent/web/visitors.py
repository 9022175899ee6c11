"""Who visits, how that is known, and what each may do here. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edge_agent.config import Role
from edge_agent.formats.certificate_fields import Certificate
from edge_agent.server.roles import ROLES, certificate_roles

Proof = Literal["cookie", "bearer", "certificate"]
# The first that fits counts; a path that is not here is open to every visitor.
_NEEDS: tuple[tuple[str, Role], ...] = (
    ("/v1/", "infer"),
    ("/review", "feedback"),
    ("/tasks/", "admin"),
    ("/charts", "admin"),
)
OPEN = ("/login", "/healthz", "/static/")
"""Paths that need no visitor."""


@dataclass(frozen=True)
class Visitor:
    """Somebody who was let in."""

    name: str
    """Of the certificate; empty where a token let them in, which names nobody."""
    roles: frozenset[Role]
    proof: Proof
    identity: str
    """What the key of their pages is made of."""

    def may(self, role: Role) -> bool:
        """Tell whether they have a role."""
        return role in self.roles


def by_cookie(cookie: str) -> Visitor:
    """Return the holder of a session, who may do everything that this console may."""
    return Visitor("", ROLES, "cookie", cookie)


def by_token() -> Visitor:
    """Return a program that sends the token with each request."""
    return Visitor("", ROLES, "bearer", "")


def by_certificate(certificate: Certificate, configured: Mapping[str, tuple[Role, ...]], now: float) -> Visitor | None:
    """Return the holder of a certificate that the handshake has verified; None when it has ended since."""
    if certificate.expires_at <= now:
        return None
    roles = certificate_roles(certificate, configured)
    return Visitor(certificate.name, roles, "certificate", certificate.fingerprint)


def needs(path: str) -> Role | None:
    """Return the role that a path needs; None = any visitor may look."""
    return next((role for start, role in _NEEDS if path.startswith(start)), None)


def is_open(path: str) -> bool:
    """Tell whether a path needs no visitor."""
    return any(path == each or (each.endswith("/") and path.startswith(each)) for each in OPEN)
