"""`edge-agent models`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.filesize import decimal

from edge_agent.cli.output import out, plain, print_json, table
from edge_agent.cli.site import AsJson, site_of


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
    if as_json:
        print_json([plain(bundle) for bundle in bundles], indent=2)
        return
    if not bundles:
        out().print("Nothing is installed: 'edge-agent install PATH' installs a bundle.")
        return
    columns = ("task", "version", "digest", "kind", "runtime", "use", "signed", "size", "installed (UTC)")
    made = table(*columns, right=("size",))
    for bundle in bundles:
        made.add_row(
            bundle.ref.task,
            bundle.ref.version,
            bundle.ref.digest[:12],
            bundle.kind.lower(),
            bundle.runtime,
            "[green]active[/green]" if bundle.active else "for rollback" if bundle.previous else "-",
            "yes" if bundle.signed else "[yellow]no[/yellow]",
            decimal(bundle.size_bytes),
            f"{bundle.install_time:%Y-%m-%d %H:%M}",
        )
    out().print(made)
