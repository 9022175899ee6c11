"""Other keys for a role: somebody joins or leaves, a key is lost, a key is stolen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tuf.api.metadata import Metadata

from convert.publish.commit import Draft
from convert.publish.keyring import Named
from convert.publish.layout import ONLINE, PLAN, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from convert.publish.publisher import Publisher
from convert.publish.reading import Held
from edge_agent.errors import InvalidRequest

_IN_ROOT = {ROOT: (ROOT,), TARGETS: (TARGETS,), ONLINE: (SNAPSHOT, TIMESTAMP)}


@dataclass(frozen=True)
class Rotation:
    """What becomes of a role's keys."""

    role: str
    """root, targets, plan or online."""
    add: tuple[Named, ...] = ()
    remove: tuple[str, ...] = ()
    """Key ids."""
    threshold: int = 0
    """0 = as it is."""
    restart_versions: bool = False
    """online: count snapshot and timestamp from 1 again, after somebody with a stolen key ran the numbers up."""


def keyids(held: Held, role: str) -> list[str]:
    """Return the keys of a role that are in force."""
    of: Metadata[Any] = held.targets if role == PLAN else held.root
    return list(of.signed.get_delegated_role(_IN_ROOT.get(role, (role,))[0]).keyids)


def rotate(publisher: Publisher, rotation: Rotation) -> None:
    """Change the keys of a role.

    Raises:
        InvalidRequest: a key is not there, or there already; or the threshold cannot be met.
        SignaturesMissing: the keys at hand do not suffice and there is nowhere to stage.
    """
    held = publisher.held()
    if rotation.restart_versions and rotation.role != ONLINE:
        raise InvalidRequest("only online versions can be restarted", remedy="Rotate the role 'online' with it.")
    draft = Draft(restart_versions=rotation.restart_versions)
    if rotation.role in (TARGETS, PLAN):
        draft.targets = publisher.next_of(held.targets, TARGETS)
    if rotation.role == PLAN:
        draft.plan_role = publisher.next_of(held.plan_role, PLAN)
    else:
        draft.root = publisher.next_of(held.root, ROOT)
    changed = draft.targets if rotation.role == PLAN else draft.root
    assert changed is not None
    for role in _IN_ROOT.get(rotation.role, (PLAN,)):
        _change(changed.signed, role, rotation)
    publisher.finish(held, draft)


def _change(delegator: Any, role: str, rotation: Rotation) -> None:
    there: Sequence[str] = delegator.get_delegated_role(role).keyids
    for keyid in rotation.remove:
        if keyid not in there:
            raise InvalidRequest(f"{keyid[:12]} is no key of '{rotation.role}'", remedy="See 'edge-convert keys show'.")
    for named in rotation.add:
        if named.key.keyid in there:
            raise InvalidRequest(f"{named.name} is a key of '{rotation.role}' already", remedy="Name another one.")
        delegator.add_key(named.key, role)
    for keyid in rotation.remove:
        delegator.revoke_key(keyid, role)
    of = delegator.get_delegated_role(role)
    of.threshold = rotation.threshold or of.threshold
    if not 1 <= of.threshold <= len(of.keyids):
        said = f"'{rotation.role}' would have {len(of.keyids)} keys, and need {of.threshold} signatures"
        raise InvalidRequest(said, remedy="Add keys, or name a lower --threshold.")
