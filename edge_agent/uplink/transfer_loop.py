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
LOCAL_FAULTS = (DiskFull, ExchangeDirUnusable)
STORE_FAULTS = (UpstreamUnreachable, UpstreamBusy)
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
        targets: TransferTargets,
        upload_log: UploadLog,
        clocks: Clocks | None = None,
    ) -> None:
        """Use the locked notes of uploads."""
        self._config, self._exchange, self._targets, self._upload_log = config, exchange, targets, upload_log
        self._upstream, self._updates = targets.upstream, targets.updates
        self._clocks = clocks = clocks or Clocks()
        self._backoff = Backoff(config.retry_seconds_first, config.retry_seconds_max, config.failures_max)
        self._examples_id, self._updates_id = store_identities(config)
        now = self._clocks.running()
        links = {
            store: connectivity.initial_connectivity(now) for store in (self._examples_id, self._updates_id) if store
        }
        self._state = TransferState(links, Bandwidth.full(config.bytes_per_second_max, now), Bandwidth.full(0, now))
        self._uploader = (
            OutboxUploader(config, exchange, targets.upstream, upload_log, clocks, self._state)
            if targets.upstream
            else None
        )
        self._tries_once = False
        self._given_up: set[str] = set()
        """Stores that `once` does not retry."""
        self._denied_path: Path | None = None
        """Path that this user had no rights to when the pause began; None = the pause has another cause."""
        self._published: tuple[float, object] = (now, None)
        self._published_counts = (0, 0)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, which cancels the transfer under way; that one is repeated after the next start."""
        stop_task = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                step_task = asyncio.create_task(self.step())
                await asyncio.wait({step_task, stop_task}, return_when=asyncio.FIRST_COMPLETED)
                if not step_task.done():
                    step_task.cancel()
                    await asyncio.wait({step_task})
                    return
                action = step_task.result()
                if action.kind == "wait":
                    seconds = max(0.0, action.until - self._clocks.running())
                    await asyncio.wait({stop_task}, timeout=min(seconds, uplink_state.REFRESH_SECONDS))
        finally:
            stop_task.cancel()
            self._shut_down()

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
            self._shut_down()
        for error in (*self._state.problems.values(), *(each.error for each in self._state.set_aside.values())):
            raise error

    async def step(self) -> transfer_schedule.TransferAction:
        """Perform the next action and return it; waiting is left to the caller."""
        state, now = self._state, self._clocks.running()
        for store in state.links.keys() - self._given_up:
            state.links[store] = connectivity.after_time_passed(state.links[store], now)
        if now >= state.scan_at:
            # A pause also ends when this user has the rights whose lack caused it.
            if now >= state.paused_until or (self._denied_path is not None and _has_rights(self._denied_path)):
                self._scan(now)
            else:
                state.scan_at = now + self._config.scan_seconds
        action = transfer_schedule.next_action(self._view(now))
        if action.kind != "wait" and not await self._perform_and_record(action):
            # Return the pause now, so that the caller does not try again too early.
            upcoming = transfer_schedule.next_action(self._view(self._clocks.running()))
            action = upcoming if upcoming.kind == "wait" else action
        self.publish()
        return action

    def publish(self, *, force: bool = False) -> None:
        """Write `uplink.json` if it changed or is old; `force` = in any case."""
        state, running = self._state, self._clocks.running()
        snapshot = (
            tuple((link.state, link.failures) for link in state.links.values()),
            tuple(state.set_aside),
            tuple((key, problem.reason) for key, problem in state.problems.items()),
        )
        counts = (state.sent_segments, self._updates.progress.fetched_bytes if self._updates else 0)
        interval = COUNTS_SECONDS if counts != self._published_counts else uplink_state.REFRESH_SECONDS
        if not force and snapshot == self._published[1] and running - self._published[0] < interval:
            return
        try:
            write_exchanged(
                self._upload_log.folder / uplink_state.FILE_NAME, uplink_state.encode(self._uplink_state(running))
            )
        except (DiskFull, ExchangeDirUnusable) as error:
            log.warning("state_not_written", **error_fields(error))
        self._published, self._published_counts = (running, snapshot), counts

    def _shut_down(self) -> None:
        if self._updates:
            self._updates.close()
        self.publish(force=True)

    # --- what there is ------------------------------------------------------------------------------------------------

    def _view(self, now: float) -> transfer_schedule.ScheduleInput:
        state, downloads = self._state, None
        if self._updates is not None:
            link, next_blob = self._link(self._updates_id), self._next_blob()
            downloads = transfer_schedule.DownloadInput(
                link, state.downloads_bandwidth, next_blob, state.refresh_at, state.held_until
            )
        return transfer_schedule.ScheduleInput(
            now=now,
            connectivity=self._link(self._examples_id or self._updates_id),
            bandwidth=state.bandwidth,
            next_segment=next(iter(state.waiting), ""),
            has_status=state.status_mark != (0, 0),
            status_changed=state.status_mark != state.status_sent,
            heartbeat_at=state.heartbeat_at,
            receipts_at=state.receipts_at,
            receipts_unwritten=state.receipts_unwritten,
            scan_at=state.scan_at,
            paused_until=state.paused_until,
            uploads=self._upstream is not None,
            downloads=downloads,
            lead_seconds=state.lead_seconds,
        )

    def _link(self, store: str) -> Connectivity:
        link = self._state.links[store]
        return replace(link, state="offline", retry_at=math.inf) if store in self._given_up else link

    def _next_blob(self) -> str:
        waiting = self._updates.progress.waiting if self._updates else {}
        return next((sha256 for sha256 in waiting if sha256 not in self._state.set_aside), "")

    def _scan(self, now: float) -> None:
        state = self._state
        state.set_aside = {name: item for name, item in state.set_aside.items() if now < item.until}
        state.scan_at, state.paused_until = now + self._config.scan_seconds, 0.0
        try:
            if self._uploader:
                self._uploader.scan()
        except LOCAL_FAULTS as error:
            # A scan costs nothing, so it keeps its usual interval.
            self._pause("scan", error, self._config.scan_seconds)
        else:
            state.problems.pop("scan", None)
            if self._updates:
                self._scan_incoming(self._updates, now)

    def _scan_incoming(self, updates: UpdateDownloader, now: float) -> None:
        state, faulty_item = self._state, ""
        try:
            updates.read_requests(now)
        except LOCAL_FAULTS as error:
            faulty_item = INCOMING
            state.defer(faulty_item, error, now + SET_ASIDE_SECONDS)
        except ExchangeError as error:
            faulty_item = repository_metadata.FILE_NAME
            state.defer(faulty_item, error, now + SET_ASIDE_SECONDS)
        kept_names = {faulty_item, *updates.progress.waiting}
        state.set_aside = {
            name: item for name, item in state.set_aside.items() if name in kept_names or not is_of_updates(name)
        }
        requests = updates.progress.requests
        cap = (requests.bytes_per_second_max if requests else None) or 0
        if cap != state.downloads_bandwidth.bytes_per_second:
            state.downloads_bandwidth = Bandwidth.full(cap, now)

    # --- doing it -----------------------------------------------------------------------------------------------------

    async def _perform_and_record(self, action: transfer_schedule.TransferAction) -> bool:
        """Perform an action and record its outcome; return whether it succeeded."""
        state, store = self._state, self._updates_id if action.kind in ("refresh", "pull") else self._examples_id
        started_at, bytes_before = self._clocks.running(), self._bytes_moved()
        error = None
        try:
            if await self._perform(action):
                self._record_contact(store)
        except FAULTS as fault:
            error = fault
            self._record_failure(action, store, fault)
        else:
            self._record_success(action)
        now = self._clocks.running()
        bytes_moved = self._bytes_moved() - bytes_before
        state.bandwidth = state.bandwidth.spend(bytes_moved, now)
        if action.kind in ("refresh", "pull"):
            state.downloads_bandwidth = state.downloads_bandwidth.spend(bytes_moved, now)
        self._charge_direction(action, max(now, state.links[store].retry_at) - started_at, bytes_moved)
        return error is None

    async def _perform(self, action: transfer_schedule.TransferAction) -> bool:
        """Perform an action; return whether the store answered."""
        state, updates, now = self._state, self._updates, self._clocks.running()
        if updates and action.kind == "pull":
            return await updates.pull(action.name, now)
        if updates and action.kind == "refresh":
            state.refresh_at = now + self._config.updates_seconds
            if await updates.refresh(now):
                log.info("metadata_fetched", repository=updates.name)
                # The central team may have fixed what was missing or wrong.
                state.set_aside = {name: item for name, item in state.set_aside.items() if not is_blob(name)}
            return True
        if self._uploader is None:
            return False
        if action.kind == "send":
            return await self._uploader.send_segment(action.name)
        if action.kind == "heartbeat":
            return await self._uploader.send_status()
        return await self._uploader.fetch_receipts()

    # --- learning from it ---------------------------------------------------------------------------------------------

    def _bytes_moved(self) -> int:
        """Return the bytes sent and fetched so far."""
        return self._state.sent_bytes + (self._updates.progress.fetched_bytes if self._updates else 0)

    def _charge_direction(self, action: transfer_schedule.TransferAction, elapsed: float, bytes_moved: int) -> None:
        """Account the time of a transfer to its direction, while both directions have work."""
        state = self._state
        if action.kind not in ("send", "pull"):
            return
        if not state.waiting or not self._next_blob():
            state.lead_seconds = 0.0
            return
        cost = transfer_schedule.transfer_cost_seconds(elapsed, bytes_moved, self._config.bytes_per_second_max)
        lead = state.lead_seconds + (cost if action.kind == "send" else -cost)
        state.lead_seconds = max(-LEAD_SECONDS_MAX, min(LEAD_SECONDS_MAX, lead))

    def _record_contact(self, store: str) -> None:
        state = self._state
        state.problems.pop(store, None)
        if state.links[store].state != "online":
            log.info(
                "online",
                upstream=self._updates.name if self._updates and store != self._examples_id else self._targets.name,
            )
        state.links[store] = connectivity.after_success(state.links[store], self._clocks.running())

    def _record_success(self, action: transfer_schedule.TransferAction) -> None:
        state = self._state
        if action.kind == "refresh":
            state.problems.pop("refresh", None)
            state.refresh_failures = 0
        elif action.kind == "pull":
            state.held_until, state.pull_failures = 0.0, 0
        else:
            state.problems.pop("disk", None)

    def _record_failure(self, action: transfer_schedule.TransferAction, store: str, error: EdgeAgentError) -> None:
        # A folder that is missing or not readable counts as a store that does not answer.
        concerns_store = isinstance(error, STORE_FAULTS) or "folder" in error.metadata
        if action.kind in ("refresh", "pull") and not concerns_store:
            if not isinstance(error, LOCAL_FAULTS):
                self._record_contact(store)
            self._record_update_failure(action, error)
        elif isinstance(error, LOCAL_FAULTS):
            self._pause("disk", error, DISK_PAUSE_SECONDS)
            path = Path(error.metadata.get("path") or "/")
            self._denied_path = None if isinstance(error, DiskFull) or _has_rights(path) else path
        else:
            now, links = self._clocks.running(), self._state.links
            links[store] = connectivity.after_failure(links[store], now, self._backoff, self._clocks.chance())
            retry_seconds = round(links[store].retry_at - now, 1)
            log.warning(links[store].state, again_in_seconds=retry_seconds, **error_fields(error))
            self._state.problems[store] = error
            self._given_up |= {store} if self._tries_once else set()

    def _record_update_failure(self, action: transfer_schedule.TransferAction, error: EdgeAgentError) -> None:
        """Defer an item that is wrong in the repository or lacks room here; everything else continues."""
        state, is_local = self._state, isinstance(error, LOCAL_FAULTS)
        if action.kind == "refresh":
            state.problems["refresh"] = error
            state.refresh_failures += 1
            pause = (
                DISK_PAUSE_SECONDS
                if is_local
                else self._backoff.pause_seconds(state.refresh_failures, self._clocks.chance())
            )
            state.refresh_at = self._clocks.running() + pause
            log.error("metadata_not_fetched", again_in_seconds=round(pause, 1), **error_fields(error))
            return
        if isinstance(error, HashMismatch):
            state.defer(action.name, error, self._clocks.running() + SET_ASIDE_SECONDS)
        elif isinstance(error, UpdateError):
            state.defer(action.name, error, self._clocks.running() + MISSING_SECONDS)
        else:
            state.defer(action.name, error, self._clocks.running() + DISK_PAUSE_SECONDS)
            if not is_local:
                state.pull_failures += 1
                pause = self._backoff.pause_seconds(state.pull_failures, self._clocks.chance())
                state.held_until = self._clocks.running() + pause

    def _pause(self, kind: str, error: EdgeAgentError, seconds: float) -> None:
        state, now = self._state, self._clocks.running()
        state.paused_until, state.scan_at = now + seconds, now + min(seconds, self._config.scan_seconds)
        previous = state.problems.get(kind)
        if previous is None or kind == "disk" or previous.message != error.message:
            log.error("disk_failed", again_in_seconds=seconds, **error_fields(error))
        state.problems[kind], self._denied_path = error, None

    def _uplink_state(self, running: float) -> uplink_state.UplinkState:
        state, updates = self._state, self._updates
        downloads = None
        if updates:
            downloads = DownloadView(
                updates.name, state.links[self._updates_id], updates.progress, updates.waiting_bytes()
            )
        link = state.links[self._examples_id or self._updates_id]
        return build_uplink_state(state, link, self._targets.name, downloads, (self._clocks.now(), running))


def _has_rights(path: Path) -> bool:
    """Return whether this user may replace a file, and read and write it if it exists."""
    return os.access(path.parent, os.W_OK | os.X_OK) and (not path.exists() or os.access(path, os.R_OK | os.W_OK))
