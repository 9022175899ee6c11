"""The one table of the roles that may call each method, and the identity of callers.

A method that is not in the table may be called by nobody. A listener has only the methods of its own services, whatever
the table says: each socket has some services, TCP with certificates has them all.

A caller is the client of a socket, an address, or the holder of a certificate. gRPC tells a server neither the user nor
the process at the other end of a Unix socket. So all callers of a socket are one client, unless they name themselves in
the metadata `edge-agent-client`. The name separates their shares and appears in the audit log; it gives no role. On TCP
the name is ignored: the certificate, or else the address, identifies the caller.

Nobody verifies such a name, and a caller can send another one with each call. So limits count by accounts, not by
names, and a socket has a fixed number of accounts.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, get_args

from edge_agent.config import Role
from edge_agent.errors import RoleMissing
from edge_agent.formats.certificates import ROLE_URI, Certificate

ROLES: frozenset[Role] = frozenset(get_args(Role))
INFER: frozenset[Role] = frozenset({"infer"})
FEEDBACK: frozenset[Role] = frozenset({"feedback"})
ADMIN: frozenset[Role] = frozenset({"admin"})
OPERATOR = ADMIN | INFER
"""What admin.sock gives."""

_SERVICES: dict[str, tuple[frozenset[Role], str]] = {
    "edge_agent.v1.InferenceService": (INFER, "Classify Decide Extract Generate Embed ListTasks GetTask"),
    "inference.GRPCInferenceService": (
        INFER,
        "ServerLive ServerReady ServerMetadata ModelReady ModelMetadata ModelInfer ModelStreamInfer ModelConfig "
        "ModelStatistics",
    ),
    "edge_agent.v1.FeedbackService": (FEEDBACK, "SubmitFeedback ListReviewQueue GetPrediction ErasePrediction"),
    "edge_agent.v1.AdminService": (
        ADMIN,
        "GetStatus ListBundles InstallBundle ActivateBundle RollbackTask RemoveBundle SealExamples ReadReceipts "
        "ImportUpdate AllowUpdate Drain SetMode GetFieldReport EraseValues GetPrivacyReport TryRedaction "
        "ListRedactionAudit JudgeRedaction",
    ),
    "grpc.health.v1.Health": (ROLES, "Check Watch"),
    "grpc.reflection.v1alpha.ServerReflection": (ADMIN, "ServerReflectionInfo"),
}
METHODS: dict[str, frozenset[Role]] = {
    f"/{service}/{name}": roles for service, (roles, names) in _SERVICES.items() for name in names.split()
}
"""The roles that may call a method, each of them alone."""


def role_missing(call: str, allowed: frozenset[Role], client: str, roles: frozenset[Role]) -> RoleMissing:
    """Return the refusal of a call that only `allowed` may make, to a client with other roles."""
    needs = " or ".join(sorted(allowed)) if allowed else "a role that nobody has"
    has = f"has the role {' and '.join(sorted(roles))}" if roles else "has no role"
    role = min(allowed, default="")
    command = f" ('sudo edge-agent certs issue CLIENT --role {role}')" if role else ""
    return RoleMissing(
        f"{client} {has}; {call} needs {needs}",
        remedy=f"Have a certificate issued with {ROLE_URI}{role or '…'}{command}, or use the socket of that role.",
        client=client,
        call=call,
        roles=",".join(sorted(roles)),
        needs=",".join(sorted(allowed)),
    )


_READ_ONLY = (
    *("GetStatus", "GetFieldReport", "GetPrivacyReport", "ListBundles", "TryRedaction", "ListRedactionAudit"),
    "ServerReflectionInfo",
)
CallTreatment = Literal["work", "look", "change", "health"]


def call_treatment(method: str) -> CallTreatment:
    """Return how limits and the audit log treat a call.

    work = it counts in the client's rate; look = a read-only call of an operator; change = it has a line of its own in
    the audit log, as a reviewer's erasure has; health = neither limited nor logged.
    """
    name, allowed = method.rpartition("/")[2], METHODS.get(method, frozenset())
    if allowed == ROLES:
        return "health"
    if name == "ErasePrediction" or (allowed == ADMIN and name not in _READ_ONLY):
        return "change"
    return "look" if allowed == ADMIN else "work"


def certificate_roles(certificate: Certificate, configured: Mapping[str, Iterable[Role]]) -> frozenset[Role]:
    """Return the roles of a client: those in its certificate, and those configured for one of its names.

    URIs are compared only with URIs, so an authority that issues DNS names cannot be tricked into granting a role.
    """
    roles = {role for role in ROLES if f"{ROLE_URI}{role}" in certificate.uris}
    for pattern, granted in configured.items():
        names = certificate.uris if "://" in pattern else set(certificate.names) - set(certificate.uris)
        if any(_matches(name, pattern) for name in names):
            roles.update(granted)
    return frozenset(roles)


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("*"):
        return name.endswith(pattern[1:])
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


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
"""Another name can take the account of one that has not called for this long."""


class AccountTable:
    """The accounts of one socket, numbered from 1. Each name has one until all are taken.

    A name keeps its account while it calls. Another name takes over an account with all that is counted on it, so a
    caller gains nothing by a new name.
    """

    def __init__(self, accounts_max: int, now: Callable[[], float] = time.monotonic) -> None:
        """Offer `accounts_max` accounts."""
        self._accounts_max, self._now = accounts_max, now
        self._accounts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def account_of(self, name: str) -> int:
        """Return the number of a name's account; 0 = all are taken, so it counts with the unnamed callers."""
        now = self._now()
        account = self._accounts.get(name)
        number = account[0] if account else self._take_account(now)
        if number:
            self._accounts[name] = (number, now)
            self._accounts.move_to_end(name)
        return number

    def _take_account(self, now: float) -> int:
        if len(self._accounts) < self._accounts_max:
            return len(self._accounts) + 1
        if not self._accounts:
            return 0
        name, (number, last_call_at) = next(iter(self._accounts.items()))
        if now - last_call_at < ACCOUNT_SECONDS:
            return 0
        del self._accounts[name]
        return number
