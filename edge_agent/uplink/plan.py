"""What the uplink does next. Pure: what is there, what is known and the time go in, one action comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from edge_agent.formats import segment
from edge_agent.uplink.bandwidth import Bandwidth
from edge_agent.uplink.connectivity import Connectivity


@dataclass(frozen=True)
class View:
    """Everything that the choice depends on. Times are seconds of one clock that never goes back."""

    now: float
    connectivity: Connectivity
    bandwidth: Bandwidth
    next_segment: str
    """Name of the segment to send next; empty = none waits."""
    has_status: bool
    """There is a status object."""
    status_changed: bool
    """It is not the one that was sent last."""
    heartbeat_at: float
    """When it is sent even if it is the same."""
    receipts_at: float
    """When to ask for receipts."""
    scan_at: float
    """When to look into the outbox again."""
    paused_until: float = 0.0
    """Before that, this machine's own disk is the problem, and nothing is tried."""


@dataclass(frozen=True)
class Action:
    """send = bring `name` up; heartbeat = bring the status object up; fetch = ask for receipts; wait = till `until`."""

    kind: Literal["send", "heartbeat", "fetch", "wait"]
    name: str = ""
    until: float = 0.0
    idle: bool = False
    """wait: nothing is left to do, and nothing is in the way."""


def next_action(view: View) -> Action:
    """Choose.

    While probing, the status object is the request that is risked, or, without one, the question for receipts. A
    changed status object waits until the segments that it speaks of are up.
    """
    known, now = view.connectivity, view.now
    if now < view.paused_until:
        return Action("wait", until=view.paused_until)
    if not known.may_try(now):
        return Action("wait", until=known.retry_at)
    if known.state == "probing":
        return Action("heartbeat" if view.has_status else "fetch")
    return _due(view) or _wait(view)


def _due(view: View) -> Action | None:
    changed = view.status_changed and not view.next_segment
    if view.has_status and (changed or view.now >= view.heartbeat_at):
        return Action("heartbeat")
    if view.now >= view.receipts_at:
        return Action("fetch")
    if view.next_segment and view.now >= view.bandwidth.free_at():
        return Action("send", view.next_segment)
    return None


def _wait(view: View) -> Action:
    heartbeat_at = view.heartbeat_at if view.has_status else view.scan_at
    until = min(view.scan_at, view.receipts_at, heartbeat_at)
    if view.next_segment:
        return Action("wait", until=min(until, view.bandwidth.free_at()))
    return Action("wait", until=until, idle=True)


def waiting(files: Mapping[str, int], settled: Callable[[str], bool]) -> dict[str, int]:
    """Return the segments to send, in order, with their bytes; `files` are names and bytes in the outbox.

    A sealed file without its manifest is no segment yet, a manifest without its sealed file none any more; what is no
    segment's file is left alone.
    """
    found = {}
    for name in sorted(files):
        stem = name.removesuffix(segment.MANIFEST_SUFFIX)
        sealed = stem + segment.SEALED_SUFFIX
        if stem != name and segment.parse_name(stem) and sealed in files and not settled(stem):
            found[stem] = files[name] + files[sealed]
    return found
