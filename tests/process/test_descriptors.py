"""File descriptors of a daemon that is started by hand: it serves as many callers as one that systemd starts."""

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
    """Set a low limit of descriptors, which processes inherit and can raise again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (SHELL, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def limit_of(pid: int) -> int:
    limits = Path(f"/proc/{pid}/limits").read_text()
    return int(re.findall(r"Max open files +(\d+)", limits)[0])


@pytest.mark.slow
def test_idle_connections_do_not_lock_callers_out(tmp_path: Path, shell: None) -> None:
    """With more idle connections than the shell's limit of descriptors, a client and the operator can still call the
    daemon."""
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
def test_too_low_hard_limit_is_logged(tmp_path: Path, shell: None) -> None:
    """If the hard limit of descriptors is too low, the daemon serves with it and logs `descriptors_short`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard > 4 * 100_000:
        pytest.skip("this machine gives more than any daemon needs")
    with RunningDaemon(tmp_path, access={"connections_max": 100_000}) as daemon:
        assert daemon.process is not None
        assert hard == limit_of(daemon.process.pid)
    assert "descriptors_short" in daemon.log.read_text()
