"""`edge-agent --remote` without a reachable daemon: each cause has its own message and remedy, and exit code 3."""

from __future__ import annotations

import http.server
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge_agent import certificate_authority
from edge_agent.client import AdminClient, CallFailed, Tls
from tests.support.counted_network import why_not
from tests.support.daemon import RunningDaemon
from tests.support.fake_daemon import FakeDaemon
from tests.support.free_ports import free_port
from tests.support.tls_site import DAY, TlsSite

SITE_FAULT = 3


def status_of(folder: Path, address: str, tls: Tls | None = None, inside: tuple[str, ...] = ()) -> str:
    """Run `edge-agent status --remote` against an address; return its error output."""
    lines = [f"address: '{address}'"]
    if tls:
        lines += [f"ca: {tls.ca}", f"certificate: {tls.certificate}", f"key: {tls.key}"]
    (folder / "remote.yaml").write_text("\n".join(lines))
    command = [*inside, sys.executable, "-m", "edge_agent.cli", "--remote", str(folder), "status"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (SITE_FAULT, "") == (done.returncode, done.stdout), done.stderr
    return done.stderr


@pytest.mark.slow
def test_missing_network_is_distinguished_from_missing_dns(tmp_path: Path) -> None:
    """Without a network the message for an address names the missing network, and the one for a name the missing name
    server; both remedies begin with this machine's network."""
    alone = ("unshare", "--net")
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not make a network namespace (needs root)")
    by_address = status_of(tmp_path, "10.1.1.1:9443", inside=alone)
    by_name = status_of(tmp_path, "shop.example:9443", inside=alone)
    assert "at 10.1.1.1:9443: this machine has no network that leads to 10.1.1.1" in by_address
    assert "the name shop.example cannot be looked up, because no name server answers" in by_name
    assert ["Is the cable in" in by_address, "Is the cable in" in by_name] == [True, True]


HEALTHY = """
import sys
from concurrent.futures import ThreadPoolExecutor
from edge_agent.client import Client
import grpc
from grpc_health.v1 import health, health_pb2_grpc
server = grpc.server(ThreadPoolExecutor(2))
health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
with Client(f"till-3.shop:{port}") as client:
    sys.exit(not client.serving(timeout_seconds=20))
"""


@pytest.mark.slow
def test_name_lookup_uses_etc_hosts_and_all_addresses(tmp_path: Path) -> None:
    """The client resolves a name like the system, with every line of /etc/hosts, and connects to the address that is
    reachable."""
    lines = ("127.0.0.1 localhost", "2001:db8::dead till-3.shop", "127.0.0.1 till-3.shop")
    (tmp_path / "hosts").write_text("".join(f"{line}\n" for line in lines))
    script = 'ip link set lo up && mount --bind "$0" /etc/hosts || exit 77; exec "$@"'
    command = ["unshare", "--net", "--mount", "sh", "-c", script, str(tmp_path / "hosts"), sys.executable, "-c"]
    if not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("needs unshare and ip")
    done = subprocess.run([*command, HEALTHY], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("needs the right to make namespaces and to mount")
    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.slow
def test_closed_port_is_distinguished_from_missing_machine(tmp_path: Path) -> None:
    """When the machine answers but nothing listens on the port, the message reports that, and the remedy names the
    daemon's configuration there."""
    port = free_port()
    said = status_of(tmp_path, f"127.0.0.1:{port}")
    assert f"that machine answers, but no program listens on port {port}" in said
    assert "service.tcp_address" in said


@pytest.fixture
def silent() -> Iterator[str]:
    """A port that accepts connections and sends nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_deadline_before_first_answer_suggests_network_check(silent: str) -> None:
    """When a deadline expires before the client ever had an answer, the remedy suggests a check of the network, not
    more time."""
    with AdminClient(silent) as client, pytest.raises(CallFailed) as caught:
        client.status(timeout_seconds=0.2)
    assert ("DEADLINE_EXPIRED", True) == (caught.value.reason, "and none before" in caught.value.message)
    assert "A firewall in between" in caught.value.remedy


class _WebServer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def test_other_program_on_port_is_identified() -> None:
    """A web server on the port is reported as another program."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _WebServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with AdminClient(f"127.0.0.1:{server.server_port}") as client, pytest.raises(CallFailed) as caught:
            client.status()
        server.shutdown()
    assert ("UNREACHABLE", "other_program") == (caught.value.reason, caught.value.metadata.get("cause")), caught.value


class _SlowLine:
    """Forwards connections to a daemon and delays each piece of data by `seconds`."""

    def __init__(self, target: str, seconds: float) -> None:
        host, _, port = target.rpartition(":")
        self._target, self._seconds = (host, int(port)), seconds
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, goal: socket.socket) -> None:
        waiting = threading.Event()
        try:
            while piece := source.recv(65536):
                waiting.wait(self._seconds)
                goal.sendall(piece)
        except OSError:
            pass
        goal.close()

    def close(self) -> None:
        self._server.close()


@pytest.mark.slow
def test_slow_network_connection_is_made() -> None:
    """A connection succeeds with a delay of a quarter of a second, as over a satellite."""
    with (
        FakeDaemon("127.0.0.1:0") as daemon,
        closing(_SlowLine(daemon.targets[0], 0.25)) as line,
        AdminClient(line.address) as client,
    ):
        assert client.status(timeout_seconds=60).serving


FORGETFUL = """
import subprocess, time
from edge_agent.client import CallFailed, Client
from tests.support.fake_daemon import FakeDaemon

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with FakeDaemon("127.0.0.1:0") as daemon, Client(daemon.targets[0]) as client:
    client.classify("pos-intent", ["x"])
    listed = subprocess.run(["ss", "-tnH", "state", "established"], capture_output=True, text=True, check=True).stdout
    ports = {place.rpartition(":")[2] for line in listed.splitlines() for place in line.split()[-2:]}
    (port,) = ports - {daemon.targets[0].rpartition(":")[2]}
    rules = ("type filter hook input priority 0;", f"tcp sport {port} drop", f"tcp dport {port} drop")
    table = "\\n".join(["table inet firewall {", "chain in {", *rules, "}", "}", ""])
    subprocess.run(["nft", "-f", "-"], input=table, text=True, check=True)
    until, reasons = time.monotonic() + 180, set()
    while time.monotonic() < until:
        try:
            client.classify("pos-intent", ["x"], timeout_seconds=2)
        except CallFailed as failed:
            reasons.add(failed.reason)
        else:
            print("answered after", *sorted(reasons))
            break
"""


@pytest.mark.slow
def test_connection_dropped_by_firewall_is_replaced() -> None:
    """When a firewall silently drops an open connection, the client abandons it, and its calls are answered on a new
    one."""
    if why := why_not():
        pytest.skip(why)
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", FORGETFUL], capture_output=True, text=True, check=False
    )
    assert (0, True) == (done.returncode, done.stdout.startswith("answered after DEADLINE_EXPIRED")), done.stderr


@pytest.mark.slow
def test_certificate_failures_are_distinguished(tmp_path: Path) -> None:
    """The messages distinguish an expired server certificate, one of another authority, and an expired client
    certificate."""
    site = TlsSite(tmp_path / "tls")
    good = site.client("boss", "admin")
    old = site.client("old", "admin", at=time.time() - 100 * DAY)
    with RunningDaemon(tmp_path / "daemon", **site.settings()):
        refused = status_of(tmp_path, site.address, old)
    found = {}
    for name, pair in {
        "expired": site.server(at=time.time() - 100 * DAY),
        "foreign": site.server(issuer=site.foreign),
    }.items():
        certificate_authority.write_pair(pair, site.certificate, site.key, replace=True)
        with RunningDaemon(tmp_path / name, **site.settings()):
            found[name] = status_of(tmp_path, site.address, good)
    assert "does not accept this client's certificate, which expired on" in refused
    assert "the server's certificate has expired, or this machine's clock is wrong" in found["expired"]
    assert "was not issued by the authority in the 'ca' file" in found["foreign"]
