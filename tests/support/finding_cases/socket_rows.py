"""Rows of sockets, their groups, and ports."""

from __future__ import annotations

import secrets
import socket
import subprocess
from pathlib import Path

from tests.support.eventually import eventually_sync
from tests.support.finding_cases.case import made
from tests.support.finding_cases.site import FaultySite
from tests.support.free_ports import free_port

GROUP = f"ea-{secrets.token_hex(4)}"


def _inference(site: FaultySite) -> Path:
    return site.daemon.run_dir / "inference.sock"


@made("socket/fault/does-not-exist")
def socket_removed(site: FaultySite) -> None:
    """Somebody removed a socket of a daemon that runs."""
    _inference(site).unlink()


@made("socket/fault/is-not-a-socket")
def file_in_place_of_the_socket(site: FaultySite) -> None:
    """A file has the socket's name."""
    _inference(site).unlink()
    _inference(site).write_text("x")


@made("socket/fault/exists-but-no-process-listens-the-daemon-was-killed", with_it=("daemon",))
def killed_with_its_sockets(site: FaultySite) -> None:
    """The daemon was killed, and its sockets stayed."""
    site.daemon.kill()


@made("socket/warning/expected")
def socket_for_everybody(site: FaultySite) -> None:
    """Somebody let every user in."""
    _inference(site).chmod(0o666)


@made(
    "socket-group/fault/group-of-does-not-exist-the-daemon-does-not-start",
    with_it=("socket",),
    words={"USER": "nobody"},
)
def group_missing(site: FaultySite) -> None:
    """agent.yaml names a group that nobody made."""
    site.ends.callback(subprocess.run, ["groupdel", GROUP], check=False, capture_output=True)
    site.edit(service={"inference_group": GROUP})


@made("socket-group/note/group-has-no-members-only-root-can-use", words={"USER": "nobody"})
def group_without_members(site: FaultySite) -> None:
    """The group of the socket has nobody in it."""
    site.ends.callback(subprocess.run, ["groupdel", GROUP], check=False, capture_output=True)
    subprocess.run(["groupadd", "--system", GROUP], check=True)
    site.edit(service={"inference_group": GROUP})
    site.restart()


def _without_metrics(site: FaultySite) -> None:
    site.edit(metrics={"address": ""})


def _busy(site: FaultySite, port: int) -> None:
    listener = site.ends.enter_context(socket.socket())
    listener.bind(("127.0.0.1", port))
    listener.listen()


@made("port/fault/is-in-use-by", by_hand=_without_metrics)
def port_in_use(site: FaultySite) -> None:
    """Another program has the port."""
    port = free_port()
    _busy(site, port)
    site.edit(metrics={"address": f"127.0.0.1:{port}"})


def _without_tcp(site: FaultySite) -> None:
    site.edit(service={"tcp_address": None, "insecure": None})
    site.restart()


@made(
    "port/fault/is-not-an-address-of-this-machine-the-daemon-cannot-listen-on-it",
    with_it=("plain-tcp",),
    by_hand=_without_tcp,
)
def foreign_address(site: FaultySite) -> None:
    """agent.yaml names the address of another machine."""
    site.edit(service={"tcp_address": f"192.0.2.7:{free_port()}", "insecure": True})


@made("plain-tcp/warning/seen", with_it=("daemon-warnings",), by_hand=_without_tcp)
def tcp_without_tls(site: FaultySite) -> None:
    """agent.yaml opens a port without certificates."""
    site.edit(service={"tcp_address": f"127.0.0.1:{free_port()}", "insecure": True})
    site.restart()


@made("port/warning/is-not-open-though-the-daemon-runs")
def port_named_later(site: FaultySite) -> None:
    """agent.yaml names a port since the daemon started, as after a restored copy of the file."""
    site.edit(metrics={"address": f"127.0.0.1:{free_port()}"})
    eventually_sync(lambda: any(each["check"] == "port" for each in site.findings()))


@made("daemon-warnings/warning/warning-message", with_it=("plain-tcp",), by_hand=_without_tcp)
def warned_of_tcp_without_tls(site: FaultySite) -> None:
    """The daemon itself warns of a port without certificates, and says what to do."""
    tcp_without_tls(site)
