"""Changes the keys of a role: a person joins or leaves, or a key is lost or stolen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tuf.api.metadata import Metadata

from convert.publish.commit import ChangeDraft
from convert.publish.keyring import PublicKeyFile
from convert.publish.layout import ONLINE, PLAN, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Kind
from convert.publish.publisher import Publisher
from convert.publish.repository_reader import RepositoryState
from edge_agent.errors import InvalidRequest

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
    """0 = as it is."""
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
        SignaturesMissing: the available keys do not suffice, and there is no folder to stage the change.
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
        said = f"'{rotation.role}' would have {len(of.keyids)} keys but need {of.threshold} signatures"
        raise InvalidRequest(said, remedy="Add keys, or name a lower --threshold.")


def _check(there: frozenset[str], rotation: KeyRotation) -> None:
    for unknown in set(rotation.remove) - there:
        raise InvalidRequest(
            f"{unknown[:12]} is not a key of '{rotation.role}'", remedy="See 'edge-convert keys show'."
        )
    for named in rotation.add:
        if named.key.keyid in there:
            raise InvalidRequest(f"{named.name} is a key of '{rotation.role}' already", remedy="Name another key.")
