"""Publishing to a repository, checked with python-tuf's client as the site."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from tuf.api.exceptions import BadVersionNumberError, ExpiredMetadataError

from convert.publish import layout
from convert.publish.commit import ChangeDraft
from convert.publish.publisher import InsufficientSignatures
from convert.publish.repository_storage import FolderStorage
from edge_agent.errors import (
    BundleUnreadable,
    FileMissing,
    HashMismatch,
    InvalidRequest,
    ManifestInvalid,
    PlanInvalid,
    UpdateIncomplete,
    UpdateOutdated,
    UpdateUntrusted,
)
from tests.support.bundles import digest_of, echo_bundle
from tests.support.fleet_cases import CentralTeam
from tests.support.tuf_client import Client


@pytest.fixture
def central(tmp_path: Path) -> CentralTeam:
    """Return a central team without published bundles."""
    return CentralTeam(tmp_path)


@pytest.fixture
def client(tmp_path: Path, central: CentralTeam) -> Client:
    """Return a site that has the root of trust."""
    return Client(tmp_path / "site", central.root_bytes)


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return inode and content of each file; a file that was written again has another inode."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_new_repository_has_an_empty_plan(central: CentralTeam, client: Client):
    """A site accepts a new repository, in which no bundle is assigned."""
    seen = client.refresh(central.folder)
    assert (frozenset(), 1, 1) == (seen.bundles, seen.plan.version, seen.root_version)


@pytest.mark.parametrize("form", ["directory", "tar"])
def test_published_bundle_reaches_sites_with_the_plan(central: CentralTeam, client: Client, tmp_path: Path, form: str):
    """A bundle that was published from a folder or a tar reaches a site when the plan names it, not before."""
    bundle = echo_bundle(tmp_path / "bundle", weights=b"weights")
    path = bundle
    if form == "tar":
        path = tmp_path / "bundle.tar"
        with tarfile.open(path, "w") as archive:
            archive.add(bundle, ".")
    digest = central.publish(path)
    assert digest_of(bundle) == digest
    assert frozenset() == client.refresh(central.folder).bundles
    central.plan(central.offering(digest))
    seen = client.refresh(central.folder)
    assert ({digest}, 2) == (seen.bundles, seen.plan.version)


def test_publishing_again_writes_no_file(central: CentralTeam, tmp_path: Path):
    """Publishing the same bundle or plan again, or creating the repository again, writes no file."""
    bundle = echo_bundle(tmp_path / "bundle", weights=b"weights")
    central.plan(central.offering(central.publish(bundle)))
    before = files_of(central.folder)
    again = central.publisher.publish(bundle)
    assert (False, 0) == (again.new, again.bytes_written)
    assert 2 == central.plan(central.held.plan).version
    assert before == files_of(central.folder)
    central.publisher.create()
    assert before == files_of(central.folder)


def test_publishing_again_restores_a_lost_blob(central: CentralTeam, tmp_path: Path):
    """Publishing again writes only the blob that is missing in the repository and leaves the signed metadata
    unchanged."""
    bundle = echo_bundle(tmp_path / "bundle", weights=b"weights")
    central.publish(bundle)
    before = files_of(central.folder)
    lost = next(name for name, (_, content) in before.items() if content == b"weights")
    (central.folder / lost).unlink()
    again = central.publisher.publish(bundle)
    assert (False, len(b"weights")) == (again.new, again.bytes_written)
    assert {name: content for name, (_, content) in before.items()} == {
        name: content for name, (_, content) in files_of(central.folder).items()
    }


def test_shared_files_are_uploaded_once(central: CentralTeam, tmp_path: Path):
    """A second version with the same weights uploads only its manifest."""
    central.publish(echo_bundle(tmp_path / "one", weights=b"w" * 5000))
    second = echo_bundle(tmp_path / "two", weights=b"w" * 5000, version="1.1.0")
    assert (second / "manifest.json").stat().st_size == central.publisher.publish(second).bytes_written


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda bundle: (bundle / "echo.weights.bin").write_bytes(b"other!!"), HashMismatch),
        (lambda bundle: (bundle / "echo.weights.bin").unlink(), FileMissing),
        (lambda bundle: (bundle / "manifest.json").write_bytes(b"{"), ManifestInvalid),
        (lambda bundle: (bundle / "manifest.json").unlink(), BundleUnreadable),
    ],
)
def test_damaged_bundle_is_not_signed(central: CentralTeam, tmp_path: Path, spoil, error):
    """A bundle with a changed or missing file is refused with a remedy, and the repository stays unchanged."""
    bundle = echo_bundle(tmp_path / "bundle", weights=b"weights")
    spoil(bundle)
    before = central.held.files
    with pytest.raises(error) as caught:
        central.publish(bundle)
    assert caught.value.remedy
    assert before == central.held.files


def test_version_of_a_task_can_be_signed_once(central: CentralTeam, tmp_path: Path):
    """A second bundle with the same task and version is refused."""
    central.publish(echo_bundle(tmp_path / "one", weights=b"one"))
    with pytest.raises(InvalidRequest, match="signed already") as caught:
        central.publish(echo_bundle(tmp_path / "two", weights=b"two"))
    assert "version" in caught.value.remedy


def test_plan_with_unsigned_bundle_is_refused(central: CentralTeam, tmp_path: Path):
    """A plan that names an unsigned bundle or a wrong version is refused with the list of signed bundles."""
    signed = central.publish(echo_bundle(tmp_path / "bundle"))
    text = central.offering(signed).model_dump_json(by_alias=True)
    for wrong in (text.replace(signed, "0" * 64), text.replace("1.0.0", "1.0.1")):
        with pytest.raises(PlanInvalid, match=r"channels\.stable\.tasks\.pos-intent .*pos-intent 1\.0\.0"):
            central.plan(type(central.held.plan).model_validate_json(wrong))
    assert 1 == central.held.plan.version


def test_bundle_is_revoked_after_the_plan_dropped_it(central: CentralTeam, client: Client, tmp_path: Path):
    """A bundle can be revoked only when the plan no longer names it; until then the remedy names `plan edit`."""
    old = central.publish(echo_bundle(tmp_path / "old"))
    new = central.publish(echo_bundle(tmp_path / "new", version="1.1.0"))
    central.plan(central.offering(old))
    with pytest.raises(InvalidRequest, match="still names") as caught:
        central.revoke(old)
    assert "plan edit" in caught.value.remedy
    central.plan(central.offering(new))
    central.revoke(old)
    assert [new] == list(central.held.bundles())
    assert {new} == client.refresh(central.folder).bundles
    with pytest.raises(InvalidRequest, match="is signed"):
        central.revoke(old)


def test_revoked_bundle_is_signed_again_only_on_request(central: CentralTeam, client: Client, tmp_path: Path):
    """A revoked bundle is refused when it is published again, also after other changes, unless signing it again is
    requested."""
    folder = echo_bundle(tmp_path / "old")
    old = central.publish(folder)
    central.revoke(old)
    new = central.publish(echo_bundle(tmp_path / "new", version="1.1.0"))
    central.rotate("targets")
    with pytest.raises(InvalidRequest, match=r"pos-intent 1\.0\.0 .* was revoked; it was not signed"):
        central.publish(folder)
    assert [new] == list(central.held.bundles())
    central.publisher.sign(central.publisher.upload(folder), again=True)
    central.plan(central.offering(old))
    assert {old} == client.refresh(central.folder).bundles
    assert not central.publisher.publish(folder).new


@pytest.mark.parametrize("role", ["root", "targets", "plan", "online"])
def test_keys_of_a_role_are_replaced(central: CentralTeam, client: Client, tmp_path: Path, role: str):
    """After the rotation of a role, old and new sites accept the repository, and the old key is no longer in the
    role."""
    digest = central.publish(echo_bundle(tmp_path / "bundle"))
    central.plan(central.offering(digest))
    client.refresh(central.folder)
    old = {named.name: named.key.keyid for named in central.publisher.keys.keys}
    new = central.rotate(role)
    assert {digest} == client.refresh(central.folder).bundles
    assert {digest} == Client(tmp_path / "late", central.root_bytes).refresh(central.folder).bundles
    held = central.held
    delegator = held.targets if role == "plan" else held.root
    keyids = delegator.signed.get_delegated_role("timestamp" if role == "online" else role).keyids
    assert new.key.keyid in keyids
    assert old[{"plan": "plan-1", "online": "online-1"}.get(role, f"{role}-1")] not in keyids


def test_site_follows_five_root_rotations(central: CentralTeam, client: Client, tmp_path: Path):
    """A site that missed five root rotations updates through all of them to root version 6."""
    client.refresh(central.folder)
    for _ in range(5):
        central.rotate_root()
    assert 6 == client.refresh(central.folder).root_version


def test_new_online_key_resets_metadata_versions(central: CentralTeam, client: Client):
    """A site accepts lower version numbers after the online key was replaced, so an attacker who raised them cannot
    block updates."""
    central.resign("timestamp", lambda signed: setattr(signed, "version", 2**31 - 1))
    assert 2**31 - 1 == client.refresh(central.folder).timestamp_version
    central.rotate("online", restart_versions=True)
    assert 1 == client.refresh(central.folder).timestamp_version


def test_expired_metadata_are_refused_until_renewed(central: CentralTeam, client: Client):
    """python-tuf's client refuses expired metadata, and accepts the repository after `renew`."""
    central.expire("timestamp", seconds=-1)
    with pytest.raises(ExpiredMetadataError):
        client.refresh(central.folder)
    assert "timestamp" == central.held.expiries()[0][1]
    central.publisher.renew()
    assert 1 == client.refresh(central.folder).root_version


def test_drive_and_mirror_do_not_block_each_other(central: CentralTeam, client: Client, tmp_path: Path):
    """A site accepts a drive and then the mirror's next version; after that it refuses the drive as outdated."""
    digest = central.publish(echo_bundle(tmp_path / "bundle", weights=b"weights"))
    central.plan(central.offering(digest))
    client.refresh(central.folder)
    drive = central.drive(tmp_path / "drive")
    versions = [client.refresh(place).timestamp_version for place in (drive, central.folder)]
    assert versions[1] == versions[0] + 1
    with pytest.raises(BadVersionNumberError):
        client.refresh(drive)
    assert {digest} == Client(tmp_path / "late", central.root_bytes).refresh(drive).bundles


def test_publisher_refuses_planted_metadata(central: CentralTeam, tmp_path: Path):
    """If someone without keys replaces the metadata in the store, the publisher refuses to sign."""
    other = CentralTeam(tmp_path / "other", whose="theirs")
    for path in sorted((other.folder / "metadata").iterdir()):
        shutil.copy(path, central.folder / "metadata" / path.name)
    with pytest.raises(UpdateUntrusted, match="is not the root of trust"):
        central.publish(echo_bundle(tmp_path / "bundle"))


@pytest.mark.parametrize("role", ["snapshot", "targets", "plan"])
def test_publisher_names_damaged_metadata(central: CentralTeam, tmp_path: Path, role: str):
    """A changed or missing metadata file is named, and nothing is published."""
    path = central.metadata(role)
    path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))
    with pytest.raises(UpdateIncomplete, match=path.name):
        central.publish(echo_bundle(tmp_path / "bundle"))
    path.unlink()
    with pytest.raises(UpdateIncomplete, match=rf"{path.name} is missing"):
        central.publish(echo_bundle(tmp_path / "bundle"))


def test_publisher_refuses_an_old_copy_of_the_repository(central: CentralTeam, tmp_path: Path):
    """If the store was replaced by an older copy with a bundle that was revoked later, the publisher refuses to
    sign."""
    digest = central.publish(echo_bundle(tmp_path / "bundle"))
    central.copy(tmp_path / "kept")
    central.revoke(digest)
    shutil.rmtree(central.folder)
    shutil.copytree(tmp_path / "kept", central.folder)
    with pytest.raises(UpdateOutdated, match="seen version 3") as caught:
        central.publish(echo_bundle(tmp_path / "other", version="1.1.0"))
    assert "old copy" in caught.value.remedy


@pytest.mark.parametrize("role", ["targets", "online"])
def test_lost_keys_are_replaced_by_the_root_keys(central: CentralTeam, client: Client, role: str):
    """A role whose private key is lost is rotated by the root keys, but only with an explicit `without_old`."""
    client.refresh(central.folder)
    (central.keys / f"{role}-1.pem").unlink()
    with pytest.raises(InvalidRequest, match=f"{role}-1"):
        central.rotate(role)
    central.rotate(role, without_old=True)
    assert 2 == client.refresh(central.folder).root_version


def test_second_of_two_publishers_is_refused(central: CentralTeam, tmp_path: Path):
    """A change that is based on a state another publisher has changed is refused, and the other publisher's bundle
    stays."""
    held = central.publisher.read_state()
    targets = central.publisher.next_of(held.targets, "targets")
    digest = central.publish(echo_bundle(tmp_path / "bundle"))
    with pytest.raises(InvalidRequest, match="another publisher"):
        central.publisher.finish(held, ChangeDraft(targets=targets))
    assert [digest] == list(central.held.bundles())


class RacingStorage(FolderStorage):
    """A store in which another publisher writes the same version just after each metadata file was written."""

    def write(self, path: str, content: bytes | Iterable[bytes]) -> None:
        super().write(path, content)
        if path.endswith(".snapshot.json"):
            super().write(path, b"{}")


def test_crossing_publishers_leave_a_valid_repository(central: CentralTeam, client: Client, tmp_path: Path):
    """A publisher that finds another publisher's bytes under its file name stops before the timestamp, so sites still
    accept the repository."""
    central.publisher.storage = RacingStorage(central.folder)
    with pytest.raises(InvalidRequest, match="is publishing to"):
        central.publish(echo_bundle(tmp_path / "bundle"))
    assert 1 == client.refresh(central.folder).timestamp_version
    central.publisher.storage = FolderStorage(central.folder)
    assert [central.publish(tmp_path / "bundle")] == list(central.held.bundles())


class LockTestingStorage(FolderStorage):
    """A store in which another publisher tries to publish while this one writes."""

    def write(self, path: str, content: bytes | Iterable[bytes]) -> None:
        super().write(path, content)
        if path.endswith(".targets.json"):
            with FolderStorage(self._root).exclusive() as alone:
                self.found_alone = alone


def test_publisher_locks_a_folder_repository(central: CentralTeam, tmp_path: Path):
    """While one publisher writes to a folder, a second one is refused, so neither loses its bundle."""
    central.publisher.storage = waiting = LockTestingStorage(central.folder)
    digest = central.publish(echo_bundle(tmp_path / "bundle"))
    assert ([digest], False) == (list(central.held.bundles()), waiting.found_alone)
    with (
        FolderStorage(central.folder).exclusive(),
        pytest.raises(InvalidRequest, match="another publisher is publishing to"),
    ):
        central.publish(echo_bundle(tmp_path / "other", version="1.1.0"))
    assert [digest] == list(central.held.bundles())


def test_drive_is_not_written_during_a_publish(central: CentralTeam, tmp_path: Path):
    """Writing a drive is refused while a publisher holds the repository, because it also renews the timestamp."""
    central.plan(central.offering(central.publish(echo_bundle(tmp_path / "bundle"))))
    before = central.publisher.read_state().files[layout.TIMESTAMP_PATH]
    with (
        FolderStorage(central.folder).exclusive(),
        pytest.raises(InvalidRequest, match="another publisher is publishing to"),
    ):
        central.drive(tmp_path / "drive")
    assert before == central.publisher.read_state().files[layout.TIMESTAMP_PATH]


def test_publish_without_enough_keys_changes_nothing(central: CentralTeam, tmp_path: Path):
    """Without the offline keys nothing is published, and the error names the missing signatures and --stage."""
    for path in central.keys.glob("targets-*.pem"):
        path.unlink()
    before = central.held.files
    with pytest.raises(InsufficientSignatures, match="'targets' needs 1 more") as caught:
        central.publish(echo_bundle(tmp_path / "bundle"))
    assert "--stage" in caught.value.remedy
    assert before == central.held.files
