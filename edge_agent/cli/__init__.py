"""The command `edge-agent`: every subcommand is listed here, and its module is imported when it runs.

Errors leave through one place, `exits.reported_errors`: a sentence and its remedy on standard error, and an exit code
of docs/exit-codes.md. Nothing else is caught: a traceback is a bug.

Stand-ins replace modules that libraries import at once but our processes do not use. A stand-in has the attributes that
are used; the first use of any other attribute loads the real module.
"""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from edge_agent import __version__
from edge_agent.cli.command_group import (
    GLOBAL_OPTION_NAMES,
    CommandEntry,
    GlobalOptions,
    LazyGroup,
    disable_color,
    flush_output,
    open_standard_streams,
)

PROTOBUF_IN_PYTHON = "google.protobuf.internal.python_message"
"""protobuf's implementation without the C extension, with a parser of text."""
PYDANTIC_PLUGINS = "pydantic.plugin._loader"
"""Searches all installed packages for plugins, which must not get into our processes."""
SECRETS = "secrets"
"""pydantic uses it to compare SecretStr; it loads OpenSSL through hashlib."""


def install_stand_ins() -> None:
    """Put the stand-ins where the import system finds them."""
    stand_in(PROTOBUF_IN_PYTHON)
    stand_in(PYDANTIC_PLUGINS, get_plugins=tuple)
    stand_in(SECRETS)


def stand_in(name: str, **attributes: object) -> None:
    """Put one stand-in with these attributes, unless the module is loaded already."""
    if name in sys.modules:
        return
    module = ModuleType(name)

    def load(attribute: str) -> object:
        if attribute.startswith("__"):
            raise AttributeError(attribute)  # the import system looks for __path__ and the like
        if sys.modules.get(name) is module:
            del sys.modules[name]
        try:
            real_module = import_module(name)
        except ImportError:
            sys.modules[name] = module
            raise
        return getattr(real_module, attribute)

    # Called for an attribute that the stand-in lacks (PEP 562).
    module.__dict__.update(attributes, __getattr__=load)
    sys.modules[name] = module


_EPILOG = (
    "Exit codes: 0 done, 1 the model or the daemon failed (or doctor found a problem), 2 wrong usage or bad input,"
    " 3 a fault of this machine (configuration, state directory, socket, no daemon), 4 try again later,"
    " 5 the input was refused."
)
_ASK, _TASKS, _OPERATE, _SET_UP = "Ask a model", "Bundles and tasks", "Operate a site", "Set up a site"

OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""New objects after which Python collects garbage; its default, 700, is for long-running programs."""


def _entry(panel: str, module: str, attribute: str, summary: str) -> CommandEntry:
    return CommandEntry(f"edge_agent.cli.{module}", attribute, summary, panel)


COMMANDS = {
    "classify": _entry(_ASK, "batch_inference", "ClassifyCommand", "Choose one label for each input."),
    "decide": _entry(_ASK, "batch_inference", "DecideCommand", "Answer a task's questions about each input."),
    "extract": _entry(_ASK, "batch_inference", "ExtractCommand", "Find the task's record in each input."),
    "generate": _entry(_ASK, "batch_inference", "GenerateCommand", "Write text, shown as it comes."),
    "embed": _entry(_ASK, "batch_inference", "EmbedCommand", "Turn each input into a vector."),
    "run": _entry(_ASK, "one_shot", "run", "Answer one input with a bundle on disk, without a daemon."),
    "demo": _entry(
        _ASK, "demo", "run", "Start a daemon in a temporary directory, install bundles, call them, stop it, clean up."
    ),
    "bundles": _entry(_TASKS, "bundles", "app", "List, show, inspect and allow bundles."),
    "install": _entry(_TASKS, "bundles", "install", "Verify a bundle, copy it into the store and activate it."),
    "activate": _entry(_TASKS, "bundles", "activate", "Let an installed bundle answer its task."),
    "rollback": _entry(_TASKS, "bundles", "rollback", "Go back to the bundle that answered before."),
    "remove": _entry(
        _TASKS, "bundles", "remove", "Remove a bundle that neither answers nor is kept for rollback, or a whole task."
    ),
    "mode": _entry(
        _TASKS, "status", "mode", "Show or set which model answers a task: the local one, the large one, or both."
    ),
    "status": _entry(_OPERATE, "status", "run", "Show the tasks, their engines, and what needs attention."),
    "watch": _entry(
        _OPERATE,
        "watch",
        "run",
        "Watch tasks, engines, calls, transfers and refusals on one live screen, until q or Ctrl-C.",
    ),
    "doctor": _entry(
        _OPERATE,
        "doctor",
        "run",
        "Check this machine and its daemons; print each fault and its remedy. Changes nothing.",
    ),
    "help": _entry(
        _OPERATE,
        "help",
        "run",
        "Explain a finding of doctor, or the reason of an error: where to look, and what to do.",
    ),
    "report": _entry(
        _OPERATE, "report", "run", "Show each task's readiness, cost and savings, and recommend its next mode."
    ),
    "review": _entry(_OPERATE, "review_queue", "review", "Confirm or correct answers: one key for each label."),
    "erase": _entry(
        _OPERATE,
        "privacy",
        "erase",
        "Erase one answer, or all that concerns a person (--value), here and on the central side.",
    ),
    "privacy": _entry(_OPERATE, "privacy", "app", "Show figures about personal data, without any text."),
    "redact": _entry(_OPERATE, "privacy", "redact", "Try what redaction finds in a text, or audit what it has missed."),
    "media": _entry(_OPERATE, "media", "app", "Exchange data with the central team on removable media."),
    "logs": _entry(_OPERATE, "services", "logs", "Show the log of the daemon, from the journal of systemd."),
    "support-bundle": _entry(
        _OPERATE, "doctor", "support_bundle", "Put what support needs into one file; show its contents first."
    ),
    "serve": _entry(_SET_UP, "services", "app", "Run the daemon in the foreground, until SIGTERM or Ctrl-C."),
    "enrol": _entry(
        _SET_UP, "identity", "EnrolCommand", "Make this machine a site, from an enrolment file. Run it as root."
    ),
    "identity": _entry(_SET_UP, "identity", "show_identity", "Show this site's identity and its site key."),
    "config": _entry(_SET_UP, "config", "app", "Show and check the configuration."),
    "certs": _entry(_SET_UP, "certs", "app", "Make and show certificates for TCP, for sites without an authority."),
    "drop-ins": _entry(
        _SET_UP, "config", "DropInsCommand", "Give the systemd units the networks and folders that agent.yaml needs."
    ),
    "limits": _entry(
        _SET_UP, "config", "show_limits", "Show the memory limit of the daemon and its engines, and its parts."
    ),
    "version": _entry(_SET_UP, "help", "version", "Show the version of the program and of what it runs on."),
}
"""Every command, in the order of the help; the summary is the first line of the command's own help."""


def _renamed_entry(module: str, attribute: str, renamed_to: str) -> CommandEntry:
    return CommandEntry(f"edge_agent.cli.{module}", attribute, "", "", renamed_to)


OLD_NAMES = {
    "models": _renamed_entry("bundles", "list_bundles", "bundles list"),
    "site": _renamed_entry("identity", "show_identity", "identity"),
    "uplink": _renamed_entry("services", "serve_uplink", "serve uplink"),
    "web": _renamed_entry("services", "serve_web", "serve web"),
    "export": _renamed_entry("media", "export_media", "media export"),
    "import": _renamed_entry("media", "import_media", "media import"),
}
"""Commands of 0.1 that have a new name. They still run, hidden, with a note on standard error."""


class _RootGroup(LazyGroup):
    entries = COMMANDS | OLD_NAMES

    def invoke(self, ctx: Any) -> Any:
        # Needed only to run a command, not for help.
        from edge_agent.cli.exits import reported_errors  # noqa: PLC0415

        with reported_errors(ctx):
            return super().invoke(ctx)

    def note_renaming(self, name: str, renamed_to: str) -> None:
        from edge_agent.cli.terminal import say  # noqa: PLC0415

        say(f"note: 'edge-agent {name}' is now 'edge-agent {renamed_to}'", err=True)


app = typer.Typer(cls=_RootGroup, epilog=_EPILOG, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(is_given: bool) -> None:
    if is_given:
        from edge_agent.cli.terminal import say  # noqa: PLC0415

        say(f"edge-agent {__version__}")
        raise typer.Exit


@app.callback()
@dataclass(kw_only=True)
class RootCommand:
    """Run fine-tuned small models where the work happens, with no network needed.

    These options can be anywhere on the line: [bold]edge-agent status --run-dir ./run[/bold]
    """

    # The fields are the options: typer reads them like a function's parameters.
    ctx: typer.Context
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="agent.yaml; without it /etc/edge-agent/agent.yaml, if it exists."),
    ] = None
    state_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Installed bundles and state.db.")] = None
    run_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="The directory of the sockets.")] = None
    remote: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A daemon over the network: the remote.yaml that 'certs issue' wrote; without it $EDGE_AGENT_REMOTE.",
        ),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print answers and errors, no confirmations.")] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print the reason, metadata and cause of an error, too.")
    ] = False
    no_color: Annotated[bool, typer.Option("--no-color", help="Print without colors, like NO_COLOR=1.")] = False
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False

    def __post_init__(self) -> None:
        """Store the options for the command."""
        self.ctx.obj = GlobalOptions(**{name: getattr(self, name) for name in GLOBAL_OPTION_NAMES})
        if self.no_color:
            disable_color()


def main() -> None:
    """Run the console script."""
    open_standard_streams()
    # Imported modules stay until the process ends; collecting garbage among them takes half as long as the imports.
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    install_stand_ins()
    try:
        app(prog_name="edge-agent")
    finally:
        flush_output()
        gc.freeze()
