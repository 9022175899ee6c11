"""Bringing one object up: at most once, never over something else, and trusted only when it was seen existing."""

from __future__ import annotations

import structlog

from edge_agent.config import UplinkConfig
from edge_agent.errors import EdgeAgentError, ExchangeError, UploadConflict, UpstreamFailed
from edge_agent.formats import receipts
from edge_agent.formats.signed_document import DOCUMENT_BYTES_MAX
from edge_agent.uplink import transfer_schedule
from edge_agent.uplink.exchange_dirs import ExchangeDirs, SealedSegment
from edge_agent.uplink.object_store import ObjectMetadata, ObjectStore, SiteObjectKeys
from edge_agent.uplink.transfer_state import SET_ASIDE_SECONDS, Clocks, TransferState
from edge_agent.uplink.upload_log import UploadLog

log = structlog.get_logger("edge_agent.uplink")


class OutboxUploader:
    """Uploads the outbox of one site, and fetches its receipts. One task uses it."""

    def __init__(
        self,
        config: UplinkConfig,
        exchange: ExchangeDirs,
        store: ObjectStore,
        upload_log: UploadLog,
        clocks: Clocks,
        state: TransferState,
    ) -> None:
        """Upload to a store; what is learned goes into `state`."""
        self._config, self._exchange, self._store, self._log = config, exchange, store, upload_log
        self._clocks, self._state = clocks, state
        self._keys = SiteObjectKeys(exchange.site)

    def scan(self) -> None:
        """Look for segments that are not uploaded yet. Raises ExchangeDirUnusable, DiskFull."""
        state, wall = self._state, self._clocks.now()
        files = self._exchange.files()
        state.waiting = transfer_schedule.unsent_segments(
            files,
            lambda stem: stem in state.set_aside or self._log.is_settled(stem, wall, self._config.recheck_seconds),
        )
        self._log.keep([name.partition(".")[0] for name in files])
        state.status_mark = self._exchange.status_mark()

    async def send_segment(self, stem: str) -> bool:
        """Upload a segment; return whether the store answered."""
        try:
            found = self._exchange.segment(stem)
        except ExchangeError as error:
            self._state.defer(stem, error, self._clocks.running() + SET_ASIDE_SECONDS)
            return False
        if found is None:
            self._state.waiting.pop(stem, None)
            return False
        try:
            sent = await upload_segment(self._store, self._keys, found)
        except UploadConflict as error:
            self._state.defer(stem, error, self._clocks.running() + SET_ASIDE_SECONDS)
            return True
        self._state.sent_bytes += sent
        self._log.add(stem, self._clocks.now())
        self._state.waiting.pop(stem, None)
        self._state.sent_segments += 1
        log.info("segment_sent", segment=stem, bytes=sent)
        return True

    async def send_status(self) -> bool:
        """Upload the status object; return whether the store answered."""
        mark, raw = self._exchange.status_mark(), self._exchange.status()
        self._state.status_mark = self._state.status_sent = mark
        self._state.heartbeat_at = self._clocks.running() + self._config.heartbeat_seconds
        if raw is None:
            return False
        try:
            self._state.sent_bytes += await upload_replacing(self._store, self._keys.status(), raw)
        except EdgeAgentError:
            self._state.status_sent = (0, 0)
            raise
        return True

    async def fetch_receipts(self) -> bool:
        """Fetch the receipts of the central team; return whether the store answered."""
        state = self._state
        state.receipts_at = self._clocks.running() + self._config.receipts_seconds
        fetched = await self._store.get(self._keys.receipts(), DOCUMENT_BYTES_MAX, state.receipts_tag)
        if fetched is None or fetched.same:
            return True
        try:
            if self._exchange.take_receipts(fetched.content):
                log.info("receipts_fetched", bytes=len(fetched.content))
        except ExchangeError as error:
            self._state.defer(receipts.FILE_NAME, error, self._clocks.running() + SET_ASIDE_SECONDS)
            return True
        state.set_aside.pop(receipts.FILE_NAME, None)
        state.receipts_tag = fetched.tag
        return True


async def upload_segment(store: ObjectStore, keys: SiteObjectKeys, what: SealedSegment) -> int:
    """Upload the sealed file, then its manifest; return the bytes that were sent.

    Raises:
        UploadConflict: the store holds something else under one of the names; it is left alone.
        UpstreamFailed: the object in the store is not the one that was sent.
        CapacityError, SiteError: the store does not accept it now.
    """
    sent = await upload_immutable(store, keys.sealed(what.stem), what.sealed)
    return sent + await upload_immutable(store, keys.manifest(what.stem), what.manifest)


async def upload_immutable(store: ObjectStore, key: str, content: bytes) -> int:
    """Put content that never changes; return the bytes that were sent, 0 = the store already had it.

    A store that is not atomic may be left with the beginning of an upload that was cut. That loses nothing when it is
    replaced, so it is; anything else is a conflict.
    """
    existing = await store.head(key)
    if existing is not None:
        whole = existing.matches(content)
        if whole is None or (whole is False and existing.size < len(content)):
            fetched = await store.get(key, len(content))
            whole = None if fetched is None else fetched.content == content
            if whole is False and fetched is not None and content.startswith(fetched.content):
                whole = None
        if whole:
            return 0
        if whole is False:
            said = f"{store.name}: {key} holds {existing.size} other bytes; {len(content)} were to be sent"
            raise UploadConflict(said, key=key)
    tag = await store.put(key, content)
    await _verify(store, key, content, tag)
    return len(content)


async def upload_replacing(store: ObjectStore, key: str, content: bytes) -> int:
    """Put content that may replace other content; return the bytes that were sent.

    Raises:
        UpstreamFailed: the object in the store is not the one that was sent.
        CapacityError, SiteError: the store does not accept it now.
    """
    tag = await store.put(key, content)
    await _verify(store, key, content, tag)
    return len(content)


async def _verify(store: ObjectStore, key: str, content: bytes, tag: str) -> None:
    existing = await store.head(key)
    if existing is None or not await _holds(store, key, existing, content, tag):
        size = "nothing" if existing is None else f"{existing.size} bytes"
        said = f"{store.name}: {key} holds {size} after {len(content)} were sent, or others"
        raise UpstreamFailed(said, key=key)


async def _holds(store: ObjectStore, key: str, existing: ObjectMetadata, content: bytes, tag: str) -> bool:
    known = existing.matches(content)
    if known is not None:
        return known
    if tag and existing.tag:
        # The very object that the store took from this request, which TLS or the request's signature protected.
        return tag == existing.tag
    fetched = await store.get(key, len(content))
    return fetched is not None and fetched.content == content
