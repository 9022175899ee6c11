"""`edge-convert collect` as a command: its output and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from convert.cli import app
from convert.publish import central_keys
from tests.support.examples import feedback, prediction, tombstone
from tests.support.segments import SealingSite


class Shell:
    """The command, run in a folder with keys and a store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipients = (central_keys.create(root / "keys").recipient,)
        self.site = SealingSite(root / "store")

    def run(self, *arguments: str) -> Result:
        where = ["--keys", str(self.root / "keys"), "--out", str(self.root / "collected")]
        return CliRunner().invoke(app, ["collect", str(self.root / "store"), *where, *arguments])


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_output_lists_segments_tasks_first_keys_and_gaps(shell: Shell):
    """The output has new segments, tasks, a first key and each gap by name; --json prints the content of
    report.json."""
    names = [shell.site.seal([prediction(n), feedback(n)], recipients=shell.recipients) for n in (1, 2, 3)]
    shell.site.remove(names[1])
    result = shell.run()
    assert 0 == result.exit_code
    for said in (
        "2 new segments with 4 records",
        "pos-intent: 2 examples, 2 reviewed (2 corrected",
        "first key: site-1",
    ):
        assert said in result.output
    assert f"missing: site-1/{names[1]}: has not arrived" in result.output
    plain = json.loads(shell.run("--json").output)
    assert (0, 2) == (plain["segments_taken"], plain["segments_held"])
    assert [(2, 2, "has not arrived")] == [(gap["first"], gap["last"], gap["why"]) for gap in plain["gaps"]]
    assert plain == json.loads((shell.root / "collected" / "report.json").read_text())


def test_refused_segment_ends_with_code_1(shell: Shell):
    """If a segment is refused, the exit code is 1 and the other segments are collected."""
    names = [shell.site.seal([prediction(n)], recipients=shell.recipients) for n in (1, 2)]
    shell.site.sealed(names[0]).write_bytes(b"spoilt")
    result = shell.run()
    assert (1, True) == (result.exit_code, f"refused: site-1/{names[0]}: is damaged" in result.output)
    assert "pos-intent: 1 example," in result.output


def test_erased_records_are_counted(shell: Shell):
    """The output has the number of records that tombstones erased."""
    shell.site.seal([prediction(1), prediction(2)], recipients=shell.recipients)
    shell.run()
    shell.site.seal([tombstone(1)], recipients=shell.recipients)
    assert "1 record erased" in shell.run().output


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--store-option", "region"], 2, "no '='"),
        (["s3://fleet", "--store-option", "aws_allow_http=true"], 2, "is a setting of the connection"),
        (["--memory-mib", "1"], 2, "at least 256 MiB"),
        (["/no/such/folder"], 2, "is not a folder"),
        (["--passphrase-file", "/no/such/file"], 0, "0 new segments"),
    ],
)
def test_invalid_arguments_are_explained(shell: Shell, arguments: list[str], code: int, said: str):
    """Invalid arguments end with code 2 and the reason; a passphrase file is not read for keys without one."""
    result = shell.run(*arguments)
    assert (code, True) == (result.exit_code, said in result.output)
