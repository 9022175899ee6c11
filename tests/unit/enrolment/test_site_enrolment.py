"""`edge-agent enrol` on a directory: what it writes, and that an error changes nothing."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from convert.publish import key_rotation
from convert.publish.key_rotation import RoleQuorum
from edge_agent import config
from edge_agent.cli import app
from edge_agent.formats import enrolment_file
from edge_agent.formats.enrolment_file import parse_record
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.uplink.escalation.escalation_server import read_key
from tests.support.enrolled_machine import hand_over
from tests.support.enrolment_files import DAY, LARGE_MODEL, a_enrolment
from tests.support.modes import umask
from tests.support.mounts import tmpfs
from tests.support.rights import without_root

PASSPHRASE = "nine purple herons"
ONE = RoleQuorum(1, 1)


class EnrollingMachine:
    """A machine to enrol, with its /etc, and the enrolment files of a central team."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.etc = folder, folder / "etc"
        self.etc.mkdir(exist_ok=True)
        key_rotation.create(folder / "keys", time.time(), ONE, ONE)
        self.root = (folder / "keys" / "root.json").read_text()

    def enrolment(self, ago: float = 0, days: float = 30, **changes: Any) -> Path:
        """Write an enrolment file that was made so many seconds ago."""
        at = time.time() - ago
        dates = {"issued_at": format_timestamp(at), "expires_at": format_timestamp(at + days * DAY)}
        raw = enrolment_file.encode(a_enrolment(**{"root": self.root, **dates, **changes}))
        path = self.folder / "a.kit"
        path.write_bytes(raw)
        return path

    def enrol(self, path: Path, *options: str, env: dict[str, str] | None = None) -> Result:
        """Run the command, by somebody who cannot be asked."""
        state = ["--state-dir", str(self.folder / "state"), "--run-dir", str(self.folder / "run")]
        return CliRunner().invoke(app, [*state, "enrol", str(path), "--etc", str(self.etc), *options], env=env)

    def files(self) -> dict[str, bytes]:
        """Return everything below /etc."""
        found = sorted(path for path in self.etc.rglob("*") if path.is_file())
        return {str(path.relative_to(self.etc)): path.read_bytes() for path in found}

    def site(self) -> config.SiteConfig:
        """Return the site that the configuration makes of the box."""
        return config.load(self.agent_yaml(), environ={}).site

    def agent_yaml(self, text: str = "") -> Path:
        """Lay the technician's file, unless it is there."""
        path = self.etc / "edge-agent" / "agent.yaml"
        path.parent.mkdir(exist_ok=True)
        if text or not path.exists():
            path.write_text(text)
        return path


@pytest.fixture
def box(tmp_path: Path) -> EnrollingMachine:
    """Return a machine that is not enrolled."""
    return EnrollingMachine(tmp_path)


def test_enrolment_configures_a_machine(box: EnrollingMachine):
    """The configuration has all settings; secrets are in no file that others may read and not in the output."""
    done = box.enrol(box.enrolment(), "--yes")
    assert (0, "shop-12") == (done.exit_code, box.site().id), done.output
    loaded = config.load(box.agent_yaml(), environ={})
    assert ("s3://fleet/examples", {"region": "eu-1"}) == (loaded.uplink.url, loaded.uplink.options)
    assert box.root == Path(loaded.update.root_file).read_text()
    open_to_others = [path for path in box.etc.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert b"s3cr3t" not in b"".join(path.read_bytes() for path in open_to_others)
    assert "s3cr3t" not in done.output


def test_missing_rights_are_reported_before_the_code():
    """A user who may not write to /etc is told before the code is compared; --check needs no such rights."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        Path(folder).chmod(0o755)
        box = EnrollingMachine(Path(folder))
        path = box.enrolment()
        path.chmod(0o644)
        box.etc.chmod(0o555)
        assert 0 == box.enrol(path, "--check").exit_code
        with without_root():
            done = box.enrol(path)
        said = " ".join(done.output.split())
        assert (3, True, {}) == (done.exit_code, "cannot write" in said and "with sudo" in said, box.files()), said


def test_uplink_unit_gets_its_credential(box: EnrollingMachine):
    """A drop-in names the credential, encrypted where systemd can encrypt."""
    box.enrol(box.enrolment(), "--yes")
    drop_in = box.files()["systemd/system/edge-uplink.service.d/credentials.conf"].decode()
    directive, _, path = drop_in.splitlines()[-1].partition("=uplink:")
    secrecy = parse_record(box.files()["edge-agent/enrolment.json"]).secrecy
    assert {"encrypted": "LoadCredentialEncrypted", "plain": "LoadCredential"}[secrecy] == directive
    assert 0o600 == stat.S_IMODE(Path(path).stat().st_mode)


def test_unencrypted_credential_is_reported(box: EnrollingMachine):
    """If systemd cannot encrypt, the secret is in a file of root that the uplink's unit reads, and the output says
    so."""
    done = box.enrol(box.enrolment(), "--yes", env={"PATH": str(box.folder)})
    said = "systemd-creds did not encrypt 1 credential of the uplink, stored unencrypted and readable by root only"
    assert said in " ".join(done.output.split())
    assert b"secret_access_key: s3cr3t" in box.files()["credstore/edge-agent-uplink.cred"]
    assert b"LoadCredential=uplink:" in box.files()["systemd/system/edge-uplink.service.d/credentials.conf"]


def test_large_model_settings_and_key_are_written(box: EnrollingMachine):
    """Address, prices, limits and tasks are in site.yaml; the key is only in a credential of the uplink."""
    done = box.enrol(box.enrolment(escalation=LARGE_MODEL), "--yes", env={"PATH": str(box.folder)})
    assert 0 == done.exit_code, done.output
    found = config.load(box.agent_yaml(), environ={}).escalation
    expected = ("https://models.example/v1", "large-1", ("pos-intent",), 0.15, 0.0, 2.0, 0.0)
    prices = (found.input_token_price, found.output_token_price)
    assert expected == (found.url, found.model, found.tasks, *prices, found.day_cost_max, found.month_cost_max)
    files = box.files()
    assert b"sk-s3cr3t\n" == files["credstore/edge-agent-escalation.cred"]
    drop_in = files["systemd/system/edge-uplink.service.d/credentials.conf"].decode()
    path = box.etc / "credstore/edge-agent-escalation.cred"
    assert f"LoadCredential=escalation:{path}" in drop_in.splitlines()
    assert ("sk-s3cr3t" in done.output, "large-1 at https://models.example/v1" in done.output) == (False, True)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_parameters_of_a_reasoning_model_are_written(box: EnrollingMachine):
    """The limit of thinking tokens and further request parameters are in site.yaml."""
    thinking = {
        "thinking_tokens_max": 2000,
        "parameters": {"reasoning_effort": "low", "top_p": 0.9, "metadata": {"site": 12}},
    }
    assert 0 == box.enrol(box.enrolment(escalation=LARGE_MODEL | thinking), "--yes").exit_code
    found = config.load(box.agent_yaml(), environ={}).escalation
    assert thinking == {name: getattr(found, name) for name in thinking}


def test_uplink_reads_the_key_from_its_credential(box: EnrollingMachine, tmp_path: Path):
    """The credential that systemd passes has the decrypted key alone, under the name that the uplink reads."""
    box.enrol(box.enrolment(escalation=LARGE_MODEL), "--yes")
    handed = tmp_path / "handed"
    handed.mkdir()
    hand_over(box.etc, handed)
    loaded = config.load(box.agent_yaml(), environ={"CREDENTIALS_DIRECTORY": str(handed)})
    assert str(handed / "escalation") == loaded.escalation.credentials_file
    assert "sk-s3cr3t" == read_key(loaded.escalation)


def test_next_enrolment_replaces_or_removes_the_key(box: EnrollingMachine):
    """A later file replaces the key; one without a large model removes its credential, drop-in and settings."""
    alone = {"examples": {"url": "s3://fleet/examples"}}
    paths = {"PATH": str(box.folder)}
    box.enrol(box.enrolment(ago=60, escalation=LARGE_MODEL, **alone), "--yes", env=paths)
    box.enrol(box.enrolment(ago=30, escalation={**LARGE_MODEL, "key": "sk-second"}, **alone), "--yes", env=paths)
    assert b"sk-second\n" == box.files()["credstore/edge-agent-escalation.cred"]
    done = box.enrol(box.enrolment(**alone), "--yes", env=paths)
    assert (0, True) == (done.exit_code, "escalation.url" in done.output), done.output
    left = box.files()
    assert ([], "") == ([name for name in left if "cred" in name], config.load(box.agent_yaml()).escalation.url)


def test_the_same_enrolment_again_changes_nothing(box: EnrollingMachine):
    """Applying the same enrolment file again changes nothing, also after it has expired."""
    path = box.enrolment(ago=DAY - 2, days=1)
    assert 0 == box.enrol(path, "--yes").exit_code
    before = box.files()
    again = box.enrol(path)
    assert (0, before) == (again.exit_code, box.files())
    assert "nothing was changed" in again.output


ENCRYPTING = '#!/bin/sh\n[ "$1" = encrypt ] || exec sed s/^sealed://\nexec sed s/^/sealed:/\n'
"""Stands in for systemd-creds, which needs systemd's key of the machine."""


def encrypting(box: EnrollingMachine) -> dict[str, str]:
    """Return the environment of a machine whose systemd-creds encrypts."""
    programs = box.folder / "programs"
    programs.mkdir()
    (programs / "systemd-creds").write_text(ENCRYPTING)
    (programs / "systemd-creds").chmod(0o755)
    return {"PATH": f"{programs}:{os.environ['PATH']}"}


def test_plain_secret_of_an_interrupted_enrolment_is_removed(box: EnrollingMachine):
    """If a power cut left an unrecorded plain secret, the next enrolment stores only an encrypted one."""
    path = box.enrolment()
    box.enrol(path, "--yes", env={"PATH": str(box.folder)})
    (box.etc / "edge-agent/enrolment.json").unlink()
    assert 0 == box.enrol(path, "--yes", env=encrypting(box)).exit_code
    credentials = [name for name in box.files() if name.startswith("credstore")]
    assert ["credstore.encrypted/edge-agent-uplink.cred"] == credentials


def test_same_enrolment_encrypts_a_plain_secret(box: EnrollingMachine):
    """Once systemd can encrypt, the same file replaces the plain secret; a third time changes nothing."""
    path = box.enrolment()
    box.enrol(path, "--yes", env={"PATH": str(box.folder)})
    path_with_it = encrypting(box)
    done = box.enrol(path, "--yes", env=path_with_it)
    assert (0, True) == (done.exit_code, "are encrypted to this machine" in done.output), done.output
    credentials = [name for name in box.files() if name.startswith("credstore")]
    assert ["credstore.encrypted/edge-agent-uplink.cred"] == credentials
    assert "nothing was changed" in box.enrol(path, "--yes", env=path_with_it).output


def test_same_enrolment_restores_missing_files(box: EnrollingMachine):
    """The same enrolment file restores what was deleted; a root that was changed is refused."""
    path = box.enrolment()
    box.enrol(path, "--yes")
    before = box.files()
    (box.etc / "edge-agent" / "root.json").write_text("{}")
    (box.etc / "edge-agent" / "site.yaml").unlink()
    assert 3 == box.enrol(path, "--yes").exit_code
    (box.etc / "edge-agent" / "root.json").unlink()
    assert 0 == box.enrol(path, "--yes").exit_code
    assert before.keys() == box.files().keys()


def test_check_writes_nothing(box: EnrollingMachine):
    """`--check` describes the enrolment file and writes nothing."""
    done = box.enrol(box.enrolment(), "--check")
    assert (0, {}) == (done.exit_code, box.files())
    assert ("shop-12" in done.output, "s3://fleet/examples" in done.output) == (True, True)


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"days": 1, "ago": DAY + 1}, 5, "expired on"),
        ({"ago": -2 * DAY}, 5, "clock is before"),
        ({"root": "{}"}, 5, "root of trust is not valid"),
        ({"root": '{"signed": {}, "signatures": []}'}, 5, "root of trust is not valid"),
        ({"examples": {"url": "s3://user:pass@fleet/x"}}, 5, "may be a secret"),
        ({"examples": {"url": "s3://f", "options": {"secret_access_key": "x"}}}, 5, "may be a secret"),
    ],
)
def test_invalid_enrolment_file_changes_nothing(box: EnrollingMachine, changes: dict[str, Any], code: int, said: str):
    """Whatever is wrong with it."""
    done = box.enrol(box.enrolment(**changes), "--yes")
    assert (code, {}) == (done.exit_code, box.files()), done.output
    assert said in " ".join(done.output.split())


@pytest.mark.parametrize("path", ["none.kit", "a.kit/none.kit"])
def test_missing_enrolment_file_is_a_usage_error(box: EnrollingMachine, path: str):
    """A path without a file ends with exit status 2."""
    box.enrolment()
    done = box.enrol(box.folder / path, "--yes")
    assert (2, {}) == (done.exit_code, box.files())
    assert "there is no file" in done.output


@pytest.mark.parametrize("kind", ["folder", "link", "fifo", "empty", "truncated"])
def test_path_that_is_not_an_enrolment_file_changes_nothing(box: EnrollingMachine, kind: str):
    """A folder, link, FIFO, empty or truncated file is refused without waiting."""
    good, path = box.enrolment(), box.folder / "b.kit"
    make = {
        "folder": path.mkdir,
        "link": lambda: path.symlink_to(good),
        "fifo": lambda: os.mkfifo(path),
        "empty": path.touch,
        "truncated": lambda: path.write_bytes(good.read_bytes()[:500]),
    }
    make[kind]()
    done = box.enrol(path, "--yes")
    assert (5, {}) == (done.exit_code, box.files())


def test_enrolment_file_of_another_site_is_refused(box: EnrollingMachine):
    """An enrolled machine refuses the file of another site or fleet."""
    box.enrol(box.enrolment(), "--yes")
    before = box.files()
    (box.folder / "keys").rename(box.folder / "keys-before")
    for path in (box.enrolment(site="shop-13"), box.enrolment(root=EnrollingMachine(box.folder).root)):
        done = box.enrol(path, "--yes")
        assert (5, before) == (done.exit_code, box.files())
        assert "nothing was changed" in done.output


def test_site_without_a_store_uses_a_usb_drive(box: EnrollingMachine):
    """If the file names no store, the output says that examples and updates travel on a USB drive."""
    done = box.enrol(box.enrolment(examples={}, updates={}), "--yes")
    facts = dict(re.findall(r"^(examples to|updates from) +(.*?) *$", done.output, re.MULTILINE))
    assert {"examples to": "a USB drive", "updates from": "a USB drive"} == facts, done.output


def test_newer_enrolment_replaces_settings(box: EnrollingMachine):
    """A newer file replaces all settings and removes those that it lacks; an older one is then refused."""
    old = box.enrolment(ago=60).read_bytes()
    (box.folder / "old.kit").write_bytes(old)
    box.enrol(box.folder / "old.kit", "--yes")
    done = box.enrol(box.enrolment(channel="canary", examples={"url": "/mnt/out"}), "--yes")
    assert (0, True) == (done.exit_code, "update.channel, uplink.options, uplink.url" in done.output), done.output
    loaded = config.load(box.agent_yaml(), environ={})
    assert ("canary", "/mnt/out", {}) == (loaded.update.channel, loaded.uplink.url, loaded.uplink.options)
    assert [] == [name for name in box.files() if "cred" in name]
    assert 5 == box.enrol(box.folder / "old.kit", "--yes").exit_code


def test_agent_yaml_overrides_the_enrolment(box: EnrollingMachine):
    """The output names the settings that agent.yaml overrides; another site id there is refused."""
    box.agent_yaml("uplink: {url: /mnt/out}\n")
    assert "agent.yaml overrides   uplink.url" in box.enrol(box.enrolment(), "--yes").output
    box.agent_yaml("site: {id: shop-1}\n")
    done = box.enrol(box.enrolment(), "--yes")
    assert (3, True) == (done.exit_code, "says that this is site shop-1" in " ".join(done.output.split()))


def test_invalid_agent_yaml_is_reported_first(box: EnrollingMachine):
    """If agent.yaml is invalid, enrolment ends before it writes anything."""
    box.agent_yaml("egnine: {}\n")
    done = box.enrol(box.enrolment(), "--yes")
    assert (3, ["edge-agent/agent.yaml"]) == (done.exit_code, list(box.files()))


def test_enrolment_requires_code_passphrase_or_yes(box: EnrollingMachine):
    """Without a terminal, the code, a passphrase or --yes is required; the right code is enough."""
    path = box.enrolment()
    sha256 = enrolment_file.parse(path.read_bytes())[1]
    assert (2, {}) == (box.enrol(path).exit_code, box.files())
    wrong = box.enrol(path, "--code", "0000-0000-0000-0000-0000")
    assert (5, {}) == (wrong.exit_code, box.files())
    assert 0 == box.enrol(path, "--code", enrolment_file.verification_code(sha256).upper()).exit_code


@pytest.mark.slow
def test_sealed_enrolment_requires_its_passphrase(box: EnrollingMachine):
    """A sealed file needs its passphrase but no code: only its holder could have changed the file."""
    path, secret = box.enrolment(), box.folder / "passphrase"
    path.write_bytes(enrolment_file.seal(path.read_bytes(), PASSPHRASE))
    assert (2, {}) == (box.enrol(path).exit_code, box.files())
    secret.write_text("eight grey herons\n")
    assert (5, {}) == (box.enrol(path, "--passphrase-file", str(secret)).exit_code, box.files())
    secret.write_text(f"{PASSPHRASE}\r\n")
    assert 0 == box.enrol(path, "--passphrase-file", str(secret)).exit_code


def fill(disk: Path) -> Path:
    """Fill a disk; return the file that does."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return ballast


def test_a_full_disk_changes_nothing(tmp_path: Path):
    """A full disk changes nothing, also at a renewal, and the same command works once there is space."""
    with tmpfs(tmp_path / "etc", "size=64k") as disk:
        box = EnrollingMachine(tmp_path)
        ballast = fill(disk)
        assert (3, ["ballast"]) == (box.enrol(box.enrolment(ago=60), "--yes").exit_code, list(box.files()))
        ballast.unlink()
        assert 0 == box.enrol(box.enrolment(ago=60), "--yes").exit_code
        before = box.files()
        ballast = fill(disk)
        done = box.enrol(box.enrolment(channel="canary"), "--yes")
        ballast.unlink()
        assert (3, before) == (done.exit_code, box.files())
        assert "nothing was changed" in done.output


PEM = {name: f"-----BEGIN {name.upper()}-----\n" for name in ("certificate", "key", "clients")}


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_daemons_can_enter_the_folders_under_any_umask(box: EnrollingMachine, mask: int):
    """Folders are 0755 even if root's umask closes new ones; the folder of secrets stays 0700."""
    with umask(mask):
        assert 0 == box.enrol(box.enrolment(tls={**PEM, "address": "127.0.0.1:9443"}), "--yes").exit_code
    modes = {str(path.relative_to(box.etc)): stat.S_IMODE(path.stat().st_mode) for path in box.etc.rglob("*/")}
    secrets = {name: mode for name, mode in modes.items() if name.startswith("credstore")}
    assert {0o700} == set(secrets.values())
    assert {0o755} == {mode for name, mode in modes.items() if name not in secrets}


def test_tls_files_are_readable_by_the_daemon(box: EnrollingMachine):
    """TLS files have mode 0640, are beside the configuration, and are named in it."""
    assert 0 == box.enrol(box.enrolment(tls={**PEM, "address": "127.0.0.1:9443"}), "--yes").exit_code
    names = sorted((box.etc / "edge-agent" / "tls").iterdir())
    assert ["clients.crt", "server.crt", "server.key"] == [path.name for path in names]
    assert {0o640} == {stat.S_IMODE(path.stat().st_mode) for path in names}
    loaded = config.load(box.agent_yaml(), environ={})
    assert (str(names[1]), str(names[2]), "127.0.0.1:9443") == (
        loaded.access.certificate_file,
        loaded.access.key_file,
        loaded.service.tcp_address,
    )


def test_enrolment_record_lists_every_file(box: EnrollingMachine):
    """The record names every written file, so a purge can remove them."""
    box.enrol(box.enrolment(), "--yes")
    named = {
        str(Path(path).relative_to(box.etc)) for path in parse_record(box.files()["edge-agent/enrolment.json"]).files
    }
    assert named | {"edge-agent/enrolment.json"} == box.files().keys()


def test_damaged_enrolment_record_is_reported(box: EnrollingMachine):
    """A machine with a damaged record is not treated as one that was never enrolled."""
    box.enrol(box.enrolment(), "--yes")
    (box.etc / "edge-agent" / "enrolment.json").write_text("{")
    done = box.enrol(box.enrolment(), "--yes")
    assert (3, True) == (done.exit_code, "enrolment.json is damaged" in " ".join(done.output.split()))


def test_identity_shows_the_site(box: EnrollingMachine):
    """`identity` shows the site, also as JSON; before enrolment its remedy is `edge-agent enrol`."""
    shown = ["--config", str(box.agent_yaml()), "--state-dir", str(box.folder / "state"), "identity"]
    assert "edge-agent enrol" in CliRunner().invoke(app, shown).output
    box.enrol(box.enrolment(), "--yes")
    assert "not made yet" in CliRunner().invoke(app, shown).output
    found = json.loads(CliRunner().invoke(app, [*shown, "--json"]).output)
    assert ("shop-12", "", False) == (found["site"], found["key"], found["known_at_centre"])


def test_wrong_code_asks_to_type_it_again(box: EnrollingMachine):
    """The message has the site of the file and the number of missing characters, and accuses nobody."""
    path = box.enrolment()
    code = enrolment_file.verification_code(enrolment_file.parse(path.read_bytes())[1])
    done = box.enrol(path, "--code", code[:-1])
    assert 5 == done.exit_code
    said = " ".join(done.output.split())
    assert f"the code {code[:-1]} does not fit this file of site shop-12; it has 19 characters instead of 20" in said
    assert "type it again" in said
    assert "Somebody" not in said
    swapped = code[1] + code[0] + code[2:] if code[0] != code[1] else ("0" if code[0] != "0" else "1") + code[1:]
    assert "characters instead" not in box.enrol(path, "--code", swapped).output
    assert {} == box.files()


def test_folder_store_gets_its_drop_in_and_a_warning(box: EnrollingMachine):
    """The uplink's unit may write to the folder; a missing folder is a warning that the same file resolves."""
    folder = box.folder / "fleet"
    path = box.enrolment(examples={"url": str(folder)})
    done = box.enrol(path, "--yes")
    assert (0, True) == (done.exit_code, f"the folder {folder} does not exist" in " ".join(done.output.split()))
    drop_in = box.etc / "systemd/system/edge-uplink.service.d/folders.conf"
    assert f"ReadWritePaths=-{folder}" in drop_in.read_text()
    folder.mkdir()
    assert "does not exist" not in box.enrol(path, "--yes").output
    drop_in.unlink()  # as version 0.1 enrolled
    box.enrol(path, "--yes")
    assert f"ReadWritePaths=-{folder}" in drop_in.read_text()
    box.enrol(box.enrolment(), "--yes")
    assert not drop_in.exists()


def test_check_ends_with_its_result(box: EnrollingMachine):
    """The output says that the file fits, that nothing was changed, and what the command does without --check."""
    done = box.enrol(box.enrolment(), "--check")
    said = " ".join(done.stdout.split())
    assert (0, True) == (done.exit_code, "fits this machine; nothing was changed. The same command" in said), said
    assert "makes this machine the site" in said
    assert {} == box.files()


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "code"), [("the code", 0), ("yes", 0), ("1234", 5), ("no", 5)])
def test_code_can_be_typed_at_the_question(box: EnrollingMachine, answer: str, code: int):
    """The typed code is accepted in any case; a wrong code or a no changes nothing."""
    path = box.enrolment()
    _, sha256 = enrolment_file.parse(path.read_bytes())
    typed = enrolment_file.verification_code(sha256).lower() if answer == "the code" else answer
    screen, keyboard = pty.openpty()
    state = ["--state-dir", str(box.folder / "state"), "--run-dir", str(box.folder / "run")]
    command = [sys.executable, "-m", "edge_agent.cli", *state, "enrol", str(path), "--etc", str(box.etc)]
    os.write(screen, f"{typed}\n".encode())
    done = subprocess.run(command, stdin=keyboard, capture_output=True, text=True, check=False)
    os.close(screen)
    os.close(keyboard)
    assert code == done.returncode, done.stderr
    assert (code == 0) == bool(box.files())
