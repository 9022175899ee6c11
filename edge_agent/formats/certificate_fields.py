"""What is read of a certificate, for those who decide by it and read none: a daemon without TLS. Pure."""

from __future__ import annotations

from dataclasses import dataclass

ROLE_URI = "edge-agent://role/"
"""In front of a role, among the alternative names of a client's certificate."""


@dataclass(frozen=True)
class Certificate:
    """What is read of a certificate. Times are seconds since 1970."""

    name: str
    """The common name of its subject; without one, its first alternative name that is no role."""
    names: tuple[str, ...]
    """Its alternative names: URIs, DNS names, e-mail and IP addresses."""
    uris: tuple[str, ...]
    """Those of them that are URIs."""
    is_authority: bool
    """It may issue others."""
    starts_at: float
    expires_at: float
    fingerprint: str
    """sha256 of its DER bytes, in hexadecimal."""
