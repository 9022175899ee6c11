"""A site with a large model: the real serve and the real uplink as processes, and a scripted oracle over HTTP.

with LargeModel(answer) as oracle, EscalatingSite(folder, oracle) as site:
    site.install(echo_bundle(...))
    site.client.classify("pos-intent", ["…"])
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from edge_agent.client import AdminClient, Client
from edge_agent.client import LargeModel as LargeModelState
from tests.support.daemon import STOP_SECONDS_MAX, RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.large_model import KEY, LargeModel

TASK = "pos-intent"


class EscalatingSite:
    """Both daemons on one configuration; `settings` are keys of the section `escalation`."""

    def __init__(
        self, folder: Path, oracle: LargeModel, sections: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        key = folder / "key"
        key.write_text(f"{KEY}\n")
        self.notes = folder / "notes"
        section = {
            "url": oracle.url,
            "model": "oracle-1",
            "credentials_file": str(key),
            "tasks": [TASK],
            "modes": {TASK: "hybrid"},
            # Sockets have short paths.
            "socket": "",
            "retry_seconds_first": 0.05,
            "retry_seconds_max": 0.2,
            # Nothing is asked behind a test's back, unless it is what the test is about.
            "later_questions_max": 0,
            "audit_share": 0,
            **settings,
        }
        self._sections = {"site": {"id": "shop-1"}, "uplink": {"notes_dir": str(self.notes)}, **(sections or {})}
        self.serve = RunningDaemon(folder, escalation=section, **self._sections)
        section["socket"] = str(self.serve.run_dir.with_name(f"{self.serve.run_dir.name}.esc"))
        config = yaml.safe_load((folder / "agent.yaml").read_text())
        config["escalation"] = section
        (folder / "agent.yaml").write_text(yaml.safe_dump(config))
        self.uplink: subprocess.Popen[bytes] | None = None
        self.uplink_inside: list[str] = []
        """What is put in front of the uplink's command, such as that of a network namespace; serve has its own."""
        self.uplink_log = folder / "uplink.log"
        self._stack = contextlib.ExitStack()

    @property
    def client(self) -> Client:
        """A device's client."""
        return self._client

    @property
    def admin(self) -> AdminClient:
        """The operator's client."""
        return self._admin

    def start_uplink(self, *, online: bool = True) -> None:
        """Start the uplink, and wait until serve reports the large model as available."""
        program = [*self.uplink_inside, sys.executable, "-B", "-m", "edge_agent.cli"]
        command = [*program, "--config", str(self.folder / "agent.yaml"), "serve", "uplink"]
        with self.uplink_log.open("ab") as log:
            self.uplink = subprocess.Popen(command, stdout=log, stderr=log)
        if online:
            self.await_online(True)

    def await_online(self, online: bool) -> None:
        """Wait until serve reports the large model as available or unavailable."""
        eventually_sync(lambda: self.large_model().online is online, seconds=60)

    def await_problem(self, reason: str) -> None:
        """Wait until serve reports this escalation blocker."""
        eventually_sync(lambda: self.large_model().problem_reason == reason, seconds=60)

    def spent_micros(self) -> int:
        """Return the spending that the uplink recorded."""
        return sum(json.loads((self.notes / "spending.json").read_text())["days"].values())

    def large_model(self) -> LargeModelState:
        """Return the large model's part of the status."""
        state = self.admin.status().large_model
        assert state is not None, "no large model is configured"
        return state

    def stop_uplink(self, signum: int = signal.SIGTERM) -> None:
        """End the uplink."""
        assert self.uplink is not None
        self.uplink.send_signal(signum)
        self.uplink.wait(STOP_SECONDS_MAX)

    def __enter__(self) -> Self:
        self._stack.enter_context(self.serve)
        self._client = self._stack.enter_context(self.serve.client())
        self._admin = self._stack.enter_context(self.serve.admin())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.uplink is not None and self.uplink.poll() is None:
            self.stop_uplink()
        self._stack.close()
