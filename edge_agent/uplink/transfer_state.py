"""What the uplink knows while it runs, and how it says so in `uplink.json`."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog

from edge_agent import __version__
from edge_agent.errors import EdgeAgentError
from edge_agent.formats import uplink_state
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.uplink import connectivity
from edge_agent.uplink.transfer_schedule import Bandwidth
from edge_agent.uplink.update_download import DownloadState

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
