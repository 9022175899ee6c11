"""A daemon that is started by hand has room for its callers, as one that systemd starts."""

from __future__ import annotations

import re
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon

SHELL, CONNECTIONS = 256, 300


@pytest.fixture
def shell() -> Iterator[None]:
    """A low limit, which processes started from here inherit and may raise again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (SHELL, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def limit_of(pid: int) -> int:
    limits = Path(f"/proc/{pid}/limits").read_text()
    return int(re.findall(r"Max open files +(\d+)", limits)[0])


@pytest.mark.slow
def test_idle_connections_keep_nobody_out(tmp_path: Path, shell: None) -> None:
    """More of them than a shell's limit: the operator gets in, and others do."""
    with RunningDaemon(tmp_path, access={"connections_max": CONNECTIONS}) as daemon:
        assert daemon.process is not None
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert (SHELL, 4 * CONNECTIONS + 512) == (soft, limit_of(daemon.process.pid))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
        idle = [socket.socket(socket.AF_UNIX) for _ in range(CONNECTIONS - 10)]
        for each in idle:
            each.connect(daemon.inference.removeprefix("unix:"))
        with daemon.client() as client, daemon.admin() as admin:
            assert client.serving()
            assert admin.status().serving
        for each in idle:
            each.close()


@pytest.mark.slow
def test_a_hard_limit_that_is_too_low_is_said(tmp_path: Path, shell: None) -> None:
    """The daemon serves with what it has, and its log has the numbers."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard > 4 * 100_000:
        pytest.skip("this machine gives more than any daemon needs")
    with RunningDaemon(tmp_path, access={"connections_max": 100_000}) as daemon:
        assert daemon.process is not None
        assert hard == limit_of(daemon.process.pid)
    assert "descriptors_short" in daemon.log.read_text()
