"""`edge-agent doctor`."""

from __future__ import annotations

from collections.abc import Iterator

import typer
from rich.console import Console
from rich.text import Text

from edge_agent.cli import checks
from edge_agent.cli.checks import Check
from edge_agent.cli.exits import Exit
from edge_agent.cli.output import out, plain, print_json
from edge_agent.cli.site import AsJson, Site, site_of
from edge_agent.client import CallFailed
from edge_agent.errors import EdgeAgentError

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def run(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check this machine and its daemon; say what is wrong and what to do. Changes nothing.

    Example: [bold]sudo edge-agent doctor[/bold]
    """
    found = list(_all(site_of(ctx)))
    if as_json:
        print_json([plain(check) for check in found], indent=2)
    else:
        show(out(), found)
    failed = any(check.outcome == "fail" for check in found)
    raise typer.Exit(Exit.FAILED if failed else Exit.OK)


def _all(site: Site) -> Iterator[Check]:
    yield from checks.packages()
    yield checks.this_cpu()
    try:
        config = site.config()
    except EdgeAgentError as error:
        yield Check("configuration", "fail", error.message, error.remedy)
        return
    yield Check("configuration", "ok", "agent.yaml is valid, or there is none and the defaults hold")
    yield checks.state_dir(config)
    yield checks.disk(config)
    yield from checks.sockets(config)
    if config.inference_socket.is_socket():
        with site.client() as client:
            yield checks.health(client)
    if config.admin_socket.is_socket():
        yield from _daemon(site)


def _daemon(site: Site) -> Iterator[Check]:
    with site.admin() as admin:
        try:
            status = admin.status()
        except CallFailed as error:
            yield Check("daemon", "fail", error.message, error.remedy)
            return
    yield from checks.daemon(status)


def show(console: Console, found: list[Check]) -> None:
    """Print the findings for people, and a last line that sums up."""
    width = max(len(check.name) for check in found)
    for check in found:
        mark = Text(f"{check.outcome:<4}", style=_STYLES[check.outcome])
        console.print(Text.assemble(mark, f"  {check.name:<{width}}  ", check.said), soft_wrap=True)
        if check.remedy:
            console.print(Text(f"{'':<6}{'':<{width}}  what to do: {check.remedy}"), soft_wrap=True)
    counts = {outcome: sum(check.outcome == outcome for check in found) for outcome in _STYLES}
    console.print(f"\n{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} to mend")
