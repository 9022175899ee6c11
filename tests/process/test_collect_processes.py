"""`edge-convert collect` in separate processes: from S3, with a passphrase, two at a time and interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from convert.cli import app
from convert.collect.sources import open_source
from convert.dataset import row_formats
from convert.publish import central_keys
from tests.support.eventually import eventually_sync
from tests.support.examples import feedback, prediction
from tests.support.object_stores import EmptyBucket, s3
from tests.support.segments import CentralTeam, SealingSite

DOCS = Path(__file__).parents[2] / "docs"
SECONDS_MAX = 120


class Command:
    """`edge-convert collect` with keys and a folder for its results."""

    def __init__(self, root: Path, passphrase: str = "") -> None:
        self.root = root
        self.recipients = (central_keys.create(root / "keys", passphrase).recipient,)
        self.keys = central_keys.unlock(root / "keys", lambda: passphrase)
        self.words = [sys.executable, "-m", "convert.cli", "collect", "--keys", str(root / "keys")]

    def fill(self, store: Path, segments: int) -> SealingSite:
        site = SealingSite(store)
        for number in range(segments):
            site.seal([prediction(number), feedback(number)], recipients=self.recipients)
        site.say()
        return site

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        words = [*self.words, "--out", str(self.root / "collected"), *map(str, arguments)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments: object) -> tuple[int, str, str]:
        with self.start(*arguments) as process:
            output, errors = process.communicate(timeout=SECONDS_MAX)
        return process.returncode, output, errors


def put(served: EmptyBucket, store: Path) -> None:
    """Upload a folder as an uplink does."""
    bucket = open_source(served.url, served.options)
    for path in store.rglob("*.*"):
        bucket.write(path.relative_to(store).as_posix(), path.read_bytes())


@pytest.mark.slow
def test_collect_from_s3_with_a_passphrase_file(tmp_path: Path):
    """A URL, options and a passphrase file are all that the command needs to collect from S3; `--json` prints the
    report to standard output."""
    command = Command(tmp_path, "nine purple herons")
    command.fill(tmp_path / "store", 3)
    (tmp_path / "phrase").write_text("nine purple herons\n")
    (tmp_path / "phrase").chmod(0o600)
    with s3() as served:
        put(served, tmp_path / "store")
        options = [word for pair in served.options.items() for word in ("--store-option", "=".join(pair))]
        code, output, errors = command.run(
            served.url, *options, "--passphrase-file", tmp_path / "phrase", "--registered-only", "--json"
        )
        assert (1, 0) == (code, json.loads(output)["segments_taken"]), errors
        code, output, errors = command.run(served.url, *options, "--passphrase-file", tmp_path / "phrase", "--json")
        assert (0, 3) == (code, json.loads(output)["segments_taken"]), errors


@pytest.mark.slow
def test_missing_bucket_is_named(tmp_path: Path):
    """If the bucket does not exist, the command names it and exits with 1 and without a traceback."""
    command = Command(tmp_path)
    with s3() as served:
        options = [word for pair in served.options.items() for word in ("--store-option", "=".join(pair))]
        code, output, errors = command.run("s3://no-such-bucket/x", *options)
    assert (1, True, False) == (code, "failed: s3://no-such-bucket" in output, "Traceback" in errors)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_collect_is_completed_by_the_next_run(tmp_path: Path, stop: signal.Signals):
    """After a signal interrupts or kills the command while it reads, the next run has every example once."""
    command = Command(tmp_path)
    command.fill(tmp_path / "store", 400)
    with command.start(tmp_path / "store") as process:
        eventually_sync(lambda: (tmp_path / "collected" / "sites.json").exists(), 60)
        process.send_signal(stop)
        process.communicate(timeout=SECONDS_MAX)
    assert process.returncode in (-stop, 130, 0)
    central = CentralTeam(tmp_path, keys=command.keys)
    report = central.collect(tmp_path / "store")
    assert ([], True, 400) == (report.gaps, report.clean, report.segments_held)
    assert [(400, 400)] == central.query("SELECT count(*), count(truth) FROM examples")


@pytest.mark.slow
def test_second_simultaneous_collect_is_refused(tmp_path: Path):
    """If two commands start together, both complete or one of them reports the other run; no example is stored
    twice."""
    command = Command(tmp_path)
    command.fill(tmp_path / "store", 100)
    with command.start(tmp_path / "store") as one, command.start(tmp_path / "store") as other:
        said = [process.communicate(timeout=SECONDS_MAX)[1] for process in (one, other)]
    assert {one.returncode, other.returncode} <= {0, 2}
    assert all("another run" in text for text, process in zip(said, (one, other), strict=True) if process.returncode)
    assert [(100, 100)] == CentralTeam(tmp_path).query("SELECT count(*), count(DISTINCT prediction_id) FROM examples")


def test_keys_are_private_whatever_the_umask(tmp_path: Path):
    """With umask 000 the file of the private key is still closed to group and others."""
    old = os.umask(0o000)
    try:
        command = Command(tmp_path)
    finally:
        os.umask(old)
    assert 0 == (command.root / "keys" / "identity.txt").stat().st_mode & 0o077


def test_documents_name_every_row_format():
    """docs/training-data.md names each row format, and every command in it and in docs/collect.md exists."""
    text = (DOCS / "training-data.md").read_text(encoding="utf-8")
    assert [] == [form for form in (*row_formats.FORMATS, "label-studio") if f"| `{form}` |" not in text]
    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    for name in ("training-data.md", "collect.md"):
        named = re.findall(r"edge-convert ([a-z]+)", (DOCS / name).read_text(encoding="utf-8"))
        assert set(named) <= known
