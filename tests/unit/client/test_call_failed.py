"""Why no daemon was reached: the sentences of gRPC, as it wrote them on Linux, and what a reader gets instead."""

from __future__ import annotations

import pytest

from edge_agent.client.call_failed import explain_connection

FAILED = "failed to connect to all addresses; last error: "
LOOKED_UP = "errors resolving shop.lan:9443: [field:hostname lookup error:address lookup failed for shop.lan:9443: "


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
def test_each_fault_of_the_network_has_its_own_sentence(details: str, cause: str, meaning: str, remedy: str) -> None:
    """A wrong name, a silent name server, no network, a machine that is off, a closed port and a firewall differ."""
    found = explain_connection(details, "shop.lan:9443")
    assert cause == found.cause
    assert meaning in found.meaning
    assert remedy in found.remedy
    assert "{" not in found.meaning + found.remedy


@pytest.mark.parametrize("target", ["[::1]:9", "dns:///[::1]:9"])
def test_an_address_is_named_without_its_brackets(target: str) -> None:
    """The host of an IPv6 address stands as 'ping' takes it."""
    assert "'ping ::1'" in explain_connection("No route to host", target).remedy
