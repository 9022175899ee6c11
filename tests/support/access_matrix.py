"""Makes each call of the daemon as each kind of caller and compares the result with the table in docs/access.md.

with AccessMatrix(tmp_path) as matrix:
    assert [] == [cell for cell in matrix.cells() if cell.wrong]
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from google.protobuf.descriptor import MethodDescriptor

from edge_agent.client import Tls
from tests.support.daemon import RunningDaemon
from tests.support.hostile_calls import CallEnd, call
from tests.support.rpcs import METHODS
from tests.support.tls_site import TlsSite

ROLES = ("infer", "feedback", "admin")
# docs/access.md, in the words of the protocol. A service that is not here may be called by nobody.
SERVICES = {
    "edge_agent.v1.InferenceService": {"infer"},
    "inference.GRPCInferenceService": {"infer"},
    "edge_agent.v1.FeedbackService": {"feedback"},
    "edge_agent.v1.AdminService": {"admin"},
    "grpc.reflection.v1alpha.ServerReflection": {"admin"},
    "grpc.health.v1.Health": set(ROLES),
}
SOCKETS = {"inference.sock": {"infer"}, "review.sock": {"feedback"}, "admin.sock": {"admin", "infer"}}
STOPPED, DENIED, ABSENT, IN = "stopped at the handshake", "denied", "not served there", "let in"
NO_MESSAGE = b"\xff"
"""Whoever is let in learns that it is no message; so nothing that is called does anything."""


@dataclass(frozen=True)
class Cell:
    """One kind of caller, one call, and its outcome."""

    caller: str
    method: str
    expected: str
    found: str

    @property
    def wrong(self) -> bool:
        """Whether the outcome differs from the documented one."""
        return self.expected != self.found

    def __str__(self) -> str:
        """Return a one-line summary."""
        return f"{self.caller} calls {self.method}: {self.found}; documented: {self.expected}"


@dataclass(frozen=True)
class _Caller:
    name: str
    channel: grpc.Channel
    roles: frozenset[str]
    how: str
    """"socket", "tls", or "stranger": one who is not to get past the handshake."""

    def expected(self, method: MethodDescriptor) -> str:
        allowed = SERVICES.get(method.containing_service.full_name, set())
        if self.how == "stranger":
            return STOPPED
        if allowed & self.roles:
            return IN
        return DENIED if self.how == "tls" else ABSENT


class AccessMatrix:
    """A daemon on its sockets and on TCP with certificates."""

    def __init__(self, folder: Path) -> None:
        """Make certificates of every kind."""
        self._site = TlsSite(folder / "tls")
        self._daemon = RunningDaemon(folder / "daemon", **self._site.settings())
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start the daemon."""
        self._closing.enter_context(self._daemon)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection, and end it."""
        self._closing.close()

    def cells(self) -> Iterator[Cell]:
        """Make every call as every caller. A rejected caller sends a complete message, too; it must have no effect."""
        for caller in self._callers():
            for method in METHODS:
                expected = caller.expected(method)
                for raw in (NO_MESSAGE,) if expected == IN else (NO_MESSAGE, b""):
                    found = _verdict(call(caller.channel, method, raw))
                    yield Cell(caller.name, method.full_name, expected, found)

    def drained(self) -> bool:
        """Return whether a rejected Drain call drained the daemon."""
        with self._daemon.client() as client:
            return not client.serving()

    def _callers(self) -> Iterator[_Caller]:
        for name, served in SOCKETS.items():
            channel = self._opened(grpc.insecure_channel(f"unix:{self._daemon.run_dir}/{name}"))
            yield _Caller(name, channel, frozenset(served), "socket")
        for roles in ((), *((role,) for role in ROLES), ROLES):
            tls = self._site.client("-".join(("holder", *roles)), *roles)
            name = f"a certificate for {' and '.join(roles) or 'nothing'}"
            yield _Caller(name, self._secure(tls.channel_credentials()), frozenset(roles), "tls")
        for name, credentials in self._strangers().items():
            yield _Caller(name, self._secure(credentials), frozenset(), "stranger")
        yield _Caller("plain TCP", self._opened(grpc.insecure_channel(self._site.address)), frozenset(), "stranger")

    def _strangers(self) -> dict[str, grpc.ChannelCredentials]:
        site = self._site
        late = site.client("late", *ROLES, at=0)
        foreign = site.client("foreign", *ROLES, issuer=site.foreign)
        return {
            "no certificate": grpc.ssl_channel_credentials(site.ca.read_bytes()),
            "an expired certificate": late.channel_credentials(),
            "a foreign authority's certificate": foreign.channel_credentials(),
            "the server's own certificate": Tls(site.ca, site.certificate, site.key).channel_credentials(),
        }

    def _secure(self, credentials: grpc.ChannelCredentials) -> grpc.Channel:
        options = [("grpc.use_local_subchannel_pool", 1)]
        return self._opened(grpc.secure_channel(self._site.address, credentials, options=options))

    def _opened(self, channel: grpc.Channel) -> grpc.Channel:
        return self._closing.enter_context(channel)


def _verdict(ended: CallEnd) -> str:
    known = {
        ("UNAVAILABLE", ""): STOPPED,
        ("PERMISSION_DENIED", "ROLE_MISSING"): DENIED,
        ("UNIMPLEMENTED", ""): ABSENT,
        ("INVALID_ARGUMENT", "REQUEST_INVALID"): IN,
    }
    return known.get((ended.code, ended.reason), f"{ended.code} {ended.reason} {ended.said}")
