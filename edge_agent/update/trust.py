"""What a site believes of a repository that somebody brought: the mirror, or a stick. Neither is trusted.

TUF's client verifies the chain (chain.py). What must outlast its cache, a power cut and a lost file is in state.db, and
is written before anything is believed:

- every root that was ever believed. The newest is where the next look starts from; the first is `update.root_file`;
- a floor for each role: the version of its metadata, below which nothing is believed, and whose signatures made it
  count (floors.py);
- the newest time that each role was signed with. The clock of a site may jump by years: what has expired is what has
  expired by the clock or by the newest signed time, whichever is later, and the clock itself is never written down.

What was believed last is kept, as files, and verified again like any other: so a stick's plan goes on when the stick is
pulled out, and a mirror that lags behind it, or lies, stops nothing before the kept plan expires.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from edge_agent.config import Config
from edge_agent.durable.atomic_files import disk_errors, write_durably
from edge_agent.errors import PlanInvalid, UpdateError, UpdateExpired, UpdateIncomplete, UpdateUntrusted
from edge_agent.formats import plan
from edge_agent.formats.manifest import MANIFEST_BYTES_MAX
from edge_agent.formats.plan import FILE_NAME, Offer, Plan
from edge_agent.store.update_records import TrustTable
from edge_agent.update import chain, floors
from edge_agent.update.chain import Chain
from edge_agent.update.roots import Roots
from edge_agent.update.source import METADATA, TIMESTAMP, SourceFolder, TooLong
from edge_agent.update.verified import SignedBundle, Verified

TIMESTAMP_BYTES_MAX = 16 * 1024
_STICK_REMEDY = (
    "Name the folder that 'edge-convert stick' has written to its end; the user edge-agent must be able to read it."
)
_MIRROR_REMEDY = "Wait for 'edge-agent uplink', whose part of 'edge-agent status' says more; or import a stick."
_TARGET = re.compile(r"bundles/([^/]+)/([0-9a-f]{64})")
Bundles = Mapping[str, SignedBundle]


class _Key(NamedTuple):
    """While this stays the same, nothing has to be verified again."""

    source: Path
    timestamp: bytes
    root_version: int


class _Known(NamedTuple):
    verified: Verified
    expires: float


class Trust:
    """See the module. Synchronous; the thread that uses the store uses this."""

    def __init__(self, config: Config, records: TrustTable, now: Callable[[], float] = time.time) -> None:
        """Read nothing yet; `now` gives seconds since 1970, and may be wrong."""
        self._incoming, self._mirrored = config.incoming, bool(config.uplink.updates_url)
        self._scratch, self._kept = config.state_dir / "trust" / "tuf", config.state_dir / "trust" / "kept"
        self._records, self._now = records, now
        self._roots = Roots(Path(config.update.root_file), records)
        self._last: dict[_Key, _Known] = {}
        """What was verified last; at most one."""
        self.problem: UpdateError | None = None
        """Why what lies in `incoming/` is not believed; None = it is."""

    @property
    def root_version(self) -> int | None:
        """Of the newest root that is believed; None = no look was taken yet."""
        return self._roots.version

    def refresh(self, source: Path) -> Verified:
        """Say what is believed now that this folder is there; of `incoming/`, what was believed before may stand in.

        Raises:
            UpdateUntrusted, UpdateOutdated, UpdateExpired, UpdateIncomplete, PlanInvalid: nothing is to be installed.
            SiteError: this machine's disk, or the file with the root of trust.
        """
        if source != self._incoming:
            return self._believe(SourceFolder(source))
        self.problem = None
        try:
            return self._believe(SourceFolder(source))
        except UpdateError as error:
            self.problem = error
            return self._stand_in(error)

    def _stand_in(self, problem: UpdateError) -> Verified:
        """Return what was believed last. Where no mirror is, an empty `incoming/` is nothing to speak of."""
        empty = not self._mirrored and SourceFolder(self._incoming).size(METADATA, TIMESTAMP) < 0
        try:
            kept = self._believe(SourceFolder(self._kept))
        except UpdateExpired as expired:
            raise (expired if empty else problem) from None
        except UpdateError:
            raise problem from None
        return kept if empty else replace(kept, problem=problem)

    def _believe(self, source: SourceFolder) -> Verified:
        root_version, root = self._roots.newest()
        key = _Key(source.path, self._timestamp(source), root_version)
        known = self._last.get(key)
        if known and self._still(source, key, known):
            return known.verified
        self._roots.require_same_fleet(source)
        try:
            found = chain.follow(source, root, self._scratch, self._roots.learn)
        except UpdateUntrusted as error:
            raise self._roots.aged(source) or error from None
        verified = self._checked(found, source)
        self._keep(source, found)
        newest, _ = self._roots.newest()
        self._last = {key._replace(root_version=newest): _Known(verified, found.expires)}
        return verified

    def _still(self, source: SourceFolder, key: _Key, known: _Known) -> bool:
        rotated = source.size(METADATA, chain.root_name(key.root_version + 1)) >= 0
        return not rotated and self._now() < known.expires

    def _checked(self, found: Chain, source: SourceFolder) -> Verified:
        """Hold what was found against what was seen before, and remember it."""
        before = self._records.floors()
        holding = floors.holding(found, before)
        after = floors.raised(found, found.versions, holding, source.path)
        issued_at = floors.newest(after)
        floors.require_current(found, self._now(), issued_at, source.path)
        bundles = dict(_bundles(found))
        verified = Verified(_plan(found, bundles), bundles, issued_at, found.expires)
        numbers = {FILE_NAME: verified.plan_version} if found.plan and "plan" in found.metadata else {}
        after |= floors.raised(found, numbers, holding, source.path)
        if not after.items() <= before.items():
            self._records.raise_floors(after)
        return verified

    def _timestamp(self, source: SourceFolder) -> bytes:
        try:
            raw = source.read(METADATA, TIMESTAMP, TIMESTAMP_BYTES_MAX)
        except TooLong:
            said = f"{METADATA}/{TIMESTAMP} in {source.path} has more than {TIMESTAMP_BYTES_MAX} bytes"
            raise UpdateUntrusted(said, path=source.path) from None
        if raw is None:
            remedy = _MIRROR_REMEDY if source.path == self._incoming else _STICK_REMEDY
            said = f"there is no update in {source.path}: {METADATA}/{TIMESTAMP} is missing"
            raise UpdateIncomplete(said, remedy=remedy, path=source.path)
        return raw

    def _keep(self, source: SourceFolder, found: Chain) -> None:
        """Keep what was believed, the timestamp last, and nothing else."""
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


def _bundles(found: Chain) -> Iterator[tuple[str, SignedBundle]]:
    """Yield what `targets` signs, with its digest; a target that is no bundle of this agent's kind is none."""
    for path, target in found.metadata["targets"].signed.targets.items():
        named = _TARGET.fullmatch(path)
        if named and named[2] == target.hashes.get("sha256") and target.length <= MANIFEST_BYTES_MAX:
            yield named[2], SignedBundle(named[1], _version(target.custom), target.length, target.hashes)


def _version(custom: Any) -> str:
    return str(custom.get("version", "")) if isinstance(custom, dict) else ""


def _plan(found: Chain, bundles: Bundles) -> Plan | None:
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


def _offers(read: Plan) -> Collection[tuple[str, Offer]]:
    tasks = [item for fleet in (*read.channels.values(), *read.sites.values()) for item in fleet.tasks.items()]
    return [(task, offer) for task, each in tasks for offer in each.offers]
