"""The real daemon as a process, for tests and benchmarks: on a state directory of the caller, on sockets of its own.

with RunningDaemon(tmp_path) as daemon, daemon.client() as client:
    daemon.admin().install(str(folder))
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from edge_agent.client import AdminClient, CallFailed, Client

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 60.0
POLL_SECONDS = 0.01


class RunningDaemon:
    """Started and SERVING inside the block; ended by SIGTERM after it. `settings` are sections of agent.yaml."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        """Note what to start."""
        self.state_dir = folder / "state"
        # Socket paths are limited to 107 bytes, and pytest's folders are long.
        self.run_dir = Path("/tmp") / f"ea-{secrets.token_hex(4)}"
        self.log = folder / "daemon.log"
        self._config = folder / "agent.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        store = {"allow_unsigned": True, **settings.pop("store", {})}
        engine = {"tune": False, **settings.pop("engine", {})}  # what is measured differs from run to run
        sections = {"log": {"format": "json"}, "metrics": {"address": ""}, **settings}
        # What the random audit draws differs from run to run: the test of it asks for a share.
        sections["examples"] = {"review_share": 0.0, **sections.get("examples", {})}
        self._config.write_text(yaml.safe_dump({"store": store, "engine": engine, **sections}))
        self.inference = f"unix:{self.run_dir}/inference.sock"
        self.admin_target = f"unix:{self.run_dir}/admin.sock"
        self.environment = dict(os.environ)
        self.python = sys.executable
        self.module = "edge_agent.cli"
        """What is run as the daemon; its other commands are those of edge_agent.cli."""
        self.inside: list[str] = []
        """What is put in front of the command, such as that of a network namespace."""
        self.as_user: list[str] = []
        """What makes the daemon another user, such as setpriv with its options."""
        self.config_named = self._config
        """How the command names agent.yaml, where it has another path inside."""
        self.process: subprocess.Popen[bytes] | None = None
        self.seconds_to_serving = 0.0
        self.start_seconds_max = START_SECONDS_MAX

    def __enter__(self) -> Self:
        """Start, and wait until health says SERVING."""
        try:
            self.start()
        except BaseException:
            if self.process is not None:
                self.kill()  # one that runs on fails the test in which the garbage collector finds it
            shutil.rmtree(self.run_dir, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End, and remove the sockets' folder."""
        try:
            assert self.stop() in (0, -signal.SIGKILL), self.log.read_text()
        finally:
            shutil.rmtree(self.run_dir, ignore_errors=True)

    def command(self) -> list[str]:
        """Return the command line of this daemon."""
        return [*self.inside, *self._program("edge_agent.cli")]

    def _program(self, module: str) -> list[str]:
        places = ["--config", self.config_named, "--state-dir", self.state_dir, "--run-dir", self.run_dir]
        return [self.python, "-m", module, *map(str, places)]

    def start(self, *ready: str) -> None:
        """Start the process and wait until it serves, and until these tasks answer: models load in the background."""
        started = time.monotonic()
        with self.log.open("ab") as log:
            command = [*self.inside, *self.as_user, *self._program(self.module), "serve"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)
        # A client that connects too early backs off, and finds the daemon up to 0.6 s after it serves.
        self._wait(started, (self.run_dir / "inference.sock").exists)
        with self.client() as client:
            self._wait(started, lambda: all(self._serving(client, service) for service in ("", *ready)))
        self.seconds_to_serving = time.monotonic() - started

    def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(STOP_SECONDS_MAX)

    def kill(self) -> None:
        """Send SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def client(self) -> Client:
        """Return a device's client."""
        return Client(self.inference)

    def admin(self) -> AdminClient:
        """Return an operator's client."""
        return AdminClient(self.admin_target)

    def install(self, *bundles: Path) -> None:
        """Install and activate bundles."""
        with self.admin() as admin:
            for bundle in bundles:
                admin.install(str(bundle))

    def _wait(self, started: float, reached: Callable[[], bool]) -> None:
        """Poll until something is reached; fail with the log when the process ends first, or that takes too long."""
        while not reached():
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < started + self.start_seconds_max, self.log.read_text()
            time.sleep(POLL_SECONDS)

    def _serving(self, client: Client, service: str) -> bool:
        try:
            return client.serving(service, timeout_seconds=1)
        except CallFailed:
            return False
