"""Exit codes: the table of docs/exit-codes.md. Pure."""

from __future__ import annotations

from enum import IntEnum

from edge_agent.errors import (
    BY_REASON,
    AccessError,
    BundleError,
    CallerError,
    CapacityError,
    DeadlineExpired,
    EdgeAgentError,
    ExchangeError,
    RequestCancelled,
    SiteError,
    StateError,
    UpdateError,
)


class Exit(IntEnum):
    """What a script may test for."""

    OK = 0
    FAILED = 1
    """The model or the daemon failed; doctor found a problem."""
    USAGE = 2
    """Wrong arguments or bad input."""
    SITE = 3
    """Something on this machine: configuration, state directory, socket, certificate, no daemon."""
    TRY_LATER = 4
    """No room or not ready: the same command may work later."""
    REFUSED = 5
    """What was given was refused: a bundle, receipts, a segment, an update. Nothing was taken over from it."""


# The first match counts.
_FAMILIES: tuple[tuple[type[EdgeAgentError], Exit], ...] = (
    (DeadlineExpired, Exit.TRY_LATER),
    (RequestCancelled, Exit.TRY_LATER),
    (CapacityError, Exit.TRY_LATER),
    (CallerError, Exit.USAGE),
    (StateError, Exit.USAGE),
    (SiteError, Exit.SITE),
    (AccessError, Exit.SITE),
    (BundleError, Exit.REFUSED),
    (ExchangeError, Exit.REFUSED),
    (UpdateError, Exit.REFUSED),
)
# What the daemon does not say itself: reasons of the client, and gRPC's own codes.
_OTHERS = {
    "UNREACHABLE": Exit.SITE,
    "TLS_FAILED": Exit.SITE,
    "MESSAGE_TOO_LARGE": Exit.USAGE,
    "RESOURCE_EXHAUSTED": Exit.TRY_LATER,
    "INVALID_ARGUMENT": Exit.USAGE,
}
REMEDIES = {
    Exit.FAILED: "The daemon's log says more; 'edge-agent doctor' checks this machine.",
    Exit.USAGE: "Change the command; --help after it explains its arguments.",
    Exit.SITE: "'edge-agent doctor' checks this machine.",
    Exit.TRY_LATER: "Run the same command again later.",
    Exit.REFUSED: "Nothing was installed: have the bundle assembled again with 'edge-convert assemble'.",
}
"""What to do about an error that does not say it itself."""


def exit_code(reason: str) -> Exit:
    """Return the exit code for the reason of an error that the daemon or the client sent."""
    cls = BY_REASON.get(reason)
    return _OTHERS.get(reason, Exit.FAILED) if cls is None else exit_code_of(cls)


def exit_code_of(error: type[EdgeAgentError]) -> Exit:
    """Return the exit code for a class of errors."""
    return next((code for family, code in _FAMILIES if issubclass(error, family)), Exit.FAILED)
