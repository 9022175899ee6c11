"""`edge-convert renew`."""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import typer

from convert.cli import repository
from convert.cli.repository import RepositoryCommand, Stage


class RenewableRole(str, Enum):
    """What can be signed anew, besides snapshot and timestamp."""

    root = "root"
    targets = "targets"
    plan = "plan"


@dataclass(kw_only=True)
class Command(RepositoryCommand):
    """Sign anew what would expire: the timestamp, by the online key alone. Run it every day, from a timer.

    Once a year the other roles are due, each with its own keys: edge-convert renew root targets plan.

    Example: [bold]edge-convert renew --repo s3://fleet/updates --keys online-key[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    roles: Annotated[
        list[RenewableRole] | None, typer.Argument(metavar="ROLE", help="Also root, targets or plan, by their keys.")
    ] = None
    stage: Stage = None

    def __post_init__(self) -> None:
        """Run the command."""
        publisher = self.publisher(self.stage)
        publisher.renew(*(role.value for role in self.roles or ()))
        repository.finish(publisher, "renewed", self.stage)
