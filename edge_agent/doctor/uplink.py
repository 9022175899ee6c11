"""The other daemon: whether it runs, and what keeps it from its work. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.byte_sizes import format_bytes
from edge_agent.doctor.findings import Check, Finding, counted, lasting

RUNNING = Check("uplink", "uplink")
LINK = Check("uplink-online", "uplink")
REFUSED = Check("uplink-refused", "uplink")
TROUBLE = Check("uplink-problem", "uplink")
DOWNLOADS = Check("downloads", "uplink")

OFFLINE_SECONDS_WARNED = 86_400.0
SHOWN_MAX = 5
_LOG = "sudo journalctl -u edge-uplink -b | tail -50"


@dataclass(frozen=True)
class Trouble:
    """Something that the uplink reports."""

    reason: str
    message: str
    remedy: str
    about: str


@dataclass(frozen=True)
class UplinkFacts:
    """What it says of itself, by the daemon or from its own file."""

    wanted: bool
    """agent.yaml names a place to go to."""
    silence: str
    """Why nothing of it holds now; empty = it does."""
    state: str = ""
    """online, probing or offline."""
    upstream: str = ""
    since_seconds: float = 0.0
    failures: int = 0
    waiting_segments: int = 0
    waiting_bytes: int = 0
    troubles: tuple[Trouble, ...] = ()
    downloads: str = ""
    """State of the way down; empty = it brings no updates."""
    waiting_blobs: int = 0
    managed: bool = True
    """systemd runs it."""


def uplink(facts: UplinkFacts | None) -> Iterator[Finding]:
    """Judge the uplink; None = this site has none, and none is wanted."""
    if facts is None:
        yield RUNNING.note("none is configured: examples and updates travel by stick")
        return
    if facts.silence:
        command = "sudo systemctl restart edge-uplink" if facts.managed else "edge-agent uplink"
        remedy = "Answers go on without it. Start it; its log says why it ended."
        yield RUNNING.fault(facts.silence, remedy, f"{command}; {_LOG}")
        return
    yield RUNNING.ok(
        f"runs; {counted(facts.waiting_segments, 'segment')}, {format_bytes(facts.waiting_bytes)} to go up"
    )
    yield _link(facts)
    for trouble in facts.troubles[:SHOWN_MAX]:
        yield _trouble(trouble)
    if facts.downloads:
        yield _downloads(facts)


def _link(facts: UplinkFacts) -> Finding:
    said = f"{facts.state} for {lasting(facts.since_seconds)}: {facts.upstream}"
    if facts.state == "online":
        return LINK.ok(said)
    if facts.state == "probing" or facts.since_seconds < OFFLINE_SECONDS_WARNED:
        remedy = "It is tried again by itself; nothing is lost meanwhile."
        return LINK.note(
            f"{said} ({counted(facts.failures, 'failure')} in a row)", remedy, "ping -c3 1.1.1.1; resolvectl status"
        )
    remedy = "Check cable, router and firewall; or carry a stick."
    command = "ip -brief address; ping -c3 1.1.1.1; sudo edge-agent export /media/stick"
    return LINK.warning(f"{said} ({counted(facts.failures, 'failure')} in a row)", remedy, command)


def _trouble(trouble: Trouble) -> Finding:
    said = f"{trouble.message}{f' ({trouble.about})' if trouble.about else ''}"
    if trouble.reason == "UPSTREAM_REFUSED":
        command = "date; sudo edge-agent-setup --kit FILE"
        return REFUSED.fault(said, "The credential ran out or lost its rights: have the centre renew it.", command)
    return TROUBLE.warning(said, trouble.remedy or "Its log says more.", _LOG, about=trouble.reason)


def _downloads(facts: UplinkFacts) -> Finding:
    said = f"{facts.downloads}; {counted(facts.waiting_blobs, 'file')} to come down"
    if facts.downloads == "offline":
        remedy = "Updates do not come. It is tried again by itself; a stick does it too."
        return DOWNLOADS.warning(said, remedy, f"{_LOG}; sudo edge-agent import /media/stick")
    return DOWNLOADS.ok(said)
