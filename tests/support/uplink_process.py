"""The command `edge-agent serve uplink` as a process, on a site's exchange directories.

process = UplinkProcess(UplinkCase(folder, url), url)
code, said = process.once()
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import yaml

from tests.support.command_result import measured
from tests.support.uplink_cases import SITE, UplinkCase

# What a month without a way leaves behind: 1 GiB.
BACKLOG_SEGMENTS, BACKLOG_BYTES_EACH = 256, 4 * 2**20
RESIDENT_BYTES_MAX = 128 * 2**20


class StartedProcess(subprocess.Popen[str]):
    """A process that ends with the `with` statement that it stands in: killed if the test has failed by then."""

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        """Wait for it, as Popen does, but not for one that nobody stops any more."""
        if kind is not None:
            self.kill()
        super().__exit__(kind, value, traceback)


class UplinkProcess:
    """A site's configuration, and the uplink as a process on it."""

    def __init__(self, case: UplinkCase, url: str, incoming: str = "", **settings: Any) -> None:
        self.case = case
        self.environment = dict(os.environ)
        self.path = case.folder / "agent.yaml"
        section = {"url": url, "notes_dir": str(case.notes), "scan_seconds": 0.05, **settings}
        site = {"id": SITE, "outbox_dir": str(case.outbox), "receipts_dir": str(case.receipts)}
        plain = {"site": site, "uplink": section, "update": {"incoming_dir": incoming}, "log": {"format": "json"}}
        self.path.write_text(yaml.safe_dump(plain))

    def start(self, *arguments: str, script: str = "", **options: Any) -> StartedProcess:
        """Start it."""
        pipes = {"stderr": subprocess.PIPE, "text": True, "env": self.environment}
        return StartedProcess(self._command(*arguments, script=script), **{**pipes, **options})

    def once(self, script: str = "") -> tuple[int, str]:
        """Run the uplink once; return its exit code and its output."""
        with self.start("--once", script=script) as process:
            said = process.communicate(timeout=120)[1]
        return process.returncode, said

    def once_measured(self) -> tuple[int, int]:
        """Run it once; return its exit code and the most memory that it had resident, in bytes."""
        done = measured(self._command("--once"))
        return done.code, done.resident_bytes

    def _command(self, *arguments: str, script: str = "") -> list[str]:
        program = ["-c", script] if script else ["-m", "edge_agent.cli"]
        return [sys.executable, "-B", *program, "--config", str(self.path), "serve", "uplink", *arguments]
