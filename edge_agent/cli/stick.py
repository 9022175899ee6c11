"""`edge-agent export` and `edge-agent import`: sealed examples out, receipts and updates in, by a stick.

On the stick: site=<id>/segments/<epoch>-<sequence>.age and .json, site=<id>/status.json, site=<id>/receipts.json; the
same names as in an object store. Each file is copied beside its place, synced and renamed, the manifest of a segment
after the segment. A stick that is pulled out leaves whole files or none, and nothing is deleted here: only the centre's
receipts do that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from edge_agent.byte_sizes import format_bytes
from edge_agent.cli.exits import Exit
from edge_agent.cli.output import err, out
from edge_agent.cli.site import site_of
from edge_agent.client import AdminClient, CallFailed, ImportProgress, TaskUpdate
from edge_agent.durable.atomic_files import write_durably
from edge_agent.errors import BY_REASON, DocumentInvalid, EdgeAgentError, StickFailed, UpdateIncomplete

FILE_BYTES_MAX = 64 * 2**20
_NOTHING_REMEDY = (
    "Have 'edge-convert collect' write its receipts, or 'edge-convert stick' an update, to the stick first; "
    "or name the folder where it is mounted."
)
_WHOLE_REMEDY = (
    "Have the stick written again, for this site ('edge-convert stick … --site ID'), and unmounted before it is pulled "
    "out; then import it again. What answered before goes on."
)
# A task's state after an import, as the end of a sentence that begins with the bundle.
_CAME_TO = {
    "WAITING": "is not due here yet",
    "STAGED": "has not been switched to yet",
    "PROBATION": "answers now; if it does badly, what answered before comes back by itself",
    "DONE": "answers",
    "FAILED": "failed here, and what answered before goes on; tell the central team",
    "ROLLED_BACK": "did badly in use, and what answered before is back; tell the central team",
    "HELD": "is not used",
}
Stick = Annotated[Path, typer.Argument(metavar="PATH", help="The stick, or any folder that is there.")]


@dataclass
class Copying:
    """What has been copied so far."""

    copied: int = 0
    there: int = 0
    bytes: int = 0
    missing: list[str] = field(default_factory=list)
    failure: EdgeAgentError | OSError | None = None


def export(ctx: typer.Context, path: Stick) -> None:
    """Seal what waits, and copy everything for the centre to a stick.

    Run it again after a failure: what is there already is not copied twice.

    Example: [bold]edge-agent export /media/stick[/bold]
    """
    _check_folder(path)
    with site_of(ctx).admin() as admin, err().status("Sealing"):
        sealed = admin.seal_examples()
    if not sealed.site:
        out().print("Nothing leaves this site: 'site.id' in agent.yaml is not set.")
        return
    columns, console = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()), err()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("Copying files", total=None)

        def told(done: int, total: int) -> None:
            bar.update(shown, completed=done, total=total)

        copying = copy_out(Path(sealed.outbox_path), path / f"site={sealed.site}", told)
    _report(copying, path)


def copy_out(outbox: Path, target: Path, told: Callable[[int, int], object] = lambda *_: None) -> Copying:
    """Copy an outbox, the oldest segment first and the status last; stops at the first failure.

    `told` hears how many files are done, and of how many.
    """
    sealed = sorted((outbox / "segments").glob("*.json"))
    pairs = [(file, target / "segments" / file.name) for each in sealed for file in (each.with_suffix(".age"), each)]
    pairs += [(outbox / "status.json", target / "status.json")] if (outbox / "status.json").exists() else []
    copying = Copying()
    for number, (source, goal) in enumerate(pairs):
        try:
            _copy(source, goal, copying)
        except (EdgeAgentError, OSError) as error:
            copying.failure, copying.missing = error, [one.name for one, _ in pairs[number:]]
            break
        told(number + 1, len(pairs))
    return copying


def import_(ctx: typer.Context, path: Stick) -> None:
    """Bring updates and the centre's receipts from a stick.

    An update is installed by the same rules as one that comes over the network: signed, tested, in its window. What the
    centre has received, by its receipts, is deleted here.

    Example: [bold]edge-agent import /media/stick[/bold]
    """
    _check_folder(path)
    path = path.resolve()
    has_update = any((path / folder).is_dir() for folder in ("metadata", "blobs"))
    has_receipts = any(path.glob("site=*/receipts.json"))
    with site_of(ctx).admin() as admin:
        admin.status()  # a daemon that is not there is said first
        if not (has_update or has_receipts):
            raise DocumentInvalid(f"there are no receipts and no update in {path}", remedy=_NOTHING_REMEDY)
        if has_update:
            _import_update(admin, path)
        try:
            if has_receipts:
                _import_receipts(admin, path)
        except (CallFailed, DocumentInvalid) as error:
            if not has_update:
                raise
            out().print(f"Receipts on it were not taken: {error.message}.")


def _import_receipts(admin: AdminClient, path: Path) -> None:
    sealed = admin.seal_examples()
    source = path / f"site={sealed.site}" / "receipts.json"
    if not source.exists():
        said = f"the receipts in {path} are for other sites: there is no {source}"
        raise DocumentInvalid(said, remedy="Have 'edge-convert collect' write this site's receipts to the stick first.")
    write_durably(Path(sealed.receipts_path) / "receipts.json", _read(source), 0o640)
    count = admin.read_receipts()
    out().print(f"The centre has {count} more segment{'' if count == 1 else 's'}; deleted here.")


def _check_folder(path: Path) -> None:
    """Refuse what is no folder: the mount point of a stick that is not there would be filled for nobody."""
    if not path.is_dir():
        said = f"{path} is no folder" if path.exists() else f"there is no folder {path}"
        raise StickFailed(said, remedy="Plug the stick in, see with 'lsblk' where it is mounted, and name that folder.")


def _import_update(admin: AdminClient, path: Path) -> None:
    """Show how the copy comes on, and what came of it.

    Raises:
        EdgeAgentError: a bundle is not whole, or something on this machine is in its way.
        typer.Exit: a bundle failed here.
    """
    columns, console = (TextColumn("{task.description}"), BarColumn(), DownloadColumn()), err()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        copying = bar.add_task("Checking signatures", total=None)

        def told(now: ImportProgress) -> None:
            said = f"Copying {now.copying}" if now.copying else "Checking and testing"
            bar.update(copying, description=said, completed=now.copied_bytes, total=now.total_bytes or None)

        updates = admin.import_update(path, told)
    wanted = [task for task in updates.tasks if task.candidate]
    hindrances = {task.task: hindrance for task in wanted if (hindrance := _hindrance(task))}
    for task in wanted:
        if task.task not in hindrances:
            out().print(Text(f"{_named(task)} {_CAME_TO.get(task.state, task.state.lower())}{_because(task)}"))
    if not wanted:
        out().print(f"Plan {updates.plan_version} is on the stick; it wants nothing new of this site.")
    for hindrance in hindrances.values():
        raise hindrance
    if any(task.state == "FAILED" for task in wanted):
        raise typer.Exit(Exit.FAILED)


def _named(task: TaskUpdate) -> str:
    return f"{task.task} {task.candidate.version if task.candidate else ''}"


def _because(task: TaskUpdate) -> str:
    return f": {task.message}" if task.message else ""


def _hindrance(task: TaskUpdate) -> EdgeAgentError | None:
    """Return what keeps a bundle from being tested that will not pass by itself; None = nothing."""
    kind = BY_REASON.get("UPDATE_INCOMPLETE" if task.state == "FETCHING" else task.reason)
    if kind is None or task.state not in ("FETCHING", "STAGED"):
        return None
    said = f"{_named(task)} was not installed{_because(task)}"
    return kind(said, remedy=_WHOLE_REMEDY if issubclass(kind, UpdateIncomplete) else "")


def _copy(source: Path, goal: Path, copying: Copying) -> None:
    content = _read(source)
    if goal.exists() and hashlib.sha256(_read(goal)).digest() == hashlib.sha256(content).digest():
        copying.there += 1
        return
    goal.parent.mkdir(parents=True, exist_ok=True)
    write_durably(goal, content, 0o644)
    copying.copied += 1
    copying.bytes += len(content)


def _read(path: Path) -> bytes:
    # A stick may hold anything: a link would show a file of this machine, and a FIFO is waited for without end.
    if path.is_symlink() or not path.is_file():
        raise DocumentInvalid(f"{path} is no regular file")
    with path.open("rb") as file:
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise DocumentInvalid(f"{path} has more than {FILE_BYTES_MAX} bytes")
    return content


def _report(copying: Copying, path: Path) -> None:
    size = format_bytes(copying.bytes)
    said = f"{_files(copying.copied)} ({size}) copied to {path}, {_were(copying.there)} there already"
    if copying.failure is None:
        out().print(f"{said}. Bring the stick to the centre; 'edge-agent import' takes its receipts back.")
        return
    reason = getattr(copying.failure, "message", None) or copying.failure
    raise StickFailed(
        f"{said}; {_were(len(copying.missing))} not, from {copying.missing[0]} on: {reason}. All of it is still here",
        copied=copying.copied,
        missing=len(copying.missing),
    )


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


def _were(count: int) -> str:
    return f"{count} {'was' if count == 1 else 'were'}"
