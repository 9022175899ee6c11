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
from convert.publish.commit import sign_online, unchanged
from convert.publish.layout import ROOT, TIMESTAMP
from convert.publish.publisher import Publisher
from convert.publish.repository_reader import RepositoryState
from convert.publish.repository_storage import Advance, FolderStorage, RepositoryStorage, no_progress, with_progress
from edge_agent.durable import atomic_files
from edge_agent.errors import DiskFull, InvalidRequest, UpdateIncomplete
from edge_agent.formats import manifest
from edge_agent.formats.manifest import MANIFEST_BYTES_MAX
from edge_agent.formats.plan import FILE_NAME, RolloutPlan

_SPARE_BYTES = 4 * 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


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


def required_bundles(plan: RolloutPlan, sites: Sequence[str], channel: str) -> frozenset[str]:
    """Return the digests of all bundles that a plan assigns to these sites, on any hardware and in any wave."""
    if not (sites or channel):
        return plan.bundles()
    channels = [channel] if channel else list(plan.channels)
    fleets = [plan.for_site(*pair) for pair in itertools.product(sites or [""], channels or [""])]
    return frozenset(offer.bundle for fleet in fleets for task in fleet.tasks.values() for offer in task.offers)


@dataclass(frozen=True)
class PreparedMedia:
    """A drive that is signed but not written yet."""

    storage: RepositoryStorage
    state: RepositoryState
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
    state = publisher.read_state()
    _check_order(publisher.storage, state, order)
    digests = required_bundles(state.plan, order.sites, order.channel)
    blobs = _blob_sizes(publisher.storage, [state.bundles()[digest] for digest in digests])
    drive = FolderStorage(order.folder)
    missing = {digest: size for digest, size in blobs.items() if drive.size(layout.blob_path(digest)) != size}
    needed, free = sum(missing.values()) + _SPARE_BYTES, shutil.disk_usage(order.folder).free
    if free < needed:
        message = f"{order.folder} has {free // 1024**2} MiB free; {needed // 1024**2 + 1} are needed"
        raise DiskFull(message, remedy="Use a larger drive, or name fewer sites with --site.")
    timestamp = _issue_timestamps(publisher, state, order.days)
    return PreparedMedia(publisher.storage, replace(state, timestamp=timestamp), order, blobs, missing)


def fill(prepared: PreparedMedia, advance: Advance = no_progress) -> WrittenMedia:
    """Write the drive.

    Raises:
        UpdateIncomplete: a blob in the repository is missing or damaged.
    """
    state, drive = prepared.state, FolderStorage(prepared.order.folder)
    for digest, size in prepared.missing.items():
        progress = partial(advance, f"writing {digest[:12]}")
        drive.write(layout.blob_path(digest), with_progress(_verified_chunks(prepared.storage, digest), size, progress))
    for path, content in _metadata_files(prepared.storage, state).items():
        drive.write(path, content)
    drive.write(layout.TIMESTAMP_PATH, layout.encode(state.timestamp))
    plan = state.plan_role.signed.targets[FILE_NAME].hashes["sha256"]
    blobs = prepared.order.folder / layout.BLOBS
    stored = {path.name for path in blobs.iterdir()}
    for name in filter(_SHA256.fullmatch, stored - {*prepared.blobs, plan}):
        (blobs / name).unlink()  # of an earlier repository
    atomic_files.sync_directory(blobs)
    bundles = tuple(state.bundles()[digest] for digest in sorted(state.bundles().keys() & prepared.blobs.keys()))
    return WrittenMedia(bundles, sum(prepared.missing.values()), *state.expiries()[0])


def _issue_timestamps(publisher: Publisher, state: RepositoryState, days: float) -> Metadata[Timestamp]:
    """Advance the repository to v + 2, and return version v + 1 for the drive."""
    timestamps = []
    for step, valid_days in ((1, days), (2, publisher.days[TIMESTAMP])):
        timestamp = Metadata(copy.deepcopy(state.timestamp.signed))
        layout.issue(timestamp.signed, state.timestamp.signed.version + step, publisher.now(), valid_days)
        sign_online(publisher.keys, timestamp, TIMESTAMP, [state.root])
        timestamps.append(timestamp)
    with unchanged(publisher.storage, state):
        publisher.storage.write(layout.TIMESTAMP_PATH, layout.encode(timestamps[1]))
    return timestamps[0]


def _check_order(storage: RepositoryStorage, state: RepositoryState, order: MediaOrder) -> None:
    if not atomic_files.is_dir(order.folder):
        message = f"there is no folder {order.folder}"
        raise InvalidRequest(message, remedy="Mount the USB drive, and name its mount point.")
    if storage.is_at(order.folder):
        raise InvalidRequest(f"{order.folder} is the repository itself", remedy="Name another folder.")
    if order.channel and order.channel not in state.plan.channels:
        known = ", ".join(state.plan.channels) or "none"
        raise InvalidRequest(f"the plan has no channel '{order.channel}'", remedy=f"Its channels: {known}.")
    if not required_bundles(state.plan, order.sites, order.channel):
        message = "the plan assigns no bundle there, so the drive would be empty"
        raise InvalidRequest(message, remedy="See the plan: edge-convert plan show")


def _blob_sizes(storage: RepositoryStorage, bundles: Iterable[repository_reader.BundleTarget]) -> dict[str, int]:
    """Return sha256 and size of all files of the bundles."""
    blobs: dict[str, int] = {}
    for bundle in bundles:
        raw = storage.read(layout.blob_path(bundle.digest), MANIFEST_BYTES_MAX)
        if raw is None or repository_reader.sha256(raw) != bundle.digest:
            raise _damaged_blob(storage, bundle.digest)
        artifacts = manifest.parse(raw).artifacts
        blobs |= {bundle.digest: len(raw)} | {artifact.sha256: artifact.size_bytes for artifact in artifacts}
    return blobs


def _verified_chunks(storage: RepositoryStorage, sha256: str) -> Iterator[bytes]:
    """Yield a blob's bytes; raises at the end if their hash is wrong."""
    hasher = hashlib.sha256()
    for chunk in storage.chunks(layout.blob_path(sha256)):
        hasher.update(chunk)
        yield chunk
    if hasher.hexdigest() != sha256:
        raise _damaged_blob(storage, sha256)


def _damaged_blob(storage: RepositoryStorage, sha256: str) -> UpdateIncomplete:
    message = f"{layout.blob_path(sha256)} at {storage.name} is missing or damaged"
    return UpdateIncomplete(message, remedy="Publish its bundle again, which restores missing files.")


def _metadata_files(storage: RepositoryStorage, state: RepositoryState) -> dict[str, bytes]:
    """Return all metadata except the timestamp, and the plan, in the order of writing."""
    roots = (layout.path_of(ROOT, version) for version in range(1, state.root.signed.version))
    older = {path: storage.read(path, layout.METADATA_BYTES_MAX[ROOT]) for path in roots}
    files = {path: content for path, content in older.items() if content is not None} | dict(state.files)
    del files[layout.TIMESTAMP_PATH]
    return files
