"""The prototype as the benchmark uses it: started in a `with` block, called over its Unix socket like the daemon."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self


class Prototype:
    """A running server.py with its child."""

    def __init__(self, folder: Path) -> None:
        """Note the bundle directory."""
        self._folder = folder
        self._run_dir = tempfile.TemporaryDirectory(prefix="ea-", dir="/tmp")  # socket paths are short
        self.target = f"unix:{self._run_dir.name}/prototype.sock"

    def __enter__(self) -> Self:
        """Start, and wait until it listens."""
        command = [sys.executable, "-m", "benchmarks.bare.server", self.target, str(self._folder)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe)  # noqa: S603 - our own module
        assert self._process.stdout is not None
        self._process.stdout.readline()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self._process.communicate()
        self._run_dir.cleanup()
