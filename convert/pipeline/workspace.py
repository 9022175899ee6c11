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
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from convert.pipeline.stage import Report
from edge_agent.durable import atomic_files
from edge_agent.durable.atomic_files import private_folder
from edge_agent.errors import DiskFull, StateDirInUse

STAGE_NAME = "stage.json"
_LOCK_NAME = ".lock"
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
        """Lock the folder, and remove what an interrupted run left. Raises StateDirInUse, OSError."""
        with (
            private_folder(self.root, marks=(_LOCK_NAME,)),
            (self.root / _LOCK_NAME).open("a+", encoding="utf-8") as lock,
        ):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                said = f"another edge-convert (process {lock.read().strip() or 'unknown'}) is using {self.root}"
                remedy = "Wait until it is done, stop it, or give this recipe another 'work' folder."
                raise StateDirInUse(said, remedy=remedy) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            for left in [
                *self.root.glob(f"{_PARTIAL}*"),
                *self.root.glob("tmp*"),
            ]:  # tmp: of stages, next to their folders
                shutil.rmtree(left, ignore_errors=True)
            yield

    def folder(self, stage: str) -> Path:
        """Return the folder of a finished stage."""
        return self.root / stage

    def record(self, stage: str) -> StageRecord | None:
        """Return the record of a stage, or None if it is not finished."""
        try:
            plain = json.loads((self.folder(stage) / STAGE_NAME).read_bytes())
            return StageRecord(**plain)
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None

    def keep(self, record: StageRecord, made: Path) -> None:
        """Move a folder to the place of its stage in one step. Raises OSError."""
        text = json.dumps(asdict(record), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        with (made / STAGE_NAME).open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _sync_tree(made)
        target = self.folder(record.stage)
        if target.exists():
            target.rename(tempfile.mkdtemp(prefix=_PARTIAL, dir=self.root))
        made.rename(target)
        atomic_files.sync_directory(self.root)

    def publish(self, made: Path) -> None:
        """Move the files of a report to the top of the folder, in place of those of an earlier run. Raises OSError."""
        for old in self.root.glob("*.png"):
            old.unlink()
        for path in sorted(made.iterdir()):
            path.replace(self.root / path.name)

    def staging(self, stage: str) -> StagingFolder:
        """Return a folder to work in, which is gone afterwards unless `keep` took it."""
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
        for left in self._root.glob(f"{_PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)
        if full:
            said = f"the disk of {self._root} became full in stage {self._stage} ({free} bytes are free)"
            raise DiskFull(said, remedy=_DISK_REMEDY) from error


def _is_full(error: BaseException, root: Path) -> bool:
    """Return whether a full disk is the cause: libraries hide the errno behind errors of their own."""
    if not isinstance(error, Exception):
        return False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or shutil.disk_usage(root).free < _FREE_BYTES_MIN


def _sync_tree(folder: Path) -> None:
    for path, _, names in os.walk(folder):
        for name in names:
            atomic_files.sync_file(Path(path, name))
        atomic_files.sync_directory(Path(path))
