"""Folders of signing keys: made once, closed to others, opened when needed, found by what they are."""

from __future__ import annotations

import json
import shutil
import stat
import time
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root

from convert.publish import key_rotation, keyring, layout
from convert.publish.key_rotation import RoleQuorum
from convert.publish.keyring import Keyring
from convert.publish.publisher import Publisher
from convert.publish.repository_storage import FolderStorage
from edge_agent.errors import FileMissing, InvalidRequest
from tests.support.fleet_cases import CentralTeam

PASSPHRASE = "nine purple herons"
ONE = RoleQuorum(1, 1)


def nobody(folder: Path) -> str:
    raise AssertionError(f"asked for the passphrase of {folder} without need")


def root_of(folder: Path) -> Root:
    return Metadata[Root].from_bytes((folder / "root.json").read_bytes()).signed


def test_new_keys_make_a_root_with_thresholds(tmp_path: Path):
    """By default two of three must sign roots and bundles; plan and online have a key each."""
    made = key_rotation.create(tmp_path / "keys", time.time())
    assert ["online-1", "plan-1", *(f"{role}-{n}" for role in ("root", "targets") for n in (1, 2, 3))] == [
        named.name for named in made
    ]
    root = root_of(tmp_path / "keys")
    assert {"root": (3, 2), "targets": (3, 2), "snapshot": (1, 1), "timestamp": (1, 1)} == {
        name: (len(role.keyids), role.threshold) for name, role in root.roles.items()
    }
    assert root.roles["snapshot"].keyids == root.roles["timestamp"].keyids


def test_only_the_owner_may_read_private_keys(tmp_path: Path):
    """The folder and every private half are closed to group and others."""
    key_rotation.create(tmp_path / "keys", time.time(), ONE, ONE)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").glob("*.pem")}
    assert ({0o600}, 0o700) == (modes, stat.S_IMODE((tmp_path / "keys").stat().st_mode))


@pytest.mark.slow
def test_a_passphrase_hides_every_private_key(tmp_path: Path):
    """It is asked for once, when something is signed."""
    key_rotation.create(tmp_path / "keys", time.time(), ONE, ONE, PASSPHRASE)
    private = list((tmp_path / "keys").glob("*-1.age"))
    assert (4, []) == (len(private), list((tmp_path / "keys").glob("*.pem")))
    content = b"".join(path.read_bytes() for path in (tmp_path / "keys").iterdir())
    assert (False, False) == (b"PRIVATE KEY" in content, b"AGE-SECRET-KEY" in content)
    asked: list[Path] = []

    def ask(folder: Path) -> str:
        asked.append(folder)
        return PASSPHRASE

    Publisher(FolderStorage(tmp_path / "repository"), Keyring([tmp_path / "keys"], ask)).create()
    assert [tmp_path / "keys"] == asked


@pytest.mark.release
def test_a_wrong_passphrase_opens_nothing(tmp_path: Path):
    """The message names the key, and the passphrase first among the causes."""
    key_rotation.create(tmp_path / "keys", time.time(), ONE, ONE, PASSPHRASE)
    wrong = Publisher(FolderStorage(tmp_path / "other"), Keyring([tmp_path / "keys"], lambda _: "another passphrase"))
    with pytest.raises(InvalidRequest, match="cannot be opened") as caught:
        wrong.create()
    assert "passphrase" in caught.value.remedy


def test_keys_are_never_overwritten(tmp_path: Path):
    """Neither a folder nor a single key."""
    key_rotation.create(tmp_path / "keys", time.time(), ONE, ONE)
    before = (tmp_path / "keys" / "root-1.pem").read_bytes()
    with pytest.raises(InvalidRequest, match="never overwritten"):
        key_rotation.create(tmp_path / "keys", time.time(), ONE, ONE)
    with pytest.raises(InvalidRequest, match="never overwritten"):
        keyring.make(tmp_path / "keys", "root-1", "root")
    assert before == (tmp_path / "keys" / "root-1.pem").read_bytes()


@pytest.mark.release
def test_a_key_that_is_made_later_is_under_the_same_passphrase(tmp_path: Path):
    """Also in a folder that was given unlock.age only, as people who hold one key have it."""
    key_rotation.create(tmp_path / "keys", time.time(), ONE, ONE, PASSPHRASE)
    (tmp_path / "anna").mkdir()
    shutil.copy(tmp_path / "keys" / "unlock.age", tmp_path / "anna")
    with pytest.raises(InvalidRequest, match="cannot be opened"):
        Keyring([tmp_path / "anna"], lambda _: "another passphrase").make("anna", "targets")
    for folder in (tmp_path / "keys", tmp_path / "anna"):
        made = Keyring([folder], lambda _: PASSPHRASE).make("later", "targets")
        assert folder / "later.age" == made.private
        with pytest.raises(InvalidRequest, match="has a passphrase already"):
            keyring.lock(folder, PASSPHRASE)


@pytest.mark.parametrize("quorum", [(0, 0), (1, 2), (2, 0), (21, 1)])
def test_a_quorum_that_cannot_be_met_is_refused(quorum: tuple[int, int]):
    """More signatures than keys, none at all, or more keys than anybody has."""
    with pytest.raises(InvalidRequest, match="is not a valid threshold"):
        RoleQuorum(*quorum)


def test_a_short_passphrase_makes_no_keys(tmp_path: Path):
    """It is refused before anything is there."""
    with pytest.raises(InvalidRequest, match="5 characters"):
        key_rotation.create(tmp_path / "keys", time.time(), passphrase="short")
    assert [] == list(tmp_path.iterdir())


def test_keys_may_lie_in_several_folders_under_any_name(tmp_path: Path):
    """Offline keys on a USB drive and the rest at home sign together."""
    central = CentralTeam(tmp_path)
    (tmp_path / "drive").mkdir()
    for path in central.keys.glob("targets-*"):
        shutil.move(path, tmp_path / "drive" / path.name.replace("targets-1", "anna"))
    keys = Keyring([central.keys, tmp_path / "drive"], nobody)
    central.publisher.keys = keys
    central.publisher.renew("targets")
    assert 2 == central.held.targets.signed.version
    assert "anna" == keys.name_of(central.held.root.signed.roles["targets"].keyids[0])


def test_a_signer_behind_a_uri_signs(tmp_path: Path):
    """Whatever securesystemslib opens by its URI is a signer like the others; here a file elsewhere."""
    central = CentralTeam(tmp_path)
    shutil.move(central.keys / "plan-1.pem", tmp_path / "elsewhere.pem")
    public = central.keys / "plan-1.pub"
    public.write_text(json.dumps({**json.loads(public.read_text()), "uri": f"file2:{tmp_path / 'elsewhere.pem'}"}))
    central.publisher.keys = Keyring([central.keys], nobody)
    central.publisher.renew("plan")
    assert 2 == central.held.plan_role.signed.version


@pytest.mark.parametrize("uri", ["file2:/nowhere/key.pem", "awskms:no-such-key", "unknown:x"])
def test_a_signer_that_does_not_work_is_named(tmp_path: Path, uri: str):
    """The message has the key and the error of securesystemslib."""
    central = CentralTeam(tmp_path)
    (central.keys / "plan-1.pem").unlink()
    public = central.keys / "plan-1.pub"
    public.write_text(json.dumps({**json.loads(public.read_text()), "uri": uri}))
    central.publisher.keys = Keyring([central.keys], nobody)
    with pytest.raises(InvalidRequest, match="plan-1"):
        central.publisher.renew("plan")


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"keyid": 1}', b"[]", b'{"role": "x", "keyid": "a", "key": {}}'])
def test_a_file_that_holds_no_key_is_an_error(tmp_path: Path, content: bytes):
    """It is named, and no other key is taken for it."""
    (tmp_path / "broken.pub").write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"broken\.pub"):
        keyring.read_public(tmp_path / "broken.pub")


def test_a_folder_without_keys_says_how_to_make_some(tmp_path: Path):
    """No folder, or one without a root of trust."""
    with pytest.raises(FileMissing) as caught:
        Keyring([tmp_path / "nothing"], nobody)
    assert "keys signing" in caught.value.remedy
    with pytest.raises(FileMissing, match=r"root\.json"):
        Keyring([tmp_path], nobody).anchor()


def test_the_keys_of_reading_examples_may_lie_in_the_same_folder(tmp_path: Path):
    """receipts.pub of 'keys create' is no signing key, and is passed over."""
    central = CentralTeam(tmp_path)
    (central.keys / "receipts.pub").write_text("9f" * 32 + "\n")
    assert "receipts" not in {named.name for named in keyring.read_folder(central.keys)}


def test_a_new_root_takes_the_old_ones_place_in_the_folder(tmp_path: Path):
    """After a rotation the folder's root.json is the newest root, from which new sites and the next command start."""
    central = CentralTeam(tmp_path)
    central.rotate_root()
    assert layout.encode(central.held.root) == (central.keys / "root.json").read_bytes()
    assert (2, 2) == (root_of(central.keys).version, central.publisher.read_state().root.signed.version)
    central.publisher.renew()
