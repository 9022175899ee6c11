"""A repository as a central team makes it, read by python-tuf's client, which accepts it."""

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
    """Return a central team with nothing published."""
    return CentralTeam(tmp_path)


@pytest.fixture
def client(tmp_path: Path, central: CentralTeam) -> Client:
    """Return a site that knows the root of trust."""
    return Client(tmp_path / "site", central.root_bytes)


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return inode and content of every file: a file that was written again has another inode."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_new_repository_has_an_empty_plan(central: CentralTeam, client: Client):
    """A site accepts it before anything is published."""
    seen = client.refresh(central.folder)
    assert (frozenset(), 1, 1) == (seen.bundles, seen.plan.version, seen.root_version)


@pytest.mark.parametrize("form", ["directory", "tar"])
def test_a_published_bundle_reaches_sites_with_the_plan(
    central: CentralTeam, client: Client, tmp_path: Path, form: str
):
    """Signed, named by the plan, with every file under its hash."""
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


def test_the_same_bytes_again_change_nothing(central: CentralTeam, tmp_path: Path):
    """Publishing a bundle or a plan twice writes no file."""
    bundle = echo_bundle(tmp_path / "bundle", weights=b"weights")
    central.plan(central.offering(central.publish(bundle)))
    before = files_of(central.folder)
    again = central.publisher.publish(bundle)
    assert (False, 0) == (again.new, again.bytes_written)
    assert 2 == central.plan(central.held.plan).version
    assert before == files_of(central.folder)
    central.publisher.create()
    assert before == files_of(central.folder)


def test_publishing_again_brings_back_a_lost_blob(central: CentralTeam, tmp_path: Path):
    """The signature stays as it is; only the missing file is written."""
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
    """A second version with the same weights costs its manifest and no more."""
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
def test_a_spoilt_bundle_is_not_signed(central: CentralTeam, tmp_path: Path, spoil, error):
    """It is refused by name, and what sites see stays as it was."""
    bundle = echo_bundle(tmp_path / "bundle", weights=b"weights")
    spoil(bundle)
    before = central.held.files
    with pytest.raises(error) as caught:
        central.publish(bundle)
    assert caught.value.remedy
    assert before == central.held.files


def test_a_version_is_taken_once(central: CentralTeam, tmp_path: Path):
    """Two bundles of one task with the same version would be told apart by nobody."""
    central.publish(echo_bundle(tmp_path / "one", weights=b"one"))
    with pytest.raises(InvalidRequest, match="signed already") as caught:
        central.publish(echo_bundle(tmp_path / "two", weights=b"two"))
    assert "version" in caught.value.remedy


def test_a_plan_names_only_what_is_signed(central: CentralTeam, tmp_path: Path):
    """A bundle that is not signed, or under another version, is refused with what there is instead."""
    signed = central.publish(echo_bundle(tmp_path / "bundle"))
    text = central.offering(signed).model_dump_json(by_alias=True)
    for wrong in (text.replace(signed, "0" * 64), text.replace("1.0.0", "1.0.1")):
        with pytest.raises(PlanInvalid, match=r"channels\.stable\.tasks\.pos-intent .*pos-intent 1\.0\.0"):
            central.plan(type(central.held.plan).model_validate_json(wrong))
    assert 1 == central.held.plan.version


def test_a_revoked_bundle_is_signed_no_more(central: CentralTeam, client: Client, tmp_path: Path):
    """It goes once the plan does not name it; until then the command says what to do first."""
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


def test_a_revoked_bundle_is_signed_again_only_on_request(central: CentralTeam, client: Client, tmp_path: Path):
    """A build that publishes what it finds does not bring it back to the sites, whatever was published meanwhile."""
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
    """Sites old and new go on, and the old key counts no more."""
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


def test_a_site_follows_many_roots(central: CentralTeam, client: Client, tmp_path: Path):
    """A site that slept through five rotations walks through all roots."""
    client.refresh(central.folder)
    for _ in range(5):
        central.rotate_root()
    assert 6 == client.refresh(central.folder).root_version


def test_online_versions_start_again_with_a_new_key(central: CentralTeam, client: Client):
    """After somebody with the online key ran the numbers up, sites take the low ones again."""
    central.resign("timestamp", lambda signed: setattr(signed, "version", 2**31 - 1))
    assert 2**31 - 1 == client.refresh(central.folder).timestamp_version
    central.rotate("online", restart_versions=True)
    assert 1 == client.refresh(central.folder).timestamp_version


def test_expired_metadata_are_refused_until_renewed(central: CentralTeam, client: Client):
    """python-tuf's client says so; renewing mends it."""
    central.expire("timestamp", seconds=-1)
    with pytest.raises(ExpiredMetadataError):
        client.refresh(central.folder)
    assert "timestamp" == central.held.expiries()[0][1]
    central.publisher.renew()
    assert 1 == client.refresh(central.folder).root_version


def test_a_drive_and_the_mirror_do_not_block_each_other(central: CentralTeam, client: Client, tmp_path: Path):
    """A site takes the drive and then the mirror's newer copy; after that the drive is an old one."""
    digest = central.publish(echo_bundle(tmp_path / "bundle", weights=b"weights"))
    central.plan(central.offering(digest))
    client.refresh(central.folder)
    drive = central.drive(tmp_path / "drive")
    versions = [client.refresh(place).timestamp_version for place in (drive, central.folder)]
    assert versions[1] == versions[0] + 1
    with pytest.raises(BadVersionNumberError):
        client.refresh(drive)
    assert {digest} == Client(tmp_path / "late", central.root_bytes).refresh(drive).bundles


def test_a_planted_file_is_no_ground_to_sign_on(central: CentralTeam, tmp_path: Path):
    """Who can write to the store, but has no key, cannot have anything signed: the publisher checks what it reads."""
    other = CentralTeam(tmp_path / "other", whose="theirs")
    for path in sorted((other.folder / "metadata").iterdir()):
        shutil.copy(path, central.folder / "metadata" / path.name)
    with pytest.raises(UpdateUntrusted, match="is not the root of trust"):
        central.publish(echo_bundle(tmp_path / "bundle"))


@pytest.mark.parametrize("role", ["snapshot", "targets", "plan"])
def test_a_damaged_repository_is_named(central: CentralTeam, tmp_path: Path, role: str):
    """A changed or missing file is named, and nothing is published on top of it."""
    path = central.metadata(role)
    path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))
    with pytest.raises(UpdateIncomplete, match=path.name):
        central.publish(echo_bundle(tmp_path / "bundle"))
    path.unlink()
    with pytest.raises(UpdateIncomplete, match=rf"{path.name} is missing"):
        central.publish(echo_bundle(tmp_path / "bundle"))


def test_an_old_copy_is_no_ground_to_sign_on(central: CentralTeam, tmp_path: Path):
    """Who puts back the store of last week, with a bundle that was revoked since, does not get it signed again."""
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
    """Without the old private key it takes a word that this is meant, since sites may refuse for a moment."""
    client.refresh(central.folder)
    (central.keys / f"{role}-1.pem").unlink()
    with pytest.raises(InvalidRequest, match=f"{role}-1"):
        central.rotate(role)
    central.rotate(role, without_old=True)
    assert 2 == client.refresh(central.folder).root_version


def test_two_publishers_do_not_overwrite_each_other(central: CentralTeam, tmp_path: Path):
    """Who comes second is told, and starts from what is there then."""
    held = central.publisher.read_state()
    targets = central.publisher.next_of(held.targets, "targets")
    digest = central.publish(echo_bundle(tmp_path / "bundle"))
    with pytest.raises(InvalidRequest, match="another publisher"):
        central.publisher.finish(held, ChangeDraft(targets=targets))
    assert [digest] == list(central.held.bundles())


class Crossing(FolderStorage):
    """A place at which somebody else writes the same version, just after each metadata file was written."""

    def write(self, path: str, content: bytes | Iterable[bytes]) -> None:
        super().write(path, content)
        if path.endswith(".snapshot.json"):
            super().write(path, b"{}")


def test_publishers_that_cross_leave_what_sites_accept(central: CentralTeam, client: Client, tmp_path: Path):
    """Who finds another's bytes under the own name stops before the timestamp, which names what was there before."""
    central.publisher.storage = Crossing(central.folder)
    with pytest.raises(InvalidRequest, match="is publishing to"):
        central.publish(echo_bundle(tmp_path / "bundle"))
    assert 1 == client.refresh(central.folder).timestamp_version
    central.publisher.storage = FolderStorage(central.folder)
    assert [central.publish(tmp_path / "bundle")] == list(central.held.bundles())


class Waiting(FolderStorage):
    """A place at which somebody else publishes while this publisher writes."""

    def write(self, path: str, content: bytes | Iterable[bytes]) -> None:
        super().write(path, content)
        if path.endswith(".targets.json"):
            with FolderStorage(self._root).exclusive() as alone:
                self.found_alone = alone


def test_a_publisher_keeps_others_out_of_a_folder(central: CentralTeam, tmp_path: Path):
    """Two that write at once would both report success, and the second would take the bundle of the first away."""
    central.publisher.storage = waiting = Waiting(central.folder)
    digest = central.publish(echo_bundle(tmp_path / "bundle"))
    assert ([digest], False) == (list(central.held.bundles()), waiting.found_alone)
    with (
        FolderStorage(central.folder).exclusive(),
        pytest.raises(InvalidRequest, match="another publisher is publishing to"),
    ):
        central.publish(echo_bundle(tmp_path / "other", version="1.1.0"))
    assert [digest] == list(central.held.bundles())


def test_a_drive_is_not_written_while_somebody_publishes(central: CentralTeam, tmp_path: Path):
    """Its timestamp would take the place of the one that names the other publisher's bundle."""
    central.plan(central.offering(central.publish(echo_bundle(tmp_path / "bundle"))))
    before = central.publisher.read_state().files[layout.TIMESTAMP_PATH]
    with (
        FolderStorage(central.folder).exclusive(),
        pytest.raises(InvalidRequest, match="another publisher is publishing to"),
    ):
        central.drive(tmp_path / "drive")
    assert before == central.publisher.read_state().files[layout.TIMESTAMP_PATH]


def test_too_few_keys_publish_nothing(central: CentralTeam, tmp_path: Path):
    """Without the offline keys the command says whose signatures are missing, and how to go on."""
    for path in central.keys.glob("targets-*.pem"):
        path.unlink()
    before = central.held.files
    with pytest.raises(InsufficientSignatures, match="'targets' needs 1 more") as caught:
        central.publish(echo_bundle(tmp_path / "bundle"))
    assert "--stage" in caught.value.remedy
    assert before == central.held.files
