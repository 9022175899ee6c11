"""Whether this machine's uplink can use the folders that are its object stores, as root sees it."""

from __future__ import annotations

import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from edge_agent.config import Config
from edge_agent.config.addresses import store_folder
from edge_agent.config.folder_access import UPLINK_USER, FolderFacts, FolderProblem, judge_folder

_SECONDS_MAX = 10
_BY_TEST = {0: True, 1: False}


def store_folder_problems(config: Config, *, managed: bool) -> Iterator[FolderProblem]:
    """Yield what keeps the uplink from using each folder. The unit counts as one that may write there.

    Args:
        config: the configuration as it will be.
        managed: whether systemd runs the uplink.
    """
    for folder, written in ((config.uplink.url, True), (config.uplink.updates_url, False)):
        path = store_folder(folder)
        problem = judge_folder(_look(path, written=written, managed=managed)) if path else None
        if problem:
            yield problem


def _look(path: Path, *, written: bool, managed: bool) -> FolderFacts:
    try:
        kind = "folder" if path.is_dir() else "other" if path.exists() else ""
        found = path.stat() if kind else None
        shown = f"{path.owner()}:{path.group()} {found.st_mode & 0o7777:04o}" if found else ""
    except (OSError, KeyError):  # KeyError: an owner without a name
        kind, shown = "folder", ""
    return FolderFacts(path, kind, written, managed, _may_use(path, written=written), shown)


def _may_use(path: Path, *, written: bool) -> bool | None:
    """Tell whether the uplink's user has the rights; None = there is no such user, or this one may not try."""
    try:
        pwd.getpwnam(UPLINK_USER)
    except KeyError:
        return None
    rights = ["-r", str(path), "-a", "-x", str(path), *(["-a", "-w", str(path)] if written else [])]
    command = [shutil.which("runuser") or "runuser", "-u", UPLINK_USER, "--", "test", *rights]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS_MAX, check=False)  # noqa: S603 - no shell
    except (OSError, subprocess.SubprocessError):
        return None
    return _BY_TEST.get(done.returncode)
