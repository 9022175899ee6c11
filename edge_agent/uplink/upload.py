"""Bringing one object up: at most once, never over something else, and believed only when it was seen there."""

from __future__ import annotations

from edge_agent.errors import UploadConflict, UpstreamFailed
from edge_agent.uplink.exchange_dirs import SealedSegment
from edge_agent.uplink.object_store import ObjectMetadata, ObjectStore, SiteObjectKeys


async def ship_segment(upstream: ObjectStore, keys: SiteObjectKeys, what: SealedSegment) -> int:
    """Bring the sealed file up, then its manifest; return the bytes that were sent.

    Raises:
        UploadConflict: the upstream has something else under one of the names; it is left alone.
        UpstreamFailed: what is there afterwards is not what was sent.
        CapacityError, SiteError: the upstream does not take it now.
    """
    sent = await ship(upstream, keys.sealed(what.stem), what.sealed)
    return sent + await ship(upstream, keys.manifest(what.stem), what.manifest)


async def ship(upstream: ObjectStore, key: str, content: bytes) -> int:
    """Put content that never changes; return the bytes that were sent, 0 = it was there.

    A store that is not atomic may be left with the beginning of an upload that was cut. That loses nothing when it is
    replaced, so it is; anything else is a conflict.
    """
    there = await upstream.head(key)
    if there is not None:
        whole = there.matches(content)
        if whole is None or (whole is False and there.size < len(content)):
            fetched = await upstream.get(key, len(content))
            whole = None if fetched is None else fetched.content == content
            if whole is False and fetched is not None and content.startswith(fetched.content):
                whole = None
        if whole:
            return 0
        if whole is False:
            said = f"{upstream.name}: {key} holds {there.size} other bytes; {len(content)} were to be sent"
            raise UploadConflict(said, key=key)
    tag = await upstream.put(key, content)
    await _verify(upstream, key, content, tag)
    return len(content)


async def replace(upstream: ObjectStore, key: str, content: bytes) -> int:
    """Put content that may replace other content; return the bytes that were sent.

    Raises:
        UpstreamFailed: what is there afterwards is not what was sent.
        CapacityError, SiteError: the upstream does not take it now.
    """
    tag = await upstream.put(key, content)
    await _verify(upstream, key, content, tag)
    return len(content)


async def _verify(upstream: ObjectStore, key: str, content: bytes, tag: str) -> None:
    there = await upstream.head(key)
    if there is None or not await _holds(upstream, key, there, content, tag):
        size = "nothing" if there is None else f"{there.size} bytes"
        said = f"{upstream.name}: {key} holds {size} after {len(content)} were sent, or others"
        raise UpstreamFailed(said, key=key)


async def _holds(upstream: ObjectStore, key: str, there: ObjectMetadata, content: bytes, tag: str) -> bool:
    known = there.matches(content)
    if known is not None:
        return known
    if tag and there.tag:
        # The very object that the store took from this request, which TLS or the request's signature protected.
        return tag == there.tag
    fetched = await upstream.get(key, len(content))
    return fetched is not None and fetched.content == content
