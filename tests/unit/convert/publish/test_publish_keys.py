"""Folders of signing keys: creation, permissions, passphrases, thresholds and signers."""

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
    """By default root and targets have three keys of which two must sign; plan and online have one key each."""
    made = key_rotation.create(tmp_path / "keys", time.time())
    assert ["online-1", "plan-1", *(f"{role}-{n}" for role in ("root", "targets") for n in (1, 2, 3))] == [
        named.name for named in made
    ]
    root = root_of(tmp_path / "keys")
    assert {"root": (3, 2), "targets": (3, 2), "snapshot": (1, 1), "timestamp": (1, 1)} == {
        name: (len(role.keyids), role.threshold) for name, role in root.roles.items()
    }
    assert root.roles["snapshot"].keyids == root.roles["timestamp"].keyids


def test_private_keys_are_readable_by_the_owner_only(tmp_path: Path):
    """The key folder has mode 0700 and each private key 0600."""
    key_rotation.create(tmp_path / "keys", time.time(), ONE, ONE)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").glob("*.pem")}
    assert ({0o600}, 0o700) == (modes, stat.S_IMODE((tmp_path / "keys").stat().st_mode))


@pytest.mark.slow
def test_passphrase_encrypts_all_private_keys(tmp_path: Path):
    """With a passphrase all private keys are stored encrypted, and it is requested once when something is signed."""
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
def test_wrong_passphrase_is_reported(tmp_path: Path):
    """With a wrong passphrase signing is refused, and the remedy names the passphrase."""
    key_rotation.create(tmp_path / "keys", time.time(), ONE, ONE, PASSPHRASE)
    wrong = Publisher(FolderStorage(tmp_path / "other"), Keyring([tmp_path / "keys"], lambda _: "another passphrase"))
    with pytest.raises(InvalidRequest, match="cannot be opened") as caught:
        wrong.create()
    assert "passphrase" in caught.value.remedy


def test_keys_are_never_overwritten(tmp_path: Path):
    """Creating keys in a folder with keys, or a key whose name exists, is refused and changes nothing."""
    key_rotation.create(tmp_path / "keys", time.time(), ONE, ONE)
    before = (tmp_path / "keys" / "root-1.pem").read_bytes()
    with pytest.raises(InvalidRequest, match="never overwritten"):
        key_rotation.create(tmp_path / "keys", time.time(), ONE, ONE)
    with pytest.raises(InvalidRequest, match="never overwritten"):
        keyring.make(tmp_path / "keys", "root-1", "root")
    assert before == (tmp_path / "keys" / "root-1.pem").read_bytes()


@pytest.mark.release
def test_later_key_uses_the_same_passphrase(tmp_path: Path):
    """A key that is made later is encrypted with the folder's passphrase, also in a folder that has only unlock.age."""
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
def test_impossible_threshold_is_refused(quorum: tuple[int, int]):
    """A threshold above the number of keys, of zero, or with too many keys is refused."""
    with pytest.raises(InvalidRequest, match="is not a valid threshold"):
        RoleQuorum(*quorum)


def test_short_passphrase_makes_no_keys(tmp_path: Path):
    """A passphrase of five characters is refused and no file is made."""
    with pytest.raises(InvalidRequest, match="5 characters"):
        key_rotation.create(tmp_path / "keys", time.time(), passphrase="short")
    assert [] == list(tmp_path.iterdir())


def test_keys_in_several_folders_sign_together(tmp_path: Path):
    """Keys in several folders, under any file name, sign together."""
    central = CentralTeam(tmp_path)
    (tmp_path / "drive").mkdir()
    for path in central.keys.glob("targets-*"):
        shutil.move(path, tmp_path / "drive" / path.name.replace("targets-1", "anna"))
    keys = Keyring([central.keys, tmp_path / "drive"], nobody)
    central.publisher.keys = keys
    central.publisher.renew("targets")
    assert 2 == central.held.targets.signed.version
    assert "anna" == keys.name_of(central.held.root.signed.roles["targets"].keyids[0])


def test_signer_with_a_uri_signs(tmp_path: Path):
    """A key whose .pub file has a URI is opened by securesystemslib and signs like the others."""
    central = CentralTeam(tmp_path)
    shutil.move(central.keys / "plan-1.pem", tmp_path / "elsewhere.pem")
    public = central.keys / "plan-1.pub"
    public.write_text(json.dumps({**json.loads(public.read_text()), "uri": f"file2:{tmp_path / 'elsewhere.pem'}"}))
    central.publisher.keys = Keyring([central.keys], nobody)
    central.publisher.renew("plan")
    assert 2 == central.held.plan_role.signed.version


@pytest.mark.parametrize("uri", ["file2:/nowhere/key.pem", "awskms:no-such-key", "unknown:x"])
def test_failing_signer_is_named(tmp_path: Path, uri: str):
    """A signer whose URI does not work is an error with the name of the key."""
    central = CentralTeam(tmp_path)
    (central.keys / "plan-1.pem").unlink()
    public = central.keys / "plan-1.pub"
    public.write_text(json.dumps({**json.loads(public.read_text()), "uri": uri}))
    central.publisher.keys = Keyring([central.keys], nobody)
    with pytest.raises(InvalidRequest, match="plan-1"):
        central.publisher.renew("plan")


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"keyid": 1}', b"[]", b'{"role": "x", "keyid": "a", "key": {}}'])
def test_invalid_public_key_file_is_named(tmp_path: Path, content: bytes):
    """A .pub file without a valid key is an error with the name of the file."""
    (tmp_path / "broken.pub").write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"broken\.pub"):
        keyring.read_public(tmp_path / "broken.pub")


def test_folder_without_keys_is_reported(tmp_path: Path):
    """A missing key folder is an error with `keys signing` as the remedy, and a folder without root.json is an error
    that names this file."""
    with pytest.raises(FileMissing) as caught:
        Keyring([tmp_path / "nothing"], nobody)
    assert "keys signing" in caught.value.remedy
    with pytest.raises(FileMissing, match=r"root\.json"):
        Keyring([tmp_path], nobody).anchor()


def test_receipts_key_in_the_folder_is_ignored(tmp_path: Path):
    """receipts.pub of `keys create` may be in the same folder and is not read as a signing key."""
    central = CentralTeam(tmp_path)
    (central.keys / "receipts.pub").write_text("9f" * 32 + "\n")
    assert "receipts" not in {named.name for named in keyring.read_folder(central.keys)}


def test_rotation_updates_root_json_in_the_key_folder(tmp_path: Path):
    """After a rotation, root.json in the key folder is the newest root, and the next command starts from it."""
    central = CentralTeam(tmp_path)
    central.rotate_root()
    assert layout.encode(central.held.root) == (central.keys / "root.json").read_bytes()
    assert (2, 2) == (root_of(central.keys).version, central.publisher.read_state().root.signed.version)
    central.publisher.renew()
