"""How a command ends that does not end well: a sentence on standard error, and an exit code of docs/exit-codes.md."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import typer

from edge_agent.cli.exits import exit_code, exit_code_of
from edge_agent.cli.output import report
from edge_agent.client import CallFailed
from edge_agent.errors import EdgeAgentError

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@contextlib.contextmanager
def reported_errors() -> Iterator[None]:
    """Turn errors in the block into the sentence and the exit code; nothing else is caught: a traceback is a bug."""
    try:
        yield
    except EdgeAgentError as error:
        report(error)
        raise typer.Exit(exit_code_of(type(error))) from error
    except CallFailed as error:
        report(error)
        raise typer.Exit(exit_code(error.reason)) from error
    except KeyboardInterrupt:
        # What the command opened is closed by now. Python's own clean-up would wait for ever on a gRPC call that
        # Ctrl-C tore while it started.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(_INTERRUPTED)
