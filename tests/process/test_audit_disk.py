"""The audit log on a disk that fails at one system call, in a separate process under strace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.server.audit_log import FILE_NAME, OLDER_NAME
from tests.support.strace import failed_at, needs_strace

LINES = 4
# Each line is longer than half of the limit, so each is in a new file, in place of the one before.
PROGRAM = f"""
import asyncio, json, sys
from pathlib import Path
from edge_agent.server.audit_log import AuditLog
from edge_agent.server.roles import Caller
from edge_agent.v1 import admin_pb2

async def main():
    log, problems = AuditLog(Path(sys.argv[1]), 300), []
    for number in range({LINES}):
        request = admin_pb2.RemoveBundleRequest(task=str(number))
        await log.record_change(Caller("boss", frozenset()), "RemoveBundle", "OK", request)
        problems.append(log.problem)
    await log.close()
    print(json.dumps(problems))

asyncio.run(main())
"""


@needs_strace
@pytest.mark.parametrize(("call", "error"), [("openat", "EMFILE"), ("fdatasync", "EIO"), ("write", "ENOSPC")])
def test_audit_log_reports_the_failed_call_and_continues(tmp_path: Path, call: str, error: str) -> None:
    """If opening, writing or syncing a file fails, `AuditLog.problem` holds the path and the reason, and later lines
    are written to the log."""
    said = {"EMFILE": "Too many open files", "EIO": "Input/output error", "ENOSPC": "No space left on device"}[error]
    path = tmp_path / FILE_NAME
    tracer = [*failed_at(call, 2, error), "-P", str(path)]
    command = [*tracer, sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    problems = json.loads(done.stdout.splitlines()[-1])
    assert ["", f"{path} cannot be written: {said}", "", ""] == problems
    newest = "".join((tmp_path / name).read_text() for name in (OLDER_NAME, FILE_NAME))
    assert ["2", "3"] == [json.loads(line)["task"] for line in newest.splitlines()]
