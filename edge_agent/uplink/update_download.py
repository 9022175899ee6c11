"""Downloads updates into `incoming/`: the repository's metadata, and the blobs that the daemon requests.

Nothing here is trusted or installed: the daemon verifies everything. Names, sizes, hashes and the completeness of a set
are checked here only to keep useless files from accumulating.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.config import UplinkConfig
from edge_agent.errors import DocumentInvalid, HashMismatch, UpdateIncomplete, UpstreamFailed
from edge_agent.formats import repository_metadata
from edge_agent.formats.repository_metadata import DownloadRequests, MetadataFile, MetadataSet
from edge_agent.uplink.exchange_dirs import REPOSITORY_REMEDY, BlobDownload, IncomingDir, read_bounded
from edge_agent.uplink.object_store import ByteRange, ObjectStore

ROOTS_ASKED_MAX = 64
"""Roots requested in one refresh; the next one continues."""
AGAIN_SECONDS = 3600.0
"""Minimum interval of fetching all metadata again because the daemon rejected it."""
RECHECK_SECONDS = 3600.0
"""A blob that is here but still requested is read again after this time: the daemon may have found it damaged."""
OUT_OF_RANGE = "416"
TIMESTAMP = MetadataFile(repository_metadata.TIMESTAMP, repository_metadata.TIMESTAMP_BYTES_MAX)


@dataclass
class DownloadState:
    """The state of downloads. Times by the monotonic clock."""

    wants: DownloadRequests | None = None
    waiting: dict[str, int] = field(default_factory=dict)
    """Blobs to fetch, in order, with their sizes in bytes."""
    arrived: dict[str, float] = field(default_factory=dict)
    """Blobs that are here with the right hash, and when to check them again."""
    tags: dict[str, str] = field(default_factory=dict)
    again_at: float = 0.0
    refreshed_at: float | None = None
    fetched_blobs: int = 0
    fetched_bytes: int = 0


class UpdateDownloader:
    """Downloads updates from a repository into one site's `incoming/`."""

    def __init__(self, config: UplinkConfig, incoming: IncomingDir, wants_path: Path, upstream: ObjectStore) -> None:
        """Prepare; nothing is read or requested yet."""
        self._config, self._incoming, self._wants_path, self._upstream = config, incoming, wants_path, upstream
        self.name = upstream.name
        self.progress = DownloadState()
        self._arriving: BlobDownload | None = None
        self._plans: tuple[str, ...] | None = None
        """Blobs of the current and the previous plan; None = not looked up yet."""
        self._tags: dict[str, str] = {}

    def look(self, now: float) -> None:
        """Read the download requests, and remove other blobs. Without `wants.json` nothing is requested or removed.

        Raises:
            DocumentInvalid: `wants.json` is invalid; nothing is fetched or removed.
            DiskFull, ExchangeDirUnusable: the folders cannot be used.
        """
        progress = self.progress
        progress.wants, progress.waiting = None, {}
        raw = read_bounded(self._wants_path, repository_metadata.DOWNLOAD_REQUESTS_BYTES_MAX)
        if raw is None:
            return
        progress.wants = repository_metadata.parse(raw)
        self._incoming.prepare()
        if self._plans is None:
            here = self._incoming.release()
            self._plans = (here.plan_sha256,) if here else ()
        wanted = {each.sha256: each.size_bytes for each in progress.wants.blobs}
        if self._arriving and wanted.get(self._arriving.sha256) != self._arriving.size_bytes:
            self.close()
        self._incoming.keep_blobs({*wanted, *self._plans})
        sizes = self._incoming.sizes()
        progress.arrived = {
            sha256: until
            for sha256, until in progress.arrived.items()
            if now < until and sizes.get(sha256) == wanted.get(sha256)
        }
        progress.waiting = {sha256: size for sha256, size in wanted.items() if sha256 not in progress.arrived}

    def waiting_bytes(self) -> int:
        """Return how many bytes are still to be fetched."""
        return sum(max(0, size - self._incoming.begun(sha256)) for sha256, size in self.progress.waiting.items())

    async def refresh(self, now: float) -> bool:
        """Fetch metadata; return whether any is new.

        It takes two requests if nothing is new. The timestamp is fetched first: a publisher writes it last, so all
        other files are there by then.

        Raises:
            UpdateIncomplete, DocumentInvalid: the repository is invalid or incomplete; the metadata here stays.
            CapacityError, SiteError: the repository does not answer, or this disk failed.
        """
        self._incoming.prepare()
        progress = self.progress
        again = progress.wants is not None and progress.wants.again and now >= progress.again_at
        if again:
            progress.again_at = now + AGAIN_SECONDS
            progress.tags.clear()
        self._tags = {}
        timestamp = await self._get(TIMESTAMP)
        new = await self._fetch_roots()
        here = self._incoming.release()
        if again or here is None or here.timestamp != timestamp:
            release = await self._follow(timestamp)
            self._incoming.adopt(release, here)
            self._plans = (release.plan_sha256, *([here.plan_sha256] if here else []))
            new = True
        # Only now, because files that were fetched but not adopted must be fetched again.
        progress.tags.update(self._tags)
        progress.refreshed_at = now
        return new

    async def pull(self, sha256: str, now: float) -> bool:
        """Fetch the next chunk of a blob, or check one that is here; return whether the repository answered.

        Raises:
            UpdateIncomplete: the repository does not have the blob.
            HashMismatch: the blob in the repository has another size or hash; the bytes are dropped.
            CapacityError, SiteError: the repository does not answer properly, or this disk failed.
        """
        size = self.progress.waiting[sha256]
        if self._incoming.sizes().get(sha256) == size and await asyncio.to_thread(self._incoming.holds, sha256):
            self._settle(sha256, now)
            return False
        arriving = await self._open(sha256, size)
        heard = arriving.missing() > 0
        if heard:
            arriving.take_room(self._config.disk_reserve_bytes)
            await self._pull_chunk(arriving)
        if arriving.missing() == 0:
            self._finish(arriving, now)
        return heard

    def close(self) -> None:
        """Close the partial blob; its bytes stay."""
        if self._arriving:
            self._arriving.close()
        self._arriving = None

    # --- metadata -----------------------------------------------------------------------------------------------------

    async def _fetch_roots(self) -> bool:
        """Fetch the roots after the one that the daemon knows; return whether any is new."""
        wanted, new = self.progress.wants, False
        known = (wanted.root_version if wanted else None) or self._incoming.newest_root()
        if known >= repository_metadata.ROOTS_MAX:
            raise DocumentInvalid(f"{self.name} has more than {repository_metadata.ROOTS_MAX} roots")
        for version in range(known + 1, known + 1 + ROOTS_ASKED_MAX):
            named = MetadataFile(repository_metadata.root_name(version), repository_metadata.ROOT_BYTES_MAX)
            raw = await self._find(named)
            if raw is None:
                break
            repository_metadata.check_root(raw, version)
            if self._incoming.read(named) != raw:
                self._incoming.keep_root(version, raw)
                new = True
        return new

    async def _follow(self, timestamp: bytes) -> MetadataSet:
        following = repository_metadata.follow_metadata(timestamp)
        try:
            named = next(following)
            while True:
                named = following.send(await self._get(named))
        except StopIteration as end:
            release: MetadataSet = end.value
            return release

    async def _get(self, named: MetadataFile) -> bytes:
        raw = await self._find(named)
        if raw is None:
            remedy = "" if named is not TIMESTAMP else "Correct 'updates_url' under 'uplink' in agent.yaml, or publish."
            raise UpdateIncomplete(f"{self.name} has no {named.key}", remedy=remedy)
        return raw

    async def _find(self, named: MetadataFile) -> bytes | None:
        """Fetch a file, or return the one that is here if it is known to be the same."""
        here = self._incoming.read(named)
        if here is not None and named.sha256:
            return here
        tag = self.progress.tags.get(named.key, "") if here is not None else ""
        fetched = await self._upstream.get(named.key, named.bytes_max, tag)
        if fetched is None:
            return None
        if fetched.same and here is not None:
            return here
        self.progress.fetched_bytes += len(fetched.content)
        if not named.is_this(fetched.content):
            raise UpdateIncomplete(f"{self.name}: {named.key} is too large, or not what the metadata says")
        self._tags[named.key] = fetched.tag
        return fetched.content

    # --- blobs --------------------------------------------------------------------------------------------------------

    async def _open(self, sha256: str, size: int) -> BlobDownload:
        arriving = self._arriving
        if arriving is None or arriving.closed or (arriving.sha256, arriving.size_bytes) != (sha256, size):
            self.close()
            chunk = self._config.chunk_bytes
            self._arriving = arriving = await asyncio.to_thread(self._incoming.begin, sha256, size, chunk)
        return arriving

    async def _pull_chunk(self, arriving: BlobDownload) -> None:
        key, start = f"blobs/{arriving.sha256}", arriving.have
        part = ByteRange(start, arriving.missing(), arriving.size_bytes)
        try:
            size = await self._upstream.get_range(key, part, arriving.take)
        except UpstreamFailed as error:
            if error.metadata.get("status") != OUT_OF_RANGE:
                raise
            size = start
        finally:
            self.progress.fetched_bytes += arriving.have - start
            arriving.sync()
        if size is None:
            raise UpdateIncomplete(f"{self.name} has no {key}")
        if size != arriving.size_bytes:
            arriving.drop()
            message = f"{self.name}: {key} has other than {arriving.size_bytes} bytes"
            raise HashMismatch(message, remedy=REPOSITORY_REMEDY)
        if arriving.have < start + part.count:
            raise UpstreamFailed(f"{self.name}: GET {key} ended before its end")

    def _finish(self, arriving: BlobDownload, now: float) -> None:
        try:
            arriving.finish()
        except HashMismatch:
            if not arriving.resumed:
                raise
            return  # a power failure may have damaged the earlier bytes; fetch again before blaming the repository
        self._settle(arriving.sha256, now)
        self.progress.fetched_blobs += 1

    def _settle(self, sha256: str, now: float) -> None:
        self.progress.waiting.pop(sha256, None)
        self.progress.arrived[sha256] = now + RECHECK_SECONDS
