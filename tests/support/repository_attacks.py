"""Attacks on the way to a site: files that an attacker puts into `incoming/` or onto a USB drive, by stolen key.

Each attack spoils a copy of what the central team has published:

for name, attack in ATTACKS.items():
    hostile = AttackedRepository(central, central.copy(tmp_path / name), older)
    attack.make(hostile)                    # hostile.folder must be refused
    attack.mend(central)                    # what the central team does about a stolen key; its folder is believed
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, TargetFile

from convert.publish import layout
from convert.publish.layout import PLAN, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from edge_agent.formats import plan as plans
from edge_agent.formats.plan import BundleOffer, FleetPlan, RolloutPlan, TaskPlan
from edge_agent.formats.signed_document import format_timestamp
from tests.support.fleet_cases import CentralTeam

PAST = datetime(2020, 1, 1, tzinfo=UTC)
STRANGER = CryptoSigner(Ed25519PrivateKey.from_private_bytes(b"z" * 32))
UNSIGNED = "ee" * 32
ENDLESS_BYTES = 2**34
"""Sparse: it takes no room."""


@dataclass
class AttackedRepository:
    """A copy of a repository that an attacker controls."""

    central: CentralTeam
    folder: Path
    older: Path
    """What the central team had published earlier, and the site has seen newer of."""

    def path(self, role: str) -> Path:
        """Return the file of a role that is in force in the copy."""
        folder = self.folder / "metadata"
        if role == TIMESTAMP:
            return folder / "timestamp.json"
        if role == SNAPSHOT:  # its versions may have been started anew
            return folder / f"{self.read(TIMESTAMP).signed.snapshot_meta.version}.snapshot.json"
        return max(folder.glob(f"*.{role}.json"), key=lambda path: int(path.name.partition(".")[0]))

    def read(self, role: str) -> Metadata[Any]:
        """Read a role's metadata."""
        metadata: Metadata[Any] = Metadata.from_bytes(self.path(role).read_bytes())
        return metadata

    def sign(self, role: str, metadata: Metadata[Any], keyids: Iterable[str] | None = None) -> Path:
        """Sign with keys of the central team, by default the right ones, and write; returns the file."""
        metadata.signatures.clear()
        by = self.read(TARGETS if role == PLAN else ROOT).signed
        self.central.publisher.keys.sign(metadata, by.get_delegated_role(role).keyids if keyids is None else keyids)
        return self.write(role, metadata)

    def write(self, role: str, metadata: Metadata[Any]) -> Path:
        """Write metadata as they are."""
        path = self.folder / layout.path_of(role, metadata.signed.version)
        path.write_bytes(layout.encode(metadata))
        return path

    def forge(self, role: str, change: Callable[[Any], None]) -> None:
        """Change a role with its own keys, and let snapshot and timestamp say so: both were stolen."""
        metadata = self.read(role)
        metadata.signed.version += 1
        change(metadata.signed)
        self.link(role, self.sign(role, metadata))

    def link(self, role: str, written: Path) -> None:
        """Sign snapshot and timestamp with the online key so that they name a new file of a role."""
        if role == TIMESTAMP:
            return
        if role != SNAPSHOT:
            snapshot = self.read(SNAPSHOT)
            snapshot.signed.meta[f"{role}.json"] = _described(written)
            snapshot.signed.version += 1
            written = self.sign(SNAPSHOT, snapshot)
        stamp = self.read(TIMESTAMP)
        stamp.signed.snapshot_meta = _described(written)
        stamp.signed.version += 1
        self.sign(TIMESTAMP, stamp)

    def plan(self, raw: bytes) -> None:
        """Sign any bytes as the plan with the plan's key."""
        target = TargetFile.from_data(plans.FILE_NAME, raw, ["sha256"])
        (self.folder / "blobs" / target.hashes["sha256"]).write_bytes(raw)
        self.forge(PLAN, lambda signed: signed.targets.update({plans.FILE_NAME: target}))

    def replace(self, folder: Path) -> None:
        """Lay another repository in its place."""
        shutil.rmtree(self.folder)
        shutil.copytree(folder, self.folder)

    def plan_blob(self) -> Path:
        """Return the file of the plan."""
        target: TargetFile = self.read(PLAN).signed.targets[plans.FILE_NAME]
        return self.folder / "blobs" / target.hashes["sha256"]


Spoil = Callable[[AttackedRepository], None]


def expired(role: str) -> Spoil:
    """Sign a role that has expired long ago."""
    return lambda hostile: hostile.forge(role, lambda signed: setattr(signed, "expires", PAST))


def cut(role: str) -> Spoil:
    """Cut a file in half."""

    def attack(hostile: AttackedRepository) -> None:
        path = hostile.plan_blob() if role == plans.FILE_NAME else hostile.path(role)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return attack


def in_its_place(role: str, put: Callable[[Path], None]) -> Spoil:
    """Put something else in the place of a file."""

    def attack(hostile: AttackedRepository) -> None:
        path = hostile.path(role)
        path.unlink()
        put(path)

    return attack


def endless(path: Path) -> None:
    """Make a file that would fill any memory."""
    with path.open("wb") as file:
        file.write(b'{"signed": "')
        file.truncate(ENDLESS_BYTES)


def rollback(hostile: AttackedRepository) -> None:
    """Present an earlier publication."""
    hostile.replace(hostile.older)


def rollback_of_the_plan(hostile: AttackedRepository) -> None:
    """With a stolen online key: the newest snapshot names an earlier plan."""
    snapshot, older = (
        hostile.read(SNAPSHOT),
        AttackedRepository(hostile.central, hostile.older, hostile.older).read(SNAPSHOT),
    )
    snapshot.signed.meta["plan.json"] = older.signed.meta["plan.json"]
    snapshot.signed.version += 1
    hostile.link(SNAPSHOT, hostile.sign(SNAPSHOT, snapshot))


def drop(file: str) -> Spoil:
    """With a stolen online key: the newest snapshot does not name a metadata file any more."""

    def attack(hostile: AttackedRepository) -> None:
        snapshot = hostile.read(SNAPSHOT)
        del snapshot.signed.meta[file]
        snapshot.signed.version += 1
        hostile.link(SNAPSHOT, hostile.sign(SNAPSHOT, snapshot))

    return attack


def drop_with_its_delegation(hostile: AttackedRepository) -> None:
    """With the keys of targets, too: nothing says any more that there was a plan."""
    hostile.forge(TARGETS, lambda signed: setattr(signed, "delegations", None))
    drop("plan.json")(hostile)


def mixed(role: str) -> Spoil:
    """Show an older file of one role under the name of the newest."""

    def attack(hostile: AttackedRepository) -> None:
        older = AttackedRepository(hostile.central, hostile.older, hostile.older)
        hostile.path(role).write_bytes(older.path(role).read_bytes())

    return attack


def another_fleet(hostile: AttackedRepository) -> None:
    """Present a valid repository of another fleet."""
    hostile.replace(CentralTeam(hostile.folder.parent / f"{hostile.folder.name}-theirs", whose="theirs").folder)


def foreign_root(hostile: AttackedRepository) -> None:
    """Show another fleet's root as the next one."""
    version = hostile.read(ROOT).signed.version + 1
    root = Metadata[Any].from_bytes(
        CentralTeam(hostile.folder.parent / f"{hostile.folder.name}-x", whose="x").root_bytes
    )
    root.signed.version = version
    hostile.write(ROOT, root)


def half_signed_root(hostile: AttackedRepository) -> None:
    """With one of the two root keys: the next root makes the thief's key the online key."""
    root = hostile.read(ROOT)
    root.signed.version += 1
    keyid = root.signed.roles[ROOT].keyids[0]
    for role in (SNAPSHOT, TIMESTAMP):
        root.signed.add_key(STRANGER.public_key, role)
    hostile.sign(ROOT, root, [keyid])


def signed_by_a_stranger(role: str) -> Spoil:
    """With a stolen online key at most: a role's metadata carry a signature of a key that nobody trusts."""

    def attack(hostile: AttackedRepository) -> None:
        metadata = hostile.read(role)
        metadata.signed.version += 1
        metadata.signatures.clear()
        metadata.sign(STRANGER)
        written = hostile.write(role, metadata)
        if role in (PLAN, TARGETS):
            hostile.link(role, written)

    return attack


def signed_by_the_online_key(hostile: AttackedRepository) -> None:
    """With a stolen online key: it signs which bundles there are."""
    targets = hostile.read(TARGETS)
    targets.signed.version += 1
    online = hostile.read(ROOT).signed.roles[TIMESTAMP].keyids
    hostile.link(TARGETS, hostile.sign(TARGETS, targets, online))


def signed_by_a_revoked_key(role: str) -> Spoil:
    """The central team has replaced a key; whoever has the old one signs with it."""

    def attack(hostile: AttackedRepository) -> None:
        by = TARGETS if role == PLAN else ROOT
        old = list(hostile.read(by).signed.get_delegated_role(role).keyids)
        hostile.central.rotate("online" if role == TIMESTAMP else role)
        hostile.replace(hostile.central.folder)
        metadata = hostile.read(role)
        metadata.signed.version += 1
        written = hostile.sign(role, metadata, old[:1])
        if role == PLAN:
            hostile.link(PLAN, written)

    return attack


def unsigned_bundle(hostile: AttackedRepository) -> None:
    """With stolen plan and online keys: the plan names an unsigned bundle."""
    wanted = TaskPlan(offers=(BundleOffer(bundle=UNSIGNED, version="6.6.6"),))
    version = hostile.central.held.plan.version + 1
    channels = {"stable": FleetPlan(tasks={"pos-intent": wanted})}
    hostile.plan(
        plans.encode(RolloutPlan(version=version, issued_at=format_timestamp(hostile.central.now()), channels=channels))
    )


def changed(role: str) -> Spoil:
    """Change signed text and leave the signature."""

    def attack(hostile: AttackedRepository) -> None:
        path = hostile.path(role)
        plain = json.loads(path.read_bytes())
        plain["signed"]["x-added"] = 1
        path.write_bytes(json.dumps(plain).encode())

    return attack


OUTDATED, EXPIRED, UNTRUSTED = {"UPDATE_OUTDATED"}, {"UPDATE_EXPIRED"}, {"UPDATE_UNTRUSTED"}
DAMAGED = {"UPDATE_UNTRUSTED", "UPDATE_INCOMPLETE", "UPDATE_OUTDATED"}
"""Which of these, depends on what is found first."""
INVALID = {"PLAN_INVALID"}


@dataclass(frozen=True)
class Attack:
    """One attack, and the status of a site after it."""

    make: Spoil
    reasons: set[str]
    """One of them."""
    stolen: bool = False
    """It takes the online key: what that signs counts as newer than the central team's, until it is replaced."""

    def mend(self, central: CentralTeam) -> None:
        """Replace a stolen key, which resets the metadata versions."""
        if self.stolen:
            central.rotate("online", restart_versions=True)


def _stolen(make: Spoil, reasons: set[str]) -> Attack:
    return Attack(make, reasons, stolen=True)


ATTACKS: dict[str, Attack] = {
    "rollback": Attack(rollback, OUTDATED),
    "rollback of the plan": _stolen(rollback_of_the_plan, OUTDATED),
    "a plan dropped from the snapshot": _stolen(drop("plan.json"), UNTRUSTED),
    "a plan dropped from targets and snapshot": _stolen(drop_with_its_delegation, UNTRUSTED),
    **{f"expired {role}": _stolen(expired(role), EXPIRED) for role in (TIMESTAMP, SNAPSHOT, TARGETS, PLAN)},
    **{f"an older {role} mixed in": Attack(mixed(role), DAMAGED) for role in (SNAPSHOT, TARGETS, PLAN)},
    "another fleet": Attack(another_fleet, UNTRUSTED),
    "a foreign root": Attack(foreign_root, UNTRUSTED),
    "a root by one of two keys": Attack(half_signed_root, UNTRUSTED),
    "timestamp by a stranger": Attack(signed_by_a_stranger(TIMESTAMP), UNTRUSTED),
    **{f"{role} by a stranger": _stolen(signed_by_a_stranger(role), UNTRUSTED) for role in (TARGETS, PLAN)},
    "targets by the online key": _stolen(signed_by_the_online_key, UNTRUSTED),
    "timestamp by a revoked key": Attack(signed_by_a_revoked_key(TIMESTAMP), UNTRUSTED),
    "plan by a revoked key": _stolen(signed_by_a_revoked_key(PLAN), UNTRUSTED),
    "an unsigned bundle": _stolen(unsigned_bundle, INVALID),
    "a plan that is none": _stolen(lambda hostile: hostile.plan(b'{"version": "now"}'), INVALID),
    **{f"{role} changed": Attack(changed(role), DAMAGED) for role in (TIMESTAMP, SNAPSHOT, TARGETS, PLAN)},
    **{f"{role} cut": Attack(cut(role), DAMAGED) for role in (TIMESTAMP, SNAPSHOT, TARGETS, PLAN, plans.FILE_NAME)},
    "an endless timestamp": Attack(in_its_place(TIMESTAMP, endless), DAMAGED),
    "an endless snapshot": Attack(in_its_place(SNAPSHOT, endless), DAMAGED),
    "a timestamp that goes deep": Attack(in_its_place(TIMESTAMP, lambda path: _fill(path, b"[" * 10_000)), DAMAGED),
    "a pipe": Attack(in_its_place(SNAPSHOT, os.mkfifo), DAMAGED),
    "a link to a device": Attack(in_its_place(TIMESTAMP, lambda path: path.symlink_to("/dev/zero")), DAMAGED),
    "a folder": Attack(in_its_place(TARGETS, Path.mkdir), DAMAGED),
    "no snapshot": Attack(in_its_place(SNAPSHOT, lambda _: None), DAMAGED),
}


def _described(path: Path) -> MetaFile:
    metadata: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
    return layout.meta_file(metadata, path.read_bytes())


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)
