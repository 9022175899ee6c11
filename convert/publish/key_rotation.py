"""Creates the keys of a fleet in one folder, to be separated afterwards, and changes the keys of a role."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, Targets

from convert.publish import keyring, layout
from convert.publish.central_keys import check_passphrase
from convert.publish.commit import ChangeDraft
from convert.publish.keyring import Keyring, PublicKeyFile
from convert.publish.layout import ONLINE, PLAN, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Kind
from convert.publish.publisher import Publisher
from convert.publish.repository_reader import RepositoryState
from edge_agent.durable import atomic_files
from edge_agent.errors import InvalidRequest
from edge_agent.formats.plan import FILE_NAME

_FOLDER_MODE = 0o700


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
    check_passphrase(passphrase)
    if folder.exists():
        message = f"{folder} exists, and keys are never overwritten"
        raise InvalidRequest(
            message, remedy="Name another folder; 'edge-convert rotate' replaces keys that are in use."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        staging.chmod(_FOLDER_MODE)
        _fill(staging, now, {layout.ROOT: root, layout.TARGETS: targets}, passphrase)
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    atomic_files.sync_directory(folder.parent)
    return tuple(keyring.read_folder(folder))


def _fill(folder: Path, now: float, quorums: dict[str, RoleQuorum], passphrase: str) -> None:
    if passphrase:
        keyring.lock(folder, passphrase)
    every = {**quorums, layout.PLAN: RoleQuorum(1, 1), layout.ONLINE: RoleQuorum(1, 1)}
    made = {
        role: [keyring.make(folder, f"{role}-{number}", role) for number in range(1, quorum.keys + 1)]
        for role, quorum in every.items()
    }
    root, targets = _root(made, quorums), _targets(made[layout.PLAN][0])
    keys = Keyring([folder], lambda _: passphrase)
    for role, metadata in ((layout.ROOT, root), (layout.TARGETS, targets)):
        layout.issue(metadata.signed, 1, now, layout.DAYS[role])
        keys.sign(metadata, [named.key.keyid for named in made[role][: quorums[role].threshold]])
    atomic_files.write_atomically(folder / keyring.ANCHOR, layout.encode(root))
    atomic_files.write_atomically(folder / keyring.FIRST_TARGETS, layout.encode(targets))


def _root(made: dict[str, list[PublicKeyFile]], quorums: dict[str, RoleQuorum]) -> Metadata[Root]:
    root = Root(consistent_snapshot=True)
    duties = {layout.ROOT: layout.ROOT, layout.TARGETS: layout.TARGETS}
    for role, of in {**duties, layout.SNAPSHOT: layout.ONLINE, layout.TIMESTAMP: layout.ONLINE}.items():
        for named in made[of]:
            root.add_key(named.key, role)
        root.roles[role].threshold = quorums[of].threshold if of in quorums else 1
    return Metadata(root)


def _targets(plan: PublicKeyFile) -> Metadata[Targets]:
    role = DelegatedRole(layout.PLAN, [plan.key.keyid], 1, terminating=True, paths=[FILE_NAME])
    return Metadata(Targets(delegations=Delegations({plan.key.keyid: plan.key}, {layout.PLAN: role})))


_IN_ROOT = {ROOT: (ROOT,), TARGETS: (TARGETS,), ONLINE: (SNAPSHOT, TIMESTAMP)}


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


def keyids(held: RepositoryState, role: str) -> list[str]:
    """Return the current keys of a role."""
    of: Metadata[Any] = held.targets if role == PLAN else held.root
    return list(of.signed.get_delegated_role(_IN_ROOT.get(role, (role,))[0]).keyids)


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
    held = publisher.held()
    draft = ChangeDraft(restart_versions=rotation.restart_versions, without_old=rotation.without_old)
    if rotation.role == PLAN:
        draft.targets = _changed(publisher.next_of(held.targets, TARGETS), rotation)
        draft.plan_role = publisher.next_of(held.plan_role, PLAN)
    else:
        draft.root = _changed(publisher.next_of(held.root, ROOT), rotation)
    if rotation.role == TARGETS:
        draft.targets = publisher.next_of(held.targets, TARGETS)
    publisher.finish(held, draft)


def _changed(delegator: Metadata[Kind], rotation: KeyRotation) -> Metadata[Kind]:
    for role in _IN_ROOT.get(rotation.role, (PLAN,)):
        _change(delegator.signed, role, rotation)
    return delegator


def _change(delegator: Any, role: str, rotation: KeyRotation) -> None:
    of = delegator.get_delegated_role(role)
    _check(frozenset(of.keyids), rotation)
    for named in rotation.add:
        delegator.add_key(named.key, role)
    for keyid in rotation.remove:
        delegator.revoke_key(keyid, role)
    of.threshold = rotation.threshold or of.threshold
    if not 1 <= of.threshold <= len(of.keyids):
        message = f"'{rotation.role}' would have {len(of.keyids)} keys but need {of.threshold} signatures"
        raise InvalidRequest(message, remedy="Add keys, or name a lower --threshold.")


def _check(there: frozenset[str], rotation: KeyRotation) -> None:
    for unknown in set(rotation.remove) - there:
        raise InvalidRequest(
            f"{unknown[:12]} is not a key of '{rotation.role}'", remedy="See 'edge-convert keys show'."
        )
    for named in rotation.add:
        if named.key.keyid in there:
            raise InvalidRequest(f"{named.name} is a key of '{rotation.role}' already", remedy="Name another key.")
