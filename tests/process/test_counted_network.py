"""A network namespace that counts every packet of a process: the evidence for the statement that 'serve opens no
connection'."""

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
def test_connection_attempt_is_counted(what: str) -> None:
    """The namespace counts an outgoing connection, an outgoing datagram and a connection on the same machine."""
    with CountedNetwork(9443) as network:
        attempt = f"import socket; {leaving.PROBES[what]}"
        subprocess.run([*network.inside, sys.executable, "-c", attempt], check=True, timeout=30)
        assert network.attempts() > 0


def test_answer_to_an_incoming_connection_is_not_counted() -> None:
    """The namespace does not count packets that a listener sends to a client that connected from outside."""
    with CountedNetwork(9443) as network:
        command = [*network.inside, sys.executable, "-c", SERVER]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert "ready\n" == server.stdout.readline()
            called = [*network.outside, sys.executable, "-c", CLIENT]
            said = subprocess.run(called, check=True, capture_output=True, text=True, timeout=30).stdout
        assert ("an answer\n", 0) == (said, network.attempts())


@pytest.mark.release
def test_serve_and_its_children_open_no_connection() -> None:
    """With all runtimes, under load, during an install, an update and kills, `serve` and its children send no packet
    except answers."""
    bars = {bar.bar: bar for bar in leaving.measure(seconds=8)}
    assert [] == [bar for bar in bars.values() if not bar.ok]
