"""The ways in: three sockets with their groups, and ports. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.doctor.files import File
from edge_agent.doctor.findings import Case, Check, Finding, counted, first, otherwise

SOCKET = Check("socket", "sockets")
GROUP = Check("socket-group", "sockets")
PORT = Check("port", "sockets")
PLAIN_TCP = Check("plain-tcp", "sockets")


@dataclass(frozen=True)
class Socket:
    """One of the three."""

    name: str
    file: File
    listening: bool | None
    """None = this user may not ask."""
    mode: int
    group: str
    """As agent.yaml has it; empty = the daemon's own."""
    group_exists: bool
    members: tuple[str, ...]


@dataclass(frozen=True)
class SocketFacts:
    """All of them."""

    sockets: tuple[Socket, ...]
    managed: bool
    """systemd runs the daemon."""


def start(managed: bool, verb: str = "start") -> str:
    """Return the command that starts or restarts the daemon here."""
    return f"sudo systemctl {verb} edge-agent" if managed else "edge-agent serve"


def log_of(managed: bool) -> str:
    """Return the command that shows the daemon's log; it goes to standard error where systemd does not run it."""
    return "; sudo journalctl -u edge-agent -b | tail -100" if managed else ""


@dataclass(frozen=True)
class _Way:
    """One socket, and how the daemon is started."""

    socket: Socket
    managed: bool

    @property
    def odd(self) -> bool:
        mode, group = self.socket.file.mode & 0o777, self.socket.group
        return mode != self.socket.mode or group not in ("", self.socket.file.group)

    @property
    def wanted(self) -> str:
        return f"{self.socket.group or self.socket.file.group} {self.socket.mode:04o}"

    @property
    def found(self) -> str:
        return f"{self.socket.file.path}, {self.socket.file.group} {self.socket.file.mode & 0o777:04o}"

    @property
    def begin(self) -> str:
        return start(self.managed)

    @property
    def restart(self) -> str:
        return start(self.managed, "restart")

    @property
    def members(self) -> str:
        return f"{counted(len(self.socket.members), 'member')}, {', '.join(self.socket.members[:5])}"


_SOCKET: tuple[Case[_Way], ...] = (
    Case(
        "fault", lambda f: not f.socket.file.kind, "{f.socket.file.path} is not there", "Start the daemon.", "{f.begin}"
    ),
    Case(
        "fault",
        lambda f: f.socket.file.kind != "socket",
        "{f.socket.file.path} is no socket",
        "Something else has its name.",
        "sudo mv {f.socket.file.path} {f.socket.file.path}.away; {f.restart}",
    ),
    Case(
        "fault",
        lambda f: f.socket.listening is False,
        "{f.socket.file.path} is there, and nobody listens: the daemon was killed",
        "Start the daemon.",
        "{f.begin}",
    ),
    Case(
        "warning",
        lambda f: f.odd,
        "{f.found}, and should be {f.wanted}",
        "Somebody changed it. The daemon makes it anew.",
        "{f.restart}",
    ),
    Case("ok", lambda f: f.socket.listening, "{f.found}, somebody listens"),
    Case("ok", otherwise, "{f.found}"),
)
_GROUP: tuple[Case[_Way], ...] = (
    Case(
        "fault",
        lambda f: not f.socket.group_exists,
        "group {f.socket.group} of {f.socket.name} does not exist: the daemon does not start",
        "Make it.",
        "sudo groupadd --system {f.socket.group}",
    ),
    Case(
        "note",
        lambda f: f.socket.group and not f.socket.members,
        "group {f.socket.group} has no members: only root uses {f.socket.name}",
        "Add the user of the program that calls; it has to log in anew.",
        "sudo usermod -aG {f.socket.group} USER",
    ),
    Case("ok", lambda f: f.socket.group, "{f.socket.group}: {f.members}"),
)


def sockets(facts: SocketFacts) -> Iterator[Finding]:
    """Judge each socket, then its group."""
    for each in facts.sockets:
        way = _Way(each, facts.managed)
        yield from first(SOCKET, _SOCKET, way, about=each.name)
        yield from first(GROUP, _GROUP, way, about=each.group)


@dataclass(frozen=True)
class Port:
    """A TCP port that agent.yaml names."""

    key: str
    """Where it is named."""
    address: str
    taken: bool
    holder: str
    """Program and pid of whoever listens there; empty = nobody, or this user may not see it."""
    ours: bool | None
    """None = it cannot be seen."""
    daemon_runs: bool
    local: bool
    """The address is one of this machine's."""

    @property
    def listing(self) -> str:
        """The command that shows who listens."""
        return f"sudo ss -ltnp 'sport = :{self.address.rpartition(':')[2]}'"

    @property
    def who(self) -> str:
        """Whoever holds it, for people."""
        return self.holder or "another program"


_PORT: tuple[Case[Port], ...] = (
    Case(
        "fault",
        lambda f: not f.local,
        "{f.address} is no address of this machine: the daemon cannot listen there",
        "Name one in '{f.key}' in agent.yaml.",
        "ip -brief address",
    ),
    Case(
        "fault",
        lambda f: f.taken and f.ours is False,
        "{f.address} is taken by {f.who}",
        "Stop that program, or choose another port in '{f.key}' in agent.yaml.",
        "{f.listing}",
    ),
    Case("ok", lambda f: f.taken, "{f.address} is open"),
    Case(
        "warning",
        lambda f: f.daemon_runs,
        "{f.address} is not open, though the daemon runs",
        "Restart the daemon; its log says more.",
        "sudo systemctl restart edge-agent",
    ),
    Case("ok", otherwise, "{f.address} is free"),
)


@dataclass(frozen=True)
class PortFacts:
    """All of them, and whether anybody may use the plain one."""

    ports: tuple[Port, ...]
    insecure: str
    """The plain address; empty = none."""


def ports(facts: PortFacts) -> Iterator[Finding]:
    """Judge each port."""
    for port in facts.ports:
        yield from first(PORT, _PORT, port, about=port.key)
    if facts.insecure:
        said = f"{facts.insecure} is open without TLS: anybody on that network may use the models"
        remedy = "Use certificates ('edge-agent certs'), or remove 'tcp_address' and 'insecure' under 'service'."
        yield PLAIN_TCP.warning(said, remedy, "sudoedit /etc/edge-agent/agent.yaml")
