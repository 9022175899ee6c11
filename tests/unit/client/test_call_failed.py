"""Errors of a failed connection: gRPC's messages, recorded on Linux, and the explanations that replace them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import grpc
import pytest

from edge_agent.client.call_failed import CallFailed, call_failed, explain_connection, start_remedy

FAILED = "failed to connect to all addresses; last error: "
LOOKED_UP = "errors resolving shop.lan:9443: [field:hostname lookup error:address lookup failed for shop.lan:9443: "
UNIT = "etc/systemd/system/edge-agent.service"


@pytest.mark.parametrize(
    ("details", "cause", "meaning", "remedy"),
    [
        (f"{LOOKED_UP}Domain name not found]", "name_unknown", "the name shop.lan does not exist", "spelling"),
        (f"{LOOKED_UP}Could not contact DNS servers]", "name_server_silent", "no name server answers", "ip -brief"),
        (
            f"{FAILED}FAILED_PRECONDITION: ipv4:10.1.1.1:9443: connect failed: addr: x error: Network is unreachable",
            "no_network",
            "this machine has no network that leads to shop.lan",
            "Is the cable in",
        ),
        (
            f"{FAILED}FAILED_PRECONDITION: ipv4:10.9.1.1:9443: connect failed: addr: x error: No route to host",
            "no_route",
            "no machine answers for shop.lan",
            "switched on",
        ),
        (
            f"{FAILED}UNKNOWN: ipv4:127.0.0.1:9443: Failed to connect to remote host: Connection refused",
            "refused",
            "no program listens on port 9443",
            "service.tcp_address",
        ),
        (
            f"{FAILED}UNKNOWN: ipv4:127.0.0.1:9443: connection attempt timed out before receiving SETTINGS frame",
            "silent",
            "accepted the connection and then said nothing",
            "that daemon hangs",
        ),
        (f"{FAILED}UNKNOWN: ipv4:1.2.3.4:9443: tcp handshaker shutdown", "timed_out", "in time", "A firewall"),
        ("Received http2 header with status: 404", "other_program", "another program answers", "host and port"),
        ("something new", "other", "", "service.tcp_address"),
    ],
)
def test_each_network_fault_has_its_own_explanation(details: str, cause: str, meaning: str, remedy: str) -> None:
    """An unknown name, a silent name server, no network, a machine that is off, a closed port and a firewall have
    different explanations and remedies."""
    found = explain_connection(details, "shop.lan:9443")
    assert cause == found.cause
    assert meaning in found.meaning
    assert remedy in found.remedy
    assert "{" not in found.meaning + found.remedy


class ConnectionRefused(grpc.RpcError):
    """gRPC's error for a connection to which nobody listens."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "Failed to connect to remote host: Connection refused"

    def trailing_metadata(self) -> tuple[()]:
        return ()


def test_host_named_unix_is_not_taken_for_a_socket() -> None:
    """A host called unix-till is on the network; only 'unix:' and 'unix-abstract:' are sockets of this machine."""
    remote, local = (
        call_failed(ConnectionRefused(), "unix-till.lan:9443", 10),
        call_failed(ConnectionRefused(), "unix:/x/x.sock", 10),
    )
    assert ("refused", True) == (remote.metadata.get("cause"), "service.tcp_address" in remote.remedy)
    assert (None, True) == (local.metadata.get("cause"), "'edge-agent serve' starts it" in local.remedy)


@pytest.mark.parametrize("target", ["[::1]:9", "dns:///[::1]:9"])
def test_ipv6_address_is_printed_without_brackets(target: str) -> None:
    """The remedy prints the host of an IPv6 address without brackets, as 'ping' accepts it."""
    assert "'ping ::1'" in explain_connection("No route to host", target).remedy


@pytest.mark.parametrize(
    ("socket_path", "installed", "command"),
    [
        ("/run/edge-agent/admin.sock", ["run/systemd/system/", UNIT], "'sudo systemctl start edge-agent'"),
        ("/run/edge-agent/admin.sock", ["run/systemd/system/"], "'edge-agent serve'"),
        ("/run/edge-agent/admin.sock", [UNIT], "'edge-agent serve'"),
        ("/home/kim/trial/admin.sock", ["run/systemd/system/", UNIT], "'edge-agent serve'"),
    ],
)
def test_remedy_starts_the_daemon_as_this_machine_runs_it(
    tmp_path: Path, socket_path: str, installed: list[str], command: str
) -> None:
    """The remedy names systemctl if systemd runs and has the unit of this socket, otherwise 'edge-agent serve'."""
    for name in installed:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    assert f"Is edge-agent running? {command} starts it" in start_remedy(socket_path, tmp_path)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda failed: pickle.loads(pickle.dumps(failed))])
def test_failed_call_can_be_copied_and_pickled(again):
    """A CallFailed can be copied and pickled with all its values: multiprocessing.Pool hangs on an exception that it
    cannot unpickle, and ProcessPoolExecutor breaks."""
    failed = CallFailed("UNAVAILABLE", "UNREACHABLE", "no daemon", remedy="Start it.", metadata={"target": "unix:/x"})
    failed.retry_after_seconds, failed.request_id, failed.tries, failed.is_answer = 2.5, "r-1", 3, True
    failed.give_up("0.1 s are left")
    assert (vars(failed), str(failed)) == (vars(again(failed)), str(again(failed)))
