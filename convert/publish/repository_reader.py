"""Reads and verifies a repository for a publisher, from a trusted root and without checking expiry.

Expired metadata are not an error here, because a publisher renews them. Sites verify with other, stricter code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tuf.api.exceptions import LengthOrHashMismatchError, UnsignedMetadataError
from tuf.api.metadata import Key, Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from convert.publish import layout, publishable_bundle
from convert.publish.layout import PLAN, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Kind
from convert.publish.repository_storage import RepositoryStorage
from convert.version_order import precedence
from edge_agent.errors import InvalidRequest, UpdateIncomplete, UpdateUntrusted
from edge_agent.formats import plan
from edge_agent.formats.plan import FILE_NAME, PLAN_BYTES_MAX, RolloutPlan

ROOTS_MAX = 256
"""Largest number of roots that a site follows at once."""
_PREFIX_CHARACTERS_MIN = 6


@dataclass(frozen=True)
class BundleTarget:
    """A bundle in `targets`."""

    task: str
    version: str
    digest: str
    size_bytes: int
    """Size of all its files."""
    quality: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """The headline figures of its own report; empty without a report."""
    golden: str = field(default="", compare=False)
    """Where the texts of its golden cases come from, in words; empty = the bundle does not tell."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.task} {self.version} ({self.digest[:12]})"

    def matches(self, reference: str) -> bool:
        """Return whether a text names this bundle: TASK@VERSION, its digest, or the start of the digest."""
        by_digest = len(reference) >= _PREFIX_CHARACTERS_MIN and self.digest.startswith(reference)
        return by_digest or reference == f"{self.task}@{self.version}"


@dataclass(frozen=True)
class RepositoryState:
    """The verified content of a repository."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    plan_role: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]
    plan: RolloutPlan
    files: Mapping[str, bytes]
    """Path and bytes of the current metadata, of all roots since the trusted one, and of the plan."""

    def expiries(self) -> list[tuple[datetime, str]]:
        """Return when each role's metadata expire, the earliest first."""
        return sorted((metadata.signed.expires, role) for role, metadata in self.roles().items())

    def roles(self) -> dict[str, Metadata[Any]]:
        """Return the metadata by role."""
        return {
            ROOT: self.root,
            TARGETS: self.targets,
            PLAN: self.plan_role,
            SNAPSHOT: self.snapshot,
            TIMESTAMP: self.timestamp,
        }

    def plain(self) -> dict[str, Any]:
        """Return the current versions, for JSON."""
        return {
            "expires": {role: f"{at:%Y-%m-%dT%H:%M:%SZ}" for at, role in self.expiries()},
            "bundles": sorted(self.bundles()),
            "plan_version": self.plan.version,
        }

    def versions(self) -> dict[str, int]:
        """Return the versions of root, targets and plan, which never decrease."""
        return {role: self.roles()[role].signed.version for role in (ROOT, TARGETS, PLAN)}

    def public_keys(self) -> dict[str, Key]:
        """Return all keys in the metadata, by id."""
        return public_keys(self.root, self.targets)

    def bundles(self) -> dict[str, BundleTarget]:
        """Return the signed bundles by digest, in the order of their tasks and versions."""
        return bundles_of(self.targets.signed)


def public_keys(root: Metadata[Root], targets: Metadata[Targets]) -> dict[str, Key]:
    """Return all keys in some metadata, by id."""
    delegations = targets.signed.delegations
    return {**root.signed.keys, **(delegations.keys if delegations else {})}


def bundles_of(targets: Targets) -> dict[str, BundleTarget]:
    """Return the signed bundles in metadata, by digest."""
    bundles = [_bundle_target(target) for path, target in targets.targets.items() if path.startswith("bundles/")]
    bundles.sort(key=lambda each: (each.task, precedence(each.version), each.digest))
    return {each.digest: each for each in bundles}


def _bundle_target(target: TargetFile) -> BundleTarget:
    custom = target.custom if isinstance(target.custom, dict) else {}
    size_bytes = custom.get("size_bytes", 0)
    task = str(custom.get("task", target.path.split("/")[1]))
    figures = publishable_bundle.decode(custom.get(publishable_bundle.KEY))
    golden = publishable_bundle.printable(custom.get(publishable_bundle.GOLDEN_KEY))
    digest = target.hashes.get("sha256", "")
    return BundleTarget(task, str(custom.get("version", "")), digest, size_bytes, figures, golden)


def read(storage: RepositoryStorage, anchor: bytes) -> RepositoryState | None:
    """Read a repository from the trusted root; None = it does not exist yet.

    Raises:
        UpdateUntrusted: a signature is missing or wrong, or the repository belongs to another root.
        UpdateIncomplete: a file is missing or has the wrong content.
    """
    if storage.size(layout.TIMESTAMP_PATH) is None:
        return None
    return RepositoryReader(storage).read_state(anchor)


def require(storage: RepositoryStorage, anchor: bytes) -> RepositoryState:
    """Read a repository that must exist.

    Raises:
        InvalidRequest: it does not exist.
        UpdateUntrusted, UpdateIncomplete: as `read`.
    """
    state = read(storage, anchor)
    if state is None:
        remedy = "Check the address. The first publish creates a repository: edge-convert publish BUNDLE --to … --new"
        raise InvalidRequest(f"there is no repository at {storage.name}", remedy=remedy)
    return state


class RepositoryReader:
    """Reads a repository once, and collects the files that it read."""

    def __init__(self, storage: RepositoryStorage) -> None:
        """Read nothing yet."""
        self._storage = storage
        self.files: dict[str, bytes] = {}

    def read_state(self, anchor: bytes) -> RepositoryState:
        """Follow the chain from a trusted root to the plan. Raises UpdateUntrusted, UpdateIncomplete."""
        root = self.root(anchor)
        timestamp = self._read_role(Timestamp, root, TIMESTAMP, None)
        snapshot = self._read_role(Snapshot, root, SNAPSHOT, timestamp.signed.snapshot_meta)
        targets = self._read_role(Targets, root, TARGETS, self._meta(snapshot, TARGETS))
        role = self._read_role(Targets, targets, PLAN, self._meta(snapshot, PLAN))
        return RepositoryState(root, targets, role, snapshot, timestamp, self._plan(role), self.files)

    def root(self, anchor: bytes) -> Metadata[Root]:
        """Walk to the newest root. Raises UpdateUntrusted."""
        root = layout.decode(Root, anchor, "the trusted root.json")
        verify(root, ROOT, root, "the trusted root.json")
        self._check_same_fleet(root, anchor)
        for version in range(root.signed.version + 1, root.signed.version + ROOTS_MAX):
            path = layout.path_of(ROOT, version)
            raw = self._read(path, layout.METADATA_BYTES_MAX[ROOT])
            if raw is None:
                break
            next_root = layout.decode(Root, raw, path)
            verify(root, ROOT, next_root, path)
            verify(next_root, ROOT, next_root, path)
            require_version(next_root, version, path)
            root = next_root
        return root

    def _check_same_fleet(self, root: Metadata[Root], anchor: bytes) -> None:
        path = layout.path_of(ROOT, root.signed.version)
        stored = self._read(path, layout.METADATA_BYTES_MAX[ROOT])
        if stored is not None and layout.decode(Root, stored, path).signed != root.signed:
            message = f"{path} at {self._storage.name} is not the root of trust of these keys, or is damaged"
            raise UpdateUntrusted(message, remedy="Check the address, and that --keys names the keys of this fleet.")
        self.files[path] = anchor

    def _read_role(
        self, kind: type[Kind], delegator: Metadata[Any], role: str, meta: MetaFile | None
    ) -> Metadata[Kind]:
        path = layout.path_of(role, meta.version if meta else 0)
        raw = self._read_required(path, layout.METADATA_BYTES_MAX[role])
        if meta is not None:
            self._require_same(meta, raw, path)
        metadata = layout.decode(kind, raw, path)
        if meta is not None:
            require_version(metadata, meta.version, path)
        verify(delegator, role, metadata, path)
        return metadata

    def _meta(self, snapshot: Metadata[Snapshot], role: str) -> MetaFile:
        meta = snapshot.signed.meta.get(f"{role}.json")
        if meta is None:
            raise UpdateIncomplete(f"the snapshot at {self._storage.name} does not name {role}.json", remedy=_RESTORE)
        return meta

    def _plan(self, role: Metadata[Targets]) -> RolloutPlan:
        target = role.signed.targets.get(FILE_NAME)
        if target is None:
            raise UpdateIncomplete(f"the role 'plan' at {self._storage.name} names no {FILE_NAME}", remedy=_RESTORE)
        path = layout.blob_path(target.hashes.get("sha256", ""))
        raw = self._read_required(path, PLAN_BYTES_MAX)
        self._require_same(target, raw, path)
        return plan.parse(raw)

    def _require_same(self, entry: MetaFile | TargetFile, raw: bytes, path: str) -> None:
        try:
            entry.verify_length_and_hashes(raw)
        except LengthOrHashMismatchError:
            message = f"{path} at {self._storage.name} is not the file in the signed metadata"
            raise UpdateIncomplete(message, remedy=_RESTORE) from None

    def _read(self, path: str, bytes_max: int) -> bytes | None:
        raw = self._storage.read(path, bytes_max)
        if raw is None:
            return None
        if len(raw) > bytes_max:
            raise UpdateUntrusted(f"{path} has more than {bytes_max} bytes", remedy=_RESTORE)
        self.files[path] = raw
        return raw

    def _read_required(self, path: str, bytes_max: int) -> bytes:
        raw = self._read(path, bytes_max)
        if raw is None:
            raise UpdateIncomplete(f"{path} is missing at {self._storage.name}", remedy=_RESTORE)
        return raw


_RESTORE = "Restore that file from a copy of the repository; 'edge-convert verify-repo' lists all problems."


def verify(delegator: Metadata[Any], role: str, metadata: Metadata[Any], what: str) -> None:
    """Check that enough keys of a role have signed. Raises UpdateUntrusted."""
    try:
        delegator.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (UnsignedMetadataError, ValueError) as error:
        raise UpdateUntrusted(f"{what} does not have the required signatures: {error}") from None


def require_version(metadata: Metadata[Any], version: int, path: str) -> None:
    """Check that metadata have the version in their path. Raises UpdateUntrusted."""
    if metadata.signed.version != version:
        raise UpdateUntrusted(f"{path} contains version {metadata.signed.version}")


def sha256(raw: bytes) -> str:
    """Return the hash in the name of a blob."""
    return hashlib.sha256(raw).hexdigest()


def previous_plan(storage: RepositoryStorage, state: RepositoryState) -> RolloutPlan | None:
    """Return the plan before the current one; None = it no longer exists, or is not signed by the current keys."""
    for version in range(state.plan_role.signed.version - 1, 0, -1):
        previous = _plan_of(storage, state, version)
        if previous is None or previous.version != state.plan.version:
            return previous
    return None


def _plan_of(storage: RepositoryStorage, state: RepositoryState, version: int) -> RolloutPlan | None:
    path = layout.path_of(PLAN, version)
    raw = storage.read(path, layout.METADATA_BYTES_MAX[PLAN])
    try:
        role = layout.decode(Targets, raw or b"", path)
        verify(state.targets, PLAN, role, path)
    except UpdateUntrusted:
        return None
    digest = role.signed.targets[FILE_NAME].hashes["sha256"]
    stored = storage.read(layout.blob_path(digest), PLAN_BYTES_MAX)
    return plan.parse(stored) if stored is not None and sha256(stored) == digest else None


def find(bundles: Mapping[str, BundleTarget], reference: str) -> BundleTarget:
    """Return the signed bundle for a text: TASK@VERSION, or a digest or the start of one.

    Raises:
        InvalidRequest: no bundle matches, or more than one.
    """
    matches = [each for each in bundles.values() if each.matches(reference)]
    if len(matches) != 1:
        known = ", ".join(each.name for each in bundles.values())
        message = f"'{reference}' is {count_of(matches)} signed bundle"
        raise InvalidRequest(message, remedy=f"Write TASK@VERSION or a digest. Signed: {known or 'none'}.")
    return matches[0]


def count_of(matches: Sequence[BundleTarget]) -> str:
    """Return how many bundles match, for a message."""
    return "more than one" if matches else "no"


def newest(bundles: Mapping[str, BundleTarget], task: str) -> BundleTarget | None:
    """Return the bundle of a task with the highest version."""
    return max(of_task(bundles, task), key=lambda each: (precedence(each.version), each.digest), default=None)


def of_task(bundles: Mapping[str, BundleTarget], task: str) -> list[BundleTarget]:
    """Return the bundles of a task."""
    return [each for each in bundles.values() if each.task == task]
