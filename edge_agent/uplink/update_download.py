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

ROOTS_PER_REFRESH_MAX = 64
"""Roots requested in one refresh; the next one continues."""
REFETCH_SECONDS = 3600.0
"""Minimum interval of fetching all metadata again because the daemon rejected it."""
RECHECK_SECONDS = 3600.0
"""A blob that is here but still requested is read again after this time: the daemon may have found it damaged."""
OUT_OF_RANGE = "416"
TIMESTAMP = MetadataFile(repository_metadata.TIMESTAMP, repository_metadata.TIMESTAMP_BYTES_MAX)


@dataclass
class DownloadState:
    """The state of downloads. Times by the monotonic clock."""

    requests: DownloadRequests | None = None
    waiting: dict[str, int] = field(default_factory=dict)
    """Blobs to fetch, in order, with their sizes in bytes."""
    arrived: dict[str, float] = field(default_factory=dict)
    """Blobs that are here with the right hash, and when to check them again."""
    tags: dict[str, str] = field(default_factory=dict)
    refetch_at: float = 0.0
    refreshed_at: float | None = None
    fetched_blobs: int = 0
    fetched_bytes: int = 0


class UpdateDownloader:
    """Downloads updates from a repository into one site's `incoming/`."""

    def __init__(self, config: UplinkConfig, incoming: IncomingDir, requests_path: Path, store: ObjectStore) -> None:
        """Prepare; nothing is read or requested yet."""
        self._config, self._incoming, self._requests_path, self._store = config, incoming, requests_path, store
        self.name = store.name
        self.progress = DownloadState()
        self._download: BlobDownload | None = None
        self._plans: tuple[str, ...] | None = None
        """Blobs of the current and the previous plan; None = not looked up yet."""
        self._tags: dict[str, str] = {}

    def read_requests(self, now: float) -> None:
        """Read the download requests, and remove other blobs. Without `wants.json` nothing is requested or removed.

        Raises:
            DocumentInvalid: `wants.json` is invalid; nothing is fetched or removed.
            DiskFull, ExchangeDirUnusable: the folders cannot be used.
        """
        progress = self.progress
        progress.requests, progress.waiting = None, {}
        raw = read_bounded(self._requests_path, repository_metadata.DOWNLOAD_REQUESTS_BYTES_MAX)
        if raw is None:
            return
        progress.requests = repository_metadata.parse(raw)
        self._incoming.prepare()
        if self._plans is None:
            current = self._incoming.current_metadata()
            self._plans = (current.plan_sha256,) if current else ()
        requested_sizes = {each.sha256: each.size_bytes for each in progress.requests.blobs}
        if self._download and requested_sizes.get(self._download.sha256) != self._download.size_bytes:
            self.close()
        self._incoming.remove_blobs_except({*requested_sizes, *self._plans})
        sizes = self._incoming.sizes()
        progress.arrived = {
            sha256: recheck_at
            for sha256, recheck_at in progress.arrived.items()
            if now < recheck_at and sizes.get(sha256) == requested_sizes.get(sha256)
        }
        progress.waiting = {sha256: size for sha256, size in requested_sizes.items() if sha256 not in progress.arrived}

    def waiting_bytes(self) -> int:
        """Return how many bytes are still to be fetched."""
        return sum(
            max(0, size - self._incoming.partial_bytes(sha256)) for sha256, size in self.progress.waiting.items()
        )

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
        refetch = progress.requests is not None and progress.requests.again and now >= progress.refetch_at
        if refetch:
            progress.refetch_at = now + REFETCH_SECONDS
            progress.tags.clear()
        self._tags = {}
        timestamp = await self._get(TIMESTAMP)
        new = await self._fetch_roots()
        current = self._incoming.current_metadata()
        if refetch or current is None or current.timestamp != timestamp:
            metadata_set = await self._fetch_set(timestamp)
            self._incoming.adopt(metadata_set, current)
            self._plans = (metadata_set.plan_sha256, *([current.plan_sha256] if current else []))
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
        if self._incoming.sizes().get(sha256) == size and await asyncio.to_thread(self._incoming.verify_blob, sha256):
            self._mark_arrived(sha256, now)
            return False
        download = await self._open(sha256, size)
        answered = download.missing() > 0
        if answered:
            download.preallocate(self._config.disk_reserve_bytes)
            await self._pull_chunk(download)
        if download.missing() == 0:
            self._finish(download, now)
        return answered

    def close(self) -> None:
        """Close the partial blob; its bytes stay."""
        if self._download:
            self._download.close()
        self._download = None

    # --- metadata -----------------------------------------------------------------------------------------------------

    async def _fetch_roots(self) -> bool:
        """Fetch the roots after the one that the daemon knows; return whether any is new."""
        requests, new = self.progress.requests, False
        known_version = (requests.root_version if requests else None) or self._incoming.newest_root()
        if known_version >= repository_metadata.ROOTS_MAX:
            raise DocumentInvalid(f"{self.name} has more than {repository_metadata.ROOTS_MAX} roots")
        for version in range(known_version + 1, known_version + 1 + ROOTS_PER_REFRESH_MAX):
            file = MetadataFile(repository_metadata.root_name(version), repository_metadata.ROOT_BYTES_MAX)
            raw = await self._find(file)
            if raw is None:
                break
            repository_metadata.check_root(raw, version)
            if self._incoming.read(file) != raw:
                self._incoming.write_root(version, raw)
                new = True
        return new

    async def _fetch_set(self, timestamp: bytes) -> MetadataSet:
        traversal = repository_metadata.follow_metadata(timestamp)
        try:
            file = next(traversal)
            while True:
                file = traversal.send(await self._get(file))
        except StopIteration as end:
            metadata_set: MetadataSet = end.value
            return metadata_set

    async def _get(self, file: MetadataFile) -> bytes:
        raw = await self._find(file)
        if raw is None:
            remedy = "" if file is not TIMESTAMP else "Correct 'updates_url' under 'uplink' in agent.yaml, or publish."
            raise UpdateIncomplete(f"{self.name} has no {file.key}", remedy=remedy)
        return raw

    async def _find(self, file: MetadataFile) -> bytes | None:
        """Fetch a file, or return the one that is here if it is known to be the same."""
        local = self._incoming.read(file)
        if local is not None and file.sha256:
            return local
        tag = self.progress.tags.get(file.key, "") if local is not None else ""
        fetched = await self._store.get(file.key, file.bytes_max, tag)
        if fetched is None:
            return None
        if fetched.same and local is not None:
            return local
        self.progress.fetched_bytes += len(fetched.content)
        if not file.is_this(fetched.content):
            raise UpdateIncomplete(f"{self.name}: {file.key} is too large, or not what the metadata says")
        self._tags[file.key] = fetched.tag
        return fetched.content

    # --- blobs --------------------------------------------------------------------------------------------------------

    async def _open(self, sha256: str, size: int) -> BlobDownload:
        download = self._download
        if download is None or download.closed or (download.sha256, download.size_bytes) != (sha256, size):
            self.close()
            chunk = self._config.chunk_bytes
            self._download = download = await asyncio.to_thread(self._incoming.open_download, sha256, size, chunk)
        return download

    async def _pull_chunk(self, download: BlobDownload) -> None:
        key, start = f"blobs/{download.sha256}", download.received_bytes
        part = ByteRange(start, download.missing(), download.size_bytes)
        try:
            size = await self._store.get_range(key, part, download.write)
        except UpstreamFailed as error:
            if error.metadata.get("status") != OUT_OF_RANGE:
                raise
            size = start
        finally:
            self.progress.fetched_bytes += download.received_bytes - start
            download.sync()
        if size is None:
            raise UpdateIncomplete(f"{self.name} has no {key}")
        if size != download.size_bytes:
            download.drop()
            message = f"{self.name}: {key} has other than {download.size_bytes} bytes"
            raise HashMismatch(message, remedy=REPOSITORY_REMEDY)
        if download.received_bytes < start + part.count:
            raise UpstreamFailed(f"{self.name}: GET {key} ended before its end")

    def _finish(self, download: BlobDownload, now: float) -> None:
        try:
            download.finish()
        except HashMismatch:
            if not download.resumed:
                raise
            return  # a power failure may have damaged the earlier bytes; fetch again before blaming the repository
        self._mark_arrived(download.sha256, now)
        self.progress.fetched_blobs += 1

    def _mark_arrived(self, sha256: str, now: float) -> None:
        self.progress.waiting.pop(sha256, None)
        self.progress.arrived[sha256] = now + RECHECK_SECONDS
