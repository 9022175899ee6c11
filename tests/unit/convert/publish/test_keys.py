"""The central team's keys for captured data: creation, permissions, passphrases, rotation, and use by the age
command."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from convert.cli import app
from convert.cli.keys import ask_passphrase
from convert.publish import central_keys
from edge_agent.errors import FileMissing, InvalidRequest
from edge_agent.formats import example_records, segment
from edge_agent.formats.signed_document import sign
from tests.support.examples import feedback, prediction

PASSPHRASE = "nine purple herons"
LINES = example_records.encode(prediction(1)) + example_records.encode(feedback(1))
needs_age = pytest.mark.skipif(not shutil.which("age"), reason="the age command is not installed (apt install age)")


def nobody() -> str:
    raise AssertionError("asked for a passphrase without need")


def test_new_keys_match_their_public_halves(tmp_path: Path):
    """New keys open what is sealed to their recipient, and their receipts verify with the public key."""
    public = central_keys.create(tmp_path / "keys")
    opened = central_keys.unlock(tmp_path / "keys", nobody)
    assert LINES == segment.unseal(segment.seal(LINES, [public.recipient]), opened.identities)
    raw = sign(segment.Receipts(site="site-1", at="2026-11-25T10:00:00Z"), opened.receipts)
    assert "site-1" == segment.verify_receipts(raw, [public.receipts]).body.site


@pytest.mark.parametrize("passphrase", ["", pytest.param(PASSPHRASE, marks=pytest.mark.slow)])
def test_keys_are_readable_by_the_owner_only(tmp_path: Path, passphrase: str):
    """The key folder has mode 0700 and its files 0600, with and without a passphrase."""
    central_keys.create(tmp_path / "keys", passphrase)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert ({0o600}, 0o700) == (modes, stat.S_IMODE((tmp_path / "keys").stat().st_mode))


@pytest.mark.slow
def test_passphrase_encrypts_both_private_keys(tmp_path: Path):
    """With a passphrase, both private keys are stored encrypted and open only with it; the public halves are readable
    without it."""
    public = central_keys.create(tmp_path / "keys", PASSPHRASE)
    content = b"".join(path.read_bytes() for path in (tmp_path / "keys").iterdir())
    assert b"AGE-SECRET-KEY" not in content
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in content
    with pytest.raises(InvalidRequest, match="cannot be opened"):
        central_keys.unlock(tmp_path / "keys", lambda: "another passphrase")
    opened = central_keys.unlock(tmp_path / "keys", lambda: PASSPHRASE)
    assert public.recipient == str(opened.identities[0].to_public())
    assert public == central_keys.read_public(tmp_path / "keys")


def test_keys_are_never_overwritten(tmp_path: Path):
    """Creating keys in a folder that has keys is refused and changes nothing."""
    public = central_keys.create(tmp_path / "keys")
    with pytest.raises(InvalidRequest, match="never overwritten"):
        central_keys.create(tmp_path / "keys")
    assert public == central_keys.read_public(tmp_path / "keys")
    assert ["keys"] == [path.name for path in tmp_path.iterdir()]


def test_rotation_keeps_old_identities_usable(tmp_path: Path):
    """After a rotation, data sealed to the old and to the new recipient can be opened."""
    old = central_keys.create(tmp_path / "keys")
    new = central_keys.rotate(tmp_path / "keys", nobody)
    assert old.recipient != new.recipient
    assert old.receipts == new.receipts
    opened = central_keys.unlock(tmp_path / "keys", nobody)
    for public in (old, new):
        assert LINES == segment.unseal(segment.seal(LINES, [public.recipient]), opened.identities)


@pytest.mark.parametrize("name", ["identity.txt", "receipts.pem", "recipient.txt"])
def test_missing_key_file_is_reported(tmp_path: Path, name: str):
    """A missing key file is an error with `keys create` as the remedy."""
    central_keys.create(tmp_path / "keys")
    (tmp_path / "keys" / name).unlink()
    read = central_keys.read_public if name == "recipient.txt" else lambda folder: central_keys.unlock(folder, nobody)
    with pytest.raises(FileMissing) as caught:
        read(tmp_path / "keys")
    assert "keys create" in caught.value.remedy


@pytest.mark.parametrize("name", ["identity.txt", "receipts.pem"])
def test_damaged_key_file_is_an_error(tmp_path: Path, name: str):
    """A key file without a valid key is an error when the keys are unlocked."""
    central_keys.create(tmp_path / "keys")
    (tmp_path / "keys" / name).write_text("no key\n")
    with pytest.raises(InvalidRequest, match="cannot be opened"):
        central_keys.unlock(tmp_path / "keys", nobody)


@needs_age
def test_age_command_can_open_a_segment(tmp_path: Path):
    """The age command decrypts a segment to zstd data, and a segment sealed by it can be unsealed."""
    public = central_keys.create(tmp_path / "keys")
    (tmp_path / "segment.age").write_bytes(segment.seal(LINES, [public.recipient]))
    command = ["age", "-d", "-i", str(tmp_path / "keys" / "identity.txt"), str(tmp_path / "segment.age")]
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    assert b"\x28\xb5\x2f\xfd" == packed[:4]
    sealed_by_age = subprocess.run(
        ["age", "-R", str(tmp_path / "keys" / "recipient.txt")], input=packed, capture_output=True, check=True
    ).stdout
    assert LINES == segment.unseal(sealed_by_age, central_keys.unlock(tmp_path / "keys", nobody).identities)


def invoke(*arguments: str | Path, given: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(app, ["keys", *map(str, arguments)], input=given)
    return result.exit_code, result.output


@pytest.mark.slow
def test_keys_command_prints_public_halves(tmp_path: Path):
    """`keys create` and `keys show` print the recipient and the receipts key, and `keys rotate` prints a new
    recipient."""
    (tmp_path / "phrase").write_text(PASSPHRASE + "\n")
    (tmp_path / "phrase").chmod(0o600)
    code, made = invoke("create", tmp_path / "keys", "--passphrase-file", tmp_path / "phrase")
    assert 0 == code
    public = central_keys.read_public(tmp_path / "keys")
    assert public.recipient in made
    assert public.receipts in made
    assert (0, made) == invoke("show", tmp_path / "keys")
    code, turned = invoke("rotate", tmp_path / "keys", "--passphrase-file", tmp_path / "phrase")
    assert (0, central_keys.read_public(tmp_path / "keys").recipient in turned) == (code, turned != made)


def test_endless_passphrase_file_is_refused(tmp_path: Path):
    """A passphrase file of more than 1 MiB, such as /dev/zero, is refused; a pipe, as from a password manager, is
    read."""
    code, said = invoke("create", tmp_path / "keys", "--passphrase-file", "/dev/zero")
    assert (2, True) == (code, "/dev/zero has more than 1048576 bytes" in " ".join(said.split()))
    read, write = os.pipe()
    with open(write, "w") as pipe:  # noqa: PTH123 - a pipe
        pipe.write(PASSPHRASE)
    assert PASSPHRASE == central_keys.read_passphrase(Path(f"/dev/fd/{read}"))
    os.close(read)


def test_passphrase_that_is_not_utf8_is_refused(tmp_path: Path):
    """A passphrase file that is not UTF-8 is refused, because other characters would be typed later."""
    file = tmp_path / "passphrase"
    file.write_bytes("größer als sechzehn".encode("latin-1"))
    file.chmod(0o600)
    with pytest.raises(InvalidRequest, match="is not text in UTF-8"):
        central_keys.read_passphrase(file)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [("short\n", 0o600, "5 characters"), ("\n", 0o600, "is empty"), (PASSPHRASE, 0o644, "every user can read")],
)
def test_weak_or_public_passphrase_file_is_refused(tmp_path: Path, content: str, mode: int, said: str):
    """A passphrase file that is too short, empty or readable by others is refused, and no keys are made."""
    (tmp_path / "phrase").write_text(content)
    (tmp_path / "phrase").chmod(mode)
    code, output = invoke("create", tmp_path / "keys", "--passphrase-file", tmp_path / "phrase")
    assert (2, True, False) == (code, said in output, (tmp_path / "keys").exists())


def test_missing_passphrase_without_terminal_is_an_error(tmp_path: Path):
    """Without a terminal and without --passphrase-file, `keys rotate` exits with an error that names the option instead
    of a prompt."""
    central_keys.create(tmp_path / "keys", PASSPHRASE)
    code, output = invoke("rotate", tmp_path / "keys", given="")
    assert (2, True) == (code, "--passphrase-file" in output)


@pytest.mark.parametrize(("folder", "said"), [(None, "the keys have a"), (Path("/keys"), "the keys in /keys have a")])
def test_passphrase_prompt_names_the_key_folder(folder: Path | None, said: str):
    """The request for a passphrase names the key folder, so that a command with several folders is unambiguous."""
    with pytest.raises(InvalidRequest, match=f"^{said} passphrase, and there is no terminal"):
        ask_passphrase(folder)
