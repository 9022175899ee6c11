"""`doctor` about sockets, groups and ports, with real sockets, live and dead, and real listeners."""

import socket
import time
from pathlib import Path

import pytest

from edge_agent.config import Config
from edge_agent.doctor import socket_checks
from edge_agent.doctor.all_checks import run_checks
from edge_agent.doctor.installation import Installation, SystemUser
from edge_agent.doctor.probe_context import DaemonFacts, ProbeContext, StoredState, parse_phase
from edge_agent.doctor.socket_checks import ListeningSocket, PortFacts, PortHolder, SocketFacts, TcpPort
from tests.support.doctor_cases import file, looked, only, place, told, verdicts


def judged(**changed):
    of = {"listening": True, "mode": 0o660, "group": "", "group_exists": True, "members": ("till",)}
    of |= {key: value for key, value in changed.items() if key in of}
    stat = {"mode": 0o660, "kind": "socket"} | {key: changed[key] for key in ("kind",) if key in changed}
    stat["mode"] = changed.get("found_mode", 0o660)
    facts = ListeningSocket("inference.sock", file("/run/edge-agent/inference.sock", **stat), **of)
    return list(socket_checks.judge_sockets(SocketFacts((facts,), managed=True)))


@pytest.mark.parametrize(
    ("check", "verdict", "changed"),
    [
        ("socket", "ok", {}),
        ("socket", "ok", {"listening": None}),
        ("socket", "fault", {"kind": "", "listening": False}),
        ("socket", "fault", {"kind": "file", "listening": False}),
        ("socket", "fault", {"listening": False}),
        ("socket", "warning", {"found_mode": 0o666}),
        ("socket", "warning", {"group": "edge-devices"}),  # it has the group of the exchange
        ("socket-group", "fault", {"group": "edge-devices", "group_exists": False}),
        ("socket-group", "note", {"group": "edge-devices", "members": ()}),
        ("socket-group", "ok", {"group": "edge-exchange"}),
    ],
)
def test_sockets_and_their_groups_are_judged(check, verdict, changed):
    """A missing or dead socket and a missing group are faults, another mode or group is a warning, an empty group is a
    note."""
    assert (verdict, verdict != "ok") == told(judged(**changed), check)


def test_socket_left_by_a_killed_daemon_is_a_fault(tmp_path):
    """A socket file on which no process listens is a fault; one with a listener is ok."""
    where = place(tmp_path)
    where.config.run_dir.mkdir(parents=True)
    alive, dead = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    with alive, dead:
        for sock, path in ((alive, where.config.admin_socket), (dead, where.config.inference_socket)):
            sock.bind(str(path))
        where.config.admin_socket.chmod(0o600)
        alive.listen(8)
        dead.close()
        found = [finding for finding in run_checks(where) if finding.check == "socket"]
    assert {"inference.sock": "fault", "review.sock": "fault", "admin.sock": "ok"} == {
        finding.about: finding.verdict for finding in found
    }


def port(**changed) -> TcpPort:
    of = {"in_use": True, "holder": "nginx, pid 7", "is_ours": True, "daemon_runs": True, "is_local": True, **changed}
    return TcpPort("service.tcp_address", "127.0.0.1:9443", **of)


@pytest.mark.parametrize(
    ("verdict", "changed"),
    [
        ("ok", {}),
        ("ok", {"in_use": False, "daemon_runs": False}),
        ("unseen", {"is_ours": None}),
        ("fault", {"is_ours": False}),
        ("fault", {"is_local": False, "in_use": False}),
        ("warning", {"in_use": False}),
    ],
)
def test_ports_are_judged(verdict, changed):
    """A port of another program or of another machine's address is a fault, a closed one a warning, and one with an
    invisible holder is unseen."""
    found = list(socket_checks.judge_ports(PortFacts((port(**changed),), "")))
    assert (verdict, verdict != "ok") == told(found, "port")


def test_tcp_port_without_tls_is_a_warning():
    """A TCP port without TLS is a warning, because anyone who reaches it may use the models."""
    assert "warning" == verdicts(socket_checks.judge_ports(PortFacts((), "0.0.0.0:9443")))["plain-tcp"]


def test_holder_of_a_used_port_is_reported(tmp_path):
    """A port with a listener of another program is a fault with its process id; so is an address that is not this
    machine's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        found = looked(place(tmp_path, service={"tcp_address": address, "insecure": True}))
    assert ("fault", True) == (found["port"].verdict, "pid" in found["port"].seen)
    assert "fault" == looked(place(tmp_path, service={"tcp_address": "203.0.113.7:9443"}))["port"].verdict
    assert only([found["port"]], "port").command.endswith(f"'sport = :{address.rpartition(':')[2]}'")


def test_free_port_without_daemon_is_ok(tmp_path):
    """A port without a listener is ok while no daemon runs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    assert "ok" == looked(place(Path(tmp_path), service={"tcp_address": address}))["port"].verdict


def holder_seen_by(uid: int | None, daemon_uid: int | None, pid: int = 0, reason: str = "FORBIDDEN") -> bool | None:
    """Return whether the daemon holds a port, by the facts that an ordinary user can see."""
    user = None if daemon_uid is None else SystemUser("edge-agent", daemon_uid, frozenset())
    facts = DaemonFacts("/run/admin.sock", True, None, reason, pid=pid)
    context = ProbeContext(Installation(Config()), facts, None, user, StoredState(None, {}))
    return socket_checks.is_ours(context, PortHolder(0, uid))


@pytest.mark.parametrize(
    ("ours", "uid", "daemon_uid", "reason"),
    [
        (True, 501, 501, "FORBIDDEN"),
        (False, 33, 501, "FORBIDDEN"),
        (None, 501, 501, "UNREACHABLE"),
        (None, 501, None, "FORBIDDEN"),
        (None, None, 501, "FORBIDDEN"),
    ],
)
def test_port_holder_is_judged_by_its_user(ours, uid, daemon_uid, reason):
    """For an ordinary user, a port of the daemon's user belongs to the daemon and one of another user does not;
    otherwise it is undecided."""
    assert ours is holder_seen_by(uid, daemon_uid, reason=reason)


@pytest.mark.parametrize(("seconds", "verdict"), [(4.0, "ok"), (400.0, "fault")])
def test_starting_daemon_without_sockets_is_ok(seconds, verdict):
    """A missing socket is ok 4 s after systemd began the start, and a fault after 400 s."""
    changed = round((time.monotonic() - seconds) * 1e6)
    text = f"ActiveState=activating\nSubState=start\nStateChangeTimestampMonotonic={changed}"
    missing = ListeningSocket("admin.sock", file("/run/x", kind=""), False, 0o600, "", True, ())
    facts = SocketFacts((missing,), managed=True, phase=parse_phase(text))
    assert verdict == verdicts(socket_checks.judge_sockets(facts))["socket"]


@pytest.mark.parametrize(
    ("managed", "pid", "command"),
    [
        (True, 0, "sudo systemctl start edge-agent"),
        (True, 7, "sudo systemctl restart edge-agent"),  # systemd does not start what runs
        (False, 0, "edge-agent serve"),
        (False, 7, "sudo kill 7; tail --pid=7 -f /dev/null; edge-agent serve"),
    ],
)
def test_missing_socket_of_a_running_daemon_needs_a_restart(managed, pid, command):
    """For a missing socket, the command restarts a daemon that runs, because starting it has no effect, and starts one
    that does not."""
    missing = ListeningSocket("review.sock", file("/run/x", kind=""), False, 0o660, "", True, ())
    [found] = socket_checks.judge_sockets(SocketFacts((missing,), managed, pid=pid))
    assert ("fault", command) == (found.verdict, found.command)
