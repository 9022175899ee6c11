"""The command `edge-agent`: one module for each subcommand, listed here and imported when it runs.

Errors leave through one place, `ending.reported_errors`: a sentence and what to do about it on standard error, and an
exit code of docs/exit-codes.md. Nothing else is caught: a traceback is a bug.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_agent import __version__
from edge_agent.cli.lazy import CommandEntry, LazyGroup
from edge_agent.cli.options import GlobalOptions
from edge_agent.cli.usage import PrintableUsage, UsageError

_EPILOG = (
    "Exit codes: 0 done, 1 the model or the daemon failed (or doctor found a problem), 2 wrong usage or bad input,"
    " 3 something on this machine (configuration, state directory, socket, no daemon), 4 try again later,"
    " 5 what was given was refused."
)


OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""New objects after which Python looks for garbage; its own default, 700, is for what runs long, as the daemon does."""


def _entry(module: str, summary: str, name: str = "run") -> CommandEntry:
    return CommandEntry(f"edge_agent.cli.{module}", name, summary)


COMMANDS = {
    "serve": _entry("serve", "Run the daemon in the foreground, until SIGTERM or Ctrl-C."),
    "uplink": _entry(
        "uplink", "Bring sealed examples to the centre, its receipts and updates back, until SIGTERM or Ctrl-C."
    ),
    "web": _entry(
        "web", "Serve a page for people: health, tasks, charts, and the review queue; until SIGTERM or Ctrl-C."
    ),
    "enrol": _entry(
        "enrol", "Make this box a site, by the kit that the centre made for it. Run it as root.", "Command"
    ),
    "site": _entry("identity", "Show which site this box is, and the key by which the centre knows it."),
    "status": _entry("status", "Show the tasks, the engines behind them, and what needs attention."),
    "doctor": _entry(
        "doctor",
        "Check this machine, its daemons and what they need; say what is wrong and what to do. Changes nothing.",
    ),
    "report": _entry(
        "report", "Say how far each task is, what it costs and saves, and which mode it should be in next."
    ),
    "support-bundle": _entry("support_bundle", "Put what support needs into one file; show first what that is."),
    "models": _entry("models", "List the installed bundles, by task and then newest first."),
    "install": _entry("install", "Verify a bundle, copy it into the store and let it answer."),
    "mode": _entry("mode", "Show or set who answers a task: the model here, the large one, or both."),
    "activate": _entry("activate", "Let an installed bundle answer its task."),
    "rollback": _entry(
        "rollback",
        "Go back to the bundle that answered before. It stays so until the plan wants something else of the task.",
    ),
    "remove": _entry("remove", "Remove a bundle that neither answers nor is kept for rollback, or a whole task."),
    "classify": _entry("classify", "Choose one label for each input. With --json, one object a line.", "Command"),
    "generate": _entry("generate", "Write text, shown as it comes.", "Command"),
    "extract": _entry("extract", "Find the task's record in each input.", "Command"),
    "embed": _entry(
        "embed",
        "Turn each input into a vector. The table shows its start; --json prints all of it, one object a line.",
        "Command",
    ),
    "review": _entry("review", "Confirm or correct answers: one key for each label."),
    "erase": _entry(
        "erase",
        "Forget one answer: its input and what was said of it, here and, if any of it may have left, at the centre.",
    ),
    "export": _entry("stick", "Seal what waits, and copy everything for the centre to a stick.", "export"),
    "import": _entry("stick", "Bring updates and the centre's receipts from a stick.", "import_"),
    "limits": _entry(
        "limits", "Show how much memory the daemon and its engines may take together, and what of it is whose."
    ),
    "demo": _entry("demo", "Start a daemon in a temporary directory, install bundles, call them, stop it, clean up."),
    "certs": _entry("certs", "Make and show certificates for TCP, for sites without an authority.", "app"),
}
"""Every command, in the order of the help; the summary is the first line of the command's own help."""


class _Root(PrintableUsage, LazyGroup):
    entries = COMMANDS

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for number, given in enumerate(args, 1):
            shown = given.encode(errors="surrogateescape").decode(errors="backslashreplace")
            if shown != given:
                raise UsageError(f"argument {number} is not UTF-8: {shown}", ctx=ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        # Only a command that runs needs what it leads to; help does not.
        from edge_agent.cli.ending import reported_errors  # noqa: PLC0415

        try:
            with reported_errors():
                return super().invoke(ctx)
        except UsageError as error:
            # An option of ours that stands behind the command is told from one that does not exist.
            name = getattr(error, "option_name", "")
            if name in {option for parameter in self.params for option in parameter.opts}:
                raise UsageError(f"{name} stands before the command: edge-agent {name} …", ctx=error.ctx) from None
            raise


app = typer.Typer(cls=_Root, epilog=_EPILOG, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _show_version(asked: bool) -> None:
    if asked:
        from edge_agent.cli.terminal import say  # noqa: PLC0415

        say(f"edge-agent {__version__}")
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
    ctx.obj = GlobalOptions(config, state_dir, run_dir, remote)


def main() -> None:
    """Run the console script."""
    # What is imported stays until the end, and goes with the process: looking for garbage in it takes as long as half
    # of the imports, while they last and once more at the end.
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    try:
        app()
    finally:
        gc.freeze()
