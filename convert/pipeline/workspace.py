"""The folder for the results of a recipe's stages: used by one process at a time; a stage is stored whole or not at
all.

    build/NAME/
      .lock                 held by the process that works here
      prepare/ finetune/ ...  the results of each stage, with its stage.json
      report.json report.md *.png

A stage works in a hidden folder next to its own. When it is done, that folder gets its stage.json, is synced and
renamed into place. So Ctrl-C, a kill or a power cut at any point leaves the old result, the new one, or none. The next
run removes unfinished work.

The results hold texts of the data, so the folder and everything in it is for its owner alone, whatever the umask.

The inputs of a stage are a flat dict of names to hashes. When one changes, the stage runs again and reports which.
Files are hashed by content, not by path or time, so that a recipe can move and copied data is the same data.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from convert.pipeline.recipe import Recipe, SourceSection
from convert.pipeline.stage import Progress, Report
from edge_agent.durable import atomic_files
from edge_agent.durable.atomic_files import private_folder
from edge_agent.errors import DiskFull, FileMissing, InvalidRequest, StateDirInUse

STAGE_NAME = "stage.json"
_LOCK_NAME = ".lock"
_PLOTS = ("candidates*.png", "reliability*.png", "risk-coverage*.png")
"""The plots of a report; the name of a question follows the name of its plots."""
_PARTIAL = ".partial-"
# If a stage fails and less than this is free, the full disk is the cause.
_FREE_BYTES_MIN = 1024 * 1024
_DISK_REMEDY = (
    "Free some space, or set 'work' in the recipe to a larger disk. The same command then continues from here."
)


@dataclass(frozen=True)
class StageRecord:
    """A finished stage, as stored in stage.json."""

    stage: str
    inputs: dict[str, str]
    """Its inputs: name and hash."""
    seconds: float
    memory_peak_bytes: int
    """Of this process and its children together."""
    report: Report
    output: str = ""
    """Hash of its files and its report; empty = written by version 0.1, which stored none."""


class Workspace:
    """The work folder of a recipe. Use it inside `locked`."""

    def __init__(self, root: Path) -> None:
        """Use this folder; nothing is created yet."""
        self.root = root

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder; remove unfinished work of earlier runs, and at the end of this one. Raises StateDirInUse,
        OSError.
        """
        with (
            private_folder(self.root, marks=(_LOCK_NAME,)),
            (self.root / _LOCK_NAME).open("a+", encoding="utf-8") as lock,
        ):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                message = f"another edge-convert (process {lock.read().strip() or 'unknown'}) is using {self.root}"
                remedy = "Wait until it is done, stop it, or give this recipe another 'work' folder."
                raise StateDirInUse(message, remedy=remedy) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            self._remove_unfinished()
            try:
                yield
            finally:
                self._remove_unfinished()  # Ctrl-C can come while the folder of a stage is made

    def _remove_unfinished(self) -> None:
        for folder in self.root.glob(f"{_PARTIAL}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def require_own(self, stages: Iterable[str]) -> None:
        """Raise InvalidRequest if a folder with a stage's name is not the result of a stage: a run would replace it."""
        for folder in map(self.folder, stages):
            if folder.exists() and not (folder / STAGE_NAME).exists():
                message = f"{folder} has no {STAGE_NAME}, so it is not the result of a stage; a run would replace it"
                remedy = "Name a folder of its own with --work, or as 'work' in the recipe."
                raise InvalidRequest(message, remedy=remedy)

    def folder(self, stage: str) -> Path:
        """Return the folder of a finished stage."""
        return self.root / stage

    def record(self, stage: str) -> StageRecord | None:
        """Return the record of a stage, or None if it is not finished."""
        try:
            return StageRecord(**json.loads((self.folder(stage) / STAGE_NAME).read_bytes()))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None

    def keep(self, record: StageRecord, folder: Path) -> None:
        """Move a folder to the place of its stage in one step. Raises OSError."""
        text = json.dumps(asdict(record), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        with (folder / STAGE_NAME).open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        for path, _, names in os.walk(folder):
            for name in names:
                atomic_files.sync_file(Path(path, name))
            atomic_files.sync_directory(Path(path))
        target = self.folder(record.stage)
        if target.exists():
            target.rename(tempfile.mkdtemp(prefix=_PARTIAL, dir=self.root))
        folder.rename(target)
        atomic_files.sync_directory(self.root)

    def publish(self, folder: Path) -> None:
        """Move the files of a report to the top of the folder, in place of those of an earlier run. Raises OSError."""
        for plots in _PLOTS:
            for old in self.root.glob(plots):
                old.unlink()
        for path in sorted(folder.iterdir()):
            path.replace(self.root / path.name)

    def staging(self, stage: str) -> StagingFolder:
        """Return a folder to work in, which is removed afterwards unless `keep` moved it."""
        return StagingFolder(self.root, stage)


class StagingFolder:
    """A hidden folder for one running stage; turns an error that a full disk caused into DiskFull."""

    def __init__(self, root: Path, stage: str) -> None:
        """Name it."""
        self._root, self._stage = root, stage
        self._path = Path()

    def __enter__(self) -> Path:
        """Make it. Raises OSError."""
        self._path = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{self._stage}-", dir=self._root))
        return self._path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the folder, and an older result that was replaced. Raises DiskFull."""
        full = error is not None and _is_full(error, self._root)
        free = shutil.disk_usage(self._root).free
        for folder in self._root.glob(f"{_PARTIAL}*"):
            shutil.rmtree(folder, ignore_errors=True)
        if full:
            message = f"the disk of {self._root} became full in stage {self._stage} ({free} bytes are free)"
            raise DiskFull(message, remedy=_DISK_REMEDY) from error


def _is_full(error: BaseException, root: Path) -> bool:
    """Return whether a full disk is the cause: libraries hide the errno behind errors of their own."""
    if not isinstance(error, Exception):
        return False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or shutil.disk_usage(root).free < _FREE_BYTES_MIN


_SKIPPED = {".git", "__pycache__", ".cache"}


def fingerprint_text(text: str) -> str:
    """Return the sha256 of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def fingerprint_output(folder: Path, report: Report, progress: Progress) -> str:
    """Return the hash of a stage's results: its files and its report, which later stages read as well."""
    return fingerprint_text(json.dumps([fingerprint_path(folder, progress), report], sort_keys=True))


def fingerprint_path(path: Path, progress: Progress) -> str:
    """Return the hash of a file, or of all files below a directory. Raises FileMissing."""
    if not path.exists():
        raise FileMissing(f"{path} does not exist", remedy="Correct the path in the recipe.")
    if path.is_file():
        return _hash_file(path, progress)
    files = sorted(_files(path))
    return fingerprint_text(json.dumps([[str(file.relative_to(path)), _hash_file(file, progress)] for file in files]))


def fingerprint_source(recipe: Recipe, progress: Progress) -> dict[str, str]:
    """Return the hash of each path that `source` names."""
    return {
        f"source.{key}": fingerprint_path(recipe.path(path), progress)
        for key in SourceSection.model_fields
        if (path := getattr(recipe.source, key))
    }


def library_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the version of each distribution, with a marker for one that is not installed."""
    versions = {}
    for name in distributions:
        try:
            versions[f"version of {name}"] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[f"version of {name}"] = "not installed"
    return versions


def changed_inputs(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return the names of the inputs that have changed."""
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))


def _files(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.is_dir():
            if entry.name not in _SKIPPED:
                yield from _files(entry)
        elif entry.is_file():
            yield entry


def _hash_file(path: Path, progress: Progress) -> str:
    progress(f"reading {path.name}", 0, 0)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
