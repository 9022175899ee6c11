"""`edge-convert publish`, `rotate`, `renew`, `revoke` and `sign`: the changes of a signed repository."""

import itertools
import tempfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from convert.cli import progress_output, repository_options
from convert.cli.keys import PassphraseFile, describe_key
from convert.cli.repository_options import Keys, RepositoryCommand, Stage, Yes
from convert.data import row_files, row_lines
from convert.pipeline.stage import load_module
from convert.publish import key_rotation, keyring, publishable_bundle, staged_change
from convert.publish.key_rotation import KeyRotation
from convert.publish.keyring import ANCHOR, PublicKeyFile
from convert.publish.publisher import PublishedBundle, Publisher, UploadedBundle
from convert.publish.repository_reader import BundleTarget, find, newest
from convert.report import comparison
from edge_agent.errors import InvalidRequest, ModelFailed
from edge_agent.formatting import format_bytes


@dataclass(kw_only=True)
class PublishCommand(RepositoryCommand):
    """Upload bundles and sign them, so that a plan can name them. Files that are in the repository already are not sent
    again.

    A site runs a bundle only when the plan assigns it: see 'edge-convert plan edit'. If the keys for bundles are kept
    elsewhere, --stage writes the change to a folder, 'edge-convert sign' signs it there, and --staged publishes it.

    With --compare-on each bundle is first compared with the signed version of its task on the same labelled rows. A
    bundle that is worse by more than chance is not signed.

    Example: [bold]edge-convert publish build/my-task/assemble/bundle --to s3://fleet/updates --keys signing-keys[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    bundles: Annotated[
        list[Path] | None, typer.Argument(metavar="BUNDLE", help="Bundle directories or tars made by 'edge-convert'.")
    ] = None
    new: Annotated[bool, typer.Option("--new", help="Create the repository; once, with the first publish.")] = False
    stage: Stage = None
    staged: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Publish the change that --stage wrote to this folder, once it is signed."),
    ] = None

    compare_on: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Compare with the signed version on these rows (JSONL) first.")
    ] = None
    accept_worse: Annotated[
        bool, typer.Option("--accept-worse", help="Sign even if the comparison finds the bundle worse.")
    ] = False
    sign_revoked: Annotated[
        bool, typer.Option("--sign-revoked", help="Sign even a bundle that was revoked, so that sites may install it.")
    ] = False

    def __post_init__(self) -> None:
        """Run the command."""
        self._check_options()
        publisher = self.publisher(self.stage)
        if self.new:
            publisher.create()
            root_file = next(path for folder in publisher.keys.folders if (path := folder / ANCHOR).is_file())
            _print_line(f"{publisher.storage.name} is a repository of this fleet. Sites trust it by {root_file}.")
        if self.staged:
            change = staged_change.publish(publisher, self.staged)
            for line in change.description(publisher.keys) if change else ():
                _print_line(line)
            unchanged = f"The change staged in {self.staged} is published already; nothing was changed."
            _print_line("Published." if change else unchanged)
        for path in self.bundles or ():
            self._publish(publisher, path)
        repository_options.finish(publisher, "", self.stage)

    def _publish(self, publisher: Publisher, path: Path) -> None:
        with progress_output.bar() as advance:
            uploaded = publisher.upload(path, advance)
        if self.compare_on:
            self._compare(publisher, uploaded, self.compare_on)
        # Outside the bar, because this can prompt for a passphrase.
        _print_line(f"Golden cases, which travel to every site: {uploaded.signed.golden}.")
        published = publisher.sign(uploaded, again=self.sign_revoked)
        if not publisher.staged:
            _print_line(_published_sentence(published))

    def _compare(self, publisher: Publisher, uploaded: UploadedBundle, rows: Path) -> None:
        """Raise ModelFailed where the bundle is worse than the signed version of its task."""
        earlier = _version_to_compare(uploaded)
        if earlier is None:
            _print_line(f"No other version of {uploaded.signed.task} is signed, so there is nothing to compare with.")
            return
        evaluate_stage = load_module("convert.evaluate.evaluate_stage")
        with tempfile.TemporaryDirectory() as name, progress_output.bar() as advance:
            first, second = Path(name, "before"), Path(name, "new")
            task = publishable_bundle.fetch(publisher.storage, earlier.digest, first).manifest.task
            publishable_bundle.fetch(publisher.storage, uploaded.signed.digest, second)
            report = evaluate_stage.compare(first, second, row_files.read_for_task(rows, task), advance)
        progress_output.show(comparison.comparison(report))
        worse = comparison.worse_figures(report)
        if worse and not self.accept_worse:
            message = f"{uploaded.signed.name} is worse than {earlier.name}: {', '.join(worse)}; it was not signed"
            raise ModelFailed(message, remedy="Train a better model, or add --accept-worse to sign this one anyway.")

    def _check_options(self) -> None:
        changes = len(self.bundles or ()) + bool(self.staged)
        if not changes and not self.new:
            raise InvalidRequest("nothing to publish", remedy="Name a bundle, or --staged FOLDER; or --new alone.")
        if self.stage and changes > 1:
            raise InvalidRequest("one change is staged at a time", remedy="Name one bundle with --stage.")
        if self.compare_on:
            row_lines.require_file(self.compare_on, "Name a file of rows after --compare-on.")


def _version_to_compare(uploaded: UploadedBundle) -> BundleTarget | None:
    """Return the newest version of the task that the plan names; where it names none, the newest that is signed."""
    others = {digest: each for digest, each in uploaded.state.bundles().items() if digest != uploaded.signed.digest}
    planned = {digest: each for digest, each in others.items() if digest in uploaded.state.plan.bundles()}
    return newest(planned, uploaded.signed.task) or newest(others, uploaded.signed.task)


def _published_sentence(published: PublishedBundle) -> str:
    amount = f"{format_bytes(published.bytes_written)} uploaded"
    if published.new:
        return (
            f"{published.signed.name} is signed and published, {amount}. No site runs it yet: assign it with"
            " 'edge-convert plan edit'"
        )
    if published.bytes_written:
        return f"{published.signed.name} was signed already; its missing files were restored, {amount}"
    return f"{published.signed.name} is published already; nothing was changed"


def _print_line(message: str) -> None:
    progress_output.out().print(Text(message))


RotatableRole = Enum("RotatableRole", {"root": "root", "targets": "targets", "plan": "plan", "online": "online"})


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
        bool, typer.Option("--without-old", help="The old keys are lost; sites can refuse updates briefly.")
    ] = False
    stage: Stage = None

    def __post_init__(self) -> None:
        """Run the command."""
        publisher, role = self.publisher(self.stage), self.role.value
        key_rotation.check_restart(role, restart_versions=self.restart_versions)
        keyids = key_rotation.keyids(publisher.read_state(), role)
        removed = tuple(_keyid(publisher, name, keyids) for name in self.remove or ())
        added = self._added_keys(publisher, keyids)
        change = KeyRotation(role, added, removed, self.threshold, self.restart_versions, self.without_old)
        key_rotation.rotate(publisher, change)
        names = ", ".join(map(publisher.keys.name_of, key_rotation.keyids(publisher.read_state(), role)))
        repository_options.finish(publisher, f"the keys of '{role}' are now: {names}", self.stage)

    def _added_keys(self, publisher: Publisher, keyids: list[str]) -> tuple[PublicKeyFile, ...]:
        added = tuple(map(keyring.read_public, self.add or ()))
        if not (added or self.threshold):
            added = (_find_or_create_key(publisher, self.role.value, keyids),)
        for key_file in added:
            publisher.keys.add_key(key_file)
        return added


def _find_or_create_key(publisher: Publisher, role: str, keyids: list[str]) -> PublicKeyFile:
    """Create a key in the first folder, or take one that an interrupted rotation created."""
    for key_file in publisher.keys.keys:
        if key_file.role == role and key_file.key.keyid not in keyids and key_file.available:
            return key_file
    names = {key_file.name for key_file in publisher.keys.keys}
    number = next(number for number in itertools.count(1) if f"{role}-{number}" not in names)
    new_key = publisher.keys.make(f"{role}-{number}", role)
    _print_line(f"created a new key, {describe_key(new_key)}")
    return new_key


def _keyid(publisher: Publisher, name: str, keyids: list[str]) -> str:
    matches = [keyid for keyid in keyids if name in (publisher.keys.name_of(keyid), keyid)]
    if len(matches) != 1:
        names = ", ".join(map(publisher.keys.name_of, keyids))
        raise InvalidRequest(f"the role has no key '{name}'", remedy=f"Its keys: {names}.")
    return matches[0]


RenewableRole = Enum("RenewableRole", {"root": "root", "targets": "targets", "plan": "plan"})
"""Roles that can be renewed, besides snapshot and timestamp."""


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

    The plan must no longer name it. Its files stay in the repository, because other bundles can share them. The
    repository records what was revoked: 'publish' refuses to sign it again.

    Example: [bold]edge-convert revoke pos-intent@1.1.0 --repo s3://fleet/updates --keys signing-keys[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="TASK@VERSION, or a digest or the start of one.")]
    yes: Yes = False
    stage: Stage = None

    def __post_init__(self) -> None:
        """Run the command."""
        publisher = self.publisher(self.stage)
        signed = find(publisher.read_state().bundles(), self.bundle)
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
    for line in change.description(ring):
        _print_line(line)
    repository_options.confirm("Sign this?", yes)
    staged_change.add_signatures(change, ring)
    repository_options.show_missing(change, ring)
    repository_options.show_expiry(change.after())
