"""The uplink at work: asks the plan what is next, does it, and keeps what it learns. One task uses it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from edge_agent.config import UplinkConfig
from edge_agent.durable.disk import write_durably
from edge_agent.errors import (
    CapacityError,
    DiskFull,
    EdgeAgentError,
    ExchangeDirUnusable,
    ExchangeError,
    UploadConflict,
    UpstreamMissing,
    UpstreamRefused,
)
from edge_agent.formats import receipts, uplink
from edge_agent.formats.document import DOCUMENT_BYTES_MAX
from edge_agent.uplink import connectivity, plan
from edge_agent.uplink.bandwidth import Bandwidth
from edge_agent.uplink.connectivity import Backoff
from edge_agent.uplink.exchange import FILE_MODE, Exchange, exchange_errors
from edge_agent.uplink.known import Known, SetAside, describe
from edge_agent.uplink.notes import Notes
from edge_agent.uplink.ship import replace as put_over
from edge_agent.uplink.ship import ship_segment
from edge_agent.uplink.upstream import Keys, Upstream, problem_of

log = structlog.get_logger("edge_agent.uplink")

UPSTREAM_FAULTS = (CapacityError, UpstreamRefused, UpstreamMissing)
SET_ASIDE_SECONDS = 3600.0
"""How long a segment that cannot be sent is left alone."""
DISK_PAUSE_SECONDS = 60.0
COUNTS_SECONDS = 5.0
"""How often what waits is counted for others while segments are sent."""


@dataclass(frozen=True)
class Clocks:
    """Seconds since 1970, which may be wrong, and seconds that never go back; and chance, from 0 to 1."""

    now: Callable[[], float] = time.time
    running: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    chance: Callable[[], float] = random.random


class Mirror:
    """Brings the outbox of one site up, and its receipts down."""

    def __init__(
        self, config: UplinkConfig, exchange: Exchange, upstream: Upstream, notes: Notes, clocks: Clocks | None = None
    ) -> None:
        """Take over open notes."""
        self._config, self._exchange, self._upstream, self._notes = config, exchange, upstream, notes
        self._clocks = clocks or Clocks()
        self._keys = Keys(exchange.site)
        self._backoff = Backoff(config.retry_seconds_first, config.retry_seconds_max, config.failures_max)
        now = self._clocks.running()
        self._known = Known(connectivity.start(now), Bandwidth.full(config.bytes_per_second_max, now))
        self._published: tuple[float, object] = (now, None)
        self._counted = 0
        self.problem: EdgeAgentError | None = None
        """What the last action that failed failed with; None once one succeeds."""

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. What is under way is dropped then: nothing of it counts, and it is done again."""
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
                    await asyncio.wait({stopping}, timeout=min(seconds, uplink.REFRESH_SECONDS))
        finally:
            stopping.cancel()
            self.publish(again=True)

    async def once(self) -> None:
        """Do everything that is due, and end.

        Raises:
            CapacityError, SiteError, ExchangeError: what kept it from doing all; it went as far as it could.
        """
        try:
            while True:
                action = await self.step()
                if self.problem:
                    raise self.problem
                if action.idle:
                    break
                if action.kind == "wait":
                    await asyncio.sleep(max(0.0, action.until - self._clocks.running()))
        finally:
            self.publish(again=True)
        for each in self._known.set_aside.values():
            raise each.error

    async def step(self) -> plan.Action:
        """Do the next thing; return what it was. A `wait` is left to the caller."""
        now = self._clocks.running()
        known = self._known
        known.connectivity = connectivity.tick(known.connectivity, now)
        try:
            if now >= known.scan_at and now >= known.paused_until:
                self._scan(now)
            action = plan.next_action(self._view(now))
            if action.kind != "wait":
                if await self._do(action):
                    self._succeeded()
                self.problem = None
        except UPSTREAM_FAULTS as error:
            self._failed(error)
        except (DiskFull, ExchangeDirUnusable) as error:
            self._pause(error)
        else:
            self.publish()
            return action
        self.publish()
        return plan.Action("wait", until=max(known.connectivity.retry_at, known.paused_until))

    def publish(self, *, again: bool = False) -> None:
        """Write `uplink.json` if it says something new, or is old; `again` = in any case."""
        known, running = self._known, self._clocks.running()
        link = known.connectivity
        mark = (link.state, link.failures, tuple(known.set_aside), self.problem and self.problem.reason)
        patience = COUNTS_SECONDS if known.sent_segments != self._counted else uplink.REFRESH_SECONDS
        if not again and mark == self._published[1] and running - self._published[0] < patience:
            return
        path = self._notes.folder / uplink.FILE_NAME
        try:
            with exchange_errors(path):
                write_durably(path, uplink.encode(self._state(running)), FILE_MODE)
        except (DiskFull, ExchangeDirUnusable) as error:
            log.warning("state_not_written", **problem_of(error))
        self._published, self._counted = (running, mark), known.sent_segments

    def _view(self, now: float) -> plan.View:
        known = self._known
        return plan.View(
            now=now,
            connectivity=known.connectivity,
            bandwidth=known.bandwidth,
            next_segment=next(iter(known.waiting), ""),
            has_status=known.status_mark != (0, 0),
            status_changed=known.status_mark != known.status_sent,
            heartbeat_at=known.heartbeat_at,
            receipts_at=known.receipts_at,
            scan_at=known.scan_at,
            paused_until=known.paused_until,
        )

    def _scan(self, now: float) -> None:
        known, wall = self._known, self._clocks.now()
        files = self._exchange.files()
        known.set_aside = {stem: each for stem, each in known.set_aside.items() if now < each.until}
        known.waiting = plan.waiting(
            files,
            lambda stem: stem in known.set_aside or self._notes.is_settled(stem, wall, self._config.recheck_seconds),
        )
        self._notes.keep([name.partition(".")[0] for name in files])
        known.status_mark = self._exchange.status_mark()
        known.scan_at = now + self._config.scan_seconds
        known.paused_until = 0.0

    async def _do(self, action: plan.Action) -> bool:
        """Do it; tell whether the upstream was heard of."""
        if action.kind == "send":
            return await self._send(action.name)
        if action.kind == "heartbeat":
            return await self._send_status()
        return await self._fetch_receipts()

    async def _send(self, stem: str) -> bool:
        try:
            found = self._exchange.segment(stem)
        except ExchangeError as error:
            self._set_aside(stem, error)
            return False
        if found is None:
            self._known.waiting.pop(stem, None)
            return False
        try:
            sent = await ship_segment(self._upstream, self._keys, found)
        except UploadConflict as error:
            self._set_aside(stem, error)
            return True
        self._spend(sent)
        self._notes.add(stem, self._clocks.now())
        self._known.waiting.pop(stem, None)
        self._known.sent_segments += 1
        log.info("segment_sent", segment=stem, bytes=sent)
        return True

    async def _send_status(self) -> bool:
        mark, raw = self._exchange.status_mark(), self._exchange.status()
        self._known.status_mark = self._known.status_sent = mark
        self._known.heartbeat_at = self._clocks.running() + self._config.heartbeat_seconds
        if raw is None:
            return False
        try:
            self._spend(await put_over(self._upstream, self._keys.status(), raw))
        except EdgeAgentError:
            self._known.status_sent = (0, 0)
            raise
        return True

    async def _fetch_receipts(self) -> bool:
        known = self._known
        known.receipts_at = self._clocks.running() + self._config.receipts_seconds
        fetched = await self._upstream.get(self._keys.receipts(), DOCUMENT_BYTES_MAX, known.receipts_tag)
        if fetched is None:
            return True
        try:
            if self._exchange.take_receipts(fetched.content):
                log.info("receipts_fetched", bytes=len(fetched.content))
        except ExchangeError as error:
            self._set_aside(receipts.FILE_NAME, error)
            return True
        known.set_aside.pop(receipts.FILE_NAME, None)
        known.receipts_tag = fetched.tag
        return True

    def _set_aside(self, name: str, error: EdgeAgentError) -> None:
        self._known.waiting.pop(name, None)
        self._known.set_aside[name] = SetAside(error, self._clocks.running() + SET_ASIDE_SECONDS)
        log.error("set_aside", file=name, **problem_of(error))

    def _spend(self, count: int) -> None:
        self._known.bandwidth = self._known.bandwidth.spend(count, self._clocks.running())
        self._known.sent_bytes += count

    def _succeeded(self) -> None:
        if self._known.connectivity.state != "online":
            log.info("online", upstream=self._upstream.name)
        self._known.connectivity = connectivity.succeeded(self._known.connectivity, self._clocks.running())

    def _failed(self, error: EdgeAgentError) -> None:
        now, known = self._clocks.running(), self._known
        known.connectivity = connectivity.failed(known.connectivity, now, self._backoff, self._clocks.chance())
        again = round(known.connectivity.retry_at - now, 1)
        log.warning(known.connectivity.state, again_in_seconds=again, **problem_of(error))
        self.problem = error

    def _pause(self, error: EdgeAgentError) -> None:
        self._known.paused_until = self._clocks.running() + DISK_PAUSE_SECONDS
        self._known.scan_at = self._known.paused_until
        log.error("disk_failed", again_in_seconds=DISK_PAUSE_SECONDS, **problem_of(error))
        self.problem = error

    def _state(self, running: float) -> uplink.UplinkState:
        return describe(self._known, self.problem, self._upstream.name, (self._clocks.now(), running))
