"""Writes a USB drive: a repository that is carried by hand, with a timestamp that is valid for the journey.

Its timestamp is version v + 1, signed by the online key with an expiry of its own. The repository continues with v + 2
before the drive is written, so that a site accepts both in either order.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from tuf.api.metadata import Metadata, Timestamp

from convert.publish import layout, repository_reader
from convert.publish.commit import online, unchanged
from convert.publish.layout import ROOT, TIMESTAMP
from convert.publish.publisher import Publisher
from convert.publish.repository_reader import RepositoryState
from convert.publish.repository_storage import Advance, FolderStorage, RepositoryStorage, counted, silent
from edge_agent.durable import atomic_files
from edge_agent.errors import DiskFull, InvalidRequest, UpdateIncomplete
from edge_agent.formats import manifest
from edge_agent.formats.manifest import MANIFEST_BYTES_MAX
from edge_agent.formats.plan import FILE_NAME, RolloutPlan

_SPARE_BYTES = 4 * 1024 * 1024
_BLOB = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class MediaOrder:
    """The drive, how long it is valid, and its target sites."""

    folder: Path
    days: float
    sites: tuple[str, ...] = ()
    """Empty = every site."""
    channel: str = ""
    """The sites' channel; empty = every channel."""


@dataclass(frozen=True)
class WrittenMedia:
    """The result of writing a drive."""

    bundles: tuple[repository_reader.BundleTarget, ...]
    bytes_written: int
    """Bytes of blobs; others were there already."""
    expires: datetime
    """When the drive expires: no site accepts it later."""
    expires_by: str
    """The role that expires first."""


def wanted(plan: RolloutPlan, sites: Sequence[str], channel: str) -> frozenset[str]:
    """Return the digests of all bundles that a plan assigns to these sites, on any hardware and in any wave."""
    if not (sites or channel):
        return plan.bundles()
    channels = [channel] if channel else list(plan.channels)
    fleets = [plan.for_site(*pair) for pair in itertools.product(sites or [""], channels or [""])]
    return frozenset(offer.bundle for fleet in fleets for task in fleet.tasks.values() for offer in task.offers)


@dataclass(frozen=True)
class PreparedMedia:
    """A drive that is signed but not written yet."""

    place: RepositoryStorage
    held: RepositoryState
    """Metadata with the drive's own timestamp."""
    order: MediaOrder
    blobs: dict[str, int]
    """All required blobs by sha256, with sizes in bytes."""
    missing: dict[str, int]
    """The blobs that are missing on the drive."""


def write(publisher: Publisher, order: MediaOrder) -> WrittenMedia:
    """Write a drive; an earlier repository on it is replaced. Raises as `prepare` and `fill`."""
    return fill(prepare(publisher, order))


def prepare(publisher: Publisher, order: MediaOrder) -> PreparedMedia:
    """Check the order and the free space, and sign the timestamp. Nothing is written to the drive yet.

    Raises:
        InvalidRequest: no such folder, the repository itself, an unknown site or channel, or no online key.
        UpdateIncomplete: a manifest in the repository is missing or damaged.
        DiskFull: the drive has too little space.
    """
    held = publisher.held()
    _check(publisher.place, held, order)
    blobs = _blobs(
        publisher.place, [held.bundles()[digest] for digest in wanted(held.plan, order.sites, order.channel)]
    )
    there = FolderStorage(order.folder)
    missing = {digest: size for digest, size in blobs.items() if there.size(layout.blob(digest)) != size}
    _check_room(order.folder, sum(missing.values()))
    stamp = _stamps(publisher, held, order.days)
    return PreparedMedia(publisher.place, replace(held, timestamp=stamp), order, blobs, missing)


def fill(prepared: PreparedMedia, advance: Advance = silent) -> WrittenMedia:
    """Write the drive.

    Raises:
        UpdateIncomplete: a blob in the repository is missing or damaged.
    """
    held, target = prepared.held, FolderStorage(prepared.order.folder)
    for digest, size in prepared.missing.items():
        progress = partial(advance, f"writing {digest[:12]}")
        target.write(layout.blob(digest), counted(_checked(prepared.place, digest), size, progress))
    for path, content in _metadata(prepared.place, held).items():
        target.write(path, content)
    target.write(layout.TIMESTAMP_PATH, layout.encode(held.timestamp))
    plan = held.plan_role.signed.targets[FILE_NAME].hashes["sha256"]
    _prune(prepared.order.folder / layout.BLOBS, {*prepared.blobs, plan})
    bundles = tuple(held.bundles()[digest] for digest in sorted(held.bundles().keys() & prepared.blobs.keys()))
    return WrittenMedia(bundles, sum(prepared.missing.values()), *held.expiries()[0])


def _stamps(publisher: Publisher, held: RepositoryState, days: float) -> Metadata[Timestamp]:
    """Advance the repository to v + 2, and return version v + 1 for the drive."""
    made = []
    for ahead, holds in ((1, days), (2, publisher.days[TIMESTAMP])):
        stamp = Metadata(copy.deepcopy(held.timestamp.signed))
        layout.issue(stamp.signed, held.timestamp.signed.version + ahead, publisher.now(), holds)
        online(publisher.keys, stamp, TIMESTAMP, [held.root])
        made.append(stamp)
    with unchanged(publisher.place, held):
        publisher.place.write(layout.TIMESTAMP_PATH, layout.encode(made[1]))
    return made[0]


def _check(place: RepositoryStorage, held: RepositoryState, order: MediaOrder) -> None:
    _check_folder(place, order.folder)
    if order.channel and order.channel not in held.plan.channels:
        known = ", ".join(held.plan.channels) or "none"
        raise InvalidRequest(f"the plan has no channel '{order.channel}'", remedy=f"Its channels: {known}.")
    if not wanted(held.plan, order.sites, order.channel):
        message = "the plan assigns no bundle there, so the drive would be empty"
        raise InvalidRequest(message, remedy="See the plan: edge-convert plan show")


def _check_folder(place: RepositoryStorage, folder: Path) -> None:
    if not atomic_files.is_dir(folder):
        raise InvalidRequest(f"there is no folder {folder}", remedy="Mount the USB drive, and name its mount point.")
    if place.is_at(folder):
        raise InvalidRequest(f"{folder} is the repository itself", remedy="Name another folder.")


def _blobs(place: RepositoryStorage, bundles: Iterable[repository_reader.BundleTarget]) -> dict[str, int]:
    """Return sha256 and size of all files of the bundles."""
    blobs: dict[str, int] = {}
    for each in bundles:
        raw = place.read(layout.blob(each.digest), MANIFEST_BYTES_MAX)
        if raw is None or repository_reader.sha256(raw) != each.digest:
            raise _damaged(place, each.digest)
        artifacts = manifest.parse(raw).artifacts
        blobs |= {each.digest: len(raw)} | {artifact.sha256: artifact.size_bytes for artifact in artifacts}
    return blobs


def _checked(place: RepositoryStorage, sha256: str) -> Iterator[bytes]:
    """Yield a blob's bytes; raises at the end if their hash is wrong."""
    hashed = hashlib.sha256()
    for chunk in place.chunks(layout.blob(sha256)):
        hashed.update(chunk)
        yield chunk
    if hashed.hexdigest() != sha256:
        raise _damaged(place, sha256)


def _damaged(place: RepositoryStorage, sha256: str) -> UpdateIncomplete:
    message = f"{layout.blob(sha256)} at {place.name} is missing or damaged"
    return UpdateIncomplete(message, remedy="Publish its bundle again, which restores missing files.")


def _metadata(place: RepositoryStorage, held: RepositoryState) -> dict[str, bytes]:
    """Return all metadata except the timestamp, and the plan, in the order of writing."""
    roots = (layout.path_of(ROOT, version) for version in range(1, held.root.signed.version))
    older = {path: place.read(path, layout.METADATA_BYTES_MAX[ROOT]) for path in roots}
    files = {path: content for path, content in older.items() if content is not None} | dict(held.files)
    del files[layout.TIMESTAMP_PATH]
    return files


def _check_room(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + _SPARE_BYTES:
        message = f"{folder} has {free // 1024**2} MiB free; {(needed_bytes + _SPARE_BYTES) // 1024**2 + 1} are needed"
        raise DiskFull(message, remedy="Use a larger drive, or name fewer sites with --site.")


def _prune(blobs: Path, needed: set[str]) -> None:
    """Remove blobs of an earlier repository."""
    there = {path.name for path in blobs.iterdir()}
    for name in filter(_BLOB.fullmatch, there - needed):
        (blobs / name).unlink()
    atomic_files.sync_directory(blobs)
