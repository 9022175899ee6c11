"""The prototype as the benchmark uses it: started in a `with` block, called over its Unix socket."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc.aio

from benchmarks.bare.server import METHOD, SERVICE


class Prototype:
    """A running server.py with its child."""

    def __init__(self, folder: Path) -> None:
        """Note the bundle directory."""
        self._folder = folder
        self._run_dir = tempfile.TemporaryDirectory(prefix="ea-", dir="/tmp")  # socket paths are short
        self._address = f"unix:{self._run_dir.name}/prototype.sock"

    def __enter__(self) -> Self:
        """Start; a call waits until it listens."""
        command = [sys.executable, "-m", "benchmarks.bare.server", self._address, str(self._folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - our own module
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self._process.communicate()
        self._run_dir.cleanup()

    def channel(self) -> grpc.aio.Channel:
        """Open a connection."""
        return grpc.aio.insecure_channel(self._address)


def classify_of(channel: grpc.aio.Channel) -> Any:
    """Return the call: text in UTF-8 in, msgpack out."""
    return channel.unary_unary(f"/{SERVICE}/{METHOD}", None, None)
