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
from collections.abc import Callable, Iterator, Mapping
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
from edge_agent.formats.plan import FILE_NAME, RolloutPlan
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


class RepositoryTrust:
    """See the module. Synchronous; used on the store's thread."""

    def __init__(self, config: Config, records: TrustTable, now: Callable[[], float] = time.time) -> None:
        """Read nothing yet; `now` gives seconds since 1970, and may be wrong."""
        self._incoming, self._has_mirror = config.incoming, bool(config.uplink.updates_url)
        self._scratch_folder, self._kept_folder = (
            config.state_dir / "trust" / "tuf",
            config.state_dir / "trust" / "kept",
        )
        self._records, self._now = records, now
        self._mirror_mark = config.state_dir / "trust" / "mirrored"
        """A file that exists once a repository in `incoming/` has been accepted."""
        self._roots = RootChain(Path(config.update.root_file), records)
        self._cache: dict[_CacheKey, VerifiedRepository] = {}
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
            if not self._mirror_mark.exists():
                write_durably(self._mirror_mark, b"The uplink has brought an update that was accepted.\n")
            return verified
        except UpdateError as error:
            self.problem = error
            return self._last_trusted(error)

    def awaits_first(self, source: Path) -> bool:
        """Tell whether the site waits for its first update: none has arrived, from the uplink or on a drive."""
        folders = map(RepositoryFolder, (self._incoming, self._kept_folder))
        is_empty = all(folder.size(METADATA, TIMESTAMP) < 0 for folder in folders)
        return source == self._incoming and is_empty and not self._mirror_mark.exists()

    def _last_trusted(self, problem: UpdateError) -> VerifiedRepository:
        """Return the repository trusted last.

        If there is no mirror, or the uplink has never mirrored anything, an empty `incoming/` is no problem for updates
        that came on a drive. A mirror that was accepted once and is now empty is one.
        """
        is_empty = RepositoryFolder(self._incoming).size(METADATA, TIMESTAMP) < 0
        is_expected = is_empty and not (self._has_mirror and self._mirror_mark.exists())
        try:
            verified = self._verify(RepositoryFolder(self._kept_folder))
        except UpdateExpired as expired:
            raise (expired if is_expected else problem) from None
        except UpdateError:
            raise problem from None
        return verified if is_expected else replace(verified, problem=problem)

    def _verify(self, source: RepositoryFolder) -> VerifiedRepository:
        root_version, root = self._roots.newest()
        key = _CacheKey(source.path, self._timestamp(source), root_version)
        cached, next_root = self._cache.get(key), metadata_chain.root_name(root_version + 1)
        if cached and source.size(METADATA, next_root) < 0 and self._now() < cached.expires:
            return cached
        self._roots.require_same_fleet(source)
        try:
            chain = metadata_chain.verify_chain(source, root, self._scratch_folder, self._roots.learn)
        except UpdateUntrusted as error:
            raise self._roots.outdated_error(source) or error from None
        verified = self._check_floors(chain, source)
        self._keep(source, chain)
        newest, _ = self._roots.newest()
        self._cache = {key._replace(root_version=newest): verified}
        return verified

    def _check_floors(self, chain: MetadataChain, source: RepositoryFolder) -> VerifiedRepository:
        """Check verified metadata against the floors, and raise these."""
        stored = self._records.floors()
        in_force = floors_in_force(chain, stored)
        raised = raised_floors(chain, chain.versions, in_force, source.path)
        issued_at = newest_signed_time(raised)
        require_current(chain, self._now(), issued_at, source.path)
        bundles = dict(_bundles(chain))
        verified = VerifiedRepository(_plan(chain, bundles), bundles, issued_at, chain.expires)
        plan_versions = {FILE_NAME: verified.plan_version} if chain.plan and "plan" in chain.metadata else {}
        raised |= raised_floors(chain, plan_versions, in_force, source.path)
        if not raised.items() <= stored.items():
            self._records.raise_floors(raised)
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

    def _keep(self, source: RepositoryFolder, chain: MetadataChain) -> None:
        """Keep the files of the trusted repository, writing the timestamp last, and delete all others."""
        if source.path == self._kept_folder:
            return
        for path in sorted(chain.files, key=lambda path: path.endswith(TIMESTAMP)):
            target = self._kept_folder / path
            with disk_errors(target):
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(target, chain.files[path])
        kept_paths = {self._kept_folder / path for path in chain.files}
        with disk_errors(self._kept_folder):
            for stale_path in set(self._kept_folder.glob("*/*")) - kept_paths:
                stale_path.unlink()


def _bundles(chain: MetadataChain) -> Iterator[tuple[str, SignedBundle]]:
    """Yield the bundles that `targets` signs, by digest; other targets are ignored."""
    for path, target in chain.metadata["targets"].signed.targets.items():
        match = _TARGET.fullmatch(path)
        if match and match[2] == target.hashes.get("sha256") and target.length <= MANIFEST_BYTES_MAX:
            yield match[2], SignedBundle(match[1], _version(target.custom), target.length, target.hashes)


def _version(custom: Any) -> str:
    return str(custom.get("version", "")) if isinstance(custom, dict) else ""


def _plan(chain: MetadataChain, bundles: Bundles) -> RolloutPlan | None:
    """Read the plan. Raises PlanInvalid, also if it names a bundle that is not signed, or not for that task."""
    if not chain.plan:
        return None
    rollout_plan = plan.parse(chain.plan)
    signed = {(signed.task, digest) for digest, signed in bundles.items()}
    fleets = (*rollout_plan.channels.values(), *rollout_plan.sites.values())
    task_plans = [item for fleet in fleets for item in fleet.tasks.items()]
    for task, task_plan in task_plans:
        for offer in task_plan.offers:
            if (task, offer.bundle) not in signed:
                name = f"{task} {offer.version} ({offer.bundle[:12]})"
                raise PlanInvalid(f"the plan names {name}, which is not signed for that task", digest=offer.bundle)
    return rollout_plan


_CONFLICT_REMEDY = "Have the central team find out who published it, and publish again: 'edge-convert verify-repo'."
_NO_FLOOR = MetadataFloor(0, (), 0.0)
Floors = Mapping[str, MetadataFloor]
"""By role; that of `plan.json` is for the version in the plan itself."""


def floors_in_force(chain: MetadataChain, floors: Floors) -> Floors:
    """Return the floors that are still in force."""
    return {name: floor for name, floor in floors.items() if chain.has_enough_signers(_role(name), floor.signers)}


def raised_floors(
    chain: MetadataChain, versions: Mapping[str, int], floors: Floors, path: object
) -> dict[str, MetadataFloor]:
    """Return the floors raised to these versions.

    Raises:
        UpdateOutdated: a version is below its floor.
        UpdateUntrusted: the snapshot no longer names a file that it named, or there are two timestamps of a version.
    """
    raised = {}
    for name, version in versions.items():
        floor, role = floors.get(name, _NO_FLOOR), _role(name)
        if version < floor.version:
            mismatch = f"{name} {version}, not {floor.version}"
            times = _signing_times(_issued_at(chain.metadata[role]), floor.issued_at)
            raise UpdateOutdated(
                f"{path} is older than what this site has seen: {times}{mismatch}", path=path, role=name
            )
        listed = chain.listed if name == "snapshot" else {}
        _require_listed(listed, floor.listed, path)
        sha256 = chain.sha256(name) if name == "timestamp" else ""
        if version == floor.version and floor.sha256 not in ("", sha256):
            message = f"{path} has another {name} {version} than the one that this site has seen"
            raise UpdateUntrusted(message, remedy=_CONFLICT_REMEDY, path=path, role=name)
        issued_at = max(_issued_at(chain.metadata[role]), floor.issued_at)
        raised[name] = MetadataFloor(version, chain.signers(role), issued_at, listed, sha256)
    return raised


def newest_signed_time(floors: Floors) -> float:
    """Return the newest signed time."""
    return max(floor.issued_at for floor in floors.values())


def require_current(chain: MetadataChain, clock: float, signed: float, path: object) -> None:
    """Refuse metadata that has expired by the clock, or by the newest signed time. Raises UpdateExpired."""
    for role, metadata in chain.metadata.items():
        expires = metadata.signed.expires
        if expires.timestamp() <= max(clock, signed):
            clock_time, signed_time = (_format_time(datetime.fromtimestamp(at, UTC)) for at in (clock, signed))
            message = (
                f"the update in {path} is no longer valid: '{role}' expired at {_format_time(expires)};"
                f" this machine's clock says {clock_time}"
            )
            if clock < signed:
                message += f", but metadata was signed at {signed_time}, so it is at least that late"
            raise UpdateExpired(message, path=path, role=role)


def _require_listed(versions: Mapping[str, int], floor: Mapping[str, int], path: object) -> None:
    """Check the files in a snapshot against those that it named before: TUF 1.0.34, section 5.5.5."""
    for file, version in floor.items():
        if file not in versions:
            message = f"the snapshot in {path} no longer names {file}, which it named when this site saw it last"
            raise UpdateUntrusted(message, path=path, role="snapshot")
        if versions[file] < version:
            problem = f"{path} is older than what this site has seen: its snapshot names {file} {versions[file]}"
            raise UpdateOutdated(f"{problem}, not {version}", path=path, role="snapshot")


def _role(name: str) -> str:
    return "plan" if name == FILE_NAME else name


def _issued_at(metadata: Metadata[Any]) -> float:
    """Return the signing time in the metadata; 0 = it has none."""
    try:
        return parse_timestamp(metadata.signed.unrecognized_fields.get(ISSUED_AT, ""))
    except (ValueError, TypeError, AttributeError):
        return 0.0


def _signing_times(issued_at: float, floor: float) -> str:
    """Return both times in words, if they are known and differ; otherwise nothing."""
    signed, newest = (_format_time(datetime.fromtimestamp(at, UTC)) for at in (issued_at, floor))
    return f"made at {signed}, and there was one of {newest}; " if issued_at and signed != newest else ""


def _format_time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
