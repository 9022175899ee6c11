"""What the units must allow beyond their hardening: the network for a TCP listener, and a folder that is a store."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_agent.config.folder_access import UPLINK_USER, FolderFacts, judge_folder
from edge_agent.config.sections import is_loopback, split_host_port, store_folder
from edge_agent.doctor.findings import Check, Finding, FindingRule, ProbeFailure, first_match, otherwise
from edge_agent.doctor.installation import ENTER, READ, WRITE, Installation, can_reach, stat_file, stat_parents
from edge_agent.doctor.probe_context import CheckGroup, ProbeContext, parse_properties
from edge_agent.doctor.unit_checks import SERVE, UPLINK

LISTENER_NETWORK = Check("listener-network", "sockets")
FOLDER_STORE = Check("folder-store", "uplink")

_OPEN = "sudo edge-agent drop-ins --yes; sudo systemctl restart edge-agent"


@dataclass(frozen=True)
class ListenerNetworkFacts:
    """A TCP listener for other machines, and what the daemon's unit lets in."""

    address: str
    denied: tuple[str, ...]
    """IPAddressDeny= of the unit."""
    allowed: tuple[str, ...]
    """IPAddressAllow= of the unit."""

    @property
    def networks(self) -> str:
        """The networks that it lets in, without this machine itself."""
        return ", ".join(each for each in self.allowed if not _is_loopback_network(each))

    @property
    def is_closed(self) -> bool:
        """The unit denies every address, and allows this machine alone."""
        return any(each in ("0.0.0.0/0", "::/0", "any") for each in self.denied) and not self.networks


_LISTENER: tuple[FindingRule[ListenerNetworkFacts], ...] = (
    FindingRule(
        "fault",
        lambda f: f.is_closed,
        f"no other machine reaches {{f.address}}: {SERVE} accepts connections from this machine only",
        "Write the drop-in that lets the networks of this machine in; for others add '--allow NETWORK'.",
        _OPEN,
    ),
    FindingRule("ok", lambda f: f.networks, f"{SERVE} lets in {{f.networks}}"),
    FindingRule("ok", otherwise, f"{SERVE} denies no network"),
)


def judge_listener_network(facts: ListenerNetworkFacts | None) -> Iterator[Finding]:
    """Judge the unit of a TCP listener; None when there is no such listener, or systemd does not run it."""
    if facts is not None:
        yield from first_match(LISTENER_NETWORK, _LISTENER, facts)


def judge_folder_stores(folders: tuple[FolderFacts, ...]) -> Iterator[Finding]:
    """Judge each folder that is an object store."""
    for facts in folders:
        problem = judge_folder(facts)
        if problem is None:
            yield FOLDER_STORE.ok(f"the uplink can use {facts.path}", about=str(facts.path))
        else:
            yield FOLDER_STORE.fault(problem.seen, problem.remedy, problem.command, about=str(facts.path))


def probe_listener_network(context: ProbeContext) -> ListenerNetworkFacts | ProbeFailure | None:
    """Ask systemd what the daemon's unit lets in."""
    address = context.installation.config.service.tcp_address
    if not address or is_loopback(split_host_port(address)[0]) or not context.daemon.managed:
        return None
    properties = _show(context.installation, SERVE, "IPAddressDeny,IPAddressAllow")
    if properties is None:
        return ProbeFailure("systemctl does not answer")
    denied, allowed = (tuple(properties.get(key, "").split()) for key in ("IPAddressDeny", "IPAddressAllow"))
    return ListenerNetworkFacts(address, denied, allowed)


def probe_folder_stores(context: ProbeContext) -> tuple[FolderFacts, ...] | ProbeFailure:
    """Look at each folder that is an object store."""
    uplink, managed = context.installation.config.uplink, context.daemon.managed
    found = []
    for url, written in ((uplink.url, True), (uplink.updates_url, False)):
        if folder := store_folder(url):
            writable = _writable_folders(context.installation) if managed and written else ()
            if writable is None:
                return ProbeFailure("systemctl does not answer")
            found.append(_look(context.installation, folder, writable, written=written, managed=managed))
    return tuple(found)


def _look(
    installation: Installation, folder: Path, writable: tuple[str, ...], *, written: bool, managed: bool
) -> FolderFacts:
    allows = any(folder.is_relative_to(each) for each in writable)
    file, user = stat_file(folder), installation.find_user(UPLINK_USER) if managed else None
    if not file.kind:
        return FolderFacts(folder, "", written, managed, unit_allows=allows)
    rights = READ | ENTER | (WRITE if written else 0)
    usable = can_reach(user, stat_parents(folder), file, rights) if user else None
    return FolderFacts(folder, file.kind, written, managed, usable, file.shown, allows)


def _writable_folders(installation: Installation) -> tuple[str, ...] | None:
    properties = _show(installation, UPLINK, "ReadWritePaths")
    if properties is None:
        return None
    return tuple(each.strip('"').lstrip("-+") for each in properties.get("ReadWritePaths", "").split())


def _show(installation: Installation, unit: str, properties: str) -> dict[str, str] | None:
    shown = installation.run(("systemctl", "show", unit, f"--property={properties}", "--no-pager"))
    return None if shown is None else parse_properties(shown)


def _is_loopback_network(network: str) -> bool:
    try:
        return ipaddress.ip_network(network, strict=False).is_loopback
    except ValueError:
        return network in ("localhost", "")


GROUPS = (
    CheckGroup((LISTENER_NETWORK,), probe_listener_network, judge_listener_network),
    CheckGroup((FOLDER_STORE,), probe_folder_stores, judge_folder_stores),
)
