"""`edge-convert sites accept`."""

from pathlib import Path
from typing import Annotated

import typer

from convert.sites import FILE_NAME, Sites
from edge_agent.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="Decide which keys speak for which site.")


@app.command()
def accept(
    site: Annotated[str, typer.Argument(metavar="SITE", help="The site's id.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its public key, 64 hexadecimal digits.")],
    collected: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where collect writes; the registry is in there.")
    ] = None,
    registry: Annotated[Path | None, typer.Option("--sites", metavar="FILE", help="The registry itself.")] = None,
) -> None:
    """Let a site sign with a key, beside those it has: a new site, a replaced box, one installed anew.

    Ask someone at the site first: 'edge-agent status' shows its key there.

    Example: [bold]edge-convert sites accept shop-1 9f86d0… --collected collected[/bold]
    """
    if (collected is None) == (registry is None):
        raise InvalidRequest("name either --collected or --sites", remedy="The one that 'collect' is called with.")
    path = registry or Path(collected or "", FILE_NAME)
    Sites(path).accept(site, key)
    typer.echo(f"{site} may sign with {key}, by {path}")
