"""What a site accepts from a repository that the uplink or a USB drive brings. Neither is trusted.

TUF's client verifies the chain (metadata_chain.py). State that must survive its cache, a power cut and a lost file is
in state.db, and is written before anything is accepted:

- every root that was ever accepted. The next check starts with the newest; the first is `update.root_file`;
- a floor for each role: the least version of its metadata that is accepted, and the keys that signed that version. A
  floor is in force as long as these signatures would still be valid: until root (for the plan: targets) has removed too
  many of the keys. So version numbers that were raised with a stolen key become void with the key, and an additional
  key changes nothing;
- the newest signing time of each role. The clock of a site may jump by years: metadata has expired by the clock or by
  the newest signed time, whichever is later, and the clock itself is never stored.

The repository that was accepted last is kept as files and verified again like any other. So the plan of a USB drive
stays in force when the drive is pulled out, and an uplink that is behind, or malicious, blocks nothing before the kept
plan expires.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from tuf.api.metadata import Metadata

from edge_agent.config import Config
from edge_agent.durable.atomic_files import disk_errors, write_durably
from edge_agent.errors import (
    MediaFailed,
    PlanInvalid,
    UpdateError,
    UpdateExpired,
    UpdateIncomplete,
    UpdateOutdated,
    UpdateUntrusted,
)
from edge_agent.formats import plan
from edge_agent.formats.manifest import MANIFEST_BYTES_MAX
from edge_agent.formats.plan import FILE_NAME, BundleOffer, RolloutPlan
from edge_agent.formats.repository_metadata import ISSUED_AT, TIMESTAMP, TIMESTAMP_BYTES_MAX
from edge_agent.formats.signed_document import parse_timestamp
from edge_agent.store.state_database import MetadataFloor, TrustTable
from edge_agent.update import metadata_chain
from edge_agent.update.blocked_update_messages import SignedBundle, VerifiedRepository
from edge_agent.update.metadata_chain import (
    METADATA,
    FileTooLong,
    MetadataChain,
    RepositoryFolder,
    RootChain,
)

_DRIVE_REMEDY = "Name the folder that 'edge-convert media' has written to its end."
_MIRROR_REMEDY = (
    "Wait for 'edge-agent serve uplink', whose part of 'edge-agent status' says more; or import a USB drive."
)
_TARGET = re.compile(r"bundles/([^/]+)/([0-9a-f]{64})")
Bundles = Mapping[str, SignedBundle]


class _CacheKey(NamedTuple):
    """While this stays the same, nothing needs to be verified again."""

    source: Path
    timestamp: bytes
    root_version: int


class _CachedVerification(NamedTuple):
    verified: VerifiedRepository
    expires: float


class RepositoryTrust:
    """See the module. Synchronous; used on the store's thread."""

    def __init__(self, config: Config, records: TrustTable, now: Callable[[], float] = time.time) -> None:
        """Read nothing yet; `now` gives seconds since 1970, and may be wrong."""
        self._incoming, self._mirrored = config.incoming, bool(config.uplink.updates_url)
        self._scratch, self._kept = config.state_dir / "trust" / "tuf", config.state_dir / "trust" / "kept"
        self._records, self._now = records, now
        self._mirror_mark = config.state_dir / "trust" / "mirrored"
        """A file that exists once a repository in `incoming/` has been accepted."""
        self._roots = RootChain(Path(config.update.root_file), records)
        self._last: dict[_CacheKey, _CachedVerification] = {}
        """The result of the last verification; at most one."""
        self.problem: UpdateError | None = None
        """Why the repository in `incoming/` is not trusted; None = it is."""

    @property
    def root_version(self) -> int | None:
        """The version of the newest trusted root; None = the roots were not read yet."""
        return self._roots.version

    def refresh(self, source: Path) -> VerifiedRepository:
        """Verify a folder, and return what is trusted; for `incoming/` that may be the repository trusted before.

        Raises:
            UpdateUntrusted, UpdateOutdated, UpdateExpired, UpdateIncomplete, PlanInvalid: nothing is to be installed.
            SiteError: this machine's disk, the file with the root of trust, or a drive that was pulled out.
        """
        if source != self._incoming:
            return self._verify(RepositoryFolder(source, is_media=True))
        self.problem = None
        try:
            verified = self._verify(RepositoryFolder(source))
            self._mark_mirrored()
            return verified
        except UpdateError as error:
            self.problem = error
            return self._last_trusted(error)

    def awaits_first(self, source: Path) -> bool:
        """Tell whether the site waits for its first update: none has arrived, from the uplink or on a drive."""
        folders = map(RepositoryFolder, (self._incoming, self._kept))
        is_empty = all(folder.size(METADATA, TIMESTAMP) < 0 for folder in folders)
        return source == self._incoming and is_empty and not self._mirror_mark.exists()

    def _last_trusted(self, problem: UpdateError) -> VerifiedRepository:
        """Return the repository trusted last.

        If there is no mirror, or the uplink has never mirrored anything, an empty `incoming/` is no problem for updates
        that came on a drive. A mirror that was accepted once and is now empty is one.
        """
        is_empty = RepositoryFolder(self._incoming).size(METADATA, TIMESTAMP) < 0
        empty = is_empty and not (self._mirrored and self._mirror_mark.exists())
        try:
            kept = self._verify(RepositoryFolder(self._kept))
        except UpdateExpired as expired:
            raise (expired if empty else problem) from None
        except UpdateError:
            raise problem from None
        return kept if empty else replace(kept, problem=problem)

    def _mark_mirrored(self) -> None:
        if not self._mirror_mark.exists():
            write_durably(self._mirror_mark, b"The uplink has brought an update that was accepted.\n")

    def _verify(self, source: RepositoryFolder) -> VerifiedRepository:
        root_version, root = self._roots.newest()
        key = _CacheKey(source.path, self._timestamp(source), root_version)
        known = self._last.get(key)
        if known and self._is_still_valid(source, key, known):
            return known.verified
        self._roots.require_same_fleet(source)
        try:
            found = metadata_chain.verify_chain(source, root, self._scratch, self._roots.learn)
        except UpdateUntrusted as error:
            raise self._roots.aged(source) or error from None
        verified = self._checked(found, source)
        self._keep(source, found)
        newest, _ = self._roots.newest()
        self._last = {key._replace(root_version=newest): _CachedVerification(verified, found.expires)}
        return verified

    def _is_still_valid(self, source: RepositoryFolder, key: _CacheKey, known: _CachedVerification) -> bool:
        rotated = source.size(METADATA, metadata_chain.root_name(key.root_version + 1)) >= 0
        return not rotated and self._now() < known.expires

    def _checked(self, found: MetadataChain, source: RepositoryFolder) -> VerifiedRepository:
        """Check verified metadata against the floors, and raise these."""
        before = self._records.floors()
        floors = holding_floors(found, before)
        after = raised_floors(found, found.versions, floors, source.path)
        issued_at = newest_signed_time(after)
        require_current(found, self._now(), issued_at, source.path)
        bundles = dict(_bundles(found))
        verified = VerifiedRepository(_plan(found, bundles), bundles, issued_at, found.expires)
        numbers = {FILE_NAME: verified.plan_version} if found.plan and "plan" in found.metadata else {}
        after |= raised_floors(found, numbers, floors, source.path)
        if not after.items() <= before.items():
            self._records.raise_floors(after)
        return verified

    def _timestamp(self, source: RepositoryFolder) -> bytes:
        try:
            raw = source.read(METADATA, TIMESTAMP, TIMESTAMP_BYTES_MAX)
        except FileTooLong:
            message = f"{METADATA}/{TIMESTAMP} in {source.path} has more than {TIMESTAMP_BYTES_MAX} bytes"
            raise UpdateUntrusted(message, path=source.path) from None
        if raw is None and source.is_media and not source.path.is_dir():
            raise MediaFailed(f"the daemon sees no folder {source.path}", remedy=MediaFailed.remedy_hidden)
        if raw is None:
            remedy = _MIRROR_REMEDY if source.path == self._incoming else _DRIVE_REMEDY
            message = f"there is no update in {source.path}: {METADATA}/{TIMESTAMP} is missing"
            raise UpdateIncomplete(message, remedy=remedy, path=source.path)
        return raw

    def _keep(self, source: RepositoryFolder, found: MetadataChain) -> None:
        """Keep the files of the trusted repository, writing the timestamp last, and delete all others."""
        if source.path == self._kept:
            return
        for path in sorted(found.files, key=lambda path: path.endswith(TIMESTAMP)):
            place = self._kept / path
            with disk_errors(place):
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(place, found.files[path])
        needed = {self._kept / path for path in found.files}
        with disk_errors(self._kept):
            for surplus in set(self._kept.glob("*/*")) - needed:
                surplus.unlink()


def _bundles(found: MetadataChain) -> Iterator[tuple[str, SignedBundle]]:
    """Yield the bundles that `targets` signs, by digest; other targets are ignored."""
    for path, target in found.metadata["targets"].signed.targets.items():
        named = _TARGET.fullmatch(path)
        if named and named[2] == target.hashes.get("sha256") and target.length <= MANIFEST_BYTES_MAX:
            yield named[2], SignedBundle(named[1], _version(target.custom), target.length, target.hashes)


def _version(custom: Any) -> str:
    return str(custom.get("version", "")) if isinstance(custom, dict) else ""


def _plan(found: MetadataChain, bundles: Bundles) -> RolloutPlan | None:
    """Read the plan. Raises PlanInvalid, also if it names a bundle that is not signed, or not for that task."""
    if not found.plan:
        return None
    read = plan.parse(found.plan)
    signed = {(signed.task, digest) for digest, signed in bundles.items()}
    for task, offer in _offers(read):
        if (task, offer.bundle) not in signed:
            name = f"{task} {offer.version} ({offer.bundle[:12]})"
            raise PlanInvalid(f"the plan names {name}, which is not signed for that task", digest=offer.bundle)
    return read


def _offers(read: RolloutPlan) -> Collection[tuple[str, BundleOffer]]:
    tasks = [item for fleet in (*read.channels.values(), *read.sites.values()) for item in fleet.tasks.items()]
    return [(task, offer) for task, each in tasks for offer in each.offers]


_TWO_REMEDY = "Have the central team find out who published it, and publish again: 'edge-convert verify-repo'."
_NONE = MetadataFloor(0, (), 0.0)
Floors = Mapping[str, MetadataFloor]
"""By role; that of `plan.json` is for the version in the plan itself."""


def holding_floors(found: MetadataChain, before: Floors) -> Floors:
    """Return the floors that are still in force."""
    return {name: floor for name, floor in before.items() if found.still_count(_role(name), floor.signers)}


def raised_floors(
    found: MetadataChain, versions: Mapping[str, int], before: Floors, where: object
) -> dict[str, MetadataFloor]:
    """Return the floors raised to these versions.

    Raises:
        UpdateOutdated: a version is below its floor.
        UpdateUntrusted: the snapshot no longer names a file that it named, or there are two timestamps of a version.
    """
    floors = {}
    for name, version in versions.items():
        floor, role = before.get(name, _NONE), _role(name)
        if version < floor.version:
            numbers = f"{name} {version}, not {floor.version}"
            made = _made(_issued_at(found.metadata[role]), floor.issued_at)
            raise UpdateOutdated(
                f"{where} is older than what this site has seen: {made}{numbers}", path=where, role=name
            )
        listed = found.listed if name == "snapshot" else {}
        _require_listed(listed, floor.listed, where)
        sha256 = found.sha256(name) if name == "timestamp" else ""
        if version == floor.version and floor.sha256 not in ("", sha256):
            message = f"{where} has another {name} {version} than the one that this site has seen"
            raise UpdateUntrusted(message, remedy=_TWO_REMEDY, path=where, role=name)
        issued_at = max(_issued_at(found.metadata[role]), floor.issued_at)
        floors[name] = MetadataFloor(version, found.signers(role), issued_at, listed, sha256)
    return floors


def newest_signed_time(floors: Floors) -> float:
    """Return the newest signed time."""
    return max(floor.issued_at for floor in floors.values())


def require_current(found: MetadataChain, clock: float, signed: float, where: object) -> None:
    """Refuse metadata that has expired by the clock, or by the newest signed time. Raises UpdateExpired."""
    for role, metadata in found.metadata.items():
        expires = metadata.signed.expires
        if expires.timestamp() <= max(clock, signed):
            message = f"the update in {where} is no longer valid: '{role}' expired at {_day(expires)}"
            raise UpdateExpired(f"{message}; {_by(clock, signed)}", path=where, role=role)


def _require_listed(now: Mapping[str, int], before: Mapping[str, int], where: object) -> None:
    """Check the files in a snapshot against those that it named before: TUF 1.0.34, section 5.5.5."""
    for file, version in before.items():
        if file not in now:
            message = f"the snapshot in {where} no longer names {file}, which it named when this site saw it last"
            raise UpdateUntrusted(message, path=where, role="snapshot")
        if now[file] < version:
            older = f"{where} is older than what this site has seen: its snapshot names {file} {now[file]}"
            raise UpdateOutdated(f"{older}, not {version}", path=where, role="snapshot")


def _role(name: str) -> str:
    return "plan" if name == FILE_NAME else name


def _issued_at(metadata: Metadata[Any]) -> float:
    """Return the signing time in the metadata; 0 = it has none."""
    try:
        return parse_timestamp(metadata.signed.unrecognized_fields.get(ISSUED_AT, ""))
    except (ValueError, TypeError, AttributeError):
        return 0.0


def _made(issued_at: float, floor: float) -> str:
    """Return both times in words, if they are known and differ; otherwise nothing."""
    made, seen = (_day(datetime.fromtimestamp(at, UTC)) for at in (issued_at, floor))
    return f"made at {made}, and there was one of {seen}; " if issued_at and made != seen else ""


def _by(clock: float, signed: float) -> str:
    by_clock = f"this machine's clock says {_day(datetime.fromtimestamp(clock, UTC))}"
    later = _day(datetime.fromtimestamp(signed, UTC))
    if clock >= signed:
        return by_clock
    return f"{by_clock}, but metadata was signed at {later}, so it is at least that late"


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
