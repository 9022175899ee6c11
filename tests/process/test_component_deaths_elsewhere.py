"""The uplink and the console while components of them die: each runs as a process, with an exception thrown into each
component."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually_sync
from tests.support.free_ports import free_port

WAIT_SECONDS_MAX = 60.0
TOLD = (0, -signal.SIGTERM)  # uvicorn raises the signal again when it has ended
AROUND = """
import sys
from pathlib import Path
from edge_agent.config import Config

def around(component):
    async def broken():
        raise ZeroDivisionError("thrown in")
    print(component.name, component.policy.value, flush=True)
    return broken if component.name == sys.argv[2] else component.run

config = Config.model_validate_json(sys.argv[1])
"""
UPLINK = f"""{AROUND}
from edge_agent.uplink.uplink_daemon import uplink
sys.exit(uplink(config, once=False, wrap=around))
"""
CONSOLE = f"""{AROUND}
from edge_agent import logs
from edge_agent.web import console_server
from edge_agent.web.daemon_access import DaemonEndpoint
ways = {{"admin": DaemonEndpoint(f"unix:{{config.admin_socket}}")}}
settings = console_server.ConsoleSettings(config.web, ways, {{}}, Path(config.web.token_file))
logs.configure(config.log)
sys.exit(console_server.serve_console(settings, lambda _: None, around))
"""


class DyingDaemon:
    """A daemon as a process; one of its components dies at each start."""

    def __init__(self, folder: Path, script: str, settings: dict[str, Any], dying: str = "") -> None:
        self.out, self.log = folder / f"out-{dying}", folder / f"log-{dying}"
        environment = {**os.environ, "WATCHDOG_USEC": "60000000"}
        with self.out.open("wb") as out, self.log.open("wb") as log:
            command = [sys.executable, "-c", script, json.dumps(settings), dying]
            self.process = subprocess.Popen(command, stdout=out, stderr=log, env=environment)

    @property
    def begun(self) -> list[tuple[str, str]]:
        """Return the components that have started, with their policies."""
        return [tuple(line.split()) for line in self.out.read_text().splitlines() if line.count(" ") == 1]

    def await_begun(self, count: int) -> list[tuple[str, str]]:
        """Wait until this many components have started."""
        eventually_sync(lambda: len(self.begun) >= count or self.process.poll() is not None, WAIT_SECONDS_MAX)
        assert len(self.begun) >= count, self.log.read_text()
        return self.begun

    def end(self) -> int:
        """Stop the process; return its exit code."""
        self.process.terminate()
        return self.process.wait(WAIT_SECONDS_MAX)


def uplink_settings(folder: Path) -> dict[str, Any]:
    for name in ("outbox", "receipts", "notes", "store"):
        (folder / name).mkdir()
    return {
        "site": {"id": "site-1", "outbox_dir": str(folder / "outbox"), "receipts_dir": str(folder / "receipts")},
        "uplink": {"url": str(folder / "store"), "notes_dir": str(folder / "notes")},
        "escalation": {"url": "http://127.0.0.1:9", "model": "m", "tasks": ["t"], "socket": str(folder / "e.sock")},
        "log": {"format": "json"},
    }


def console_settings(folder: Path) -> dict[str, Any]:
    web = {"address": f"127.0.0.1:{free_port()}", "token_file": str(folder / "token")}
    return {"run_dir": str(folder), "web": web, "log": {"format": "json"}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "settings_of", "count"), [(UPLINK, uplink_settings, 3), (CONSOLE, console_settings, 2)]
)
def test_dead_component_restarts_or_stops_the_process(tmp_path, script, settings_of, count):
    """The death of each component is logged with its traceback; by its policy the component restarts after a pause or
    the process exits with 1."""
    settings = settings_of(tmp_path)
    well = DyingDaemon(tmp_path, script, settings)
    components = dict(well.await_begun(count))
    assert well.end() in TOLD, well.log.read_text()
    for name, policy in components.items():
        running = DyingDaemon(tmp_path, script, settings, name)
        if policy == "restart":
            eventually_sync(lambda: running.begun.count((name, policy)) >= 2, WAIT_SECONDS_MAX)  # noqa: B023 - awaited here
            assert running.process.poll() is None, running.log.read_text()
            assert running.end() in TOLD, name
        else:
            assert 1 == running.process.wait(WAIT_SECONDS_MAX), running.log.read_text()
        log = running.log.read_text()
        assert "component_died" in log, name
        assert "ZeroDivisionError: thrown in" in log, name
