"""`edge-agent logs`: the log of the units, from the journal of systemd."""

from __future__ import annotations

import contextlib
import grp
import os
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

import typer

from edge_agent.cli.exits import ExitCode
from edge_agent.cli.output import err
from edge_agent.errors import SystemdFailed

UNITS = {"daemon": "edge-agent", "uplink": "edge-uplink", "web": "edge-agent-web"}
SYSTEMD_RUNS = Path("/run/systemd/system")
_READERS = frozenset(("systemd-journal", "adm"))
"""Groups whose members may read the whole journal on Debian."""
Component = Literal["daemon", "uplink", "web", "all"]


def run(
    component: Annotated[Component, typer.Argument(help="Whose log: daemon, uplink, web or all.")] = "daemon",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new lines, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, metavar="N", help="The newest N lines.")] = 100,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="As journalctl reads it: '1 hour ago', '2026-11-28'.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the journal's entries as JSON, one per line.")] = False,
) -> None:
    """Show the log of the daemon, from the journal of systemd.

    A user who is neither root nor in the group systemd-journal sees only part of it.

    Example: [bold]sudo edge-agent logs --follow[/bold]
    """
    journalctl = shutil.which("journalctl")
    if journalctl is None or not SYSTEMD_RUNS.is_dir():
        raise SystemdFailed(
            "systemd does not run on this machine, so there is no journal to read",
            remedy="Read the standard error of 'edge-agent serve' where you started it.",
        )
    if advised := journal_advice(os.geteuid(), _group_names()):
        err().print(f"note: {advised}", soft_wrap=True)
    done = subprocess.run(  # noqa: S603 - no shell, and each argument is one word of the command
        [journalctl, *journal_arguments(component, follow=follow, lines=lines, since=since, as_json=as_json)],
        check=False,
    )
    if done.returncode:
        raise typer.Exit(ExitCode.SITE)


def journal_advice(user_id: int, groups: Collection[str]) -> str:
    """Return how a user gets to read the whole log; empty for one who may."""
    if user_id == 0 or not _READERS.isdisjoint(groups):
        return ""
    return (
        "this user sees only part of the log. Use 'sudo edge-agent logs', or join the group systemd-journal:"
        " 'sudo usermod --append --groups systemd-journal USER', and log in again."
    )


def _group_names() -> list[str]:
    found = []
    for number in {os.getegid(), *os.getgroups()}:
        with contextlib.suppress(KeyError):
            found.append(grp.getgrgid(number).gr_name)
    return found


def journal_arguments(component: Component, *, follow: bool, lines: int, since: str, as_json: bool) -> list[str]:
    """Return the arguments of journalctl."""
    units = UNITS.values() if component == "all" else [UNITS[component]]
    return [
        *(f"--unit={unit}" for unit in units),
        f"--lines={lines}",
        "--no-pager",
        *([f"--since={since}"] if since else []),
        *(["--follow"] if follow else []),
        "--output=json" if as_json else "--output=short-iso",
    ]
