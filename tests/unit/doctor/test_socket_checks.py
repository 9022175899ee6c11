"""doctor's rules about sockets, groups and ports: real sockets, alive and dead, and real listeners."""

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
    """Missing, dead, of another mode or group; a group that is not there, or that nobody is in."""
    assert (verdict, verdict != "ok") == told(judged(**changed), check)


def test_a_socket_that_a_killed_daemon_left_is_told_from_a_living_one(tmp_path):
    """A socket file on which nobody listens is a fault; one on which somebody does is well, whatever it says."""
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
    """In use by another program, or by one that this user may not see; not of this machine, or not open."""
    found = list(socket_checks.judge_ports(PortFacts((port(**changed),), "")))
    assert (verdict, verdict != "ok") == told(found, "port")


def test_a_plain_port_is_a_warning():
    """Whoever reaches it may use the models."""
    assert "warning" == verdicts(socket_checks.judge_ports(PortFacts((), "0.0.0.0:9443")))["plain-tcp"]


def test_who_holds_a_port_is_found_out(tmp_path):
    """A real listener of another program, here of this test."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        found = looked(place(tmp_path, service={"tcp_address": address, "insecure": True}))
    assert ("fault", True) == (found["port"].verdict, "pid" in found["port"].seen)
    assert "fault" == looked(place(tmp_path, service={"tcp_address": "203.0.113.7:9443"}))["port"].verdict
    assert only([found["port"]], "port").command.endswith(f"'sport = :{address.rpartition(':')[2]}'")


def test_a_free_port_is_well(tmp_path):
    """Nothing listens, and nothing runs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    assert "ok" == looked(place(Path(tmp_path), service={"tcp_address": address}))["port"].verdict


def holder_seen_by(uid: int | None, daemon_uid: int | None, pid: int = 0, reason: str = "FORBIDDEN") -> bool | None:
    """Judge whether the daemon holds a port, by what an ordinary user sees of it."""
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
def test_an_ordinary_user_blames_no_program_that_it_cannot_see(ours, uid, daemon_uid, reason):
    """The daemon's own user holds its port; another user's program is another one; otherwise nothing is said."""
    assert ours is holder_seen_by(uid, daemon_uid, reason=reason)


@pytest.mark.parametrize(("seconds", "verdict"), [(4.0, "ok"), (400.0, "fault")])
def test_a_daemon_that_starts_has_no_sockets_yet(seconds, verdict):
    """For as long as a start takes, that is no fault."""
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
def test_a_socket_that_is_gone_while_the_daemon_runs_needs_a_restart(managed, pid, command):
    """A daemon that runs has to end before it makes its sockets again; one that does not is started."""
    missing = ListeningSocket("review.sock", file("/run/x", kind=""), False, 0o660, "", True, ())
    [found] = socket_checks.judge_sockets(SocketFacts((missing,), managed, pid=pid))
    assert ("fault", command) == (found.verdict, found.command)
