"""What the uplink transfers next, and when the bandwidth cap lets it; what it knows, and how `uplink.json` says so.

Choosing is pure: the state of the outbox, the downloads, the stores and the clock go in; one action comes out. The cap
is a token bucket that may go into debt: a store takes an object in one piece, so an object is sent as soon as the
bucket holds anything, and the debt is paid back by waiting. Over any T seconds no more is sent than `rate * T`, one
burst and one object.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import structlog

from edge_agent import __version__
from edge_agent.errors import EdgeAgentError
from edge_agent.formats import segment, uplink_state
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.uplink import connectivity
from edge_agent.uplink.connectivity import Connectivity
from edge_agent.uplink.update_download import DownloadState

UNCAPPED_BYTES_PER_SECOND = 10_000_000
"""Without a cap a transfer counts for at least its bytes at that rate, so that quick ones take turns, too."""


@dataclass(frozen=True)
class DownloadInput:
    """What the choice depends on where updates are brought down."""

    connectivity: Connectivity
    """That of the uploads where both go to one store."""
    bandwidth: Bandwidth
    """What the plan allows downloads, beside the cap on everything."""
    next_blob: str
    """Name of the blob to go on with; empty = none waits."""
    refresh_at: float
    """When to ask for metadata."""
    held_until: float = 0.0
    """Before that no blob is fetched: the repository answered badly, or this disk did."""


@dataclass(frozen=True)
class ScheduleInput:
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
    receipts_unwritten: bool = False
    """Receipts were there, and this machine could not write them: they are asked for again when no segment waits."""
    paused_until: float = 0.0
    """Before that, this machine's own disk is the problem, and nothing is tried."""
    uploads: bool = True
    """There is a place to send to."""
    downloads: DownloadInput | None = None
    """None = there is no place to fetch from."""
    lead_seconds: float = 0.0
    """How much longer sending has used the way than fetching, since both have work."""


@dataclass(frozen=True)
class TransferAction:
    """send = bring segment `name` up; heartbeat = bring the status object up; fetch = ask for receipts; refresh = ask
    for metadata of updates; pull = bring the next chunk of blob `name` down; wait = till `until`.
    """

    kind: Literal["send", "heartbeat", "fetch", "refresh", "pull", "wait"]
    name: str = ""
    until: float = 0.0
    idle: bool = False
    """wait: nothing is left to do, and nothing is in the way."""
    saving: bool = False
    """wait: only for the bandwidth."""


def next_action(view: ScheduleInput) -> TransferAction:
    """Choose.

    While probing, the status object is the request that is risked, or, without one, the question for receipts, or the
    one for metadata. A changed status object waits until the segments that it speaks of are up. Small things go first;
    of segments and chunks, those that have used the way for less time so far.
    """
    if view.now < view.paused_until:
        return TransferAction("wait", until=min(at for at in (view.paused_until, view.scan_at) if at > view.now))
    if small := _small_upload(view) or _small_download(view):
        return small
    ways = [action for action in (_send(view), _pull(view)) if action]
    ready = [action for action in ways if action.kind != "wait"]
    if len(ready) == 2:
        return ready[view.lead_seconds > 0]
    return ready[0] if ready else _wait(view, ways)


def transfer_cost_seconds(elapsed_seconds: float, count_bytes: int, bytes_per_second_max: int) -> float:
    """Return how long a transfer has used the way: what it took, or its share of the cap if that is more."""
    return elapsed_seconds + count_bytes / (bytes_per_second_max or UNCAPPED_BYTES_PER_SECOND)


def _small_upload(view: ScheduleInput) -> TransferAction | None:
    if not view.uploads or not view.connectivity.may_try(view.now):
        return None
    if view.connectivity.state == "probing":
        return TransferAction("heartbeat" if view.has_status else "fetch")
    changed = view.status_changed and not view.next_segment
    if view.has_status and (changed or view.now >= view.heartbeat_at):
        return TransferAction("heartbeat")
    again = view.receipts_unwritten and not view.next_segment
    return TransferAction("fetch") if again or view.now >= view.receipts_at else None


def _small_download(view: ScheduleInput) -> TransferAction | None:
    down = view.downloads
    if down is None or not down.connectivity.may_try(view.now):
        return None
    due = down.connectivity.state == "probing" or view.now >= down.refresh_at
    return TransferAction("refresh") if due else None


def _send(view: ScheduleInput) -> TransferAction | None:
    """Return what sending does next; a wait says until when, None = there is nothing to send."""
    if not view.uploads:
        return None
    if not view.connectivity.may_try(view.now):
        return TransferAction("wait", until=view.connectivity.retry_at)
    if not view.next_segment:
        return None
    return _when_free(view, TransferAction("send", view.next_segment), view.bandwidth.free_at())


def _pull(view: ScheduleInput) -> TransferAction | None:
    """Return what fetching does next, likewise."""
    down = view.downloads
    if down is None:
        return None
    if not down.connectivity.may_try(view.now):
        return TransferAction("wait", until=down.connectivity.retry_at)
    if not down.next_blob:
        return None
    if view.now < down.held_until:
        return TransferAction("wait", until=down.held_until)
    return _when_free(
        view, TransferAction("pull", down.next_blob), max(view.bandwidth.free_at(), down.bandwidth.free_at())
    )


def _when_free(view: ScheduleInput, action: TransferAction, free_at: float) -> TransferAction:
    return action if view.now >= free_at else TransferAction("wait", until=free_at, saving=True)


def _wait(view: ScheduleInput, ways: list[TransferAction]) -> TransferAction:
    """Wait for whatever comes first: the ways, a look at the disk, or something small that gets due."""
    links = [view.connectivity] if view.uploads else []
    links += [view.downloads.connectivity] if view.downloads else []
    if links and not any(link.may_try(view.now) for link in links):
        return TransferAction("wait", until=min(link.retry_at for link in links))
    times = [view.scan_at, *(way.until for way in ways), *_due_times(view)]
    until = min((at for at in times if at > view.now), default=view.now + 1)
    return TransferAction("wait", until=until, idle=not ways, saving=any(way.saving for way in ways))


def _due_times(view: ScheduleInput) -> list[float]:
    """Return when the small things get due whose store can be used."""
    times, down = [], view.downloads
    if view.uploads and view.connectivity.may_try(view.now):
        times += [view.receipts_at, *([view.heartbeat_at] if view.has_status else [])]
    if down and down.connectivity.may_try(view.now):
        times.append(down.refresh_at)
    return times


def unsent_segments(files: Mapping[str, int], settled: Callable[[str], bool]) -> dict[str, int]:
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


BURST_SECONDS = 1.0


@dataclass(frozen=True)
class Bandwidth:
    """Bytes that may be sent now. Times are seconds of one clock that never goes back."""

    bytes_per_second: int
    """0 = no cap."""
    tokens: float
    """Bytes; below zero = debt."""
    at: float

    @classmethod
    def full(cls, bytes_per_second: int, now: float) -> Bandwidth:
        """Return a bucket with one burst in it."""
        return cls(bytes_per_second, bytes_per_second * BURST_SECONDS, now)

    def free_at(self) -> float:
        """Return when the next object may be sent."""
        if not self.bytes_per_second or self.tokens > 0:
            return self.at
        return self.at + (1 - self.tokens) / self.bytes_per_second

    def spend(self, count: int, now: float) -> Bandwidth:
        """Return the bucket after that many bytes."""
        return replace(self._filled(now), tokens=self._filled(now).tokens - count)

    def _filled(self, now: float) -> Bandwidth:
        gained = self.bytes_per_second * max(0.0, now - self.at)
        return replace(self, tokens=min(self.bytes_per_second * BURST_SECONDS, self.tokens + gained), at=now)


log = structlog.get_logger("edge_agent.uplink")

PROBLEMS_SHOWN_MAX = 100
SET_ASIDE_SECONDS = 3600.0
"""How long what cannot be sent, or is wrong at the repository, is left alone."""


@dataclass(frozen=True)
class Clocks:
    """Seconds since 1970, which may be wrong, and seconds that never go back; and chance, from 0 to 1."""

    now: Callable[[], float] = time.time
    running: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    chance: Callable[[], float] = random.random


@dataclass
class DeferredItem:
    """Something that cannot be sent or fetched, and when it is tried again."""

    error: EdgeAgentError
    until: float


@dataclass
class TransferState:
    """What is known of the outbox, of `incoming/` and of the stores. Times by the running clock."""

    links: dict[str, connectivity.Connectivity]
    """By store: examples and updates that go to one store share what is known of it."""
    bandwidth: Bandwidth
    downloads_bandwidth: Bandwidth
    waiting: dict[str, int] = field(default_factory=dict)
    set_aside: dict[str, DeferredItem] = field(default_factory=dict)
    problems: dict[str, EdgeAgentError] = field(default_factory=dict)
    """What is in the way: of a store by its name until it is heard of; of `refresh` or `disk` until one goes well."""
    status_mark: tuple[int, int] = (0, 0)
    status_sent: tuple[int, int] = (0, 0)
    scan_at: float = 0.0
    heartbeat_at: float = 0.0
    receipts_at: float = 0.0
    receipts_unwritten: bool = False
    refresh_at: float = 0.0
    refresh_failures: int = 0
    held_until: float = 0.0
    """Before that no blob is fetched."""
    pull_failures: int = 0
    """In a row, of those that were answered."""
    receipts_tag: str = ""
    paused_until: float = 0.0
    lead_seconds: float = 0.0
    sent_segments: int = 0
    sent_bytes: int = 0

    def defer(self, name: str, error: EdgeAgentError, until: float) -> None:
        """Leave something alone that cannot be sent or fetched, until that time by the running clock."""
        self.waiting.pop(name, None)
        if name not in self.set_aside or self.set_aside[name].error.message != error.message:
            log.error("set_aside", file=name, **error_fields(error))
        self.set_aside[name] = DeferredItem(error, until)


@dataclass(frozen=True)
class DownloadView:
    """What is told of downloads beside `TransferState`."""

    repository: str
    link: connectivity.Connectivity
    progress: DownloadState
    waiting_bytes: int


def build_uplink_state(
    known: TransferState,
    link: connectivity.Connectivity,
    upstream: str,
    seen: DownloadView | None,
    clocks: tuple[float, float],
) -> uplink_state.UplinkState:
    """Return the state for others; `clocks` are seconds since 1970 and the running clock."""
    wall, running = clocks

    def at(seconds: float) -> str:
        return format_timestamp(wall - (running - seconds))

    return uplink_state.UplinkState(
        pid=os.getpid(),
        version=__version__,
        upstream=upstream[:500],
        at=format_timestamp(wall),
        running_seconds=running,
        state=link.state,
        since=at(link.since),
        last_contact=None if link.last_contact is None else at(link.last_contact),
        retry_at=at(link.retry_at) if link.retry_at > running else None,
        failures=link.failures,
        waiting_segments=len(known.waiting),
        waiting_bytes=sum(known.waiting.values()),
        sent_segments=known.sent_segments,
        sent_bytes=known.sent_bytes,
        downloads=None if seen is None else _downloads(known, seen, running, at),
        problems=tuple(_problems(known)),
    )


def _downloads(
    known: TransferState, seen: DownloadView, running: float, at: Callable[[float], str]
) -> uplink_state.DownloadProgress:
    retry_at, progress = max(seen.link.retry_at, known.held_until), seen.progress
    return uplink_state.DownloadProgress(
        repository=seen.repository[:500],
        state=seen.link.state,
        since=at(seen.link.since),
        retry_at=at(retry_at) if retry_at > running else None,
        refreshed_at=None if progress.refreshed_at is None else at(progress.refreshed_at),
        waiting_blobs=len(progress.waiting),
        waiting_bytes=min(seen.waiting_bytes, 2**62),
        fetched_blobs=progress.fetched_blobs,
        fetched_bytes=progress.fetched_bytes,
    )


def _problems(known: TransferState) -> Iterator[uplink_state.UplinkStateProblem]:
    shown = [(problem, "") for problem in known.problems.values()]
    shown += [(each.error, name) for name, each in known.set_aside.items()]
    for error, name in shown[:PROBLEMS_SHOWN_MAX]:
        yield uplink_state.UplinkStateProblem(
            reason=error.reason, message=error.message[:1000], remedy=error.remedy[:1000], about=name[:200]
        )


def error_fields(error: EdgeAgentError) -> dict[str, str]:
    """Return an error as the fields of a log event."""
    return {"reason": error.reason, "message": error.message, "remedy": error.remedy}
