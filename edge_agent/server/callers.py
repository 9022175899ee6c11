"""The identity of a caller: the client of a socket, an address, or the holder of a certificate.

gRPC tells a server neither the user nor the process at the other end of a Unix socket. So all callers of a socket are
one client, unless they name themselves in the metadata `edge-agent-client`. The name separates their shares and appears
in the audit log; it gives no role. On TCP the name is ignored: the certificate, or else the address, identifies.

Nobody verifies such a name, and a caller can send another one with each call. So limits count by accounts, not by
names, and a socket has a fixed number of accounts.
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
    """One client, as limits and the audit log see it."""

    name: str
    """Unique among clients; begins with the listener."""
    roles: frozenset[Role]
    fingerprint: str = ""
    """sha256 of its certificate; empty without one."""
    expires_at: float = float("inf")
    """End of its certificate, in seconds since 1970."""
    socket_account: str = ""

    @property
    def account(self) -> str:
        """The account that limits count: the name, unless the caller of a socket chose it."""
        return self.socket_account or self.name


NOBODY = Caller("nobody", frozenset())
current_caller: ContextVar[Caller] = ContextVar("caller", default=NOBODY)
"""The caller of the call that this task answers."""

CallerIdentifier = Callable[[Any], Caller]
"""Returns the caller of a call from gRPC's context. Raises AccessError."""


def socket_caller_identifier(name: str, roles: frozenset[Role], accounts: AccountTable) -> CallerIdentifier:
    """Return what identifies the callers of the Unix socket `name`, which have those roles."""
    unnamed = Caller(name, roles)

    def identify(context: Any) -> Caller:
        for key, value in context.invocation_metadata():
            if key == NAME_KEY and len(value) <= NAME_CHARS_MAX and _NAME.fullmatch(value):
                number = accounts.account_of(value)
                return Caller(f"{name} {value}", roles, socket_account=f"{name} #{number}" if number else name)
        return unnamed

    return identify


def identify_by_address(context: Any) -> Caller:
    """Identify a caller of plain TCP by its address; its role is `infer`."""
    return Caller(f"tcp {context.peer().rpartition(':')[0]}", INFER)


ACCOUNT_SECONDS = 60.0
"""Another name can take the account of one that has not called for so long."""


class AccountTable:
    """The accounts of one socket, numbered from 1. Each name has one until all are taken.

    A name keeps its account while it calls. Another name takes over an account with all that is counted on it, so a
    caller gains nothing by a new name.
    """

    def __init__(self, accounts_max: int, now: Callable[[], float] = time.monotonic) -> None:
        """Offer `accounts_max` accounts."""
        self._accounts_max = accounts_max
        self._now = now
        self._held: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def account_of(self, name: str) -> int:
        """Return the number of a name's account; 0 = all are taken, so it counts with the unnamed callers."""
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
