"""Commits a change of a repository: draft, signatures, and writes in an order that can stop at any point.

Blobs are written first, then the metadata that nothing names yet, then `timestamp.json`, which names them all in one
step. A new root comes last, because sites trust it as soon as it exists: everything that it allows is there before,
signed by the keys of the old root and of the new one. After an interruption run the same command again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from convert.publish import layout
from convert.publish.keyring import Keyring
from convert.publish.layout import PLAN, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from convert.publish.repository_reader import BundleTarget, RepositoryState, bundles_of
from convert.publish.repository_storage import RepositoryStorage
from edge_agent.errors import InvalidRequest
from edge_agent.formats.plan import RolloutPlan

_AGAIN = "Nothing changed for sites. Run the command again: it starts from the current state."


@dataclass
class ChangeDraft:
    """A change. None = unchanged; snapshot and timestamp follow from the rest."""

    ROLES: ClassVar[dict[str, str]] = {ROOT: "root", TARGETS: "targets", PLAN: "plan_role"}
    """Roles that a draft can change, with their fields."""
    root: Metadata[Root] | None = None
    targets: Metadata[Targets] | None = None
    plan_role: Metadata[Targets] | None = None
    plan: RolloutPlan | None = None
    """The plan of a new `plan_role`; None = the current plan."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Small blobs of the change, by path; large ones are uploaded already."""
    restart_versions: bool = False
    """Restart the versions of snapshot and timestamp at 1: only with a new online key, after a thief of the old key
    raised them."""
    without_old: bool = False
    """The keys of the old root are lost: sites refuse new metadata until they have the new root."""

    def metadata(self) -> dict[str, Metadata[Any]]:
        """Return the changed metadata by role."""
        by_role = {role: getattr(self, name) for role, name in self.ROLES.items()}
        return {role: metadata for role, metadata in by_role.items() if metadata is not None}

    def put(self, role: str, metadata: Metadata[Any]) -> None:
        """Add new metadata of a role."""
        setattr(self, self.ROLES[role], metadata)

    def drop(self, role: str) -> None:
        """Leave a role unchanged."""
        setattr(self, self.ROLES[role], None)
        if role == PLAN:
            self.plan = None

    def delegators(self, state: RepositoryState, role: str) -> list[Metadata[Any]]:
        """Return all metadata whose keys must sign a role: the current ones, and the new ones."""
        if role == PLAN:
            return [self.targets or state.targets]
        # A root is always signed by the keys of the one before, even if keys are lost.
        old = [] if self.without_old and role != ROOT else [state.root]
        return [*old, self.root] if self.root else [state.root]

    def next_version(self, metadata: Metadata[Any]) -> int:
        """Return the next version of metadata that the online key signs."""
        return 1 if self.restart_versions else metadata.signed.version + 1

    def result(self, state: RepositoryState) -> tuple[RolloutPlan, dict[str, BundleTarget]]:
        """Return the plan and the signed bundles after the change."""
        return self.plan or state.plan, bundles_of((self.targets or state.targets).signed)


@dataclass(frozen=True)
class MissingSignatures:
    """Signatures that a role still lacks."""

    role: str
    count: int
    keyids: tuple[str, ...]
    """Keys that can sign."""

    def sentence(self, name_of: Callable[[str], str]) -> str:
        """Return it in words; `name_of` returns the name of a key."""
        return f"'{self.role}' needs {self.count} more of the signatures of {', '.join(map(name_of, self.keyids))}"


def sign(keys: Keyring, metadata: Metadata[Any], role: str, delegators: list[Metadata[Any]]) -> list[MissingSignatures]:
    """Sign with the available keys, up to each delegator's threshold, and return the missing signatures."""
    missing = []
    for delegator in delegators:
        result = delegator.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        missing_count = result.threshold - len(result.signed)
        chosen = keys.available(sorted(result.unsigned, key=keys.name_of))[: max(missing_count, 0)]
        keys.sign(metadata, chosen)
        if missing_count > len(chosen):
            can_sign = tuple(keyid for keyid in result.unsigned if keyid not in chosen)
            missing.append(MissingSignatures(role, missing_count - len(chosen), can_sign))
    return list(dict.fromkeys(missing))


def sign_draft(keys: Keyring, state: RepositoryState, draft: ChangeDraft) -> list[MissingSignatures]:
    """Sign the metadata of the offline and plan keys, and return the missing signatures."""
    return [
        missing
        for role, metadata in draft.metadata().items()
        for missing in sign(keys, metadata, role, draft.delegators(state, role))
    ]


def commit(
    storage: RepositoryStorage,
    keys: Keyring,
    state: RepositoryState,
    draft: ChangeDraft,
    now: float,
    days: Mapping[str, float],
) -> None:
    """Publish a change that is signed except by the online key.

    Raises:
        InvalidRequest: the online key is not available, or another publisher has published since `state` was read.
    """
    files = _assemble_files(keys, state, draft, now, days)
    for path, content in draft.blobs.items():
        storage.write(path, content)
    with unchanged(storage, state):
        timestamp = files.pop(layout.TIMESTAMP_PATH)
        root = files.pop(layout.path_of(ROOT, state.root.signed.version + 1), None)
        for path, content in files.items():
            storage.write(path, content)
        # Two concurrent publishers write the same names: check again before the timestamp names the files.
        for path, content in files.items():
            if storage.read(path, len(content)) != content:
                raise _concurrent_publisher(storage)
        storage.write(layout.TIMESTAMP_PATH, timestamp)
        if root is not None:
            storage.write(layout.path_of(ROOT, state.root.signed.version + 1), root)


def _assemble_files(
    keys: Keyring, state: RepositoryState, draft: ChangeDraft, now: float, days: Mapping[str, float]
) -> dict[str, bytes]:
    """Return the metadata files to write, in their order."""
    files: dict[str, bytes] = {}
    snapshot = Metadata(Snapshot(meta=dict(state.snapshot.signed.meta)))
    for role, metadata in draft.metadata().items():
        if role != ROOT:
            raw = files[layout.path_of(role, metadata.signed.version)] = layout.encode(metadata)
            snapshot.signed.meta[f"{role}.json"] = layout.meta_file(metadata, raw)
    delegators = draft.delegators(state, SNAPSHOT)
    layout.issue(snapshot.signed, draft.next_version(state.snapshot), now, days[SNAPSHOT])
    raw = sign_online(keys, snapshot, SNAPSHOT, delegators)
    files[layout.path_of(SNAPSHOT, snapshot.signed.version)] = raw
    timestamp = Metadata(Timestamp(snapshot_meta=layout.meta_file(snapshot, raw)))
    layout.issue(timestamp.signed, draft.next_version(state.timestamp), now, days[TIMESTAMP])
    files[layout.TIMESTAMP_PATH] = sign_online(keys, timestamp, TIMESTAMP, delegators)
    if draft.root is not None:
        files[layout.path_of(ROOT, draft.root.signed.version)] = layout.encode(draft.root)
    return files


def sign_online(keys: Keyring, metadata: Metadata[Any], role: str, delegators: list[Metadata[Any]]) -> bytes:
    """Sign with the online key, and return the file.

    Raises:
        InvalidRequest: the key is not available.
    """
    missing = sign(keys, metadata, role, delegators)
    if missing:
        message = f"the online key is not available: {missing[0].sentence(keys.name_of)}"
        raise InvalidRequest(message, remedy="Name its folder with --keys, in addition to those of other keys.")
    return layout.encode(metadata)


def _concurrent_publisher(storage: RepositoryStorage) -> InvalidRequest:
    return InvalidRequest(f"another publisher is publishing to {storage.name} now", remedy=_AGAIN)


@contextmanager
def unchanged(storage: RepositoryStorage, state: RepositoryState) -> Iterator[None]:
    """Keep other publishers out during the block, as far as the storage can.

    Raises:
        InvalidRequest: another publisher is publishing now, or has published since `state` was read.
    """
    with storage.exclusive() as alone:
        if not alone:
            raise _concurrent_publisher(storage)
        stored = storage.read(layout.TIMESTAMP_PATH, layout.METADATA_BYTES_MAX[TIMESTAMP])
        if stored != state.files[layout.TIMESTAMP_PATH]:
            message = f"another publisher has published to {storage.name} in the meantime"
            raise InvalidRequest(message, remedy=_AGAIN)
        yield
