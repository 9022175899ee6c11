"""How a command ends that does not end well: a sentence on standard error, and an exit code of docs/exit-codes.md."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import typer

from edge_agent.cli.exits import exit_code, exit_code_of
from edge_agent.errors import EdgeAgentError

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@contextlib.contextmanager
def reported_errors() -> Iterator[None]:
    """Turn errors in the block into the sentence and the exit code; nothing else is caught: a traceback is a bug."""
    try:
        yield
    except EdgeAgentError as error:
        _report(error)
        raise typer.Exit(exit_code_of(type(error))) from error
    except _call_failures() as error:
        _report(error)
        raise typer.Exit(exit_code(error.reason)) from error  # type: ignore[attr-defined] # of CallFailed
    except KeyboardInterrupt:
        # What the command opened is closed by now. Python's own clean-up would wait for ever on a gRPC call that
        # Ctrl-C tore while it started.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(_INTERRUPTED)


def _call_failures() -> tuple[type[Exception], ...]:
    """Return what calls of a client end with: nothing in a command that has loaded no client."""
    client = sys.modules.get("edge_agent.client.failure")
    return (client.CallFailed,) if client else ()


def _report(error: Exception) -> None:
    # What draws on a screen is loaded where there is something to draw.
    from edge_agent.cli.output import report  # noqa: PLC0415

    report(error)  # type: ignore[arg-type] # one of the two
