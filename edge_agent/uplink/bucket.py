"""An object store as upstream, through obstore: S3, GCS, Azure, or HTTP with PUT."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import obstore
from obstore.exceptions import BaseError, NotModifiedError

from edge_agent.config import UplinkConfig
from edge_agent.errors import UpstreamFailed, UpstreamRefused
from edge_agent.uplink import faults
from edge_agent.uplink.stored import Fetched, Part, Stored, md5_in

_READS = ("HEAD", "GET")


class Bucket:
    """A store below a prefix. Every request is made once; who asks decides when to try again."""

    def __init__(self, name: str, store: Any, config: UplinkConfig, *, tag_is_md5: bool) -> None:
        """Use an obstore store."""
        self.name = name
        self._store, self._config = store, config
        self._tag_is_md5 = tag_is_md5
        self._reads = False

    async def head(self, key: str) -> Stored | None:
        """Ask for size and tag."""
        async with self._request("HEAD", key, 0) as request:
            found = await obstore.head_async(self._store, key)
        if request.absent:
            return None
        self._reads = True
        tag = found["e_tag"] or ""
        return Stored(found["size"], tag, md5=md5_in(tag) if self._tag_is_md5 else "")

    async def put(self, key: str, content: bytes) -> str:
        """Put in one request, so that an upload that is cut leaves nothing behind."""
        async with self._request("PUT", key, len(content)):
            done = await obstore.put_async(self._store, key, content, use_multipart=False)
        return done["e_tag"] or ""

    async def get(self, key: str, bytes_max: int, unless: str = "") -> Fetched | None:
        """Read, but no more than wanted, whatever the store says of the size."""
        pieces, size = [], 0
        async with self._request("GET", key, 0) as request:
            try:
                found = await obstore.get_async(self._store, key, options={"if_none_match": unless} if unless else {})
            except NotModifiedError:
                return Fetched(b"", unless, same=True)
            async for piece in found.stream(min_chunk_size=64 * 1024):
                pieces.append(bytes(piece))
                size += len(pieces[-1])
                request.allow(size / self._config.bytes_per_second_min)
                if size > bytes_max:
                    break
        if request.absent:
            return None
        self._reads = True
        return Fetched(b"".join(pieces)[: bytes_max + 1], found.meta["e_tag"] or "")

    async def get_part(self, key: str, part: Part, into: Callable[[bytes], None]) -> int | None:
        """Read a range in one request; the first part that is also the last one as a whole, which any server can."""
        whole = part.count == part.size
        options: Any = {} if whole else {"range": (part.start, part.start + part.count)}
        came = 0
        async with self._request("GET", key, 0) as request:
            found = await obstore.get_async(self._store, key, options=options)
            if found.meta["size"] != part.size:
                return found.meta["size"]
            # As it comes off the network: what a cut would find in a buffer would be lost.
            async for each in found.stream(min_chunk_size=1):
                piece = bytes(each)[: part.count - came]
                came += len(piece)
                into(piece)
                request.allow(came / self._config.bytes_per_second_min)
                if len(piece) < len(each):
                    raise UpstreamFailed(f"{self.name}: GET {key} brought more bytes than were asked for")
        return None if request.absent else part.size

    @asynccontextmanager
    async def _request(self, method: str, key: str, size: int) -> AsyncIterator[_Request]:
        """Bound the time, and name what goes wrong; `absent` is set when there is no such object."""
        seconds = self._config.request_seconds_max + size / self._config.bytes_per_second_min
        request = _Request(asyncio.get_running_loop().time() + seconds)
        try:
            async with request.limit:
                yield request
        except TimeoutError:
            raise faults.too_slow(f"{method} {key}", self.name) from None
        except (BaseError, OSError) as error:
            said = str(error)
            fault = faults.from_store(said, f"{method} {key}", self.name)
            request.absent = method in _READS and (
                (isinstance(error, FileNotFoundError) and not faults.names_the_place(said))
                # Who may not list a bucket is told "forbidden" of what is not there.
                or (self._reads and isinstance(fault, UpstreamRefused))
            )
            if not request.absent:
                raise fault from None


class _Request:
    """One request's time limit, and whether its object was not there."""

    def __init__(self, base: float) -> None:
        self._base = base
        self.limit = asyncio.timeout_at(base)
        self.absent = False

    def allow(self, seconds: float) -> None:
        """Allow that much on top, for content that moves."""
        self.limit.reschedule(self._base + seconds)
