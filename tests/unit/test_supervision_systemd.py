"""The sd_notify protocol at a real socket, and signals that stop a daemon."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.supervision import announce_stop, notify_systemd, ping_watchdog, watchdog_seconds


@pytest.fixture(params=["path", "abstract"])
def heard(request, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Listen in place of systemd; return the address as in the environment, and the socket."""
    address = str(tmp_path / "notify_systemd") if request.param == "path" else f"@{tmp_path}/notify_systemd"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0", 1))
        listening.settimeout(10)
        yield address, listening


def test_each_state_arrives_as_one_datagram(heard):
    """States arrive at a path and at an abstract address."""
    address, listening = heard
    for state in ("READY=1", "STATUS=1 task is loading\nWATCHDOG=1", "STATUS=größer"):
        assert notify_systemd(state, {"NOTIFY_SOCKET": address})
        assert state.encode() == listening.recv(4096)


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
def test_nothing_is_sent_without_systemd(environ):
    """Without a socket in the environment nothing is sent."""
    assert not notify_systemd("READY=1", environ)


@pytest.mark.parametrize("name", ["missing", "x" * 200])
def test_missing_notify_socket_raises_nothing(tmp_path, name):
    """A socket that is gone, or an address that cannot be one, is said and not raised."""
    assert not notify_systemd("READY=1", {"NOTIFY_SOCKET": str(tmp_path / name)})


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_watchdog_time_counts_only_for_this_process(environ, seconds):
    """A time counts that is a number and meant for this process."""
    assert seconds == watchdog_seconds(environ)


async def test_watchdog_is_pinged_only_while_everything_works(heard):
    """A check that finds everything working sends one ping, four in the unit's time; others send none."""
    address, listening = heard
    answers, pauses = iter([True, False, True]), []

    def works(pause):
        pauses.append(pause)
        return next(answers)

    with pytest.raises(RuntimeError):  # the third look was the last
        await ping_watchdog(works, {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "40000"})
    assert 4 * [0.01] == pauses
    listening.settimeout(0)
    assert 2 * [b"WATCHDOG=1"] == [listening.recv(100), listening.recv(100)]
    with pytest.raises(BlockingIOError):
        listening.recv(100)


async def test_no_check_without_a_watchdog():
    """Outside a unit with WatchdogSec= no engine is asked anything."""
    await ping_watchdog(lambda _: pytest.fail("it looked"), {})


def test_stop_extends_the_timeout_of_systemd(heard):
    """systemd is told in microseconds how long the stop may take."""
    address, listening = heard
    announce_stop(30.5, {"NOTIFY_SOCKET": address})
    assert [b"STOPPING=1", b"EXTEND_TIMEOUT_USEC=30500000"] == [listening.recv(4096), listening.recv(4096)]


ENDLESS = """
import asyncio
from edge_agent.supervision import stop_on_signals

async def main():
    stop = asyncio.Event()
    stop_on_signals(stop)
    print("ready", flush=True)
    await stop.wait()
    print("stopping", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_stops_gently_and_the_second_at_once(signum):
    """A daemon that hangs while it stops ends at the second signal with exit status 1."""
    with subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        process.send_signal(signum)
        assert "stopping\n" == process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert 1 == process.wait(60)
