"""How a command ends: the exit codes of docs/exit-codes.md, and the one place that turns errors into them."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import typer

from edge_agent.cli.command_group import GlobalOptions
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


class ExitCode(IntEnum):
    """Exit codes that a script can test for."""

    OK = 0
    FAILED = 1
    """The model or the daemon failed; doctor found a problem."""
    USAGE = 2
    """Wrong arguments or bad input."""
    SITE = 3
    """A fault of this machine: configuration, state directory, socket, certificate, or no daemon answers."""
    TRY_LATER = 4
    """Full or not ready: the same command can work later."""
    REFUSED = 5
    """The input was refused (a bundle, receipts, a segment, an update), and nothing that was refused is in use."""


# The first match counts.
_FAMILIES: tuple[tuple[type[EdgeAgentError], ExitCode], ...] = (
    (DeadlineExpired, ExitCode.TRY_LATER),
    (RequestCancelled, ExitCode.TRY_LATER),
    (CapacityError, ExitCode.TRY_LATER),
    (CallerError, ExitCode.USAGE),
    (StateError, ExitCode.USAGE),
    (SiteError, ExitCode.SITE),
    (AccessError, ExitCode.SITE),
    (BundleError, ExitCode.REFUSED),
    (ExchangeError, ExitCode.REFUSED),
    (UpdateError, ExitCode.REFUSED),
)
# Reasons that no error class of the daemon has: the client's own, and gRPC's codes.
_CLIENT_REASONS = {
    "UNREACHABLE": ExitCode.SITE,
    "TLS_FAILED": ExitCode.SITE,
    "MESSAGE_TOO_LARGE": ExitCode.USAGE,
    "RESOURCE_EXHAUSTED": ExitCode.TRY_LATER,
    "INVALID_ARGUMENT": ExitCode.USAGE,
}
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_SUDO_REMEDY = "Run the command with sudo, or name a path that this user can use."
_PATH_REMEDIES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), _SUDO_REMEDY),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR), "Name another path."),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space, or write to another place."),
    errno.EIO: "Check the disk or drive: 'dmesg' shows its errors.",
}
"""Errors of a path that the user named, with remedies; any other OSError is a bug."""
_OPEN_FILE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Errors of reading or writing an open file, which have no path."""
REMEDIES = {
    ExitCode.FAILED: "The daemon's log says more; 'edge-agent doctor' checks this machine.",
    ExitCode.USAGE: "Change the command; -h after it explains its arguments.",
    ExitCode.SITE: "'edge-agent doctor' checks this machine.",
    ExitCode.TRY_LATER: "Run the same command again later.",
    ExitCode.REFUSED: "Nothing was installed: have the bundle assembled again with 'edge-convert assemble'.",
}
"""The remedies of errors that have none of their own."""


def exit_code(reason: str) -> ExitCode:
    """Return the exit code for the reason of an error that the daemon or the client sent."""
    error_class = BY_REASON.get(reason)
    return _CLIENT_REASONS.get(reason, ExitCode.FAILED) if error_class is None else exit_code_of(error_class)


def exit_code_of(error_class: type[EdgeAgentError]) -> ExitCode:
    """Return the exit code for a class of errors."""
    return next((code for family, code in _FAMILIES if issubclass(error_class, family)), ExitCode.FAILED)


@contextlib.contextmanager
def reported_errors(ctx: typer.Context) -> Iterator[None]:
    """Turn an error of the block, or of a path, into a sentence and an exit code; any other exception is a bug."""
    try:
        yield
    except EdgeAgentError as error:
        _report(error, ctx)
        raise typer.Exit(exit_code_of(type(error))) from error
    except _call_failures() as error:
        _report(error, ctx)
        raise typer.Exit(exit_code(error.reason)) from error  # type: ignore[attr-defined] # of CallFailed
    except OSError as error:
        remedy = _PATH_REMEDIES.get(error.errno or 0)
        if remedy is None or not (error.filename or error.errno in _OPEN_FILE_ERRNOS):
            raise
        from edge_agent.cli import terminal  # noqa: PLC0415 - as in `report_error`

        subject = error.filename or "an open file, or standard output"
        terminal.report(f"{subject}: {error.strerror}", remedy)
        raise typer.Exit(ExitCode.SITE) from error
    except KeyboardInterrupt:
        # The command has closed what it opened. Python's own clean-up would wait for ever on a gRPC call that
        # Ctrl-C interrupted while it started.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(_INTERRUPTED)


def _call_failures() -> tuple[type[Exception], ...]:
    """Return the exception of a failed call; nothing in a command that has not loaded the client."""
    client = sys.modules.get("edge_agent.client.call_failed")
    return (client.CallFailed,) if client else ()


def _report(error: Exception, ctx: typer.Context) -> None:
    options = ctx.find_object(GlobalOptions)
    report_error(error, verbose=options is not None and options.verbose)


def report_error(error: Any, *, verbose: bool = False) -> None:
    """Print an EdgeAgentError or CallFailed and its remedy; `verbose` with its reason, metadata and cause."""
    # The screen libraries are loaded only when there is an error to print.
    from edge_agent.cli import terminal  # noqa: PLC0415

    details, code = list(getattr(error, "details", ())), exit_code(error.reason)
    if verbose:
        details.append(f"reason: {error.reason}, exit code {int(code)}")
        details += [f"{name}: {value}" for name, value in error.metadata.items()]
        if isinstance(error, EdgeAgentError) and error.__cause__:
            details.append(f"cause: {type(error.__cause__).__name__}: {error.__cause__}")
    terminal.report(error.message, error.remedy or REMEDIES[code], details)
