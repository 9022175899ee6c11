"""A site of a central team: the daemon and its uplink as real processes that share only their folders.

with FleetSite(tmp_path / "site", central team) as site:
    central.plan(central.offering(central.publish(bundle)))
    site.until("2.0.0")
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge_agent.client import CallFailed, Classification, TaskUpdate, UpdatesStatus
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.examples import RECIPIENT
from tests.support.fleet_cases import CentralTeam

TASK, SITE = "pos-intent", "shop-1"
LOOK_SECONDS = 0.2
SETTLED_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 60.0
UPLINK = {
    "updates_seconds": LOOK_SECONDS,
    "scan_seconds": LOOK_SECONDS,
    "heartbeat_seconds": LOOK_SECONDS,
    "retry_seconds_first": LOOK_SECONDS,
    "retry_seconds_max": LOOK_SECONDS,
    "disk_reserve_bytes": 0,
}


class FleetSite:
    """Starts the daemon in the block, and the uplink unless `uplinked` is false. `store` gets the site's status."""

    def __init__(self, folder: Path, central: CentralTeam, *, uplinked: bool = True, **settings: Any) -> None:
        """Note what to start; `settings` are sections of agent.yaml."""
        self.folder, self.uplinked = folder, uplinked
        self.store = folder / "store"
        self.store.mkdir(parents=True, exist_ok=True)
        anchor = folder / "root.json"
        anchor.write_bytes(central.root_bytes)
        given: dict[str, dict[str, Any]] = {
            "store": {"allow_unsigned": False},
            "site": {"id": SITE, "recipients": [RECIPIENT]},
            "update": {"root_file": str(anchor), "check_seconds": LOOK_SECONDS},
            "uplink": {"url": str(self.store), "updates_url": str(central.folder), **UPLINK},
        }
        sections = {name: {**given.get(name, {}), **settings.get(name, {})} for name in {**given, **settings}}
        self.daemon = RunningDaemon(folder, **sections)
        self.incoming = self.daemon.state_dir / "incoming"
        self._uplink: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start."""
        self.daemon.__enter__()
        if self.uplinked:
            self.start_uplink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End both."""
        self.stop_uplink()
        self.daemon.__exit__(kind, error, trace)

    # --- processes ---

    def start_uplink(self, *tracer: str) -> subprocess.Popen[bytes]:
        """Start the other daemon, under a tracer if one is given."""
        with (self.folder / "uplink.log").open("ab") as log:
            # -D: strace is the grandchild, so that signals to our child reach the uplink.
            command = [*tracer[:1], *(["-D"] if tracer else []), *tracer[1:], *self.daemon.command(), "serve", "uplink"]
            self._uplink = subprocess.Popen(command, stdout=log, stderr=log, env=self.daemon.environment)
        return self._uplink

    def stop_uplink(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, if it runs."""
        if self._uplink is not None:
            self._uplink.send_signal(how)
            self._uplink.wait(STOP_SECONDS_MAX)
        self._uplink = None

    def restart_uplink(self) -> None:
        """Restart the uplink without a tracer."""
        self.stop_uplink()
        self.start_uplink()

    def revive(self) -> None:
        """Start the daemon again if it has ended."""
        if self.ended():
            self.daemon.start()

    def restart(self) -> None:
        """Start the daemon again, as a technician does when nothing else helps."""
        if not self.ended():
            self.daemon.stop()
        self.daemon.start()

    def ended(self) -> bool:
        """Return whether the daemon has ended."""
        assert self.daemon.process is not None
        return self.daemon.process.poll() is not None

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the operator."""
        command = [*self.daemon.command(), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    # --- what there is to see ---

    def version(self, task: str = TASK) -> str:
        """Return the version that answers a call now; empty = none does."""
        try:
            with self.daemon.client() as client:
                [answer] = client.classify(task, ["refund"], timeout_seconds=10)
        except CallFailed:
            return ""
        return answer.bundle.version if isinstance(answer, Classification) else ""

    def updates(self) -> UpdatesStatus:
        """Return the updates part of the status."""
        with self.daemon.admin() as admin:
            found = admin.status().updates
        assert found is not None
        return found

    def update(self, task: str = TASK) -> TaskUpdate | None:
        """Return the status of a task's update; None = there is none."""
        return next((each for each in self.updates().tasks if each.task == task), None)

    def state(self, task: str = TASK) -> str:
        """Return the state of its update; empty = none, or the daemon is not there."""
        try:
            found = self.update(task)
        except CallFailed:
            return ""
        return found.state.lower() if found else ""

    def problem(self) -> str:
        """Return why the last metadata are not trusted; empty = they are, or the daemon does not run."""
        try:
            return self.updates().problem
        except CallFailed:
            return ""

    # --- waiting ---

    def until(self, version: str, task: str = TASK, seconds: float = SETTLED_SECONDS_MAX) -> None:
        """Wait until a version answers."""
        eventually_sync(lambda: self.version(task) == version, seconds)

    def until_state(self, *states: str, task: str = TASK, seconds: float = SETTLED_SECONDS_MAX) -> None:
        """Wait until the update of a task is in one of these states."""
        eventually_sync(lambda: self.state(task) in states, seconds)


def comes_true(condition: Callable[[], bool], seconds: float = SETTLED_SECONDS_MAX) -> bool:
    """Return whether a condition holds before the deadline."""
    try:
        eventually_sync(condition, seconds)
    except AssertionError:
        return False
    return True
