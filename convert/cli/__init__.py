"""The command `edge-convert`: one module for each subcommand, registered here."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from convert.cli import assemble, keys
from edge_agent import __version__
from edge_agent.errors import EdgeAgentError

_EPILOG = (
    "Exit codes: 0 done, 2 wrong usage or bad input, 3 a file cannot be read or written."
    " Fine-tuning, quantizing, calibrating, signing and publishing are not there yet:"
    " bring weights that are ready, a GGUF or ONNX file."
)
_BAD_INPUT = 2
_SITE = 3


class _Root(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeAgentError as error:
            _report(error.message, error.remedy)
            raise typer.Exit(_BAD_INPUT) from error
        except OSError as error:
            if error.filename is None:
                raise
            _report(f"{error.filename}: {error.strerror}", "Name a path that this user may use, or free some space.")
            raise typer.Exit(_SITE) from error


def _report(message: str, remedy: str) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text.assemble(("error: ", "bold red"), message))
    if remedy:
        console.print(Text.assemble(("  what to do: ", "bold"), remedy))


app = typer.Typer(cls=_Root, epilog=_EPILOG, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"edge-convert {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make the bundles that edge-agent runs."""


app.command("assemble")(assemble.Command)
app.add_typer(keys.app, name="keys")


def main() -> None:
    """Run the console script."""
    app()
