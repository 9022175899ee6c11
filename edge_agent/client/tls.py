"""TLS of a client: its files, and what gRPC's words about a failed handshake mean to a person.

gRPC tells a client that the server hung up ("Socket closed") and not why, whether its certificate was missing, foreign
or out of date: the remedy names what to look at.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import grpc

TLS_FAILED = "TLS_FAILED"
_SHOW = "'edge-agent certs show FILE' says what is in a certificate."


@dataclass(frozen=True)
class Tls:
    """Files in PEM: who may be believed to be the server, and who this client is."""

    ca: str | os.PathLike[str]
    """The authority that issued the server's certificate."""
    certificate: str | os.PathLike[str]
    """This client's certificate, which says its roles."""
    key: str | os.PathLike[str]
    """Its private key."""
    server_name: str = ""
    """The name in the server's certificate, where it is not that of the address."""

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Read the files. Raises OSError."""
        ca, key, certificate = (Path(path).read_bytes() for path in (self.ca, self.key, self.certificate))
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def options(self) -> list[tuple[str, str]]:
        """Return what a channel needs to know beside them."""
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []


# Words of gRPC and BoringSSL, what they mean, and what to do. The first that is found counts.
_MEANINGS = (
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the server's certificate was not issued by the authority in the 'ca' file, or has expired",
        "Take the ca.crt of the site that the server belongs to, and check this machine's clock.",
    ),
    (
        "Hostname Verification",
        "the server's certificate is for other names than that of the address",
        "Use a name that is in it, or have it issued with this name ('edge-agent certs server --name …').",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "something answers there, but without TLS",
        "Leave the certificate out if that daemon is meant to be open ('insecure: true'); otherwise check the address.",
    ),
    (
        "Invalid credentials",
        "the certificate, key or 'ca' file cannot be used: one is no PEM, or the key belongs to another certificate",
        f"Check the three files. {_SHOW}",
    ),
    (
        "Socket closed",
        "the server ended the handshake: it does not accept this client's certificate",
        "Is it issued by the server's client authority, in date, and for clients? Is the server's clock right?"
        f" {_SHOW}",
    ),
)
_NO_TLS = (
    "something answers there and hangs up: it wants a certificate, or is no edge-agent",
    "Have a certificate issued for this client ('edge-agent certs issue'), and name it with '--remote'.",
)


def meaning(details: str, *, with_tls: bool) -> tuple[str, str] | None:
    """Say what gRPC's words mean and what to do; None when they are not about TLS. Pure."""
    closed = "Socket closed" in details or "Connection reset" in details
    if not with_tls:
        return _NO_TLS if closed else None
    for words, said, remedy in _MEANINGS:
        if words in details or (closed and words == "Socket closed"):
            return said, remedy
    return None
