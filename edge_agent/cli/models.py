"""`edge-agent models`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from edge_agent.byte_sizes import format_bytes
from edge_agent.cli.output import out, plain, print_json, print_trimmed, table
from edge_agent.cli.site import AsJson, site_of
from edge_agent.errors import UnknownTask


def run(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Only this task.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the installed bundles, by task and then newest first.

    Example: [bold]edge-agent models pos-intent[/bold]
    """
    with site_of(ctx).admin() as admin:
        bundles = admin.bundles(task)
        if task and not bundles:
            raise _no_bundle(task, {bundle.ref.task for bundle in admin.bundles()})
    if as_json:
        print_json([plain(bundle) for bundle in bundles], indent=2)
        return
    if not bundles:
        out().print("Nothing is installed: 'edge-agent install PATH' installs a bundle.")
        return
    columns = ("task", "version", "digest", "kind", "runtime", "use", "gate", "signed", "size", "installed (UTC)")
    made = table(*columns, right=("size",), wrap=("installed (UTC)", "use"))
    for bundle in bundles:
        made.add_row(
            bundle.ref.task,
            bundle.ref.version,
            bundle.ref.digest[:12],
            bundle.kind.lower(),
            bundle.runtime,
            Text("active", "green") if bundle.active else "for rollback" if bundle.previous else "-",
            bundle.gate or "-",
            "yes" if bundle.signed else Text("no", "yellow"),
            format_bytes(bundle.size_bytes),
            f"{bundle.install_time:%Y-%m-%d %H:%M}",
        )
    print_trimmed(out(), made)


def _no_bundle(task: str, known: set[str]) -> UnknownTask:
    there = f"installed tasks: {', '.join(sorted(known))}" if known else "nothing is installed"
    remedy = "'edge-agent models' lists every bundle; 'edge-agent install PATH' installs one."
    return UnknownTask(f"the task '{task}' has no bundle; {there}", remedy=remedy)
