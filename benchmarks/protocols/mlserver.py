"""MLServer with a model that computes nothing, in its default way: one worker process, which gets every request."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import environments
from tests.support.free_ports import free_port

START_SECONDS_MAX = 120.0
POLL_SECONDS = 0.2


class MlServer:
    """Started and ready inside the block."""

    def __init__(self, folder: Path) -> None:
        """Write its settings."""
        folder.mkdir(parents=True)
        self._folder = folder
        self._http, grpc_port, metrics = free_port(), free_port(), free_port()
        self.target = f"localhost:{grpc_port}"
        settings = {"host": "127.0.0.1", "http_port": self._http, "grpc_port": grpc_port, "metrics_port": metrics}
        (folder / "settings.json").write_text(json.dumps({**settings, "debug": False}))
        model = {"name": "null", "implementation": "null_model.NullModel"}
        (folder / "model-settings.json").write_text(json.dumps(model))
        (folder / "null_model.py").write_text((environments.CLIENTS / "null_model.py").read_text())

    def __enter__(self) -> Self:
        """Start it, and wait until it is ready."""
        python = str(environments.interpreter("mlserver"))
        log = (self._folder / "log").open("wb")
        # One thread wherever a library would take more: the daemon's engine has one, too.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [python, "-c", "from mlserver.cli.main import main; main()", "start", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, env=environment)  # noqa: S603 - pinned
        until = time.monotonic() + START_SECONDS_MAX
        while not self._ready():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < until, (self._folder / "log").read_text()
            time.sleep(POLL_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Its first process."""
        return self._process.pid

    def _ready(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self._http}/v2/models/null/ready"
            with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - on loopback
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
