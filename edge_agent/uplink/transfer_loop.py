"""The loop of the uplink: performs the scheduled transfers and records their outcome. One task uses it."""

from __future__ import annotations

import asyncio
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from edge_agent.config import UplinkConfig
from edge_agent.errors import (
    BundleError,
    CapacityError,
    DiskFull,
    EdgeAgentError,
    ExchangeDirUnusable,
    ExchangeError,
    HashMismatch,
    SiteError,
    UpdateError,
    UpstreamBusy,
    UpstreamUnreachable,
)
from edge_agent.formats import repository_metadata, uplink_state
from edge_agent.uplink import connectivity, transfer_schedule
from edge_agent.uplink.connectivity import Backoff, Connectivity
from edge_agent.uplink.exchange_dirs import ExchangeDirs, write_exchanged
from edge_agent.uplink.object_store import ObjectStore
from edge_agent.uplink.store_backends import store_identities
from edge_agent.uplink.transfer_schedule import (
    SET_ASIDE_SECONDS,
    Bandwidth,
    Clocks,
    DownloadView,
    TransferState,
    build_uplink_state,
    error_fields,
)
from edge_agent.uplink.update_download import UpdateDownloader
from edge_agent.uplink.upload import OutboxUploader, UploadLog

log = structlog.get_logger("edge_agent.uplink")

FAULTS = (CapacityError, SiteError, ExchangeError, UpdateError, BundleError)
OWN_FAULTS = (DiskFull, ExchangeDirUnusable)
SILENCE = (UpstreamUnreachable, UpstreamBusy)
"""Errors of a store as a whole. Other errors of updates are no reason to stop sending examples."""
MISSING_SECONDS = 600.0
"""How long a blob that the repository does not have is left alone."""
DISK_PAUSE_SECONDS = 60.0
COUNTS_SECONDS = 5.0
"""Interval of writing the counts to `uplink.json` while transfers run."""
LEAD_SECONDS_MAX = 600.0
"""Bound on the lead of one direction over the other."""
SHA256_CHARACTERS = 64
INCOMING = "incoming"
"""Name of that folder among deferred items."""


@dataclass(frozen=True)
class TransferTargets:
    """The stores of an uplink."""

    upstream: ObjectStore | None
    """For examples."""
    updates: UpdateDownloader | None = None

    @property
    def name(self) -> str:
        """Name of the store for examples, or else of the one of updates; empty = none."""
        return self.upstream.name if self.upstream else self.updates.name if self.updates else ""


def is_blob(name: str) -> bool:
    """Return whether a deferred item is a blob of an update."""
    return len(name) == SHA256_CHARACTERS


def is_of_updates(name: str) -> bool:
    """Return whether a deferred item is a blob, the download requests, or the folder of downloads."""
    return is_blob(name) or name in (repository_metadata.FILE_NAME, INCOMING)


class TransferLoop:
    """Uploads the outbox of one site, and downloads its receipts and updates, from the configured stores."""

    def __init__(
        self,
        config: UplinkConfig,
        exchange: ExchangeDirs,
        places: TransferTargets,
        notes: UploadLog,
        clocks: Clocks | None = None,
    ) -> None:
        """Use the locked notes of uploads."""
        self._config, self._exchange, self._places, self._notes = config, exchange, places, notes
        self._upstream, self._updates = places.upstream, places.updates
        self._clocks = clocks = clocks or Clocks()
        self._backoff = Backoff(config.retry_seconds_first, config.retry_seconds_max, config.failures_max)
        self._up, self._down = store_identities(config)
        now = self._clocks.running()
        links = {store: connectivity.initial_connectivity(now) for store in (self._up, self._down) if store}
        self._known = TransferState(links, Bandwidth.full(config.bytes_per_second_max, now), Bandwidth.full(0, now))
        self._uploader = (
            OutboxUploader(config, exchange, places.upstream, notes, clocks, self._known) if places.upstream else None
        )
        self._tries_once = False
        self._given_up: set[str] = set()
        """Stores that `once` does not retry."""
        self._closed: Path | None = None
        """Path that this user had no rights to when the pause began; None = the pause has another cause."""
        self._published: tuple[float, object] = (now, None)
        self._counted = (0, 0)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, which cancels the transfer under way; that one is repeated after the next start."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                working = asyncio.create_task(self.step())
                await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not working.done():
                    working.cancel()
                    await asyncio.wait({working})
                    return
                action = working.result()
                if action.kind == "wait":
                    seconds = max(0.0, action.until - self._clocks.running())
                    await asyncio.wait({stopping}, timeout=min(seconds, uplink_state.REFRESH_SECONDS))
        finally:
            stopping.cancel()
            self._leave()

    async def once(self) -> None:
        """Perform all transfers that are due, and return.

        Raises:
            CapacityError, SiteError, ExchangeError, UpdateError, BundleError: not all transfers succeeded; those that
                could be made were made.
        """
        self._tries_once = True
        try:
            while (action := await self.step()).kind != "wait" or action.saving:
                if action.kind == "wait":
                    await asyncio.sleep(max(0.0, action.until - self._clocks.running()))
        finally:
            self._leave()
        for error in (*self._known.problems.values(), *(each.error for each in self._known.set_aside.values())):
            raise error

    async def step(self) -> transfer_schedule.TransferAction:
        """Perform the next action and return it; waiting is left to the caller."""
        known, now = self._known, self._clocks.running()
        for store in known.links.keys() - self._given_up:
            known.links[store] = connectivity.after_time_passed(known.links[store], now)
        if now >= known.scan_at:
            if now >= known.paused_until or self._is_open_again():
                self._scan(now)
            else:
                known.scan_at = now + self._config.scan_seconds
        action = transfer_schedule.next_action(self._view(now))
        if action.kind != "wait" and not await self._try(action):
            # Return the pause now, so that the caller does not try again too early.
            again = transfer_schedule.next_action(self._view(self._clocks.running()))
            action = again if again.kind == "wait" else action
        self.publish()
        return action

    def publish(self, *, again: bool = False) -> None:
        """Write `uplink.json` if it changed or is old; `again` = in any case."""
        known, running = self._known, self._clocks.running()
        links = tuple((link.state, link.failures) for link in known.links.values())
        mark = (links, tuple(known.set_aside), tuple((key, each.reason) for key, each in known.problems.items()))
        counted = (known.sent_segments, self._updates.progress.fetched_bytes if self._updates else 0)
        patience = COUNTS_SECONDS if counted != self._counted else uplink_state.REFRESH_SECONDS
        if not again and mark == self._published[1] and running - self._published[0] < patience:
            return
        try:
            write_exchanged(self._notes.folder / uplink_state.FILE_NAME, uplink_state.encode(self._state(running)))
        except (DiskFull, ExchangeDirUnusable) as error:
            log.warning("state_not_written", **error_fields(error))
        self._published, self._counted = (running, mark), counted

    def _leave(self) -> None:
        if self._updates:
            self._updates.close()
        self.publish(again=True)

    # --- what there is ------------------------------------------------------------------------------------------------

    def _view(self, now: float) -> transfer_schedule.ScheduleInput:
        known = self._known
        return transfer_schedule.ScheduleInput(
            now=now,
            connectivity=self._link(self._up or self._down),
            bandwidth=known.bandwidth,
            next_segment=next(iter(known.waiting), ""),
            has_status=known.status_mark != (0, 0),
            status_changed=known.status_mark != known.status_sent,
            heartbeat_at=known.heartbeat_at,
            receipts_at=known.receipts_at,
            receipts_unwritten=known.receipts_unwritten,
            scan_at=known.scan_at,
            paused_until=known.paused_until,
            uploads=self._upstream is not None,
            downloads=self._downloads(),
            lead_seconds=known.lead_seconds,
        )

    def _downloads(self) -> transfer_schedule.DownloadInput | None:
        known = self._known
        if self._updates is None:
            return None
        link = self._link(self._down)
        return transfer_schedule.DownloadInput(
            link, known.downloads_bandwidth, self._next_blob(), known.refresh_at, known.held_until
        )

    def _link(self, store: str) -> Connectivity:
        link = self._known.links[store]
        return replace(link, state="offline", retry_at=math.inf) if store in self._given_up else link

    def _next_blob(self) -> str:
        waiting = self._updates.progress.waiting if self._updates else {}
        return next((sha256 for sha256 in waiting if sha256 not in self._known.set_aside), "")

    def _scan(self, now: float) -> None:
        known = self._known
        known.set_aside = {name: each for name, each in known.set_aside.items() if now < each.until}
        known.scan_at, known.paused_until = now + self._config.scan_seconds, 0.0
        try:
            if self._uploader:
                self._uploader.scan()
        except OWN_FAULTS as error:
            # A scan costs nothing, so it keeps its usual interval.
            self._pause("scan", error, self._config.scan_seconds)
        else:
            known.problems.pop("scan", None)
            if self._updates:
                self._scan_incoming(self._updates, now)

    def _scan_incoming(self, updates: UpdateDownloader, now: float) -> None:
        known, wrong = self._known, ""
        try:
            updates.look(now)
        except OWN_FAULTS as error:
            wrong = INCOMING
            known.defer(wrong, error, now + SET_ASIDE_SECONDS)
        except ExchangeError as error:
            wrong = repository_metadata.FILE_NAME
            known.defer(wrong, error, now + SET_ASIDE_SECONDS)
        stays = {wrong, *updates.progress.waiting}
        known.set_aside = {
            name: each for name, each in known.set_aside.items() if name in stays or not is_of_updates(name)
        }
        wanted = updates.progress.wants
        cap = (wanted.bytes_per_second_max if wanted else None) or 0
        if cap != known.downloads_bandwidth.bytes_per_second:
            known.downloads_bandwidth = Bandwidth.full(cap, now)

    # --- doing it -----------------------------------------------------------------------------------------------------

    async def _try(self, action: transfer_schedule.TransferAction) -> bool:
        """Perform an action and record its outcome; return whether it succeeded."""
        known, store = self._known, self._down if action.kind in ("refresh", "pull") else self._up
        began, moved = self._clocks.running(), self._moved()
        error = None
        try:
            if await self._do(action):
                self._heard(store)
        except FAULTS as fault:
            error = fault
            self._learn(action, store, fault)
        else:
            self._went_well(action)
        now = self._clocks.running()
        spent = self._moved() - moved
        known.bandwidth = known.bandwidth.spend(spent, now)
        if action.kind in ("refresh", "pull"):
            known.downloads_bandwidth = known.downloads_bandwidth.spend(spent, now)
        self._take_turns(action, max(now, known.links[store].retry_at) - began, spent)
        return error is None

    async def _do(self, action: transfer_schedule.TransferAction) -> bool:
        """Perform an action; return whether the store answered."""
        now = self._clocks.running()
        if self._updates and action.kind == "pull":
            return await self._updates.pull(action.name, now)
        if self._updates and action.kind == "refresh":
            return await self._refresh(self._updates, now)
        if self._uploader is None:
            return False
        if action.kind == "send":
            return await self._uploader.send_segment(action.name)
        if action.kind == "heartbeat":
            return await self._uploader.send_status()
        return await self._uploader.fetch_receipts()

    async def _refresh(self, updates: UpdateDownloader, now: float) -> bool:
        known = self._known
        known.refresh_at = now + self._config.updates_seconds
        if await updates.refresh(now):
            log.info("metadata_fetched", repository=updates.name)
            # The central team may have fixed what was missing or wrong.
            known.set_aside = {name: each for name, each in known.set_aside.items() if not is_blob(name)}
        return True

    # --- learning from it ---------------------------------------------------------------------------------------------

    def _moved(self) -> int:
        """Return the bytes sent and fetched so far."""
        return self._known.sent_bytes + (self._updates.progress.fetched_bytes if self._updates else 0)

    def _take_turns(self, action: transfer_schedule.TransferAction, elapsed: float, moved: int) -> None:
        """Account the time of a transfer to its direction, while both directions have work."""
        known = self._known
        if action.kind not in ("send", "pull"):
            return
        if not known.waiting or not self._next_blob():
            known.lead_seconds = 0.0
            return
        cost = transfer_schedule.transfer_cost_seconds(elapsed, moved, self._config.bytes_per_second_max)
        lead = known.lead_seconds + (cost if action.kind == "send" else -cost)
        known.lead_seconds = max(-LEAD_SECONDS_MAX, min(LEAD_SECONDS_MAX, lead))

    def _heard(self, store: str) -> None:
        known = self._known
        known.problems.pop(store, None)
        if known.links[store].state != "online":
            log.info(
                "online", upstream=self._updates.name if self._updates and store != self._up else self._places.name
            )
        known.links[store] = connectivity.after_success(known.links[store], self._clocks.running())

    def _went_well(self, action: transfer_schedule.TransferAction) -> None:
        known = self._known
        if action.kind == "refresh":
            known.problems.pop("refresh", None)
            known.refresh_failures = 0
        elif action.kind == "pull":
            known.held_until, known.pull_failures = 0.0, 0
        else:
            known.problems.pop("disk", None)

    def _learn(self, action: transfer_schedule.TransferAction, store: str, error: EdgeAgentError) -> None:
        # A folder that is missing or not readable counts as a store that does not answer.
        silent = isinstance(error, SILENCE) or "folder" in error.metadata
        if action.kind in ("refresh", "pull") and not silent:
            if not isinstance(error, OWN_FAULTS):
                self._heard(store)
            self._learn_of_update(action, error)
        elif isinstance(error, OWN_FAULTS):
            self._pause("disk", error, DISK_PAUSE_SECONDS)
            self._closed = _closed_path(error)
        else:
            self._failed(store, error)

    def _learn_of_update(self, action: transfer_schedule.TransferAction, error: EdgeAgentError) -> None:
        """Defer an item that is wrong in the repository or lacks room here; everything else continues."""
        known, own = self._known, isinstance(error, OWN_FAULTS)
        if action.kind == "refresh":
            known.problems["refresh"] = error
            known.refresh_failures += 1
            pause = (
                DISK_PAUSE_SECONDS
                if own
                else self._backoff.pause_seconds(known.refresh_failures, self._clocks.chance())
            )
            known.refresh_at = self._clocks.running() + pause
            log.error("metadata_not_fetched", again_in_seconds=round(pause, 1), **error_fields(error))
            return
        if isinstance(error, HashMismatch):
            known.defer(action.name, error, self._clocks.running() + SET_ASIDE_SECONDS)
        elif isinstance(error, UpdateError):
            known.defer(action.name, error, self._clocks.running() + MISSING_SECONDS)
        else:
            known.defer(action.name, error, self._clocks.running() + DISK_PAUSE_SECONDS)
            if not own:
                known.pull_failures += 1
                pause = self._backoff.pause_seconds(known.pull_failures, self._clocks.chance())
                known.held_until = self._clocks.running() + pause

    def _failed(self, store: str, error: EdgeAgentError) -> None:
        now, links = self._clocks.running(), self._known.links
        links[store] = connectivity.after_failure(links[store], now, self._backoff, self._clocks.chance())
        again = round(links[store].retry_at - now, 1)
        log.warning(links[store].state, again_in_seconds=again, **error_fields(error))
        self._known.problems[store] = error
        self._given_up |= {store} if self._tries_once else set()

    def _pause(self, kind: str, error: EdgeAgentError, seconds: float) -> None:
        known, now = self._known, self._clocks.running()
        known.paused_until, known.scan_at = now + seconds, now + min(seconds, self._config.scan_seconds)
        before = known.problems.get(kind)
        if before is None or kind == "disk" or before.message != error.message:
            log.error("disk_failed", again_in_seconds=seconds, **error_fields(error))
        known.problems[kind], self._closed = error, None

    def _is_open_again(self) -> bool:
        """Return whether this user now has the rights whose lack caused the pause."""
        return self._closed is not None and _has_rights(self._closed)

    def _state(self, running: float) -> uplink_state.UplinkState:
        known, updates = self._known, self._updates
        seen = None
        if updates:
            seen = DownloadView(updates.name, known.links[self._down], updates.progress, updates.waiting_bytes())
        link = known.links[self._up or self._down]
        return build_uplink_state(known, link, self._places.name, seen, (self._clocks.now(), running))


def _closed_path(error: EdgeAgentError) -> Path | None:
    """Return the path of an error if this user has no rights to it."""
    path = Path(error.metadata.get("path") or "/")
    return None if isinstance(error, DiskFull) or _has_rights(path) else path


def _has_rights(path: Path) -> bool:
    """Return whether this user may replace a file, and read and write it if it exists."""
    return os.access(path.parent, os.W_OK | os.X_OK) and (not path.exists() or os.access(path, os.R_OK | os.W_OK))
