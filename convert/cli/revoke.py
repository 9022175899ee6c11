"""`edge-convert revoke`."""

from dataclasses import dataclass
from typing import Annotated

import typer

from convert.cli import repository
from convert.cli.repository import RepositoryCommand, Stage, Yes
from convert.publish.reading import find


@dataclass(kw_only=True)
class Command(RepositoryCommand):
    """Take the signature of a bundle back: nobody installs it any more. Sites that run it go on, and say so.

    The plan must not name it any more. Its files stay in the repository, since other bundles may share them.

    Example: [bold]edge-convert revoke pos-intent@1.1.0 --repo s3://fleet/updates --keys signing-keys[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="TASK@VERSION, or a digest or its start.")]
    yes: Yes = False
    stage: Stage = None

    def __post_init__(self) -> None:
        """Run the command."""
        publisher = self.publisher(self.stage)
        signed = find(publisher.held().bundles(), self.bundle)
        repository.confirm(f"Revoke {signed.name}?", self.yes)
        publisher.revoke(signed.digest)
        repository.finish(publisher, f"{signed.name} is revoked", self.stage)
