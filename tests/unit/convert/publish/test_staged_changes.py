"""Staged changes: a change is written to a folder, signed by several people elsewhere, brought back and published
once."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest

from convert.publish import commit, key_rotation, layout, staged_change
from convert.publish.key_rotation import KeyRotation
from convert.publish.keyring import Keyring, make
from convert.publish.publisher import InsufficientSignatures, Publisher
from edge_agent.errors import FileMissing, InvalidRequest, PlanInvalid, UpdateOutdated, UpdateUntrusted
from tests.support.bundles import echo_bundle
from tests.support.fleet_cases import CentralTeam
from tests.support.tuf_client import Client


def nobody(folder: Path) -> str:
    raise AssertionError(f"asked for the passphrase of {folder} without need")


class Team:
    """A central team in which `vault` has the root and targets keys and `office` the others."""

    def __init__(self, root: Path) -> None:
        self.central = CentralTeam(root)
        self.office, self.vault = root / "office", root / "vault"
        shutil.copytree(self.central.keys, self.office)
        shutil.copytree(self.central.keys, self.vault)
        for role in ("root", "targets"):
            for path in self.office.glob(f"{role}-*.pem"):
                path.unlink()
        for path in (*self.vault.glob("plan-*.pem"), *self.vault.glob("online-*.pem")):
            path.unlink()
        self.folder = root / "staged"
        self.publisher = self.publisher_with(self.office)

    def publisher_with(self, *folders: Path) -> Publisher:
        def stage(held, draft) -> None:
            staged_change.write(self.folder, held, draft)

        return Publisher(self.central.publisher.storage, Keyring(folders, nobody), self.central.now, stage=stage)

    def sign(self, *folders: Path) -> int:
        """Sign the staged change; return the number of signatures that are still missing."""
        keys = Keyring(folders or [self.vault], nobody)
        return sum(each.count for each in staged_change.add_signatures(staged_change.read(self.folder, keys), keys))


@pytest.fixture
def team(tmp_path: Path) -> Team:
    """Return a team without published bundles."""
    return Team(tmp_path)


def published(publisher: Publisher, folder: Path) -> set[str]:
    """Publish the staged change; return the roles that were new."""
    change = staged_change.publish(publisher, folder)
    return set(change.draft.metadata()) if change else set()


def test_staged_bundle_is_published_after_signing(team: Team, tmp_path: Path):
    """A staged bundle changes the repository only after it was signed with the missing keys and published."""
    before = team.central.held.files
    published = team.publisher.publish(echo_bundle(tmp_path / "bundle", weights=b"weights"))
    assert (True, before) == (team.publisher.staged, team.central.held.files)
    with pytest.raises(InsufficientSignatures, match="targets-1"):
        staged_change.publish(Publisher(team.publisher.storage, team.publisher.keys), team.folder)
    assert 0 == team.sign()
    staged_change.publish(team.publisher, team.folder)
    assert [published.signed.digest] == list(team.central.held.bundles())
    team.central.plan(team.central.offering(published.signed.digest))
    seen = Client(tmp_path / "site", team.central.root_bytes).refresh(team.central.folder)
    assert {published.signed.digest} == seen.bundles


def test_signers_add_signatures_one_after_another(team: Team, tmp_path: Path):
    """Each signer adds a signature, and signing with keys that add none is refused with the names of the missing
    ones."""
    second = make(team.vault, "targets-2", "targets")
    team.central.publisher.keys.add_key(second)
    key_rotation.rotate(team.central.publisher, KeyRotation("targets", (second,), threshold=2))
    (tmp_path / "anna").mkdir()
    for path in (*team.vault.glob("targets-2.*"), team.vault / "root.json"):
        shutil.copy(path, tmp_path / "anna")
    (team.vault / "targets-2.pem").unlink()
    team.publisher.publish(echo_bundle(tmp_path / "bundle"))
    assert 1 == team.sign(tmp_path / "anna")
    with pytest.raises(InvalidRequest, match="none of these keys") as caught:
        team.sign(tmp_path / "anna")
    assert "targets-1" in caught.value.remedy
    assert 0 == team.sign(team.vault)
    staged_change.publish(team.publisher, team.folder)
    assert 1 == len(team.central.held.bundles())


def test_signer_sees_the_changes(team: Team, tmp_path: Path):
    """The description of a staged change has version, expiry, revoked bundles, and the keys that are added or
    removed."""
    old = team.central.publish(echo_bundle(tmp_path / "old"))
    shutil.copytree(team.central.keys, team.office, dirs_exist_ok=True)
    (team.office / "targets-1.pem").unlink()
    team.publisher = team.publisher_with(team.office)
    team.publisher.revoke(old)
    keys = Keyring([team.vault], nobody)
    lines = staged_change.read(team.folder, keys).description(keys)
    assert lines[0].startswith("targets, version 2 → 3, valid until ")
    assert [f"  - bundle pos-intent 1.0.0 ({old[:12]}): revoked"] == lines[1:]
    held = team.publisher.read_state().targets.signed
    revoked = deepcopy(held)
    revoked.targets.clear()
    revoked.unrecognized_fields[layout.REVOKED] = [old]
    assert ", which was revoked" in next(staged_change.describe_targets(revoked, held, str))
    new = make(team.office, "plan-2", "plan")
    team.publisher.keys.add_key(new)
    there = key_rotation.keyids(team.publisher.read_state(), "plan")
    key_rotation.rotate(team.publisher, KeyRotation("plan", (new,), tuple(there)))
    change = staged_change.read(team.folder, keys)
    lines = change.description(keys)
    assert f"  - key plan-1 of plan ({there[0][:12]})" in lines
    assert f"  + key plan-2 of plan ({new.key.keyid[:12]})" in lines


def test_staged_root_rotation_is_published(team: Team, tmp_path: Path):
    """A staged rotation of root keys with a new threshold is signed elsewhere, and sites then follow the new root."""
    client = Client(tmp_path / "site", team.central.root_bytes)
    client.refresh(team.central.folder)
    new = make(team.vault, "root-9", "root")
    there = key_rotation.keyids(team.publisher.read_state(), "root")
    key_rotation.rotate(team.publisher, KeyRotation("root", (new,), (there[0],), threshold=1))
    keys = Keyring([team.vault], nobody)
    assert "  * root: 1 of 2 must sign; it was 2 of 2" in staged_change.read(team.folder, keys).description(keys)
    assert 0 == team.sign()
    staged_change.publish(team.publisher, team.folder)
    assert 2 == client.refresh(team.central.folder).root_version
    assert new.key.keyid in key_rotation.keyids(team.central.held, "root")


def test_staged_plan_is_readable_by_the_signer(team: Team, tmp_path: Path):
    """A staged plan has the plan itself, so that the signer sees its effect before signing."""
    digest = team.central.publish(echo_bundle(tmp_path / "bundle"))
    shutil.move(team.office / "plan-1.pem", team.vault / "plan-1.pem")
    team.publisher = team.publisher_with(team.office)
    team.publisher.set_plan(team.central.offering(digest))
    keys = Keyring([team.vault], nobody)
    change = staged_change.read(team.folder, keys)
    assert change.draft.plan is not None
    assert {digest} == change.draft.plan.bundles()
    assert any("effect: channels.stable.tasks.pos-intent: 1.0.0" in line for line in change.description(keys))
    team.sign()
    staged_change.publish(team.publisher, team.folder)
    assert {digest} == Client(tmp_path / "site", team.central.root_bytes).refresh(team.central.folder).bundles


def test_outdated_staged_change_is_refused(team: Team, tmp_path: Path):
    """A staged change of a role that has changed since is refused, with staging again as the remedy."""
    team.publisher.publish(echo_bundle(tmp_path / "bundle"))
    team.sign()
    team.central.publish(echo_bundle(tmp_path / "other", version="1.1.0"))
    with pytest.raises(InvalidRequest, match="has changed since") as caught:
        staged_change.publish(team.publisher, team.folder)
    assert "again" in caught.value.remedy


def test_staged_change_is_published_once(team: Team, tmp_path: Path):
    """Publishing the same staged change again changes nothing, and a late signer is told that it is published
    already."""
    team.publisher.publish(echo_bundle(tmp_path / "bundle"))
    team.sign()
    assert staged_change.publish(team.publisher, team.folder) is not None
    before = team.central.held.files
    assert staged_change.publish(team.publisher, team.folder) is None
    assert before == team.central.held.files
    with pytest.raises(UpdateOutdated, match="based on an outdated version") as caught:
        staged_change.read(team.folder, Keyring([team.office], nobody))
    assert "published already" in caught.value.remedy


def test_interrupted_rotation_is_completed(team: Team, tmp_path: Path):
    """If a staged rotation was published without its new root, the same command publishes the root."""
    client = Client(tmp_path / "site", team.central.root_bytes)
    there = key_rotation.keyids(team.publisher.read_state(), "targets")
    key_rotation.rotate(
        team.publisher, KeyRotation("targets", (make(team.vault, "targets-9", "targets"),), (there[0],))
    )
    team.sign()
    assert {"root", "targets"} == published(team.publisher, team.folder)
    (team.central.folder / "metadata" / "2.root.json").unlink()
    for folder in (team.office, team.central.keys):
        (folder / "seen.json").unlink(missing_ok=True)
        (folder / "root.json").write_bytes(team.central.root_bytes)
    again = team.publisher_with(team.office)
    assert {"root"} == published(again, team.folder)
    assert 2 == client.refresh(team.central.folder).root_version
    assert staged_change.publish(again, team.folder) is None


def test_staged_bundle_survives_changes_of_other_roles(team: Team, tmp_path: Path):
    """A new plan and a renewed timestamp do not invalidate a staged bundle."""
    first = team.central.publish(echo_bundle(tmp_path / "first"))
    team.publisher.publish(echo_bundle(tmp_path / "bundle", version="1.1.0"))
    team.central.plan(team.central.offering(first))
    team.central.publisher.renew()
    team.sign()
    staged_change.publish(team.publisher, team.folder)
    assert 2 == len(team.central.held.bundles())


def test_staged_revocation_of_a_planned_bundle_is_refused(team: Team, tmp_path: Path):
    """If the plan names a bundle by the time its staged revocation is published, nothing is published."""
    digest = team.central.publish(echo_bundle(tmp_path / "bundle"))
    team.publisher.revoke(digest)
    team.sign()
    team.central.plan(team.central.offering(digest))
    with pytest.raises(PlanInvalid, match="not signed"):
        staged_change.publish(team.publisher, team.folder)
    assert [digest] == list(team.central.held.bundles())


def test_signer_refuses_a_change_based_on_older_metadata(team: Team, tmp_path: Path):
    """A signer whose keys have seen newer metadata refuses a staged change that is based on older ones."""
    digest = team.central.publish(echo_bundle(tmp_path / "bundle"))
    team.publisher.publish(echo_bundle(tmp_path / "other", version="1.1.0"))
    shutil.copytree(team.folder, tmp_path / "kept")
    team.central.revoke(digest)
    team.publisher.publish(echo_bundle(tmp_path / "third", version="1.2.0"))
    team.sign()
    shutil.rmtree(team.folder)
    shutil.move(tmp_path / "kept", team.folder)
    with pytest.raises(UpdateOutdated):
        team.sign()


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda folder: shutil.rmtree(folder), FileMissing),
        (lambda folder: (folder / "staged.json").write_text("{}"), InvalidRequest),
        (lambda folder: (folder / "staged.json").write_text("no"), InvalidRequest),
        (lambda folder: (folder / "new" / "targets.json").write_text("{}"), UpdateUntrusted),
    ],
)
def test_damaged_staged_folder_is_not_signed(team: Team, tmp_path: Path, spoil, error):
    """A damaged folder of a staged change is refused with a remedy."""
    team.publisher.publish(echo_bundle(tmp_path / "bundle"))
    spoil(team.folder)
    with pytest.raises(error) as caught:
        team.sign()
    assert caught.value.remedy


def test_staged_change_of_another_fleet_is_not_signed(team: Team, tmp_path: Path):
    """A staged change that does not follow from the root of the signer's keys is refused."""
    other = CentralTeam(tmp_path / "other", whose="theirs")
    draft = commit.ChangeDraft(targets=other.publisher.next_of(other.held.targets, "targets"))
    staged_change.write(team.folder, other.held, draft)
    with pytest.raises(UpdateUntrusted, match="not the root of trust"):
        team.sign()


def test_staging_does_not_replace_other_files(team: Team, tmp_path: Path):
    """Staging into a folder with other files is refused and leaves them unchanged."""
    team.folder.mkdir()
    (team.folder / "thesis.txt").write_text("x")
    with pytest.raises(InvalidRequest, match="has no staged change"):
        team.publisher.publish(echo_bundle(tmp_path / "bundle"))
    assert ["thesis.txt"] == [path.name for path in team.folder.iterdir()]
    (team.folder / "thesis.txt").unlink()
    team.publisher.publish(tmp_path / "bundle")
    assert "edge-agent/staged/v1" == json.loads((team.folder / "staged.json").read_text())["schema"]
