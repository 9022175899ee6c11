"""Creates the keys of a fleet in one folder, to be separated afterwards, and changes the keys of a role."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, Targets

from convert.publish import keyring, layout
from convert.publish.central_keys import new_key_folder
from convert.publish.commit import ChangeDraft
from convert.publish.keyring import Keyring, PublicKeyFile
from convert.publish.layout import ONLINE, PLAN, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Kind
from convert.publish.publisher import Publisher
from convert.publish.repository_reader import RepositoryState
from edge_agent.durable import atomic_files
from edge_agent.errors import InvalidRequest
from edge_agent.formats.plan import FILE_NAME


@dataclass(frozen=True)
class RoleQuorum:
    """The number of keys of a role, and how many of them must sign."""

    keys: int
    threshold: int

    def __post_init__(self) -> None:
        """Raise InvalidRequest if the threshold cannot be met, or is below 1."""
        if not 1 <= self.threshold <= self.keys <= 20:
            message = f"{self.threshold} of {self.keys} keys is not a valid threshold"
            raise InvalidRequest(message, remedy="Use 1 to 20 keys, and a threshold from 1 to their number.")


TWO_OF_THREE = RoleQuorum(3, 2)


def create(
    folder: Path, now: float, root: RoleQuorum = TWO_OF_THREE, targets: RoleQuorum = TWO_OF_THREE, passphrase: str = ""
) -> tuple[PublicKeyFile, ...]:
    """Create all keys of a repository, its first root, and its first, empty list of bundles.

    Raises:
        InvalidRequest: the folder exists, or the passphrase is too short.
        OSError: the folder cannot be written.
    """
    with new_key_folder(folder, passphrase, "'edge-convert rotate' replaces keys that are in use") as staging:
        _fill(staging, now, {layout.ROOT: root, layout.TARGETS: targets}, passphrase)
    return tuple(keyring.read_folder(folder))


def _fill(folder: Path, now: float, quorums: dict[str, RoleQuorum], passphrase: str) -> None:
    if passphrase:
        keyring.lock(folder, passphrase)
    all_quorums = {**quorums, layout.PLAN: RoleQuorum(1, 1), layout.ONLINE: RoleQuorum(1, 1)}
    key_files = {
        role: [keyring.make(folder, f"{role}-{number}", role) for number in range(1, quorum.keys + 1)]
        for role, quorum in all_quorums.items()
    }
    root, targets = _make_root(key_files, quorums), _make_targets(key_files[layout.PLAN][0])
    keys = Keyring([folder], lambda _: passphrase)
    for role, metadata in ((layout.ROOT, root), (layout.TARGETS, targets)):
        layout.issue(metadata.signed, 1, now, layout.DAYS[role])
        keys.sign(metadata, [key_file.key.keyid for key_file in key_files[role][: quorums[role].threshold]])
    atomic_files.write_atomically(folder / keyring.ANCHOR, layout.encode(root))
    atomic_files.write_atomically(folder / keyring.FIRST_TARGETS, layout.encode(targets))


def _make_root(key_files: dict[str, list[PublicKeyFile]], quorums: dict[str, RoleQuorum]) -> Metadata[Root]:
    root = Root(consistent_snapshot=True)
    key_roles = {ROOT: ROOT, TARGETS: TARGETS, SNAPSHOT: ONLINE, TIMESTAMP: ONLINE}
    for role, key_role in key_roles.items():
        for key_file in key_files[key_role]:
            root.add_key(key_file.key, role)
        root.roles[role].threshold = quorums[key_role].threshold if key_role in quorums else 1
    return Metadata(root)


def _make_targets(plan: PublicKeyFile) -> Metadata[Targets]:
    role = DelegatedRole(layout.PLAN, [plan.key.keyid], 1, terminating=True, paths=[FILE_NAME])
    return Metadata(Targets(delegations=Delegations({plan.key.keyid: plan.key}, {layout.PLAN: role})))


_METADATA_ROLES = {ROOT: (ROOT,), TARGETS: (TARGETS,), ONLINE: (SNAPSHOT, TIMESTAMP)}


@dataclass(frozen=True)
class KeyRotation:
    """A change of a role's keys."""

    role: str
    """root, targets, plan or online."""
    add: tuple[PublicKeyFile, ...] = ()
    remove: tuple[str, ...] = ()
    """Key ids."""
    threshold: int = 0
    """0 = unchanged."""
    restart_versions: bool = False
    """online: restart the versions of snapshot and timestamp at 1, after a thief of the key raised them."""
    without_old: bool = False
    """The old keys are lost: see `ChangeDraft`."""


def keyids(state: RepositoryState, role: str) -> list[str]:
    """Return the current keys of a role."""
    delegator: Metadata[Any] = state.targets if role == PLAN else state.root
    return list(delegator.signed.get_delegated_role(_METADATA_ROLES.get(role, (role,))[0]).keyids)


def check_restart(role: str, *, restart_versions: bool) -> None:
    """Refuse to restart the versions of another role than 'online'. Raises InvalidRequest."""
    if restart_versions and role != ONLINE:
        raise InvalidRequest("only the versions of 'online' can be restarted", remedy="Use it with the role 'online'.")


def rotate(publisher: Publisher, rotation: KeyRotation) -> None:
    """Change the keys of a role.

    Raises:
        InvalidRequest: a key to remove is unknown, a key to add is there already, or the threshold cannot be met.
        InsufficientSignatures: the available keys do not suffice, and there is no folder to stage the change.
    """
    check_restart(rotation.role, restart_versions=rotation.restart_versions)
    state = publisher.read_state()
    draft = ChangeDraft(restart_versions=rotation.restart_versions, without_old=rotation.without_old)
    if rotation.role == PLAN:
        draft.targets = _rotated(publisher.next_of(state.targets, TARGETS), rotation)
        draft.plan_role = publisher.next_of(state.plan_role, PLAN)
    else:
        draft.root = _rotated(publisher.next_of(state.root, ROOT), rotation)
    if rotation.role == TARGETS:
        draft.targets = publisher.next_of(state.targets, TARGETS)
    publisher.finish(state, draft)


def _rotated(delegator: Metadata[Kind], rotation: KeyRotation) -> Metadata[Kind]:
    signed: Any = delegator.signed
    for role in _METADATA_ROLES.get(rotation.role, (PLAN,)):
        delegation = signed.get_delegated_role(role)
        _check_keys(frozenset(delegation.keyids), rotation)
        for key_file in rotation.add:
            signed.add_key(key_file.key, role)
        for keyid in rotation.remove:
            signed.revoke_key(keyid, role)
        delegation.threshold = rotation.threshold or delegation.threshold
        if not 1 <= delegation.threshold <= len(delegation.keyids):
            keys = len(delegation.keyids)
            message = f"'{rotation.role}' would have {keys} keys but need {delegation.threshold} signatures"
            raise InvalidRequest(message, remedy="Add keys, or name a lower --threshold.")
    return delegator


def _check_keys(current_keyids: frozenset[str], rotation: KeyRotation) -> None:
    for unknown in set(rotation.remove) - current_keyids:
        raise InvalidRequest(
            f"{unknown[:12]} is not a key of '{rotation.role}'", remedy="See 'edge-convert keys show'."
        )
    for key_file in rotation.add:
        if key_file.key.keyid in current_keyids:
            raise InvalidRequest(f"{key_file.name} is a key of '{rotation.role}' already", remedy="Name another key.")
