"""`edge-convert publish`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from convert.cli import repository, screen
from convert.cli.repository import OnRepository, Stage
from convert.publish import staged
from convert.publish.keyring import ANCHOR
from convert.publish.publisher import Published, Publisher
from convert.report.made import size
from edge_agent.errors import InvalidRequest


@dataclass(kw_only=True)
class Command(OnRepository):
    """Upload bundles and sign them, so that a plan may name them. What is there already is not sent again.

    A site runs a bundle only when the plan says so: see 'edge-convert plan edit'. Where the keys of bundles are kept
    elsewhere, --stage leaves what has to be signed in a folder; 'edge-convert sign' signs it there, and
    --staged publishes it.

    Example: [bold]edge-convert publish build/my-task/assemble/bundle --to s3://fleet/updates --keys signing-keys[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    bundles: Annotated[
        list[Path] | None, typer.Argument(metavar="BUNDLE", help="Directories or tars, as 'edge-convert' made them.")
    ] = None
    new: Annotated[bool, typer.Option("--new", help="Make the repository: once, for the first publish.")] = False
    stage: Stage = None
    staged: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Publish what --stage left there, once it is signed.")
    ] = None

    def __post_init__(self) -> None:
        """Run the command."""
        self._check()
        publisher = self.publisher(self.stage)
        if self.new:
            publisher.create()
            _say(f"{publisher.place.name} is a repository of this fleet. Sites trust it by {self._root(publisher)}.")
        if self.staged:
            self._publish_staged(publisher, self.staged)
        for path in self.bundles or ():
            self._publish(publisher, path)
        repository.finish(publisher, "", self.stage)

    def _publish(self, publisher: Publisher, path: Path) -> None:
        with screen.bar() as advance:
            uploaded = publisher.upload(path, advance)
        # Not below a bar: somebody may be asked for a passphrase.
        published = publisher.sign(uploaded)
        if not publisher.staged:
            _say(_sentence(published))

    def _check(self) -> None:
        changes = len(self.bundles or ()) + bool(self.staged)
        if not changes and not self.new:
            raise InvalidRequest("nothing to publish", remedy="Name a bundle, or --staged FOLDER; or --new alone.")
        if self.stage and changes > 1:
            raise InvalidRequest("one change is staged at a time", remedy="Name one bundle with --stage.")

    def _root(self, publisher: Publisher) -> str:
        return next(str(path) for folder in publisher.keys.folders if (path := folder / ANCHOR).is_file())

    def _publish_staged(self, publisher: Publisher, folder: Path) -> None:
        change = staged.publish(publisher, folder)
        for line in change.described(publisher.keys) if change else ():
            _say(line)
        _say("Published." if change else f"What was staged in {folder} is published already; nothing was changed.")


def _sentence(published: Published) -> str:
    uploaded = f"{size(published.bytes_written)} uploaded"
    if published.new:
        return (
            f"{published.signed.name} is signed and published, {uploaded}. No site runs it yet: edge-convert plan edit"
        )
    if published.bytes_written:
        return f"{published.signed.name} was signed already; what was missing of it is back, {uploaded}"
    return f"{published.signed.name} is there already; nothing was changed"


def _say(text: str) -> None:
    screen.out().print(Text(text))
