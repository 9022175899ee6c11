"""A central team with a repository in a folder, made by the real code: for tests of its readers.

central team = Central team(tmp_path)
digest = central.publish(echo_bundle(tmp_path / "bundle"))
central.plan(central.offering(digest))
Trust(...).refresh(central.folder)     # root.json: central.root_bytes
"""

from __future__ import annotations

import functools
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root

from convert.publish import key_rotation, keyring, layout, media_writer
from convert.publish.key_rotation import KeyRotation, RoleQuorum
from convert.publish.keyring import Keyring, PublicKeyFile
from convert.publish.publisher import Publisher
from convert.publish.repository_reader import RepositoryState
from convert.publish.repository_storage import FolderStorage, RepositoryStorage
from edge_agent.formats.plan import BundleOffer, FleetPlan, RolloutPlan, TaskPlan
from edge_agent.formats.signed_document import format_timestamp

Clock = Callable[[], float]


@functools.cache
def _made_keys(whose: str) -> Path:
    """Return a folder of keys that all central teams of that name in this process start from; made an hour ago."""
    folder = Path(tempfile.mkdtemp(prefix="fleet-keys-")) / "keys"
    key_rotation.create(folder, time.time() - 3600, root=RoleQuorum(2, 2), targets=RoleQuorum(1, 1))
    return folder


class CentralTeam:
    """A repository in `folder`, and all its keys in `keys`; another `whose` is another fleet, with other keys."""

    def __init__(
        self, root: Path, now: Clock = time.time, place: RepositoryStorage | None = None, whose: str = "ours"
    ) -> None:
        self.whose = whose
        self.folder = root / "repository"
        self.keys = root / "signing-keys"
        shutil.copytree(_made_keys(whose), self.keys)
        self.now = now
        self.publisher = Publisher(place or FolderStorage(self.folder), Keyring([self.keys], _nobody), now)
        self.publisher.create()

    @classmethod
    def of(cls, root: Path) -> CentralTeam:
        """Open a central team that was made there before, as another process would."""
        central = cls.__new__(cls)
        central.whose, central.folder, central.keys, central.now = (
            "ours",
            root / "repository",
            root / "signing-keys",
            time.time,
        )
        central.publisher = Publisher(FolderStorage(central.folder), Keyring([central.keys], _nobody))
        return central

    @property
    def root_bytes(self) -> bytes:
        """The root of trust that sites are given: version 1."""
        return (_made_keys(self.whose) / "root.json").read_bytes()

    @property
    def held(self) -> RepositoryState:
        """What the repository holds now."""
        return self.publisher.read_state()

    def publish(self, bundle: Path) -> str:
        """Sign a bundle, and return its digest."""
        return self.publisher.publish(bundle).signed.digest

    def plan(self, plan: RolloutPlan) -> RolloutPlan:
        """Publish a plan; returns it with the version that it got."""
        return self.publisher.set_plan(plan)

    def offering(self, *digests: str, channel: str = "stable", **more: Any) -> RolloutPlan:
        """Return a plan that wants these signed bundles, each for its task; `more` goes into each TaskPlan."""
        signed = [self.held.bundles()[digest] for digest in digests]
        tasks = {
            each.task: TaskPlan(offers=(BundleOffer(bundle=each.digest, version=each.version),), **more)
            for each in signed
        }
        return RolloutPlan(
            version=1, issued_at=format_timestamp(self.now()), channels={channel: FleetPlan(tasks=tasks)}
        )

    def rotate(self, role: str, **more: Any) -> PublicKeyFile:
        """Replace the first key of a role (root, targets, plan, online) by a new one, which is returned."""
        number = len(self.publisher.keys.keys)
        named = keyring.make(self.keys, f"{role}-new-{number}", role)
        self.publisher.keys.add_key(named)
        old = key_rotation.keyids(self.held, role)[0]
        key_rotation.rotate(self.publisher, KeyRotation(role, (named,), (old,), **more))
        return named

    def rotate_root(self) -> PublicKeyFile:
        """Replace a root key."""
        return self.rotate("root")

    def revoke(self, digest: str) -> None:
        """Take the signature of a bundle back; the plan must not name it any more."""
        self.publisher.revoke(digest)

    def expire(self, *roles: str, seconds: float = 1.0) -> None:
        """Sign these roles' metadata again with an expiry in that many seconds; negative = already expired."""
        short = dict.fromkeys(roles or ("timestamp",), seconds / 86_400)
        publisher = Publisher(self.publisher.storage, self.publisher.keys, self.now, {**layout.DAYS, **short})
        publisher.renew(*roles)

    def drive(self, path: Path, *sites: str, channel: str = "", days: float = 30) -> Path:
        """Write a USB drive, for these sites or for all."""
        path.mkdir(exist_ok=True)
        media_writer.write(self.publisher, media_writer.MediaOrder(path, days, sites, channel))
        return path

    def metadata(self, role: str) -> Path:
        """Return the file of a role's metadata in force."""
        held = self.held
        return self.folder / layout.path_of(role, held.roles()[role].signed.version)

    def copy(self, to: Path) -> Path:
        """Copy the repository as it is now, as a mirror downloads it or an attacker stores it."""
        return Path(shutil.copytree(self.folder, to))

    def resign(self, role: str, change: Callable[[Any], None]) -> Path:
        """Change a role's metadata in place and sign it again, as a holder of the keys could; return its file."""
        path = self.metadata(role)
        metadata: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
        change(metadata.signed)
        metadata.signatures.clear()
        by: Metadata[Any] = self.held.targets if role == "plan" else self.held.root
        root: Root = by.signed
        self.publisher.keys.sign(metadata, root.get_delegated_role(role).keyids)
        path.write_bytes(layout.encode(metadata))
        return path


def _nobody(folder: Path) -> str:
    raise AssertionError(f"asked for a passphrase of {folder} without need")
