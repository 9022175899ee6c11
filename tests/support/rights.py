"""What a process without root may do, where the tests run as root; and paths that it cannot look at."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534


@contextmanager
def without_root() -> Iterator[None]:
    """Have this process be as if nobody had started it, for a while, where it is root."""
    is_root = os.geteuid() == 0
    if is_root:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        if is_root:
            os.setresuid(0, 0, 0)


def use_quiet_predicates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `Path.exists`, `is_file` and `is_dir` be False for what cannot be looked at, as from Python 3.14 on."""
    for name, quiet in (("exists", os.path.exists), ("is_file", os.path.isfile), ("is_dir", os.path.isdir)):
        monkeypatch.setattr(Path, name, lambda path, quiet=quiet, **_: quiet(path))


def fail_stat(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Have the disk fail whoever looks at that path."""
    stat = os.stat

    def failing(looked_at: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if looked_at == path or looked_at == str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return stat(looked_at, *arguments, **options)

    monkeypatch.setattr(os, "stat", failing)
