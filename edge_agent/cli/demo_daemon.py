"""A daemon for the demo: the real one, on sockets and state of its own in a temporary directory that goes with it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_agent.client import AdminClient, CallFailed, Client
from edge_agent.config import SOCKET_PATH_BYTES_MAX
from edge_agent.errors import EdgeAgentError

START_SECONDS_MAX = 30.0
READY_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 30.0
_PAUSE_SECONDS_MAX = 0.5
_LOG_LINES_SHOWN = 15
# A call that Ctrl-C has torn is not worth the usual wait.
_CONFIG = "store: {allow_unsigned: true}\nlog: {format: json}\nmetrics: {address: ''}\nservice: {drain_seconds: 2}\n"
_RUN_DIR_BYTES_MAX = SOCKET_PATH_BYTES_MAX - len("/inference.sock")


class DemoFailed(EdgeAgentError):
    """The demo's daemon did not do what it should."""

    reason = "DEMO_FAILED"
    remedy_default = "'edge-agent doctor' checks this machine."


class DemoDaemon:
    """A context manager: started at its begin, killed at its end unless `stop` ended it before."""

    def __init__(self) -> None:
        """Make the directory and start the process, without waiting for it."""
        self._folder = tempfile.TemporaryDirectory(prefix="edge-demo-", dir=_short_folder(), ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        (folder / "agent.yaml").write_text(_CONFIG, encoding="utf-8")
        self._log = folder / "daemon.log"
        self._inference = f"unix:{folder}/run/inference.sock"
        self._admin = f"unix:{folder}/run/admin.sock"
        options = ["--config", folder / "agent.yaml", "--state-dir", folder / "state", "--run-dir", folder / "run"]
        with self._log.open("wb") as log:
            # A process group of its own: Ctrl-C reaches the demo alone, which then stops the daemon in order.
            self._process = subprocess.Popen(  # noqa: S603 our own program
                [sys.executable, "-m", "edge_agent.cli", *map(str, options), "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def __enter__(self) -> Self:
        """Use as a block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process, whatever happened, and remove the directory."""
        try:
            self._end()
        finally:
            self._folder.cleanup()

    def client(self) -> Client:
        """Return a device's client."""
        return Client(self._inference)

    def admin(self) -> AdminClient:
        """Return an operator's client."""
        return AdminClient(self._admin)

    def wait_serving(self, client: Client) -> float:
        """Return the seconds until the daemon's health was SERVING. Raises DemoFailed."""
        return self._wait(lambda: client.serving(timeout_seconds=1), "serving", START_SECONDS_MAX)

    def wait_ready(self, client: Client, task: str) -> float:
        """Return the seconds until the task's engine was ready. Raises DemoFailed."""
        return self._wait(lambda: client.task(task).ready, f"ready for {task}", READY_SECONDS_MAX)

    def stop(self) -> float:
        """Send SIGTERM and return the seconds until the process had ended with exit code 0. Raises DemoFailed."""
        started = time.monotonic()
        code = self._end()
        if code != 0:
            raise self._failure(f"the daemon ended with exit code {code}, not 0; its log ends so:")
        return time.monotonic() - started

    def _end(self) -> int:
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            said = f"the daemon did not stop within {STOP_SECONDS_MAX:.0f} s; its log ends so:"
            raise self._failure(said) from None
        finally:  # Also after a second Ctrl-C: nothing of the demo may stay behind.
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def _wait(self, met: Callable[[], bool], what: str, seconds_max: float) -> float:
        started, pause = time.monotonic(), 0.05
        while time.monotonic() - started < seconds_max:
            if self._process.poll() is not None:
                raise self._failure("the daemon ended too early; its log ends so:")
            try:
                if met():
                    return time.monotonic() - started
            except CallFailed as error:
                if error.code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                    raise
            time.sleep(pause)
            pause = min(pause * 1.5, _PAUSE_SECONDS_MAX)
        raise self._failure(f"the daemon was not {what} after {seconds_max:.0f} s; its log ends so:")

    def _failure(self, said: str) -> DemoFailed:
        failure = DemoFailed(said)
        failure.details = tuple(
            self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        )
        return failure


def _short_folder() -> str | None:
    """Return where to make the directory: a long TMPDIR would not leave room for the name of a socket."""
    too_long = len(tempfile.gettempdir().encode()) > _RUN_DIR_BYTES_MAX - len("/edge-demo-xxxxxxxx/run")
    return "/tmp" if too_long else None  # noqa: S108 mkdtemp below it makes a private directory
