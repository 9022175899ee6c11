"""The command `edge-agent`: one module for each subcommand, registered here.

Errors leave through one place, `_Root.invoke`: a sentence and what to do about it on standard error, and an exit code
of docs/exit-codes.md. Nothing else is caught: a traceback is a bug.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from edge_agent import __version__
from edge_agent.cli import (
    activate,
    certs,
    classify,
    demo,
    doctor,
    embed,
    enrol,
    erase,
    extract,
    generate,
    identity,
    install,
    limits,
    mode,
    models,
    remove,
    report,
    review,
    rollback,
    serve,
    status,
    stick,
    support_bundle,
    uplink,
    web,
)
from edge_agent.cli.exits import exit_code, exit_code_of
from edge_agent.cli.output import report as show_error
from edge_agent.cli.site import Site
from edge_agent.client import CallFailed
from edge_agent.config import Overrides
from edge_agent.errors import EdgeAgentError

_EPILOG = (
    "Exit codes: 0 done, 1 the model or the daemon failed (or doctor found a problem), 2 wrong usage or bad input,"
    " 3 something on this machine (configuration, state directory, socket, no daemon), 4 try again later,"
    " 5 what was given was refused."
)


_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


# typer has no public name for it.
_UsageError: Any = typer.BadParameter.__bases__[0]


class _Root(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for number, given in enumerate(args, 1):
            shown = given.encode(errors="surrogateescape").decode(errors="backslashreplace")
            if shown != given:
                raise _UsageError(f"argument {number} is not UTF-8: {shown}", ctx=ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            # An option of ours that stands behind the command is told from one that does not exist.
            name = getattr(error, "option_name", "")
            if name in {option for parameter in self.params for option in parameter.opts}:
                raise _UsageError(f"{name} stands before the command: edge-agent {name} …", ctx=error.ctx) from None
            raise
        except EdgeAgentError as error:
            show_error(error)
            raise typer.Exit(exit_code_of(type(error))) from error
        except CallFailed as error:
            show_error(error)
            raise typer.Exit(exit_code(error.reason)) from error
        except KeyboardInterrupt:
            # What the command opened is closed by now. Python's own clean-up would wait for ever on a gRPC call that
            # Ctrl-C tore while it started.
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(_INTERRUPTED)


app = typer.Typer(cls=_Root, epilog=_EPILOG, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"edge-agent {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="agent.yaml; left out: /etc/edge-agent/agent.yaml if it is there."),
    ] = None,
    state_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Installed bundles and state.db.")] = None,
    run_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the sockets are.")] = None,
    remote: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A daemon over the network: the remote.yaml that 'certs issue' wrote; left out: $EDGE_AGENT_REMOTE.",
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001 its callback answers it
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run fine-tuned small models where the work happens, with no network needed.

    These options stand before the command: [bold]edge-agent --run-dir ./run status[/bold]
    """
    ctx.obj = Site(config, Overrides(state_dir=state_dir, run_dir=run_dir), remote)


_COMMANDS: dict[str, Callable[..., Any]] = {
    "serve": serve.run,
    "uplink": uplink.run,
    "web": web.run,
    "enrol": enrol.Command,
    "site": identity.run,
    "status": status.run,
    "doctor": doctor.run,
    "report": report.run,
    "support-bundle": support_bundle.run,
    "models": models.run,
    "install": install.run,
    "mode": mode.run,
    "activate": activate.run,
    "rollback": rollback.run,
    "remove": remove.run,
    "classify": classify.Command,
    "generate": generate.Command,
    "extract": extract.Command,
    "embed": embed.Command,
    "review": review.run,
    "erase": erase.run,
    "export": stick.export,
    "import": stick.import_,
    "limits": limits.run,
    "demo": demo.run,
}
for _name, _run in _COMMANDS.items():
    app.command(_name)(_run)
app.add_typer(certs.app, name="certs")


def main() -> None:
    """Run the console script."""
    app()
