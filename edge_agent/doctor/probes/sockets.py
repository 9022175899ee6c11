"""Looks at sockets, their groups, and TCP ports."""

from __future__ import annotations

import errno
import grp
import pwd
import re
import socket
from pathlib import Path

from edge_agent.doctor.probes.place import look, text
from edge_agent.doctor.probes.serving import Case, listens
from edge_agent.doctor.sockets import Port, PortFacts, Socket, SocketFacts

_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp
_MEMBERS_MAX = 50


def sockets(case: Case) -> SocketFacts:
    """Look at the three sockets."""
    config = case.place.config
    wanted = (
        (config.inference_socket, 0o660, config.service.inference_group),
        (config.review_socket, 0o660, config.service.review_group),
        (config.admin_socket, 0o600, ""),
    )
    return SocketFacts(tuple(_socket(*each) for each in wanted), case.answering.managed)


def _socket(path: Path, mode: int, group: str) -> Socket:
    file = look(path)
    listening = listens(path) if file.kind == "socket" else False
    try:
        entry = grp.getgrnam(group) if group else None
    except KeyError:
        return Socket(path.name, file, listening, mode, group, group_exists=False, members=())
    return Socket(path.name, file, listening, mode, group, group_exists=True, members=_members(entry))


def _members(entry: grp.struct_group | None) -> tuple[str, ...]:
    if entry is None:
        return ()
    primary = [user.pw_name for user in pwd.getpwall() if user.pw_gid == entry.gr_gid]
    return tuple(sorted({*entry.gr_mem, *primary})[:_MEMBERS_MAX])


def ports(case: Case) -> PortFacts:
    """Look at the ports that agent.yaml names."""
    service, metrics = case.place.config.service, case.place.config.metrics
    named = {"service.tcp_address": service.tcp_address, "metrics.address": metrics.address}
    found = tuple(_port(case, key, address) for key, address in named.items() if address)
    return PortFacts(found, service.tcp_address if service.insecure else "")


def _port(case: Case, key: str, address: str) -> Port:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    busy, local = taken(host, int(port))
    pid = _holder(int(port)) if busy else 0
    name = text(Path(f"/proc/{pid}/comm")).strip() if pid else ""
    daemon = case.answering.pid
    ours = pid == daemon if pid and daemon else (False if busy and not daemon else None)
    # What a refused agent.yaml says of ports is not known, and a daemon that hangs may have any of them open.
    return Port(
        key,
        address,
        busy,
        f"{name}, pid {pid}" if pid else "",
        ours,
        case.status is not None and not case.place.problem,
        local,
    )


def taken(host: str, port: int) -> tuple[bool, bool]:
    """Return whether the port is taken, and whether the address is one of this machine; nothing is sent to anybody."""
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


def _holder(port: int) -> int:
    """Return the pid of whoever listens at a port; 0 = this user may not see it."""
    tables = text(Path("/proc/net/tcp")) + text(Path("/proc/net/tcp6"))
    lines = (line.split() for line in tables.splitlines())
    inodes = {f[9] for f in lines if len(f) > 9 and f[3] == _LISTEN and f[1].endswith(f":{port:04X}")}
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(str(link.readlink()) in wanted for link in folder.iterdir()):
                return int(re.findall(r"\d+", str(folder))[0])
        except OSError:
            continue
    return 0
