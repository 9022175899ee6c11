"""The publishing commands, from new keys to a USB drive: output, exit codes and remedies."""

from __future__ import annotations

import json
import re
import resource
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from typer.testing import CliRunner

from convert.cli import app
from edge_agent.formats import plan
from tests.support.bundles import echo_bundle
from tests.support.fleet_cases import CentralTeam
from tests.support.object_stores import s3
from tests.support.tuf_client import Client

PLAN = """
channels:
  stable:
    tasks:
      pos-intent:
        offers: [{version: VERSION}]
        waves: [{start: 2026-12-01T02:00:00Z, percent: 5}]
"""


class PublishTerminal:
    """A terminal in a folder with keys, a repository and two bundles."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repo, self.keys = root / "repository", root / "signing-keys"
        self.bundles = [
            echo_bundle(root / version, weights=b"w" * 3000, version=version) for version in ("1.0.0", "1.1.0")
        ]

    def run(self, *arguments: str | Path, given: str = "") -> str:
        """Run a command that must succeed; return its output with single spaces."""
        code, said = self.attempt(*arguments, given=given)
        assert 0 == code, said
        return said

    def attempt(self, *arguments: str | Path, given: str = "") -> tuple[int, str]:
        result = CliRunner().invoke(app, list(map(str, arguments)), input=given, catch_exceptions=False)
        return result.exit_code, re.sub(r"\s+", " ", result.output)

    def on_repo(self, *arguments: str | Path) -> str:
        """Run a command on the repository with all keys."""
        return self.run(*arguments, "--repo", self.repo, "--keys", self.keys)

    def write_plan(self, version: str) -> Path:
        path = self.root / "plan.yaml"
        path.write_text(PLAN.replace("VERSION", version))
        return path


@pytest.fixture
def desk(tmp_path: Path) -> PublishTerminal:
    """Return a desk with a repository that has one bundle."""
    central = CentralTeam(tmp_path)
    desk = PublishTerminal(tmp_path)
    central.publish(desk.bundles[0])
    return desk


def test_first_publish_from_keys_to_site(tmp_path: Path):
    """Making keys, a repository, a bundle and a plan works with the commands alone: each prints the next step, and a
    site accepts the result."""
    desk = PublishTerminal(tmp_path)
    said = desk.run("keys", "signing", desk.keys, "--root", "1of1", "--targets", "2of2")
    assert "targets-2 targets ed25519" in said
    assert f"Every site needs {desk.keys / 'root.json'}" in said
    assert "It is version 1 and expires on" in said
    code, said = desk.attempt("publish", desk.bundles[0], "--to", desk.repo, "--keys", desk.keys)
    assert (2, True) == (code, "--new" in said)
    said = desk.run("publish", desk.bundles[0], "--to", desk.repo, "--keys", desk.keys, "--new")
    assert "pos-intent 1.0.0" in said
    assert "kB uploaded" in said
    assert "No site runs it yet: assign it with 'edge-convert plan edit'" in said
    assert re.search(r"earliest expiry: timestamp, \S+ \S+ UTC, in 30 days", said)
    desk.on_repo("plan", "edit", "--file", desk.write_plan("1.0.0"), "--yes")
    seen = Client(tmp_path / "site", (desk.keys / "root.json").read_bytes()).refresh(desk.repo)
    assert (2, 1) == (seen.plan.version, len(seen.bundles))


@pytest.mark.slow
def test_publishing_commands_work_with_an_object_store(tmp_path: Path):
    """publish, plan edit, verify-repo and media work with an s3:// repository and its --store-option values."""
    CentralTeam(tmp_path)
    desk = PublishTerminal(tmp_path)
    with s3() as served:
        options = [part for key, value in served.options.items() for part in ("--store-option", f"{key}={value}")]
        place = ["--repo", served.url, "--keys", str(desk.keys), *options]
        desk.run("publish", *desk.bundles, "--new", *place)
        assert "nothing was changed" in desk.run("publish", desk.bundles[0], *place)
        desk.run("plan", "edit", "--file", desk.write_plan("1.1.0"), "--yes", *place)
        assert "nothing is wrong" in desk.run("verify-repo", served.url, "--root", desk.keys / "root.json", *options)
        (tmp_path / "drive").mkdir()
        assert "holds pos-intent 1.1.0" in desk.run("media", tmp_path / "drive", *place)


def test_repeated_publish_or_plan_reports_no_change(desk: PublishTerminal):
    """Publishing a bundle or a plan that is published already reports that nothing was changed."""
    assert "is published already; nothing was changed" in desk.on_repo("publish", desk.bundles[0])
    desk.on_repo("plan", "edit", "--file", desk.write_plan("1.0.0"), "--yes")
    assert "Nothing was changed" in desk.on_repo("plan", "edit", "--file", desk.write_plan("1.0.0"), "--yes")


def test_publishing_a_revoked_bundle_needs_sign_revoked(desk: PublishTerminal):
    """A revoked bundle is published only with --sign-revoked, which the refusal names."""
    desk.on_repo("revoke", "pos-intent@1.0.0", "--yes")
    code, said = desk.attempt("publish", desk.bundles[0], "--repo", desk.repo, "--keys", desk.keys)
    assert (2, True) == (code, "was revoked; it was not signed" in said)
    assert "--sign-revoked" in said
    assert "is signed and published" in desk.on_repo("publish", desk.bundles[0], "--sign-revoked")


@pytest.mark.parametrize(
    "arguments",
    [
        ["publish", "1.1.0"],
        ["plan", "edit", "--file", "plan.yaml", "--yes"],
        ["renew"],
        ["renew", "root", "targets", "plan"],
        ["rotate", "online"],
        ["revoke", "pos-intent@1.0.0", "--yes"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_each_change_prints_the_earliest_expiry(
    desk: PublishTerminal, arguments: list[str], monkeypatch: pytest.MonkeyPatch
):
    """publish, plan edit, renew, rotate and revoke print the earliest expiry of the metadata."""
    desk.write_plan("1.0.0")
    monkeypatch.chdir(desk.root)
    assert "earliest expiry: timestamp, " in desk.on_repo(*arguments)


def test_near_expiry_names_the_renew_command(desk: PublishTerminal):
    """If a role expires in three days, the output names the command that renews it; an expired role is reported as
    expired."""
    CentralTeam.of(desk.root).expire("plan", seconds=3 * 86_400 + 60)
    said = desk.run("plan", "show", "--repo", desk.repo, "--keys", desk.keys)
    assert re.search(r"earliest expiry: plan, .* in 3 days; renew it with 'edge-convert renew plan'", said)
    CentralTeam.of(desk.root).expire("timestamp", seconds=-60)
    assert "it has expired" in desk.run("plan", "show", "--repo", desk.repo, "--keys", desk.keys)


def test_plan_show_diff_edit_and_halt_need_no_offline_keys(desk: PublishTerminal):
    """`plan show`, `diff`, `edit` and `halt` work with the plan key and the online key alone."""
    for path in (*desk.keys.glob("root-*.pem"), *desk.keys.glob("targets-*.pem")):
        path.unlink()
    assert "The plan is empty" in desk.on_repo("plan", "show")
    said = desk.on_repo("plan", "diff", "--file", desk.write_plan("1.0.0"))
    assert "+ version: 1.0.0" in said
    assert (
        "effect: channels.stable.tasks.pos-intent: 1.0.0, 5% from 2026-12-01T02:00:00Z; the other sites never" in said
    )
    desk.on_repo("plan", "edit", "--file", desk.write_plan("1.0.0"), "--yes")
    assert "halted: no more sites switch" in desk.on_repo("plan", "halt", "pos-intent")
    assert "+ halted: true" in desk.on_repo("plan", "diff")
    printed = CliRunner().invoke(app, ["plan", "show", "--json", "--repo", str(desk.repo), "--keys", str(desk.keys)])
    shown = plan.parse(printed.stdout.encode())
    assert (3, True) == (shown.version, shown.channels["stable"].tasks["pos-intent"].halted)
    desk.on_repo("plan", "halt", "pos-intent", "--resume", "--channel", "stable")
    assert "no difference" in desk.on_repo("plan", "diff", "--file", desk.write_plan("1.0.0"))
    code, said = desk.attempt("plan", "halt", "talk", "--repo", desk.repo, "--keys", desk.keys)
    assert (2, True) == (code, "The plan's tasks: pos-intent" in said)


def test_changes_to_sites_need_confirmation(desk: PublishTerminal):
    """Without a terminal and without --yes, `plan edit` and `revoke` change nothing and exit with 2."""
    place = ("--repo", desk.repo, "--keys", desk.keys)
    for command in (
        ("plan", "edit", "--file", desk.write_plan("1.0.0")),
        ("revoke", "pos-intent@1.0.0"),
    ):
        code, said = desk.attempt(*command, *place)
        assert (2, True) == (code, "--yes" in said), said
    assert "The plan is empty" in desk.on_repo("plan", "show")
    assert "pos-intent 1.0.0" in desk.on_repo("plan", "show")


def test_plan_edit_opens_an_editor(desk: PublishTerminal, monkeypatch: pytest.MonkeyPatch):
    """`plan edit` opens the plan in an editor with the list of bundles as comments, publishes the result, and keeps an
    invalid one as plan.rejected.yaml."""
    editor = desk.root / "editor"
    editor.write_text(f'#!/bin/sh\ncp "$1" {desk.root}/seen; cat {desk.root}/plan.yaml > "$1"\n')
    editor.chmod(0o700)
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.setenv("VISUAL", str(editor))
    monkeypatch.chdir(desk.root)
    desk.write_plan("1.0.0")
    assert "plan 2 is published" in desk.on_repo("plan", "edit", "--yes")
    assert "#   pos-intent 1.0.0 " in (desk.root / "seen").read_text()
    desk.write_plan("9.9.9")
    code, said = desk.attempt("plan", "edit", "--yes", "--repo", desk.repo, "--keys", desk.keys, given="n\n")
    assert (2, True, True) == (code, "no signed bundle" in said, "plan.rejected.yaml" in said)
    assert "9.9.9" in (desk.root / "plan.rejected.yaml").read_text()
    (desk.root / "plan.yaml").write_text("")
    assert "Nothing was changed" in desk.on_repo("plan", "edit", "--yes")


def test_stage_sign_and_publish_on_two_machines(desk: PublishTerminal):
    """A bundle whose key is on another machine is staged, signed there and published, and each command prints the next
    step."""
    vault, staged = desk.root / "vault", desk.root / "staged"
    vault.mkdir()
    shutil.copy(desk.keys / "root.json", vault)
    for path in desk.keys.glob("targets-1.*"):
        shutil.move(path, vault)
    place = ("--to", desk.repo, "--keys", desk.keys)
    code, said = desk.attempt("publish", desk.bundles[1], *place)
    assert (2, True) == (code, "'targets' needs 1 more of the signatures of targets-1" in said)
    said = desk.run("publish", desk.bundles[1], *place, "--stage", staged)
    assert f"edge-convert sign {staged}" in said
    assert "+ bundle pos-intent 1.1.0" in said
    code, said = desk.attempt("publish", "--staged", staged, *place)
    assert (2, True) == (code, "targets-1" in said)
    code, said = desk.attempt("sign", staged, "--keys", vault)
    assert (2, True, True) == (code, "+ bundle pos-intent 1.1.0" in said, "--yes" in said)
    said = desk.run("sign", staged, "--keys", vault, "--yes")
    assert "Signed. Publish it" in said
    assert "earliest expiry: timestamp" in said
    assert "Published." in desk.run("publish", "--staged", staged, *place)
    assert "is published already; nothing was changed" in desk.run("publish", "--staged", staged, *place)
    assert "pos-intent 1.1.0" in desk.on_repo("plan", "show")


def test_halt_with_plan_key_and_separate_online_key(desk: PublishTerminal):
    """A halt can be signed and staged with the plan key alone, and published on the machine that has only the online
    key."""
    desk.on_repo("plan", "edit", "--yes", "--file", desk.write_plan("1.0.0"))
    for role in ("plan", "online"):
        (desk.root / role).mkdir()
        for path in (desk.keys / "root.json", desk.keys / "seen.json", *desk.keys.glob(f"{role}-1.*")):
            shutil.copy(path, desk.root / role)
    halt = ("plan", "halt", "pos-intent", "--repo", desk.repo, "--keys", desk.root / "plan")
    code, said = desk.attempt(*halt)
    assert (2, True) == (code, "the online key is not available" in said), said
    said = desk.run(*halt, "--stage", desk.root / "halt")
    assert ("Signed. Publish it" in said, "halted" in said) == (True, True), said
    assert "halted: true" not in desk.on_repo("plan", "show")
    said = desk.run("publish", "--staged", desk.root / "halt", "--to", desk.repo, "--keys", desk.root / "online")
    assert "halted: no more sites switch" in said
    assert "halted: true" in desk.on_repo("plan", "show")


def test_keys_are_added_and_removed_by_command(desk: PublishTerminal):
    """`keys signer` makes a signer's key or registers one of a key service, and `rotate` adds and removes keys of a
    role."""
    said = desk.run("keys", "signer", desk.root / "anna", "anna", "--role", "targets")
    assert "targets key anna, ed25519" in said
    said = desk.on_repo("rotate", "targets", "--add", desk.root / "anna" / "anna.pub", "--threshold", "2")
    assert "the keys of 'targets' are now: targets-1, anna" in said
    public = generate_private_key(SECP256R1()).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (desk.root / "kms.pem").write_bytes(pem)
    kms = ("--role", "plan", "--uri", "awskms:alias/plan", "--public", desk.root / "kms.pem")
    assert "ecdsa" in desk.run("keys", "signer", desk.keys, "kms", *kms)
    assert "awskms:alias/plan" in desk.run("keys", "show", desk.keys)
    said = desk.run("rotate", "online", "--remove", "online-1", "--repo", desk.repo, "--keys", desk.keys)
    assert "the keys of 'online' are now: online-2" in said
    assert f"created a new key, {desk.keys / 'online-2.pub'}: online key online-2" in said
    code, said = desk.attempt("rotate", "online", "--remove", "online-1", "--repo", desk.repo, "--keys", desk.keys)
    assert (2, True) == (code, "Its keys: online-2" in said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["keys", "signer", "x", "x", "--role", "boss"], "One of: root, targets, plan, online"),
        (["keys", "signer", "x", "x", "--role", "plan", "--uri", "awskms:x"], "--uri and --public go together"),
        (["keys", "signing", "new", "--root", "two"], "Write MofN, such as 2of3"),
        (["keys", "signing", "new", "--targets", "3of2"], "3 of 2 keys is not a valid threshold"),
        (["keys", "show", "nowhere"], "keys create"),
        (["publish", "--to", "x", "--keys", "signing-keys"], "nothing to publish"),
        (["publish", "1.0.0", "1.1.0", "--to", "repository", "--keys", "signing-keys", "--stage", "s"], "one change"),
        (["publish", "nothing", "--to", "repository", "--keys", "signing-keys"], "does not exist"),
        (["sign", "nothing", "--keys", "signing-keys"], "has no staged change"),
        (["media", "nothing", "--repo", "repository", "--keys", "signing-keys"], "no folder"),
        (["renew", "--repo", "elsewhere", "--keys", "signing-keys"], "there is no repository at elsewhere"),
        (["plan", "diff", "--repo", "repository", "--keys", "signing-keys"], "no earlier plan"),
        (
            ["plan", "edit", "--repo", "repository", "--keys", "signing-keys", "--file", "1.0.0/echo.weights.bin"],
            "plan",
        ),
        (
            ["rotate", "plan", "--restart-versions", "--repo", "repository", "--keys", "signing-keys"],
            "only the versions of",
        ),
        (["rotate", "root", "--threshold", "9", "--repo", "repository", "--keys", "signing-keys"], "lower --threshold"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_invalid_command_has_a_remedy_and_changes_nothing(
    desk: PublishTerminal, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
):
    """An invalid command exits with 2, a message and a remedy, and changes no file of the repository or the keys."""
    monkeypatch.chdir(desk.root)
    folders = (desk.repo, desk.root / "signing-keys")
    before = {path: path.read_bytes() for each in folders for path in each.rglob("*") if path.is_file()}
    code, output = desk.attempt(*arguments)
    assert (2, True) == (code, said in output), output
    assert "what to do:" in output
    assert before == {path: path.read_bytes() for each in folders for path in each.rglob("*") if path.is_file()}


def test_media_prints_content_and_expiry(desk: PublishTerminal):
    """`media` prints the bundles on the drive and its expiry, and warns if a role expires before the requested number
    of days."""
    desk.on_repo("plan", "edit", "--file", desk.write_plan("1.0.0"), "--yes")
    (desk.root / "drive").mkdir()
    said = desk.on_repo(
        "media", desk.root / "drive", "--site", "shop-1", "--channel", "stable", "--expires-in-days", "60"
    )
    assert "holds pos-intent 1.0.0" in said
    assert "(by 'timestamp')" in said
    said = desk.on_repo("media", desk.root / "drive", "--expires-in-days", "900")
    assert "sooner than requested" in said
    assert "edge-convert renew" in said
    root = desk.keys / "root.json"
    assert {"problems": []}.items() <= json.loads(
        CliRunner()
        .invoke(app, ["verify-repo", str(desk.root / "drive"), "--root", str(root), "--stick", "--json"])
        .stdout
    ).items()


def test_file_too_large_for_the_drive_suggests_another_format(desk: PublishTerminal):
    """If a file exceeds the drive's largest file size, as on FAT32, the error suggests exFAT or ext4, no partial file
    remains, and the next attempt completes the drive."""
    desk.on_repo("plan", "edit", "--file", desk.write_plan("1.0.0"), "--yes")
    drive = desk.root / "drive"
    drive.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500, before[1]))
    try:
        place = ("--repo", desk.repo, "--keys", desk.keys)
        code, said = desk.attempt("media", drive, *place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (3, True, True) == (code, "File too large" in said, "format the USB drive as exFAT or ext4" in said), said
    assert [] == list(drive.rglob("*.partial"))
    assert "holds pos-intent 1.0.0" in desk.on_repo("media", drive)


@pytest.mark.release
def test_keys_with_passphrase_need_a_passphrase_file(tmp_path: Path):
    """Without a terminal, keys with a passphrase are used only with --passphrase-file, which the error names."""
    desk = PublishTerminal(tmp_path)
    phrase = tmp_path / "phrase"
    phrase.write_text("nine purple herons\n")
    phrase.chmod(0o600)
    said = desk.run("keys", "signing", desk.keys, "--root", "1of1", "--targets", "1of1", "--passphrase-file", phrase)
    assert "root-1.age, under a passphrase" in said
    place = ("--to", desk.repo, "--keys", desk.keys)
    code, said = desk.attempt("publish", desk.bundles[0], *place, "--new")
    assert (2, True) == (code, "--passphrase-file" in said)
    assert "is signed and published" in desk.run(
        "publish", desk.bundles[0], *place, "--new", "--passphrase-file", phrase
    )
