"""A sentence with a name, an address and a record number at a clinic: its way to the training row, and its erasure."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convert import cli as factory
from convert.dataset import lineage
from convert.dataset.lineage import LineageDocument
from convert.publish import central_keys
from edge_agent import cli as appliance
from edge_agent.client import CallFailed, ReviewClient
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.modes import not_private, open_umask
from tests.support.segments import CentralTeam

NAME, STREET, RECORD = "Anna Grünwald", "Lindenweg 12", "4711842"
SENTENCE = f"Frau {NAME}, {STREET}, record {RECORD}, asks for her prescription"
Run = Callable[..., str]


def runner(app: Any, *before: object) -> Run:
    """Return a function that runs a command, requires success, and returns its output."""

    def run(*arguments: object, stdin: str = "") -> str:
        result = CliRunner().invoke(app, list(map(str, (*before, *arguments))), input=stdin)
        assert 0 == result.exit_code, result.output
        return result.output

    return run


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A site with rules for names and streets, and a redaction model that finds digits."""
    with open_umask():
        runner(factory.app)("keys", "create", tmp_path / "keys")
        public = central_keys.read_public(tmp_path / "keys")
        settings = {
            "site": {"id": "clinic-1", "recipients": [public.recipient], "receipt_keys": [public.receipts]},
            "redaction": {"task": "pii"},
            "examples": {
                "collect": {"desk": "upstream"},
                "commit_seconds": 0.05,
                "site_rules": {"patient": "[A-Z][a-z]+ [A-Z]\\pL+wald", "street": "[A-Z][a-z]+weg [0-9]+"},
            },
        }
        with RunningDaemon(tmp_path / "site", **settings) as daemon:
            tags = ("O", "B-RECORD", "I-RECORD")
            daemon.install(echo_bundle(tmp_path / "pii", "pii", "redact", tags, weights=b"pii"))
            daemon.install(echo_bundle(tmp_path / "desk", "desk", labels=("prescription", "visit")))
            yield daemon


def kept(daemon: RunningDaemon, prediction_id: str) -> str:
    """Return the stored input of an answer, or an empty string if it is not stored."""
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as client:
        try:
            return client.prediction(prediction_id).input
        except CallFailed:
            return ""


def contents(path: Path) -> Iterator[bytes]:
    """Yield the content of a file and of the members of an archive."""
    yield path.read_bytes()
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            for member in filter(tarfile.TarInfo.isfile, archive.getmembers()):
                file = archive.extractfile(member)
                yield file.read() if file else b""


def files_with_values(root: Path) -> list[str]:
    """Return every file below a folder that contains a value in plain text."""
    wanted = [value.encode() for value in (NAME, STREET, RECORD)]
    files = filter(Path.is_file, root.rglob("*"))
    return [str(path) for path in files if any(value in each for each in contents(path) for value in wanted)]


@pytest.mark.slow
def test_personal_data_is_redacted_and_can_be_erased(tmp_path: Path, clinic: RunningDaemon):
    """No personal value is in any file of the site or the central team, including segments, logs, support bundles and
    training rows.

    A value from standard input erases the example at the site and centrally: the receipt confirms it, the lineage lists
    the affected bundle and dataset, and the central log has the erasure.
    """
    agent, convert = runner(appliance.app, *clinic.command()[3:]), runner(factory.app)
    drive, collected, data = tmp_path / "drive", tmp_path / "collected", tmp_path / "data"
    drive.mkdir()
    with clinic.client() as client:
        answer = client.classify("desk", [SENTENCE])[0]
    redacted = "Frau [PATIENT_1], [STREET_1], record [RECORD_1], asks for her prescription"
    eventually_sync(lambda: kept(clinic, answer.prediction_id) == redacted)
    right = next(label for label in ("prescription", "visit") if label != answer.label)
    with ReviewClient(f"unix:{clinic.run_dir}/review.sock") as client:
        client.correct(answer.prediction_id, right, reviewer="7")

    agent("export", drive)
    collect = ("collect", drive, "--keys", tmp_path / "keys", "--out", collected)
    with open_umask():
        convert(*collect)
        rows = ("dataset", collected, "--task", "desk", "--format", "text-label", "--shares", "train=1")
        convert(*rows, "--surrogate", "PATIENT=name", "--surrogate", "STREET=street", "--out", data)
    (row,) = [json.loads(line) for line in (data / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (right, 3) == (row["label"], row["surrogates"])
    assert [True, True] == [row["text"].startswith("Frau "), row["text"].endswith(", asks for her prescription")]
    assert [(redacted,)] == CentralTeam(tmp_path).query("SELECT input FROM examples")
    agent("support-bundle", "--yes", "--output", tmp_path / "support.tar.gz")
    assert [] == files_with_values(tmp_path)
    assert [] == not_private(collected) + not_private(data)

    bundle = LineageDocument(
        "bundle", "desk", {"train": [f"clinic-1/{answer.prediction_id}"]}, version="2", digest="b" * 64
    )
    lineage.register(collected, bundle)
    erased = json.loads(agent("erase", "--value", "-", "--yes", "--json", stdin="grünwald anna\n"))
    assert (1, 1, 1, 1) == (erased["found"], erased["found_by_digest"], erased["erased"], erased["told"])
    assert "" == kept(clinic, answer.prediction_id)
    agent("import", drive)
    agent("export", drive)
    with open_umask():
        assert "has erased records: bundle desk 2" in convert(*collect)
    agent("import", drive)
    (erasure,) = json.loads(agent("privacy", "report", "--json"))["erasures"]
    assert (1, 1) == (erasure["told"], erasure["confirmed"])
    assert "1 of 1 are back" in agent("privacy", "report")
    assert [] == CentralTeam(tmp_path).query("SELECT 1 FROM records WHERE type <> 'tombstone'")
    uses = json.loads(convert("privacy", "lineage", "--erased", "--collected", collected, "--json"))["uses"]
    assert [("bundle", "retire"), ("dataset", "rows")] == [(use["kind"], use["consequence"]) for use in uses]
    assert "the chain holds" in convert("privacy", "log", "--collected", collected)
    assert [] == files_with_values(tmp_path)
