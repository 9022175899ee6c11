"""Creates the first keys of a fleet in one folder, to be separated afterwards."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, Targets

from convert.publish import keyring, layout
from convert.publish.central_keys import check_passphrase
from convert.publish.keyring import Keyring, PublicKeyFile
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
            said = f"{self.threshold} of {self.keys} keys is not a valid threshold"
            raise InvalidRequest(said, remedy="Use 1 to 20 keys, and a threshold from 1 to their number.")


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
        said = f"{folder} exists, and keys are never overwritten"
        raise InvalidRequest(said, remedy="Name another folder; 'edge-convert rotate' replaces keys that are in use.")
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
    made = {role: _made(folder, role, quorum.keys) for role, quorum in every.items()}
    root, targets = _root(made, quorums), _targets(made[layout.PLAN][0])
    keys = Keyring([folder], lambda _: passphrase)
    for role, metadata in ((layout.ROOT, root), (layout.TARGETS, targets)):
        layout.issue(metadata.signed, 1, now, layout.DAYS[role])
        keys.sign(metadata, [named.key.keyid for named in made[role][: quorums[role].threshold]])
    atomic_files.write_atomically(folder / keyring.ANCHOR, layout.encode(root))
    atomic_files.write_atomically(folder / keyring.FIRST_TARGETS, layout.encode(targets))


def _made(folder: Path, role: str, count: int) -> list[PublicKeyFile]:
    return [keyring.make(folder, f"{role}-{number}", role) for number in range(1, count + 1)]


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
