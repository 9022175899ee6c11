"""The command `edge-convert`: a module for the subcommands of one subject, registered here.

Ctrl-C is handled even while a library computes. Python raises KeyboardInterrupt between two of its own steps, and one
step of training, quantizing or exporting can take half a minute. So a thread listens as well: it reports the first
Ctrl-C, and the second one ends the process at once. That is safe: an unfinished stage leaves only temporary files,
which the next run removes.

A library that checks for signals during its work can raise an error of its own instead of KeyboardInterrupt (DuckDB:
RuntimeError, "Query interrupted"): `is_stop_requested` tells the two apart.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any, NoReturn

import structlog
import typer

from convert.cli import assess, collect, dataset, fleet, init, keys, media, plan, privacy, publish, run, sites, split
from convert.pipeline.execution import STAGES
from edge_agent import __version__
from edge_agent.cli.command_group import PrintableGroup, flush_output, open_standard_streams
from edge_agent.cli.terminal import report, say
from edge_agent.errors import CapacityError, EdgeAgentError, ModelError, RequirementUnmet, SiteError
from edge_agent.errors.base import printable_event

INTERRUPTED = 130  # 128 + SIGINT, the convention of shells
_STDERR = 2
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_stop_requested = threading.Event()


def listen() -> None:
    """Listen for SIGINT and SIGTERM from now on. Call once, from the main thread."""
    for stop in _STOP_SIGNALS:
        if signal.getsignal(stop) != signal.SIG_IGN:  # a shell ignores Ctrl-C for its background jobs
            signal.signal(stop, _interrupt)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, writer), daemon=True).start()


def is_stop_requested() -> bool:
    """Return whether a signal has asked this process to stop."""
    return _stop_requested.is_set()


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    _stop_requested.set()
    raise KeyboardInterrupt


def _watch(reader: socket.socket, writer: socket.socket) -> None:
    _wait(reader)
    os.write(_STDERR, b"\nstopping after this step; Ctrl-C again stops at once\n")
    _wait(reader)
    writer.close()
    os._exit(INTERRUPTED)


def _wait(reader: socket.socket) -> None:
    while reader.recv(1)[0] not in _STOP_SIGNALS:
        pass  # another signal, such as SIGCHLD


_EPILOG = (
    "Exit codes: 0 done, 1 the model or the data failed a check, 2 wrong usage or bad input, 3 something on this"
    " machine (a file, the disk, a package that is not installed), 4 try again later, 130 stopped."
)
_FAILED, _BAD_INPUT, _SITE, _TRY_LATER = 1, 2, 3, 4
_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors while an open file is read or written; they have no file name."""
_USABLE_PATH = "Name a path that this user can read and write, or free some space."
_DISK_REMEDIES = {
    errno.EIO: "Check the disk or drive: 'dmesg' shows its errors.",
    errno.EFBIG: "No file can be that large there. FAT32 has a limit of 4 GiB: format the USB drive as exFAT or ext4."
    " 'ulimit -f' shows the limit of this shell.",
}
# The first match counts; an error that matches none is bad input.
_FAMILIES: tuple[tuple[type[EdgeAgentError], int], ...] = (
    (ModelError, _FAILED),
    (SiteError, _SITE),
    (RequirementUnmet, _SITE),
    (CapacityError, _TRY_LATER),
)


def code_of(error: type[EdgeAgentError]) -> int:
    """Return the exit code for a class of errors; docs/exit-codes.md explains them."""
    return next((code for family, code in _FAMILIES if issubclass(error, family)), _BAD_INPUT)


_RENAMED = {"site-kit": "enrolment-file", "stick": "media"}
"""Command names of 0.1, which still run but are hidden, and today's names."""


class _EdgeConvertGroup(PrintableGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in _RENAMED:
            say(f"note: '{args[0]}' is now called '{_RENAMED[args[0]]}'", err=True)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeAgentError as error:
            report(error.message, error.remedy, error.details)
            raise typer.Exit(code_of(type(error))) from error
        except OSError as error:
            if error.filename is None and error.errno not in _DISK_ERRNOS:
                raise
            where = f"{error.filename}: " if error.filename else ""
            report(f"{where}{error.strerror}", _DISK_REMEDIES.get(error.errno or 0, _USABLE_PATH))
            raise typer.Exit(_SITE) from error
        except typer.Exit:
            raise
        except (KeyboardInterrupt, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_stop_requested():
                raise
            report("stopped", "Finished work is kept: run the same command again to continue.")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_EdgeConvertGroup, epilog=_EPILOG, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


def _show_version(requested: bool) -> None:
    if requested:
        say(f"edge-convert {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[  # noqa: ARG001 its callback answers it
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make the bundles that edge-agent runs."""
    # Models come from this machine only. Without this the libraries would look for newer ones on the network.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    # At its import ONNX Runtime otherwise starts a thread that reports to its vendor, and writes an identifier of this
    # machine into the home folder.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Set before torch loads OpenMP. Its threads spin while they wait; next to one busy process that makes training four
    # times slower. A bounded spin costs a few percent on a quiet machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")


app.command("init")(init.run)
app.command("split")(split.run)
app.command("run")(run.run)
_COMMANDS: dict[str, Callable[..., Any]] = {
    "setup": init.run_setup,
    "quantize": run.QuantizeCommand,
    "calibrate": run.CalibrateCommand,
    "assemble": run.AssembleCommand,
    "evaluate": run.evaluate,
    "compare": run.compare,
}
for _stage in STAGES:
    app.command(_stage)(_COMMANDS.pop(_stage, run.stage(_stage)))
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)
app.command("assess")(assess.AssessCommand)
app.command("synthesize")(split.SynthesizeCommand)
app.command("collect")(collect.CollectCommand)
app.command("dataset")(dataset.DatasetCommand)
app.command("fleet")(fleet.FleetCommand)
app.add_typer(keys.app, name="keys")
app.command("enrolment-file")(sites.EnrolmentCommand)
app.command("site-kit", hidden=True)(sites.EnrolmentCommand)
app.add_typer(sites.app, name="sites")
app.add_typer(privacy.app, name="privacy")
_UPDATES_PANEL = "Signed updates"
_UPDATES: dict[str, Callable[..., Any]] = {
    "publish": publish.PublishCommand,
    "sign": publish.sign,
    "revoke": publish.RevokeCommand,
    "renew": publish.RenewCommand,
    "rotate": publish.RotateCommand,
    "verify-repo": media.VerifyCommand,
    "media": media.MediaCommand,
}
for _name, _command in _UPDATES.items():
    app.command(_name, rich_help_panel=_UPDATES_PANEL)(_command)
app.command("stick", hidden=True)(media.MediaCommand)
app.add_typer(plan.app, name="plan", rich_help_panel=_UPDATES_PANEL)


def main() -> None:
    """Run the console script."""
    open_standard_streams()
    listen()
    # The engine logs for a daemon. Here only warnings matter, and standard output holds the result.
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            printable_event,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        app()
    finally:
        flush_output()
