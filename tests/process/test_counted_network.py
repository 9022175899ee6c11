"""A namespace in which a process can send nothing uncounted: the proof behind 'serve opens no connection'."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.attacking import leaving
from tests.support.counted_network import CountedNetwork, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
SERVER = """
import socket, sys
with socket.create_server(("10.213.0.2", 9443)) as server:
    print("ready", flush=True)
    server.accept()[0].sendall(b"an answer")
"""
CLIENT = "import socket; print(socket.create_connection(('10.213.0.2', 9443), 5).recv(100).decode())"


@pytest.mark.parametrize("what", leaving.PROBES)
def test_an_attempt_is_counted(what: str) -> None:
    """A connection, a datagram, and a connection that stays on the machine."""
    with CountedNetwork(9443) as network:
        attempt = f"import socket; {leaving.PROBES[what]}"
        subprocess.run([*network.inside, sys.executable, "-c", attempt], check=True, timeout=30)
        assert network.attempts() > 0


def test_an_answer_is_not_counted() -> None:
    """What a listener sends to somebody who has called it from outside."""
    with CountedNetwork(9443) as network:
        command = [*network.inside, sys.executable, "-c", SERVER]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert "ready\n" == server.stdout.readline()
            called = [*network.outside, sys.executable, "-c", CLIENT]
            said = subprocess.run(called, check=True, capture_output=True, text=True, timeout=30).stdout
        assert ("an answer\n", 0) == (said, network.attempts())


@pytest.mark.release
def test_serve_and_its_children_send_nothing() -> None:
    """All runtimes, load, install, an update, kills: no packet leaves that is no answer."""
    bars = {bar.bar: bar for bar in leaving.measure(seconds=8)}
    assert [] == [bar for bar in bars.values() if not bar.ok]
