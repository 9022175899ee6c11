"""`edge-agent media export` and `import`: sealed examples out, receipts and updates in, on removable media.

The files have the same names as in an object store: site=<id>/segments/<epoch>-<sequence>.age and .json,
site=<id>/status.json, site=<id>/receipts.json. Each file is written next to its place, synced and renamed; the
manifest of a segment follows the segment. A drive that is pulled out holds whole files or none. The export deletes
nothing on the site: only receipts of the central team do.

An empty mount point looks like a drive: what is copied there fills this machine's disk and reaches nobody.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from edge_agent.cli.command_group import global_options
from edge_agent.cli.daemon_target import target_of
from edge_agent.cli.exits import ExitCode
from edge_agent.cli.output import AsJson, err, out, plain, print_done, print_json, print_trimmed, progress
from edge_agent.client import AdminClient, CallFailed, ExamplesStatus, ImportProgress, UpdatesStatus
from edge_agent.durable.atomic_files import is_dir, stat_or_none, write_durably
from edge_agent.errors import BY_REASON, ConfigInvalid, DocumentInvalid, EdgeAgentError, MediaFailed, UpdateIncomplete
from edge_agent.formatting import counted, format_bytes

DRIVE_FOLDERS = (Path("/media"), Path("/mnt"), Path("/run/media"))
"""Folders below which drives are mounted, by the filesystem hierarchy standard and by desktops."""
MOUNTS = Path("/proc/self/mountinfo")
_MOUNT_POINT = 4  # proc_pid_mountinfo(5)
_FIND_DRIVE = (
    "Plug the drive in, look with 'lsblk' where it is mounted, and name that folder; if it is mounted nowhere,"
    " 'sudo mount /dev/sdX1 /mnt' mounts it"
)


@dataclass(frozen=True)
class DriveFolder:
    """A folder that should be on a drive."""

    path: Path
    mount_point: Path
    """The root of its file system."""
    is_own_disk: bool
    """That file system is the one of / or of the daemon's state directory."""

    @property
    def is_unmounted(self) -> bool:
        """It is below a folder for drives, and nothing is mounted there."""
        return any(
            self.path.is_relative_to(folder) and not self.mount_point.is_relative_to(folder) for folder in DRIVE_FOLDERS
        )

    @property
    def doubt(self) -> str:
        """Why there may be no drive, as a sentence without its end; empty = no doubt."""
        if self.is_unmounted:
            return f"no drive is mounted at {self.path}"
        return f"{self.path} is on this machine's own disk; is the drive mounted?" if self.is_own_disk else ""

    def require_drive(self) -> None:
        """Refuse a folder for drives without a drive. Raises MediaFailed."""
        if self.is_unmounted:
            raise self.without_drive("nothing was copied", " '--yes' copies to this folder nevertheless.")

    def without_drive(self, consequence: str, hint: str = "") -> MediaFailed:
        """Return the error of a folder for drives without a drive."""
        return MediaFailed(f"{self.doubt}, so {consequence}", remedy=f"{_FIND_DRIVE}.{hint}", path=self.path)


def look_at_folder(path: Path, *own: Path) -> DriveFolder:
    """Find the file system of an existing folder. `own`: folders of the daemon. Raises OSError."""
    path = path.resolve()
    mounts = mount_points(MOUNTS.read_text(errors="surrogateescape")) if MOUNTS.exists() else []
    own_disks = {folder.stat().st_dev for folder in (Path("/"), *own)}
    return DriveFolder(path, mount_point_of(path, mounts), path.stat().st_dev in own_disks)


def mount_points(mountinfo: str) -> list[Path]:
    """Return the mount points that /proc/self/mountinfo names; it writes a space as \\040."""
    names = (line.split(" ")[_MOUNT_POINT] for line in mountinfo.splitlines())
    return [Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), name)) for name in names]


def mount_point_of(path: Path, mounts: Sequence[Path]) -> Path:
    """Return the nearest mount point at or above an absolute path.

    A mount of a folder of the same disk (mount --bind) is found in `mounts` only; other systems than Linux have none.
    """
    return next(folder for folder in (path, *path.parents) if folder in mounts or os.path.ismount(folder))


def explain_empty_export(examples: ExamplesStatus | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return why nothing could be exported, and what to do; `examples` None = this site captures nothing."""
    if examples is None or not (examples.collect or sum(examples.retained.values())):
        return "No examples are kept here: 'examples.collect' in agent.yaml names no task"
    leaving_tasks = sorted(task for task, consent in examples.collect.items() if consent == "upstream")
    if not leaving_tasks:
        return (
            f"The examples of {', '.join(sorted(examples.collect))} stay on this machine: set the task to 'upstream' "
            "under 'examples.collect' in agent.yaml to let them leave"
        )
    if waiting := sum(examples.review_waiting.values()):
        waiting_text = "1 answer waits" if waiting == 1 else f"{waiting} answers wait"
        return (
            f"{waiting_text} for review, and none has been reviewed since the last export: "
            f"'{'sudo ' * bool(environ.get('SUDO_USER'))}edge-agent review' shows them one by one; then export again"
        )
    if not sum(count for name, count in examples.retained.items() if name != "feedback"):
        return f"No answer of {', '.join(leaving_tasks)} has been kept yet"
    return "The central team has confirmed all examples that may leave"


FILE_BYTES_MAX = 64 * 2**20
_NOTHING_REMEDY = (
    "Have 'edge-convert collect' write its receipts, or 'edge-convert media' an update, to the drive first; "
    "or name the folder where it is mounted."
)
_CONTINUES = "What answered before continues to answer."
_WHO_WRITES = (
    "The central team writes drives ('edge-convert media … --site ID'); unmount a drive before you pull it out."
)
# A task's state after an import, where another bundle answered before:
_OUTCOMES = {
    "WAITING": "is not due here yet",
    "STAGED": "has not been switched to yet",
    "PROBATION": "answers now, on probation; if it does badly, the site returns to the previous bundle",
    "DONE": "answers",
    "FAILED": "failed here, and the previous bundle continues to answer; tell the central team",
    "ROLLED_BACK": "did badly in use, and the site returned to the previous bundle; tell the central team",
    "HELD": "is not used",
}
# The same for the first bundle of a task:
_FIRST_OUTCOMES = {
    "PROBATION": "answers now, on probation; it is the first version here, so nothing could take its place",
    "FAILED": "failed here, and nothing answered before it; tell the central team",
}
app = typer.Typer(no_args_is_help=True, help="Exchange data with the central team on removable media.")
MediaPath = Annotated[
    Path,
    typer.Argument(metavar="PATH", readable=False, help="The folder where the drive is mounted, or any other folder."),
]
CopyAnyway = Annotated[bool, typer.Option("--yes", "-y", help="Copy to a folder below /media or /mnt without a drive.")]


@dataclass
class MediaCopy:
    """The files copied so far, and the failure that stopped the copy."""

    copied: int = 0
    unchanged: int = 0
    """Already on the drive."""
    bytes: int = 0
    missing: list[str] = field(default_factory=list)
    failure: EdgeAgentError | OSError | None = None


@app.command("export")
def export_media(ctx: typer.Context, path: MediaPath, yes: CopyAnyway = False, as_json: AsJson = False) -> None:
    """Seal the waiting examples, and copy everything for the central team to a drive.

    Run it again after a failure: files that are on the drive already are not copied twice.

    Example: [bold]sudo edge-agent media export /media/usb[/bold]
    """
    device = _check_folder(path)
    if not yes:
        _drive_folder(path).require_drive()
    with target_of(ctx).admin() as admin, progress(ctx, "Sealing"):
        sealed = admin.seal_examples()
        empty = sealed.site and not any(Path(sealed.outbox_path, "segments").glob("*.json"))
        why_empty = explain_empty_export(admin.status().examples) if empty else ""
    if not sealed.site:
        why_empty = "Nothing leaves this site: 'site.id' in agent.yaml is not set"
        if as_json:
            print_json(_export_document("", MediaCopy(), why_empty, ""), indent=2)
        else:
            out().print(f"{why_empty}.")
        return
    check_readable(Path(sealed.outbox_path))
    if doubt := _drive_folder(path, Path(sealed.outbox_path)).doubt:
        print_trimmed(err(), Text.assemble(("warning: ", "yellow"), doubt))
    columns, console = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()), err()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        copy_task = bar.add_task("Copying files", total=None)

        def update_bar(files_done: int, total: int) -> None:
            bar.update(copy_task, completed=files_done, total=total)

        copying = copy_out(Path(sealed.outbox_path), path / f"site={sealed.site}", update_bar, device)
    files = f"{counted(copying.copied, 'file')} ({format_bytes(copying.bytes)})"
    summary = f"{files} copied to {path}, {_count_were(copying.unchanged)} there already"
    if copying.failure is not None:
        reason = getattr(copying.failure, "message", None) or copying.failure
        missing_text = f"{_count_were(len(copying.missing))} not, from {copying.missing[0]} on"
        raise MediaFailed(
            f"{summary}; {missing_text}: {reason}. All of it is still on this machine",
            copied=copying.copied,
            missing=len(copying.missing),
        )
    if as_json:
        print_json(_export_document(sealed.site, copying, why_empty, doubt), indent=2)
    elif why_empty:
        print_done(ctx, f"{summary}: the status of this site, and no examples.", f"{why_empty}.")
    else:
        cargo = "these files" if doubt else "the drive"
        message = f"{summary}. Bring {cargo} to the central team; 'edge-agent media import' takes their receipts."
        print_done(ctx, message)


def _export_document(site: str, copying: MediaCopy, no_examples: str, no_drive: str) -> dict[str, str | int]:
    counts: dict[str, str | int] = {"copied": copying.copied, "unchanged": copying.unchanged, "bytes": copying.bytes}
    return {"site": site, **counts, "no_examples": no_examples, "no_drive": no_drive}


def check_readable(outbox: Path) -> None:
    """Refuse a user who may operate the daemon, but not read the outbox, which only root and the daemons may."""
    try:
        os.scandir(outbox).close()
    except PermissionError as error:
        raise ConfigInvalid(f"cannot read {outbox}: {error.strerror}", remedy="Run the command with sudo.") from None


def copy_out(
    outbox: Path, target: Path, show: Callable[[int, int], object] = lambda *_: None, device: int | None = None
) -> MediaCopy:
    """Copy an outbox, the oldest segment first and the status last; stops at the first failure.

    `show` is called with the number of copied files, and of all; `device` is the drive's st_dev, None = unknown.
    """
    manifests = sorted((outbox / "segments").glob("*.json"))
    pairs = [
        (file, target / "segments" / file.name)
        for manifest in manifests
        for file in (manifest.with_suffix(".age"), manifest)
    ]
    pairs += [(outbox / "status.json", target / "status.json")] if stat_or_none(outbox / "status.json") else []
    copying = MediaCopy()
    for number, (source, destination) in enumerate(pairs):
        try:
            bytes_written = _copy(source, destination)
            # Desktops and systemd unmount a drive that is pulled out; its mount point is on this machine's disk.
            if device not in (None, target.parent.stat().st_dev):
                raise MediaFailed(f"the USB drive at {target.parent} was unmounted meanwhile")
        except (EdgeAgentError, OSError) as error:
            copying.failure, copying.missing = error, [path.name for path, _ in pairs[number:]]
            break
        copying.unchanged += bytes_written is None
        copying.copied += bytes_written is not None
        copying.bytes += bytes_written or 0
        show(number + 1, len(pairs))
    return copying


@app.command("import")
def import_media(ctx: typer.Context, path: MediaPath, as_json: AsJson = False) -> None:
    """Take updates and receipts of the central team from a drive.

    An update is installed by the same rules as one from the network: signed, tested, in its window. The site deletes
    the segments that the central team has signed for in its receipts.

    Example: [bold]edge-agent media import /media/usb[/bold]
    """
    _check_folder(path)
    path = path.resolve()
    with _drive_errors(path):
        has_update = any(is_dir(path / folder) for folder in ("metadata", "blobs"))
        has_receipts = any(path.glob("site=*/receipts.json"))
    with target_of(ctx).admin() as admin:
        admin.status()  # a missing daemon is reported before missing files
        if not (has_update or has_receipts):
            raise _nothing_to_import(path)
        digests_before = _installed_digests(admin)
        updates = import_update(admin, path) if has_update else None
        outcomes = _outcomes(updates, digests_before, _installed_digests(admin)) if updates else []
        if not as_json:
            _print_outcomes(ctx, updates, outcomes)
        segments, problem = _import_receipts(admin, path, updates) if has_receipts else (None, "")
    if as_json:
        report = {"updates": updates and plain(updates), "bundles": [plain(outcome) for outcome in outcomes]}
        print_json({**report, "received": segments, "receipts_problem": problem}, indent=2)
    else:
        _print_receipts(ctx, segments, problem)
    _end_with_outcome(outcomes, with_reason=as_json or global_options(ctx).quiet)


def _import_receipts(admin: AdminClient, path: Path, updates: UpdatesStatus | None) -> tuple[int | None, str]:
    """Take the receipts; return the number of segments deleted for them, or why they were refused.

    Next to an update, refused receipts are a remark. Without an update they are the error: raises CallFailed,
    DocumentInvalid, MediaFailed.
    """
    try:
        sealed = admin.seal_examples()
        source = path / f"site={sealed.site}" / "receipts.json"
        with _drive_errors(path):
            if stat_or_none(source) is None:
                message = f"the receipts in {path} are for other sites: {source} does not exist"
                remedy = "Have 'edge-convert collect' write this site's receipts to the drive first."
                raise DocumentInvalid(message, remedy=remedy)
            receipts = _read(source)
        write_durably(Path(sealed.receipts_path) / "receipts.json", receipts, 0o640)
        return admin.read_receipts(), ""
    except (CallFailed, DocumentInvalid, MediaFailed) as error:
        if updates is None:
            raise
        return None, error.message


@contextlib.contextmanager
def _drive_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of a drive that was pulled out, fails, or is hidden from this user into one with a remedy."""
    try:
        yield
    except PermissionError as error:
        raise ConfigInvalid(f"cannot read {path}: {error.strerror}", remedy="Run the command with sudo.") from None
    except OSError as error:
        message = f"the USB drive at {path} was pulled out or is failing: {error.strerror}"
        raise MediaFailed(message, remedy=MediaFailed.remedy_reading, path=path) from None


def _check_folder(path: Path) -> int:
    """Return the st_dev of a folder; refuse anything else: a copy to where a drive is missing would reach nobody."""
    with _drive_errors(path):
        status = stat_or_none(path)
        if status is None or not stat.S_ISDIR(status.st_mode):
            message = f"{path} is not a folder" if status else f"{path} does not exist"
            raise MediaFailed(message, remedy=f"{_FIND_DRIVE}.")
        os.scandir(path).close()  # an automounter mounts the drive here, not at a stat
        return path.stat().st_dev


def _drive_folder(path: Path, *own: Path) -> DriveFolder:
    with _drive_errors(path):
        return look_at_folder(path, *own)


def _nothing_to_import(path: Path) -> DocumentInvalid | MediaFailed:
    message, folder = f"there are no receipts and no update in {path}", _drive_folder(path)
    if folder.is_unmounted:
        return folder.without_drive("there is nothing to import")
    return DocumentInvalid(f"{message}: {folder.doubt}" if folder.doubt else message, remedy=_NOTHING_REMEDY)


def _print_receipts(ctx: typer.Context, segments: int | None, problem: str) -> None:
    if problem:
        print_done(ctx, f"The receipts on it were not taken: {problem}.")
    elif segments is not None:
        print_done(ctx, f"The central team has {counted(segments, 'more segment')}; deleted here.")


def import_update(admin: AdminClient, path: Path) -> UpdatesStatus:
    """Let the daemon copy an update, with a bar on a terminal; return the state of the tasks afterwards.

    Raises CallFailed: also when the daemon ended meanwhile; the remedy then names the next import.
    """
    columns, console = (TextColumn("{task.description}"), BarColumn(), DownloadColumn()), err()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        copy_task = bar.add_task("Checking signatures", total=None)

        def update_bar(step: ImportProgress) -> None:
            if step.copying:
                description = f"Copying {step.copying}"
                bar.update(
                    copy_task, description=description, completed=step.copied_bytes, total=step.total_bytes or None
                )
            else:  # before the copy there is no total; after it the bar stays full
                bar.update(copy_task, description="Checking and testing", completed=bar.tasks[0].total or 0)

        try:
            return admin.import_update(path, update_bar)
        except CallFailed as error:
            if error.reason == "UNREACHABLE":
                error.remedy += " Then run the same command again: nothing is lost."
            raise


@dataclass(frozen=True)
class BundleOutcome:
    """The outcome for one bundle of the plan."""

    task: str
    version: str
    digest: str
    taken: bool
    """It was copied from the drive into the store."""
    installed: bool
    """It is in the store."""
    answers: bool
    first: bool
    """No other bundle answered the task before."""
    state: str
    reason: str
    message: str


def _installed_digests(admin: AdminClient) -> Set[str]:
    return {each.ref.digest for each in admin.bundles()}


def _outcomes(updates: UpdatesStatus, digests_before: Set[str], installed: Set[str]) -> list[BundleOutcome]:
    """Return the outcome for each bundle that the plan names for this site; the sets are digests in the store."""
    return [
        BundleOutcome(
            task.task,
            task.candidate.version,
            task.candidate.digest,
            taken=task.candidate.digest in installed - digests_before,
            installed=task.candidate.digest in installed,
            answers=task.active is not None and task.active.digest == task.candidate.digest,
            first=not any(each and each.digest != task.candidate.digest for each in (task.active, task.previous)),
            state=task.state,
            reason=task.reason,
            message=task.message,
        )
        for task in updates.tasks
        if task.candidate
    ]


def _print_outcomes(ctx: typer.Context, updates: UpdatesStatus | None, outcomes: list[BundleOutcome]) -> None:
    if updates is None:
        return
    for outcome in outcomes:
        result = "taken" if outcome.taken else "already here" if outcome.installed else "not taken"
        texts = {**_OUTCOMES, **(_FIRST_OUTCOMES if outcome.first else {})}
        detail = "" if _blocker(outcome) else f" {texts.get(outcome.state, outcome.state.lower())}"
        if outcome.state == "WAITING" and not outcome.installed and detail:
            detail += "; import the drive again when it is"
        reason = f": {outcome.message}" if outcome.message else ""
        print_done(ctx, f"{result}: {outcome.task} {outcome.version}{detail}{reason}")
    if not outcomes:
        print_done(ctx, f"Plan {updates.plan_version} is on the drive; it names nothing new for this site.")


def _end_with_outcome(outcomes: list[BundleOutcome], *, with_reason: bool) -> None:
    """Return if every bundle is installed or will be; `with_reason`: the error names the reason, because no line did.

    Raises:
        EdgeAgentError: a bundle is incomplete, or this machine blocks it.
        typer.Exit: a bundle failed here.
    """
    for outcome in outcomes:
        if error_class := _blocker(outcome):
            taken = ", ".join(f"{other.task} {other.version}" for other in outcomes if other.taken)
            reason = f": {outcome.message}" if with_reason and outcome.message else ""
            taken_text = f"taken from the drive: {taken}" if taken else "nothing was taken from the drive"
            message = f"{outcome.task} {outcome.version} was not installed{reason}; {taken_text}"
            remedy = f"{_WHO_WRITES} {_CONTINUES}" if issubclass(error_class, UpdateIncomplete) else _CONTINUES
            raise error_class(message, remedy=remedy if outcome.message else "")
    if any(outcome.state == "FAILED" for outcome in outcomes):
        raise typer.Exit(ExitCode.FAILED)


def _blocker(outcome: BundleOutcome) -> type[EdgeAgentError] | None:
    """Return the class of the error that keeps a bundle from being tested until a person acts; None = there is none."""
    return BY_REASON.get(outcome.reason) if outcome.state in ("WAITING", "FETCHING", "STAGED", "HELD") else None


def _copy(source: Path, destination: Path) -> int | None:
    """Return how many bytes were written; None = the drive has the file already."""
    content = _read(source)
    if destination.exists() and hashlib.sha256(_read(destination)).digest() == hashlib.sha256(content).digest():
        return None
    destination.parent.mkdir(parents=True, exist_ok=True)
    write_durably(destination, content, 0o644)
    return len(content)


def _read(path: Path) -> bytes:
    # A drive can hold anything: a link would copy a file of this machine, and reading a FIFO would never end.
    if not stat.S_ISREG(path.lstat().st_mode):
        raise DocumentInvalid(f"{path} is not a regular file")
    with path.open("rb") as file:
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise DocumentInvalid(f"{path} has more than {FILE_BYTES_MAX} bytes")
    return content


def _count_were(count: int) -> str:
    return f"{count} {'was' if count == 1 else 'were'}"
