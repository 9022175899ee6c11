"""`edge-agent --remote` where no daemon can be reached: each cause has its own sentence and remedy, and exit code 3."""

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
    """Run `edge-agent status --remote` against an address; return what it wrote about the failure."""
    lines = [f"address: '{address}'"]
    if tls:
        lines += [f"ca: {tls.ca}", f"certificate: {tls.certificate}", f"key: {tls.key}"]
    (folder / "remote.yaml").write_text("\n".join(lines))
    command = [*inside, sys.executable, "-m", "edge_agent.cli", "--remote", str(folder), "status"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (SITE_FAULT, "") == (done.returncode, done.stdout), done.stderr
    return done.stderr


@pytest.mark.slow
def test_without_a_network_a_name_and_an_address_fail_differently(tmp_path: Path) -> None:
    """No network to an address; no name server for a name. Both remedies begin with this machine's own network."""
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
def test_a_name_is_looked_up_as_by_every_program_of_the_machine(tmp_path: Path) -> None:
    """With nsswitch.conf and every line of /etc/hosts: of two addresses the one that leads somewhere is taken."""
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
def test_a_port_where_nothing_listens_is_told_from_a_machine_that_is_off(tmp_path: Path) -> None:
    """The machine answers, so the remedy is about the daemon there."""
    port = free_port()
    said = status_of(tmp_path, f"127.0.0.1:{port}")
    assert f"that machine answers, but no program listens on port {port}" in said
    assert "service.tcp_address" in said


@pytest.fixture
def silent() -> Iterator[str]:
    """A port that takes connections and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_deadline_before_any_answer_asks_whether_the_machine_is_there(silent: str) -> None:
    """A client that never had an answer is told to look at the way there; one that had is told to allow more time."""
    with AdminClient(silent) as client, pytest.raises(CallFailed) as caught:
        client.status(timeout_seconds=0.2)
    assert ("DEADLINE_EXPIRED", True) == (caught.value.reason, "and none before" in caught.value.message)
    assert "A firewall in between" in caught.value.remedy


class _WebServer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def test_another_program_on_the_port_is_said_to_be_one() -> None:
    """A web server does not speak the daemon's protocol."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _WebServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with AdminClient(f"127.0.0.1:{server.server_port}") as client, pytest.raises(CallFailed) as caught:
            client.status()
        server.shutdown()
    assert ("UNREACHABLE", "other_program") == (caught.value.reason, caught.value.metadata.get("cause")), caught.value


class _SlowLine:
    """Passes connections on to a daemon, each piece of data later by `seconds`."""

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
def test_a_daemon_far_away_is_reached() -> None:
    """Where the first answer takes a quarter of a second, as over a satellite, the connection is still made."""
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
def test_a_connection_that_a_firewall_has_forgotten_is_made_again() -> None:
    """What is sent on it gets no answer any more: the client gives it up, and its calls are answered on a new one."""
    if why := why_not():
        pytest.skip(why)
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", FORGETFUL], capture_output=True, text=True, check=False
    )
    assert (0, True) == (done.returncode, done.stdout.startswith("answered after DEADLINE_EXPIRED")), done.stderr


@pytest.mark.slow
def test_certificates_that_fail_are_told_apart(tmp_path: Path) -> None:
    """Expired, of another authority, and a client that the server refuses because its own certificate has expired."""
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
