"""The readiness protocol, heard at a real socket."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.systemd import notify


@pytest.fixture(params=["path", "abstract"])
def heard(request, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Listen where systemd would; return the address as the environment names it, and the socket."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0", 1))
        listening.settimeout(10)
        yield address, listening


def test_states_arrive(heard):
    """Each state arrives as one datagram, at a path and at an abstract address."""
    address, listening = heard
    for state in ("READY=1", "STATUS=1 task is loading\nWATCHDOG=1", "STATUS=größer"):
        assert notify(state, {"NOTIFY_SOCKET": address})
        assert state.encode() == listening.recv(4096)


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
def test_outside_systemd_nothing_is_said(environ):
    """Without a socket in the environment nothing is sent."""
    assert not notify("READY=1", environ)


@pytest.mark.parametrize("name", ["missing", "x" * 200])
def test_nobody_listening_is_no_error(tmp_path, name):
    """A socket that is gone, or an address that cannot be one, is said and not raised."""
    assert not notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / name)})
