"""The central team's keys: made once, readable by their owner, understood by the age command, renewed without loss."""

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


def test_new_keys_open_and_sign_what_their_public_halves_say(tmp_path: Path):
    """What is sealed to the recipient opens, and receipts pass under the public key."""
    public = central_keys.create(tmp_path / "keys")
    opened = central_keys.unlock(tmp_path / "keys", nobody)
    assert LINES == segment.unseal(segment.seal(LINES, [public.recipient]), opened.identities)
    raw = sign(segment.Receipts(site="site-1", at="2026-11-25T10:00:00Z"), opened.receipts)
    assert "site-1" == segment.verify_receipts(raw, [public.receipts]).body.site


@pytest.mark.parametrize("passphrase", ["", pytest.param(PASSPHRASE, marks=pytest.mark.slow)])
def test_only_the_owner_may_read(tmp_path: Path, passphrase: str):
    """Folder and files are closed to group and others."""
    central_keys.create(tmp_path / "keys", passphrase)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert ({0o600}, 0o700) == (modes, stat.S_IMODE((tmp_path / "keys").stat().st_mode))


@pytest.mark.slow
def test_a_passphrase_hides_both_private_keys(tmp_path: Path):
    """Without it nothing opens; with it everything does; the public halves need none."""
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
    """Making keys where there are some changes nothing."""
    public = central_keys.create(tmp_path / "keys")
    with pytest.raises(InvalidRequest, match="never overwritten"):
        central_keys.create(tmp_path / "keys")
    assert public == central_keys.read_public(tmp_path / "keys")
    assert ["keys"] == [path.name for path in tmp_path.iterdir()]


def test_a_new_identity_leaves_the_old_ones_working(tmp_path: Path):
    """After a rotation, what was sealed to the old recipient and to the new one both open."""
    old = central_keys.create(tmp_path / "keys")
    new = central_keys.rotate(tmp_path / "keys", nobody)
    assert old.recipient != new.recipient
    assert old.receipts == new.receipts
    opened = central_keys.unlock(tmp_path / "keys", nobody)
    for public in (old, new):
        assert LINES == segment.unseal(segment.seal(LINES, [public.recipient]), opened.identities)


@pytest.mark.parametrize("name", ["identity.txt", "receipts.pem", "recipient.txt"])
def test_a_missing_file_is_named(tmp_path: Path, name: str):
    """The error says which file is gone and how to go on."""
    central_keys.create(tmp_path / "keys")
    (tmp_path / "keys" / name).unlink()
    read = central_keys.read_public if name == "recipient.txt" else lambda folder: central_keys.unlock(folder, nobody)
    with pytest.raises(FileMissing) as caught:
        read(tmp_path / "keys")
    assert "keys create" in caught.value.remedy


@pytest.mark.parametrize("name", ["identity.txt", "receipts.pem"])
def test_a_file_that_holds_no_key_is_an_error(tmp_path: Path, name: str):
    """Damage does not pass for a wrong key later on."""
    central_keys.create(tmp_path / "keys")
    (tmp_path / "keys" / name).write_text("no key\n")
    with pytest.raises(InvalidRequest, match="cannot be opened"):
        central_keys.unlock(tmp_path / "keys", nobody)


@needs_age
def test_the_age_command_opens_a_segment(tmp_path: Path):
    """age and zstd's format are all that is needed to read a segment by hand."""
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
def test_the_command_prints_what_sites_need(tmp_path: Path):
    """create and show print both public halves; rotate prints a new recipient."""
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


def test_a_passphrase_file_without_an_end_is_refused(tmp_path: Path):
    """A device would fill the memory; a pipe, as from a password manager, is read."""
    code, said = invoke("create", tmp_path / "keys", "--passphrase-file", "/dev/zero")
    assert (2, True) == (code, "/dev/zero has more than 1048576 bytes" in " ".join(said.split()))
    read, write = os.pipe()
    with open(write, "w") as pipe:  # noqa: PTH123 - a pipe
        pipe.write(PASSPHRASE)
    assert PASSPHRASE == central_keys.read_passphrase(Path(f"/dev/fd/{read}"))
    os.close(read)


def test_a_passphrase_in_another_encoding_is_refused(tmp_path: Path):
    """Its letters would be others where it is typed."""
    file = tmp_path / "passphrase"
    file.write_bytes("größer als sechzehn".encode("latin-1"))
    file.chmod(0o600)
    with pytest.raises(InvalidRequest, match="is not text in UTF-8"):
        central_keys.read_passphrase(file)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [("short\n", 0o600, "5 characters"), ("\n", 0o600, "is empty"), (PASSPHRASE, 0o644, "every user can read")],
)
def test_a_poor_passphrase_file_is_refused(tmp_path: Path, content: str, mode: int, said: str):
    """Too short, empty or open to everyone: the command says so and makes no keys."""
    (tmp_path / "phrase").write_text(content)
    (tmp_path / "phrase").chmod(mode)
    code, output = invoke("create", tmp_path / "keys", "--passphrase-file", tmp_path / "phrase")
    assert (2, True, False) == (code, said in output, (tmp_path / "keys").exists())


def test_without_a_terminal_nobody_is_asked(tmp_path: Path):
    """A script that forgets the passphrase file gets an error and no prompt."""
    central_keys.create(tmp_path / "keys", PASSPHRASE)
    code, output = invoke("rotate", tmp_path / "keys", given="")
    assert (2, True) == (code, "--passphrase-file" in output)


@pytest.mark.parametrize(("folder", "said"), [(None, "the keys have a"), (Path("/keys"), "the keys in /keys have a")])
def test_keys_are_named_where_a_passphrase_is_asked_for(folder: Path | None, said: str):
    """A command with several folders of keys says which of them it needs a passphrase for."""
    with pytest.raises(InvalidRequest, match=f"^{said} passphrase, and there is no terminal"):
        ask_passphrase(folder)
