"""Who calls: the socket's one client, the address, or the holder of a certificate.

gRPC tells a server neither the user nor the process at the other end of a Unix socket, so all who use one are one
client, unless they name themselves in the metadata `edge-agent-client`: the name separates their shares and shows in
the audit log, and gives no role. Nobody is asked for it on TCP, where a certificate, or else the address, says it.

Nobody checks such a name, and a caller may give another one with every call. So limits do not count by names but by
accounts, and a socket has a fixed number of them.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from edge_agent.config import Role
from edge_agent.server.roles import INFER

NAME_KEY = "edge-agent-client"
NAME_CHARS_MAX = 64
_NAME = re.compile(r"[\w.:@/-]+", re.ASCII)


@dataclass(frozen=True)
class Caller:
    """One client: what limits and the audit log know of it."""

    name: str
    """Unique among clients; where it came in stands in front."""
    roles: frozenset[Role]
    fingerprint: str = ""
    """sha256 of its certificate; empty without one."""
    expires_at: float = float("inf")
    """End of its certificate, in seconds since 1970."""
    named_account: str = ""

    @property
    def account(self) -> str:
        """What limits count it as: its name, unless nobody vouches for that."""
        return self.named_account or self.name


NOBODY = Caller("nobody", frozenset())
current: ContextVar[Caller] = ContextVar("caller", default=NOBODY)
"""Who made the call that this task answers."""

Identify = Callable[[Any], Caller]
"""Tells from gRPC's context who calls. Raises AccessError."""


def on_socket(name: str, roles: frozenset[Role], accounts: Accounts) -> Identify:
    """Return how the callers of a Unix socket are told apart."""
    everyone = Caller(name, roles)

    def identify(context: Any) -> Caller:
        for key, value in context.invocation_metadata():
            if key == NAME_KEY and len(value) <= NAME_CHARS_MAX and _NAME.fullmatch(value):
                number = accounts.of(value)
                return Caller(f"{name} {value}", roles, named_account=f"{name} #{number}" if number else name)
        return everyone

    return identify


def in_the_open(context: Any) -> Caller:
    """Tell the callers of plain TCP apart by their address; each may infer."""
    return Caller(f"tcp {context.peer().rpartition(':')[0]}", INFER)


# What the callers of one socket are counted as: nobody checks the names that they give themselves.
ACCOUNT_SECONDS = 60.0
"""A name that has not called for so long may lose its account to another."""


class Accounts:
    """The accounts of one socket, numbered from 1: a name has one, as long as there are any.

    A name keeps its account while it calls. Another name takes the account as it is, with what is counted on it, so
    that a new name is worth nothing.
    """

    def __init__(self, accounts_max: int, now: Callable[[], float] = time.monotonic) -> None:
        """Have that many."""
        self._accounts_max = accounts_max
        self._now = now
        self._held: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def of(self, name: str) -> int:
        """Return the number of a name's account; 0 = none is left, and it is counted with those without a name."""
        now = self._now()
        held = self._held.get(name)
        number = held[0] if held else self._free(now)
        if number:
            self._held[name] = (number, now)
            self._held.move_to_end(name)
        return number

    def _free(self, now: float) -> int:
        if len(self._held) < self._accounts_max:
            return len(self._held) + 1
        if not self._held:
            return 0
        name, (number, at) = next(iter(self._held.items()))
        if now - at < ACCOUNT_SECONDS:
            return 0
        del self._held[name]
        return number
