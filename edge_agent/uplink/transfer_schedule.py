"""Chooses the next transfer of the uplink within the bandwidth cap; holds the state of transfers and `uplink.json`.

The choice is a pure function of the state of the outbox, the downloads, the stores and the clock. The cap is a token
bucket that may go into debt: a store takes an object in one piece, so an object is sent as soon as the bucket holds any
tokens, and the debt is paid back by waiting. In any T seconds at most `rate * T` bytes plus one burst and one object
are sent.
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
from edge_agent.uplink import connection_retries
from edge_agent.uplink.connection_retries import Connectivity
from edge_agent.uplink.update_download import DownloadState

UNCAPPED_BYTES_PER_SECOND = 10_000_000
"""Assumed rate for the cost of transfers without a cap, so that fast transfers also alternate."""


@dataclass(frozen=True)
class DownloadInput:
    """Inputs of the choice for downloads."""

    connectivity: Connectivity
    """Shared with the uploads if both use the same store."""
    bandwidth: Bandwidth
    """Cap of the update plan on downloads, in addition to the overall cap."""
    next_blob: str
    """Name of the next blob; empty = none waits."""
    refresh_at: float
    """When to request metadata."""
    held_until: float = 0.0
    """No blob is fetched before this time, after errors of the repository."""


@dataclass(frozen=True)
class ScheduleInput:
    """All inputs of the choice. Times are seconds of one monotonic clock."""

    now: float
    connectivity: Connectivity
    bandwidth: Bandwidth
    next_segment: str
    """Name of the segment to send next; empty = none waits."""
    has_status: bool
    """There is a status object."""
    status_changed: bool
    """The status object differs from the one sent last."""
    heartbeat_at: float
    """When the status object is sent even if it is unchanged."""
    receipts_at: float
    """When to request receipts."""
    scan_at: float
    """When to scan the outbox again."""
    receipts_unwritten: bool = False
    """Receipts were fetched but could not be written: they are requested again when no segment waits."""
    paused_until: float = 0.0
    """Nothing is tried before this time, because the disk of this machine failed."""
    uploads: bool = True
    """A store for examples is configured."""
    downloads: DownloadInput | None = None
    """None = no store of updates is configured."""
    lead_seconds: float = 0.0
    """Transfer time of uploads minus that of downloads, since both have work."""


@dataclass(frozen=True)
class TransferAction:
    """send = upload segment `name`; heartbeat = upload the status object; fetch = request receipts; refresh = request
    metadata of updates; pull = download the next chunk of blob `name`; wait = until `until`.
    """

    kind: Literal["send", "heartbeat", "fetch", "refresh", "pull", "wait"]
    name: str = ""
    until: float = 0.0
    idle: bool = False
    """wait: nothing is left to transfer."""
    saving: bool = False
    """wait: only because of the bandwidth cap."""


def next_action(view: ScheduleInput) -> TransferAction:
    """Choose the next action.

    The probing request is the status object, or, without one, the request for receipts or for metadata. A changed
    status object waits until the segments that it mentions are uploaded. Small requests go first; between segments and
    chunks, the direction with less transfer time so far.
    """
    if view.now < view.paused_until:
        return TransferAction("wait", until=min(at for at in (view.paused_until, view.scan_at) if at > view.now))
    if request := _small_upload(view) or _small_download(view):
        return request
    candidates = [action for action in (_next_upload(view), _next_download(view)) if action]
    ready = [action for action in candidates if action.kind != "wait"]
    if len(ready) == 2:
        return ready[view.lead_seconds > 0]
    return ready[0] if ready else _wait(view, candidates)


def transfer_cost_seconds(elapsed_seconds: float, count_bytes: int, bytes_per_second_max: int) -> float:
    """Return the time charged for a transfer: its duration plus its bytes at the capped rate, in seconds."""
    return elapsed_seconds + count_bytes / (bytes_per_second_max or UNCAPPED_BYTES_PER_SECOND)


def _small_upload(view: ScheduleInput) -> TransferAction | None:
    if not view.uploads or not view.connectivity.may_try(view.now):
        return None
    if view.connectivity.state == "probing":
        return TransferAction("heartbeat" if view.has_status else "fetch")
    changed = view.status_changed and not view.next_segment
    if view.has_status and (changed or view.now >= view.heartbeat_at):
        return TransferAction("heartbeat")
    retry_receipts = view.receipts_unwritten and not view.next_segment
    return TransferAction("fetch") if retry_receipts or view.now >= view.receipts_at else None


def _small_download(view: ScheduleInput) -> TransferAction | None:
    downloads = view.downloads
    if downloads is None or not downloads.connectivity.may_try(view.now):
        return None
    due = downloads.connectivity.state == "probing" or view.now >= downloads.refresh_at
    return TransferAction("refresh") if due else None


def _next_upload(view: ScheduleInput) -> TransferAction | None:
    """Return the next upload, or the wait for it; None = there is nothing to send."""
    if not view.uploads:
        return None
    if not view.connectivity.may_try(view.now):
        return TransferAction("wait", until=view.connectivity.retry_at)
    if not view.next_segment:
        return None
    return _when_free(view, TransferAction("send", view.next_segment), view.bandwidth.free_at())


def _next_download(view: ScheduleInput) -> TransferAction | None:
    """Return the next download, or the wait for it; None = there is nothing to fetch."""
    downloads = view.downloads
    if downloads is None:
        return None
    if not downloads.connectivity.may_try(view.now):
        return TransferAction("wait", until=downloads.connectivity.retry_at)
    if not downloads.next_blob:
        return None
    if view.now < downloads.held_until:
        return TransferAction("wait", until=downloads.held_until)
    return _when_free(
        view, TransferAction("pull", downloads.next_blob), max(view.bandwidth.free_at(), downloads.bandwidth.free_at())
    )


def _when_free(view: ScheduleInput, action: TransferAction, free_at: float) -> TransferAction:
    return action if view.now >= free_at else TransferAction("wait", until=free_at, saving=True)


def _wait(view: ScheduleInput, candidates: list[TransferAction]) -> TransferAction:
    """Wait for the earliest of the next transfers, the next scan and the next small request."""
    links = [view.connectivity] if view.uploads else []
    links += [view.downloads.connectivity] if view.downloads else []
    if links and not any(link.may_try(view.now) for link in links):
        return TransferAction("wait", until=min(link.retry_at for link in links))
    times = [view.scan_at, *(candidate.until for candidate in candidates), *_due_times(view)]
    until = min((at for at in times if at > view.now), default=view.now + 1)
    return TransferAction(
        "wait", until=until, idle=not candidates, saving=any(candidate.saving for candidate in candidates)
    )


def _due_times(view: ScheduleInput) -> list[float]:
    """Return when small requests to available stores are due."""
    times, downloads = [], view.downloads
    if view.uploads and view.connectivity.may_try(view.now):
        times += [view.receipts_at, *([view.heartbeat_at] if view.has_status else [])]
    if downloads and downloads.connectivity.may_try(view.now):
        times.append(downloads.refresh_at)
    return times


def unsent_segments(files: Mapping[str, int], is_settled: Callable[[str], bool]) -> dict[str, int]:
    """Return the segments to send, in order, with their sizes; `files` are names and sizes in the outbox.

    A sealed file without its manifest is not a segment yet, and a manifest without its sealed file no longer one. Other
    files are ignored.
    """
    sizes = {}
    for name in sorted(files):
        stem = name.removesuffix(segment.MANIFEST_SUFFIX)
        sealed = stem + segment.SEALED_SUFFIX
        if stem != name and segment.parse_name(stem) and sealed in files and not is_settled(stem):
            sizes[stem] = files[name] + files[sealed]
    return sizes


BURST_SECONDS = 1.0


@dataclass(frozen=True)
class Bandwidth:
    """A token bucket of bytes. Times are seconds of one monotonic clock."""

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
        """Return when the next object may be transferred."""
        if not self.bytes_per_second or self.tokens > 0:
            return self.at
        return self.at + (1 - self.tokens) / self.bytes_per_second

    def spend(self, count: int, now: float) -> Bandwidth:
        """Return the bucket after a transfer of `count` bytes."""
        gained = self.bytes_per_second * max(0.0, now - self.at)
        filled = min(self.bytes_per_second * BURST_SECONDS, self.tokens + gained)
        return replace(self, tokens=filled - count, at=now)


log = structlog.get_logger("edge_agent.uplink")

PROBLEMS_SHOWN_MAX = 100
SET_ASIDE_SECONDS = 3600.0
"""How long an item is deferred that cannot be sent, or is wrong in the repository."""


@dataclass(frozen=True)
class Clocks:
    """Wall clock in seconds since 1970, which may be wrong; a monotonic clock; and random numbers from 0 to 1."""

    now: Callable[[], float] = time.time
    running: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    chance: Callable[[], float] = random.random


@dataclass
class DeferredItem:
    """An item that cannot be sent or fetched, and when it is retried."""

    error: EdgeAgentError
    until: float


@dataclass
class TransferState:
    """The state of the outbox, of `incoming/` and of the stores. Times by the monotonic clock."""

    links: dict[str, connection_retries.Connectivity]
    """By store; examples and updates in the same store share one state."""
    bandwidth: Bandwidth
    downloads_bandwidth: Bandwidth
    waiting: dict[str, int] = field(default_factory=dict)
    set_aside: dict[str, DeferredItem] = field(default_factory=dict)
    problems: dict[str, EdgeAgentError] = field(default_factory=dict)
    """Current problems: by store, until it answers; of `scan`, `refresh` or `disk`, until one succeeds."""
    status_mark: tuple[int, int] = (0, 0)
    status_sent: tuple[int, int] = (0, 0)
    scan_at: float = 0.0
    heartbeat_at: float = 0.0
    receipts_at: float = 0.0
    receipts_unwritten: bool = False
    refresh_at: float = 0.0
    refresh_failures: int = 0
    held_until: float = 0.0
    """No blob is fetched before this time."""
    pull_failures: int = 0
    """In a row, although the repository answered."""
    receipts_tag: str = ""
    paused_until: float = 0.0
    lead_seconds: float = 0.0
    sent_segments: int = 0
    sent_bytes: int = 0

    def defer(self, name: str, error: EdgeAgentError, until: float) -> None:
        """Set an item aside that cannot be sent or fetched, until a time by the monotonic clock."""
        self.waiting.pop(name, None)
        if name not in self.set_aside or self.set_aside[name].error.message != error.message:
            log.error("set_aside", file=name, **error_fields(error))
        self.set_aside[name] = DeferredItem(error, until)


@dataclass(frozen=True)
class DownloadView:
    """Inputs of `build_uplink_state` about downloads, in addition to `TransferState`."""

    repository: str
    link: connection_retries.Connectivity
    progress: DownloadState
    waiting_bytes: int


def build_uplink_state(
    state: TransferState,
    link: connection_retries.Connectivity,
    upstream: str,
    downloads: DownloadView | None,
    clocks: tuple[float, float],
) -> uplink_state.UplinkState:
    """Return the state for `uplink.json`; `clocks` are seconds since 1970 and the monotonic clock."""
    wall, running = clocks

    def to_timestamp(seconds: float) -> str:
        return format_timestamp(wall - (running - seconds))

    return uplink_state.UplinkState(
        pid=os.getpid(),
        version=__version__,
        upstream=upstream[:500],
        at=format_timestamp(wall),
        running_seconds=running,
        state=link.state,
        since=to_timestamp(link.since),
        last_contact=None if link.last_contact is None else to_timestamp(link.last_contact),
        retry_at=to_timestamp(link.retry_at) if link.retry_at > running else None,
        failures=link.failures,
        waiting_segments=len(state.waiting),
        waiting_bytes=sum(state.waiting.values()),
        sent_segments=state.sent_segments,
        sent_bytes=state.sent_bytes,
        downloads=None if downloads is None else _downloads(state, downloads, running, to_timestamp),
        problems=tuple(_problems(state)),
    )


def _downloads(
    state: TransferState, downloads: DownloadView, running: float, to_timestamp: Callable[[float], str]
) -> uplink_state.DownloadProgress:
    retry_at, progress = max(downloads.link.retry_at, state.held_until), downloads.progress
    return uplink_state.DownloadProgress(
        repository=downloads.repository[:500],
        state=downloads.link.state,
        since=to_timestamp(downloads.link.since),
        retry_at=to_timestamp(retry_at) if retry_at > running else None,
        refreshed_at=None if progress.refreshed_at is None else to_timestamp(progress.refreshed_at),
        waiting_blobs=len(progress.waiting),
        waiting_bytes=min(downloads.waiting_bytes, 2**62),
        fetched_blobs=progress.fetched_blobs,
        fetched_bytes=progress.fetched_bytes,
    )


def _problems(state: TransferState) -> Iterator[uplink_state.UplinkStateProblem]:
    problems = [(problem, "") for problem in state.problems.values()]
    problems += [(item.error, name) for name, item in state.set_aside.items()]
    for error, name in problems[:PROBLEMS_SHOWN_MAX]:
        yield uplink_state.UplinkStateProblem(
            reason=error.reason, message=error.message[:1000], remedy=error.remedy[:1000], about=name[:200]
        )


def error_fields(error: EdgeAgentError) -> dict[str, str]:
    """Return an error as the fields of a log event."""
    return {"reason": error.reason, "message": error.message, "remedy": error.remedy}
