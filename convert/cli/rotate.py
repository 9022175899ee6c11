"""`edge-convert rotate`."""

import itertools
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from convert.cli import repository, screen
from convert.cli.keys import described
from convert.cli.repository import RepositoryCommand, Stage
from convert.publish import keyring, rotation
from convert.publish.keyring import PublicKeyFile
from convert.publish.publisher import Publisher
from convert.publish.rotation import KeyRotation
from edge_agent.errors import InvalidRequest


class RotatableRole(str, Enum):
    """Whose keys."""

    root = "root"
    targets = "targets"
    plan = "plan"
    online = "online"


@dataclass(kw_only=True)
class Command(RepositoryCommand):
    """Give a role other keys: somebody joins or leaves, a key is lost or stolen.

    Sites follow by themselves, however long they slept. Needs the root keys, for the plan's key those of bundles.
    What is published meanwhile is signed by the old and the new keys, so that it fits every site at every moment.

    Example: [bold]edge-convert rotate online --repo s3://fleet/updates --keys signing-keys --remove online-1[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    role: Annotated[RotatableRole, typer.Argument(metavar="ROLE", help="root, targets, plan or online.")]
    add: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="The .pub of a new key; see 'keys signer'. Without it one is made."),
    ] = None
    remove: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A key that leaves, by its name.")] = None
    threshold: Annotated[int, typer.Option(metavar="N", help="How many keys must sign from now on.")] = 0
    restart_versions: Annotated[
        bool, typer.Option("--restart-versions", help="online: count from 1, after a thief ran the numbers up.")
    ] = False
    without_old: Annotated[
        bool, typer.Option("--without-old", help="The old keys are lost: sites may refuse updates for a moment.")
    ] = False
    stage: Stage = None

    def __post_init__(self) -> None:
        """Run the command."""
        publisher, role = self.publisher(self.stage), self.role.value
        there = rotation.keyids(publisher.held(), role)
        gone = tuple(_keyid(publisher, name, there) for name in self.remove or ())
        added = self._added(publisher, there)
        change = KeyRotation(role, added, gone, self.threshold, self.restart_versions, self.without_old)
        rotation.rotate(publisher, change)
        names = ", ".join(map(publisher.keys.name_of, rotation.keyids(publisher.held(), role)))
        repository.finish(publisher, f"the keys of '{role}' are now: {names}", self.stage)

    def _added(self, publisher: Publisher, there: list[str]) -> tuple[PublicKeyFile, ...]:
        added = tuple(map(keyring.read_public, self.add or ()))
        if not (added or self.threshold):
            added = (_made(publisher, self.role.value, there),)
        for named in added:
            publisher.keys.learn(named)
        return added


def _made(publisher: Publisher, role: str, there: list[str]) -> PublicKeyFile:
    """Make a new key in the first folder, or take one that an interrupted rotation has made."""
    unused = (named for named in publisher.keys.keys if named.role == role and named.key.keyid not in there)
    return next((named for named in unused if named.available), None) or _new(publisher, role)


def _new(publisher: Publisher, role: str) -> PublicKeyFile:
    taken = {named.name for named in publisher.keys.keys}
    number = next(number for number in itertools.count(1) if f"{role}-{number}" not in taken)
    made = publisher.keys.make(f"{role}-{number}", role)
    screen.out().print(Text(f"made a new key, {described(made)}"))
    return made


def _keyid(publisher: Publisher, name: str, there: list[str]) -> str:
    found = [keyid for keyid in there if name in (publisher.keys.name_of(keyid), keyid)]
    if len(found) != 1:
        known = ", ".join(map(publisher.keys.name_of, there))
        raise InvalidRequest(f"the role has no key '{name}'", remedy=f"Its keys: {known}.")
    return found[0]
