"""`edge-convert publish`."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from convert.cli import progress_output, repository_options
from convert.cli.repository_options import RepositoryCommand, Stage
from convert.data import row_files
from convert.pipeline import execution
from convert.publish import publishable_bundle, staged_change
from convert.publish.keyring import ANCHOR
from convert.publish.publisher import PublishedBundle, Publisher, UploadedBundle
from convert.publish.repository_reader import BundleTarget, newest
from convert.report import comparison
from edge_agent.errors import InvalidRequest, ModelFailed
from edge_agent.formatting import format_bytes


@dataclass(kw_only=True)
class Command(RepositoryCommand):
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
        repository_options.finish(publisher, "", self.stage)

    def _publish(self, publisher: Publisher, path: Path) -> None:
        with progress_output.bar() as advance:
            uploaded = publisher.upload(path, advance)
        if self.compare_on:
            self._compare(publisher, uploaded, self.compare_on)
        # Not below a bar: this can prompt for a passphrase.
        _say(f"Golden cases, which travel to every site: {uploaded.signed.golden}.")
        published = publisher.sign(uploaded)
        if not publisher.staged:
            _say(_sentence(published))

    def _compare(self, publisher: Publisher, uploaded: UploadedBundle, rows: Path) -> None:
        """Raise ModelFailed where the bundle is worse than the signed version of its task."""
        before = _before(uploaded)
        if before is None:
            _say(f"No other version of {uploaded.signed.task} is signed, so there is nothing to compare with.")
            return
        measuring = execution.load_module("convert.evaluate")
        with tempfile.TemporaryDirectory() as made, progress_output.bar() as advance:
            first, second = Path(made, "before"), Path(made, "new")
            task = publishable_bundle.fetch(publisher.place, before.digest, first).manifest.task
            publishable_bundle.fetch(publisher.place, uploaded.signed.digest, second)
            report = measuring.compare(first, second, row_files.read_for_task(rows, task), advance)
        progress_output.show(comparison.compared(report))
        worse = comparison.worse_figures(report)
        if worse and not self.accept_worse:
            raise ModelFailed(
                f"{uploaded.signed.name} is worse than {before.name}: {', '.join(worse)}; it was not signed",
                remedy="Train a better model, or add --accept-worse to sign this one anyway.",
            )

    def _check(self) -> None:
        changes = len(self.bundles or ()) + bool(self.staged)
        if not changes and not self.new:
            raise InvalidRequest("nothing to publish", remedy="Name a bundle, or --staged FOLDER; or --new alone.")
        if self.stage and changes > 1:
            raise InvalidRequest("one change is staged at a time", remedy="Name one bundle with --stage.")

    def _root(self, publisher: Publisher) -> str:
        return next(str(path) for folder in publisher.keys.folders if (path := folder / ANCHOR).is_file())

    def _publish_staged(self, publisher: Publisher, folder: Path) -> None:
        change = staged_change.publish(publisher, folder)
        for line in change.described(publisher.keys) if change else ():
            _say(line)
        _say("Published." if change else f"The change staged in {folder} is published already; nothing was changed.")


def _before(uploaded: UploadedBundle) -> BundleTarget | None:
    """Return the newest version of the task that the plan names; where it names none, the newest that is signed."""
    others = {digest: each for digest, each in uploaded.held.bundles().items() if digest != uploaded.signed.digest}
    named = {digest: each for digest, each in others.items() if digest in uploaded.held.plan.bundles()}
    return newest(named, uploaded.signed.task) or newest(others, uploaded.signed.task)


def _sentence(published: PublishedBundle) -> str:
    uploaded = f"{format_bytes(published.bytes_written)} uploaded"
    if published.new:
        return (
            f"{published.signed.name} is signed and published, {uploaded}. No site runs it yet: assign it with"
            " 'edge-convert plan edit'"
        )
    if published.bytes_written:
        return f"{published.signed.name} was signed already; its missing files were restored, {uploaded}"
    return f"{published.signed.name} is published already; nothing was changed"


def _say(said: str) -> None:
    progress_output.out().print(Text(said))
