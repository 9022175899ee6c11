"""TCP ports for servers that a test starts."""

from __future__ import annotations

import itertools
import os
import socket

FIRST, EACH, WORKERS = 20_000, 1_500, 8
"""Below the ports that Linux gives to clients, 32768 and up: a connection of another test may take one of those
before the server does, which needs seconds to start. Each worker has its own."""
_numbers = itertools.count(37 * os.getpid())


def free_port() -> int:
    """Return a free port, a different one each time. Raises AssertionError if there is none."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    for number in itertools.islice(_numbers, EACH):
        port = FIRST + worker * EACH + number % EACH
        if _can_be_bound(port):
            return port
    raise AssertionError(f"all {EACH} ports of this worker are taken")


def _can_be_bound(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
