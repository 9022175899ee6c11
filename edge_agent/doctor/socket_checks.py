"""The sockets of the daemon with their groups, and its TCP ports."""

from __future__ import annotations

import errno
import grp
import pwd
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_agent.doctor.findings import (
    RIGHTS_COMMAND,
    RIGHTS_REMEDY,
    Check,
    Finding,
    FindingRule,
    first_match,
    otherwise,
)
from edge_agent.doctor.installation import FileInfo, read_text, stat_file, user_name
from edge_agent.doctor.probe_context import NO_PHASE, CheckGroup, ProbeContext, UnitPhase, is_listening, start_command
from edge_agent.formatting import counted

SOCKET = Check("socket", "sockets")
GROUP = Check("socket-group", "sockets")
PORT = Check("port", "sockets")
PLAIN_TCP = Check("plain-tcp", "sockets")


@dataclass(frozen=True)
class ListeningSocket:
    """One of the daemon's sockets."""

    name: str
    file: FileInfo
    listening: bool | None
    """None when this user may not connect."""
    mode: int
    group: str
    """The group in agent.yaml; empty for the group of the daemon."""
    group_exists: bool
    members: tuple[str, ...]


@dataclass(frozen=True)
class SocketFacts:
    """The daemon's three sockets."""

    sockets: tuple[ListeningSocket, ...]
    managed: bool
    """systemd runs the daemon."""
    phase: UnitPhase = NO_PHASE
    pid: int = 0
    """The daemon's process; 0 when none runs, or this user may not see it."""


@dataclass(frozen=True)
class _SocketView:
    """A socket, and how to start the daemon."""

    socket: ListeningSocket
    managed: bool
    phase: UnitPhase
    pid: int

    @property
    def changed(self) -> bool:
        mode, group = self.socket.file.mode & 0o777, self.socket.group
        return mode != self.socket.mode or group not in ("", self.socket.file.group)

    @property
    def expected(self) -> str:
        return f"{self.socket.group or self.socket.file.group} {self.socket.mode:04o}"

    @property
    def actual(self) -> str:
        return f"{self.socket.file.path}, {self.socket.file.group} {self.socket.file.mode & 0o777:04o}"

    @property
    def start(self) -> str:
        return start_command(self.managed)

    @property
    def is_half_gone(self) -> bool:
        return self.pid > 0

    @property
    def repair(self) -> str:
        return "Restart the daemon, which makes it again." if self.is_half_gone else "Start the daemon."

    @property
    def repair_command(self) -> str:
        return self.restart if self.is_half_gone else self.start

    @property
    def restart(self) -> str:
        return start_command(self.managed, "restart", self.pid)

    @property
    def members(self) -> str:
        return f"{counted(len(self.socket.members), 'member')}, {', '.join(self.socket.members[:5])}"


_SOCKET: tuple[FindingRule[_SocketView], ...] = (
    FindingRule(
        "ok",
        lambda f: f.phase.name and f.socket.file.kind in ("", "socket") and not f.socket.listening,
        "{f.socket.file.path}: the daemon is {f.phase.summary}",
    ),
    FindingRule(
        "fault",
        lambda f: not f.socket.file.kind,
        "{f.socket.file.path} does not exist",
        "{f.repair}",
        "{f.repair_command}",
    ),
    FindingRule(
        "fault",
        lambda f: f.socket.file.kind != "socket",
        "{f.socket.file.path} is not a socket",
        "Move the file away, and restart the daemon.",
        "sudo mv {f.socket.file.path} {f.socket.file.path}.away; {f.restart}",
    ),
    FindingRule(
        "fault",
        lambda f: f.socket.listening is False,
        "{f.socket.file.path} exists, but no process listens: the daemon was killed",
        "Start the daemon.",
        "{f.start}",
    ),
    FindingRule(
        "warning",
        lambda f: f.changed,
        "{f.actual}; expected {f.expected}",
        "It was changed after the daemon made it. Restart the daemon, which makes it again.",
        "{f.restart}",
    ),
    FindingRule("ok", lambda f: f.socket.listening, "{f.actual}, a process listens"),
    FindingRule("ok", otherwise, "{f.actual}"),
)
_GROUP: tuple[FindingRule[_SocketView], ...] = (
    FindingRule(
        "fault",
        lambda f: not f.socket.group_exists,
        "group {f.socket.group} of {f.socket.name} does not exist: the daemon does not start",
        "Add the group with the user of the calling program, who then has to log in again; restart the daemon.",
        "sudo groupadd --system {f.socket.group}; sudo usermod -aG {f.socket.group} USER; {f.restart}",
    ),
    FindingRule(
        "note",
        lambda f: f.socket.group and not f.socket.members,
        "group {f.socket.group} has no members: only root can use {f.socket.name}",
        "Add the user of the calling program; that user has to log in again.",
        "sudo usermod -aG {f.socket.group} USER",
    ),
    FindingRule("ok", lambda f: f.socket.group, "{f.socket.group}: {f.members}"),
)


def judge_sockets(facts: SocketFacts) -> Iterator[Finding]:
    """Judge each socket, then its group."""
    for each in facts.sockets:
        view = _SocketView(each, facts.managed, facts.phase, facts.pid)
        yield from first_match(SOCKET, _SOCKET, view, about=each.name)
        yield from first_match(GROUP, _GROUP, view, about=each.group)


@dataclass(frozen=True)
class PortHolder:
    """The process that listens on a port."""

    pid: int = 0
    """0 when this user may not see it."""
    uid: int | None = None
    """Whose socket it is; None when nothing listens."""
    name: str = ""

    @property
    def description(self) -> str:
        """The program and its pid, or its user, as text."""
        if self.pid:
            return f"{self.name}, pid {self.pid}"
        return "" if self.uid is None else f"a program of user {user_name(self.uid)}"


@dataclass(frozen=True)
class TcpPort:
    """A TCP port that agent.yaml names."""

    key: str
    """Its key in agent.yaml."""
    address: str
    in_use: bool
    holder: str
    """Program and pid that listens; empty when none does, or this user may not see it."""
    is_ours: bool | None
    """The daemon holds it; None when this user may not see which process does."""
    daemon_runs: bool
    is_local: bool
    """The address belongs to this machine."""

    @property
    def list_command(self) -> str:
        """The command that shows which process listens."""
        return f"sudo ss -ltnp 'sport = :{self.address.rpartition(':')[2]}'"

    @property
    def occupant(self) -> str:
        """The program that holds it, as text."""
        return self.holder or "another program"


_PORT: tuple[FindingRule[TcpPort], ...] = (
    FindingRule(
        "fault",
        lambda f: not f.is_local,
        "{f.address} is not an address of this machine: the daemon cannot listen on it",
        "Set '{f.key}' in agent.yaml to an address of this machine.",
        "ip -brief address",
    ),
    FindingRule(
        "fault",
        lambda f: f.in_use and f.is_ours is False,
        "{f.address} is in use by {f.occupant}",
        "Stop that program, or choose another port in '{f.key}' in agent.yaml.",
        "{f.list_command}",
    ),
    FindingRule(
        "unseen",
        lambda f: f.in_use and f.is_ours is None,
        "{f.address} is open; this user may not see which program holds it",
        RIGHTS_REMEDY,
        RIGHTS_COMMAND,
    ),
    FindingRule("ok", lambda f: f.in_use, "{f.address} is open"),
    FindingRule(
        "warning",
        lambda f: f.daemon_runs,
        "{f.address} is not open, though the daemon runs",
        "Restart the daemon; its log shows the reason.",
        "sudo systemctl restart edge-agent",
    ),
    FindingRule("ok", otherwise, "{f.address} is free"),
)


@dataclass(frozen=True)
class PortFacts:
    """The TCP ports, and the one without TLS."""

    ports: tuple[TcpPort, ...]
    insecure: str
    """The address without TLS; empty when there is none."""


def judge_ports(facts: PortFacts) -> Iterator[Finding]:
    """Judge each port."""
    for port in facts.ports:
        yield from first_match(PORT, _PORT, port, about=port.key)
    if facts.insecure:
        seen = f"{facts.insecure} is open without TLS: every computer on that network may use the models"
        remedy = "Use certificates ('edge-agent certs'), or remove 'tcp_address' and 'insecure' under 'service'."
        yield PLAIN_TCP.warning(seen, remedy, "sudoedit /etc/edge-agent/agent.yaml")


OPENING_SECONDS = 10.0
"""Time after its start in which the daemon may still be opening its ports."""
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp
_MEMBERS_MAX = 50


def probe_sockets(context: ProbeContext) -> SocketFacts:
    """Look at the daemon's three sockets."""
    config = context.installation.config
    settings = (
        (config.inference_socket, 0o660, config.service.inference_group),
        (config.review_socket, 0o660, config.service.review_group),
        (config.admin_socket, 0o660 if config.service.admin_group else 0o600, config.service.admin_group),
    )
    daemon = context.daemon
    pid = daemon.pid if daemon.pid > 0 else daemon.phase.pid
    return SocketFacts(tuple(_probe_socket(*setting) for setting in settings), daemon.managed, daemon.phase, pid)


def _probe_socket(path: Path, mode: int, group: str) -> ListeningSocket:
    file = stat_file(path)
    listening = is_listening(path) if file.kind == "socket" else False
    try:
        entry = grp.getgrnam(group) if group else None
    except KeyError:
        return ListeningSocket(path.name, file, listening, mode, group, group_exists=False, members=())
    members: tuple[str, ...] = ()
    if entry is not None:
        primary = [user.pw_name for user in pwd.getpwall() if user.pw_gid == entry.gr_gid]
        members = tuple(sorted({*entry.gr_mem, *primary})[:_MEMBERS_MAX])
    return ListeningSocket(path.name, file, listening, mode, group, group_exists=True, members=members)


def probe_ports(context: ProbeContext) -> PortFacts:
    """Look at the ports that agent.yaml names."""
    service, metrics = context.installation.config.service, context.installation.config.metrics
    addresses = {"service.tcp_address": service.tcp_address, "metrics.address": metrics.address}
    # Ports are unknown when agent.yaml is refused; a daemon that hangs may have any of them open.
    is_serving = context.status is not None and context.status.serving and not context.installation.problem
    daemon_runs = is_serving and context.daemon.up_seconds > OPENING_SECONDS
    ports = []
    for key, address in addresses.items():
        if address:
            host, _, port = address.rpartition(":")
            is_taken, is_local = check_port(host.strip("[]"), int(port))
            holder = _find_holder(int(port)) if is_taken else PortHolder()
            ours = is_ours(context, holder) if is_taken else None
            ports.append(TcpPort(key, address, is_taken, holder.description, ours, daemon_runs, is_local))
    return PortFacts(tuple(ports), service.tcp_address if service.insecure else "")


def is_ours(context: ProbeContext, holder: PortHolder) -> bool | None:
    """Return whether the daemon holds a port: by the process, or by the user whose socket it is; None when unknown."""
    daemon_pid = context.daemon.pid if context.daemon.pid > 0 else context.daemon.phase.pid
    if holder.pid and daemon_pid:
        return holder.pid == daemon_pid
    if holder.uid is None:
        return None
    user = context.daemon_user
    if user is None or user.uid != holder.uid:
        return False if user is not None else None
    # Another program of the same user could hold it: only who sees the process can tell, and it is the daemon's then.
    return True if daemon_pid or context.daemon.reason == "FORBIDDEN" else (False if holder.pid else None)


def check_port(host: str, port: int) -> tuple[bool, bool]:
    """Return whether the port is in use, and whether the address belongs to this machine. Sends nothing."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError:
        return False, False
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
        except OSError as error:
            return error.errno == errno.EADDRINUSE, error.errno != errno.EADDRNOTAVAIL
    return False, True


def _find_holder(port: int) -> PortHolder:
    """Return who listens on a port, as far as this user may see."""
    tables = read_text(Path("/proc/net/tcp")) + read_text(Path("/proc/net/tcp6"))
    lines = [fields for fields in map(str.split, tables.splitlines()) if len(fields) > 9]
    listeners = [fields for fields in lines if fields[3] == _LISTEN and fields[1].endswith(f":{port:04X}")]
    if not listeners:
        return PortHolder()
    links = {f"socket:[{fields[9]}]" for fields in listeners}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(str(link.readlink()) in links for link in folder.iterdir()):
                pid = int(folder.parent.name)
                return PortHolder(pid, int(listeners[0][7]), read_text(folder.with_name("comm")).strip())
        except OSError:
            continue
    return PortHolder(0, int(listeners[0][7]))


GROUPS = (
    CheckGroup((SOCKET, GROUP), probe_sockets, judge_sockets),
    CheckGroup((PORT, PLAIN_TCP), probe_ports, judge_ports),
)
