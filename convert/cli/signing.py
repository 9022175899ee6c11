"""`edge-convert rotate`, `renew`, `revoke` and `sign`."""

import itertools
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from convert.cli import progress_output, repository_options
from convert.cli.keys import described
from convert.cli.repository_options import Keys, PassphraseFile, RepositoryCommand, Stage, Yes
from convert.publish import key_rotation, keyring, staged_change
from convert.publish.key_rotation import KeyRotation
from convert.publish.keyring import PublicKeyFile
from convert.publish.publisher import Publisher
from convert.publish.repository_reader import find
from edge_agent.errors import InvalidRequest


class RotatableRole(str, Enum):
    """Whose keys."""

    root = "root"
    targets = "targets"
    plan = "plan"
    online = "online"


@dataclass(kw_only=True)
class RotateCommand(RepositoryCommand):
    """Change the keys of a role, for example when a person joins or leaves, or a key is lost or stolen.

    Sites follow automatically, however long they were offline. Needs the root keys; for the plan's key, the targets
    keys. Metadata that are published with the change are signed by the old and the new keys, so that every site accepts
    them.

    Example: [bold]edge-convert rotate online --repo s3://fleet/updates --keys signing-keys --remove online-1[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    role: Annotated[RotatableRole, typer.Argument(metavar="ROLE", help="root, targets, plan or online.")]
    add: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="The .pub file of a new key; see 'keys signer'. Without it a key is created."
        ),
    ] = None
    remove: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Name of a key to remove.")] = None
    threshold: Annotated[int, typer.Option(metavar="N", help="Number of keys that must sign from now on.")] = 0
    restart_versions: Annotated[
        bool,
        typer.Option(
            "--restart-versions", help="online: restart version numbers at 1, after a thief of the key raised them."
        ),
    ] = False
    without_old: Annotated[
        bool, typer.Option("--without-old", help="The old keys are lost; sites can refuse updates for a moment.")
    ] = False
    stage: Stage = None

    def __post_init__(self) -> None:
        """Run the command."""
        publisher, role = self.publisher(self.stage), self.role.value
        key_rotation.check_restart(role, restart_versions=self.restart_versions)
        there = key_rotation.keyids(publisher.held(), role)
        gone = tuple(_keyid(publisher, name, there) for name in self.remove or ())
        added = self._added(publisher, there)
        change = KeyRotation(role, added, gone, self.threshold, self.restart_versions, self.without_old)
        key_rotation.rotate(publisher, change)
        names = ", ".join(map(publisher.keys.name_of, key_rotation.keyids(publisher.held(), role)))
        repository_options.finish(publisher, f"the keys of '{role}' are now: {names}", self.stage)

    def _added(self, publisher: Publisher, there: list[str]) -> tuple[PublicKeyFile, ...]:
        added = tuple(map(keyring.read_public, self.add or ()))
        if not (added or self.threshold):
            added = (_made(publisher, self.role.value, there),)
        for named in added:
            publisher.keys.learn(named)
        return added


def _made(publisher: Publisher, role: str, there: list[str]) -> PublicKeyFile:
    """Create a key in the first folder, or take one that an interrupted rotation created."""
    unused = (named for named in publisher.keys.keys if named.role == role and named.key.keyid not in there)
    return next((named for named in unused if named.available), None) or _new(publisher, role)


def _new(publisher: Publisher, role: str) -> PublicKeyFile:
    taken = {named.name for named in publisher.keys.keys}
    number = next(number for number in itertools.count(1) if f"{role}-{number}" not in taken)
    made = publisher.keys.make(f"{role}-{number}", role)
    progress_output.out().print(Text(f"created a new key, {described(made)}"))
    return made


def _keyid(publisher: Publisher, name: str, there: list[str]) -> str:
    found = [keyid for keyid in there if name in (publisher.keys.name_of(keyid), keyid)]
    if len(found) != 1:
        known = ", ".join(map(publisher.keys.name_of, there))
        raise InvalidRequest(f"the role has no key '{name}'", remedy=f"Its keys: {known}.")
    return found[0]


class RenewableRole(str, Enum):
    """Roles that can be renewed, besides snapshot and timestamp."""

    root = "root"
    targets = "targets"
    plan = "plan"


@dataclass(kw_only=True)
class RenewCommand(RepositoryCommand):
    """Renew the timestamp before it expires, with the online key alone. Run it every day from a timer.

    Once a year renew the other roles, each with its own keys: edge-convert renew root targets plan.

    Example: [bold]edge-convert renew --repo s3://fleet/updates --keys online-key[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    roles: Annotated[
        list[RenewableRole] | None,
        typer.Argument(metavar="ROLE", help="Also renew root, targets or plan, with their keys."),
    ] = None
    stage: Stage = None

    def __post_init__(self) -> None:
        """Run the command."""
        publisher = self.publisher(self.stage)
        publisher.renew(*(role.value for role in self.roles or ()))
        repository_options.finish(publisher, "renewed", self.stage)


@dataclass(kw_only=True)
class RevokeCommand(RepositoryCommand):
    """Revoke the signature of a bundle: no site installs it any more. Sites that run it continue, and report it.

    The plan must no longer name it. Its files stay in the repository, because other bundles can share them.

    Example: [bold]edge-convert revoke pos-intent@1.1.0 --repo s3://fleet/updates --keys signing-keys[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="TASK@VERSION, or a digest or the start of one.")]
    yes: Yes = False
    stage: Stage = None

    def __post_init__(self) -> None:
        """Run the command."""
        publisher = self.publisher(self.stage)
        signed = find(publisher.held().bundles(), self.bundle)
        repository_options.confirm(f"Revoke {signed.name}?", self.yes)
        publisher.revoke(signed.digest)
        repository_options.finish(publisher, f"{signed.name} is revoked", self.stage)


def sign(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of --stage.")],
    keys: Keys,
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Sign a staged change with the keys on this machine. Needs no network: made for the machine with the offline keys.

    Shows the change compared with the signed metadata before it, and asks for confirmation. The folder of the keys must
    contain the root.json that the fleet started from.

    Example: [bold]edge-convert sign staged --keys /media/offline-keys[/bold]
    """
    ring = repository_options.open_keys(keys, passphrase_file)
    change = staged_change.read(folder, ring)
    for line in change.described(ring):
        progress_output.out().print(Text(line))
    repository_options.confirm("Sign this?", yes)
    staged_change.add_signatures(change, ring)
    repository_options.show_missing(change, ring)
    repository_options.show_expiry(change.after())
