"""doctor as a command: what it prints, its JSON, its exit code, and what an ordinary user gets of it."""

import json
import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from edge_agent.cli import app
from edge_agent.cli.daemon_target import DaemonTarget
from edge_agent.cli.doctor import as_document, as_root, show, show_rights
from edge_agent.config import Overrides
from edge_agent.doctor.all_checks import CHECKS, unchecked
from edge_agent.doctor.findings import VERDICTS, Finding, ProbeFailure, worst
from edge_agent.doctor.installation import current_user
from edge_agent.doctor.program_checks import PACKAGES
from edge_agent.doctor.state_checks import DATABASE, STATE_DIR
from tests.support.doctor_cases import looked, place
from tests.support.fake_daemon import FakeDaemon


def doctor(tmp_path: Path, *more: str):
    config = tmp_path / "agent.yaml"
    if not config.exists():
        config.write_text("metrics: {address: ''}\n")  # another program may have the default port
    options = ["--config", str(config), "--state-dir", str(tmp_path / "state"), "--run-dir", str(tmp_path)]
    return CliRunner().invoke(app, [*options, "doctor", *more])


def findings(tmp_path: Path) -> dict[str, str]:
    return {each["check"]: each["verdict"] for each in json.loads(doctor(tmp_path, "--json").stdout)["findings"]}


def shown(*found: Finding, width: int = 80, everything: bool = False) -> list[str]:
    console = Console(file=StringIO(), width=width, highlight=False)
    show(console, list(found), everything=everything)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_without_a_daemon_it_fails_and_says_how_to_start_one(tmp_path):
    """Missing sockets are faults with a command; the exit code is 1."""
    result = doctor(tmp_path)
    assert 1 == result.exit_code
    assert "  $ edge-agent serve" in result.stdout
    assert "4 faults" in result.stdout.splitlines()[-1]


def test_with_a_daemon_that_answers_its_checks_are_well(tmp_path):
    """Warnings, here the missing signature, are no faults of the daemon."""
    with FakeDaemon(f"unix:{tmp_path}/inference.sock", f"unix:{tmp_path}/admin.sock"):
        found = findings(tmp_path)
    assert ("ok", "ok", "ok", "warning") == tuple(found[name] for name in ("daemon", "engine", "tasks", "signatures"))


def test_json_says_who_looked_and_what_was_worst(tmp_path):
    """A script reads the verdict, the counts and each finding by its check."""
    document = json.loads(doctor(tmp_path, "--json").stdout)
    assert ("edge-agent/doctor/v1", "fault", os.geteuid()) == (
        document["schema"],
        document["verdict"],
        document["user_id"],
    )
    assert len(document["findings"]) == sum(document["counts"].values())
    assert {each["check"] for each in document["findings"]} <= set(CHECKS)


@pytest.mark.parametrize(
    ("expected", "verdicts"),
    [("ok", ()), ("note", ("ok", "note")), ("unseen", ("warning", "unseen")), ("fault", ("unseen", "fault", "ok"))],
)
def test_the_worst_verdict_counts(expected, verdicts):
    """A fault is worse than what could not be looked at, and that is worse than a warning."""
    assert expected == worst(Finding("x", "y", verdict, "") for verdict in verdicts)


def test_a_finding_is_shown_with_what_to_do_and_whole_commands():
    """What is well is one line; sentences are wrapped, commands are not, one a line."""
    well = [Finding(name, "machine", "ok", "fine") for name in ("clock", "disk")]
    said = "No file can be made there any more, since other programs have filled it with small files"
    bad = Finding("inodes", "machine", "fault", said, "Remove them.", "df -i /var; sudo du --inodes -xd3 /var")
    assert [
        "machine",
        " ok    clock, disk",
        " FAULT inodes: No file can be made there any more, since other programs have",
        "       filled it with small files",
        "       Remove them.",
        "         $ df -i /var",
        "         $ sudo du --inodes -xd3 /var",
        "",
        "'edge-agent help inodes' explains a check, and what else can be done.",
        "1 fault, 2 ok",
    ] == shown(*well, bad)


def test_findings_with_one_remedy_share_it():
    """Three dead sockets are mended by one command."""
    dead = [
        Finding("socket", "sockets", "fault", f"{name}.sock is dead", "Start it.", "edge-agent serve", name)
        for name in ("one", "two")
    ]
    lines = shown(*dead)
    assert (2, 1) == (sum("FAULT" in line for line in lines), sum("$ edge-agent serve" in line for line in lines))


def test_all_shows_what_is_well_too():
    """A line each, with what was seen."""
    assert " ok    clock: it says 12:00" in shown(Finding("clock", "machine", "ok", "it says 12:00"), everything=True)


def test_the_document_counts_every_verdict():
    """Also those that no finding has."""
    assert dict.fromkeys(VERDICTS, 0) | {"note": 1} == as_document([Finding("x", "y", "note", "")])["counts"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_an_ordinary_user_may_not_see_is_said(tmp_path):
    """The rest is looked at all the same, and nothing is called a fault that is only out of sight."""
    where = place(tmp_path)
    where.config.state_dir.mkdir(parents=True, mode=0o700)
    (where.config.state_dir / "state.db").write_bytes(b"")
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    os.seteuid(65534)
    try:
        found = looked(where)
    finally:
        os.seteuid(0)
    assert ("unseen", "unseen", "ok") == tuple(found[name].verdict for name in ("database", "site-key", "kernel"))
    assert "sudo edge-agent doctor" == found["database"].command


def test_the_first_line_names_what_a_user_may_not_check(tmp_path):
    """The command below it makes these checks, of the same installation. Root sees no such line."""
    found = [PACKAGES.ok("fine"), DATABASE.unseen(ProbeFailure("this user may not read it", needs_rights=True))]
    console = Console(file=StringIO(), width=80, highlight=False)
    target = DaemonTarget(tmp_path / "agent.yaml", Overrides(tmp_path / "state", None))
    show_rights(console, found, as_root(target))
    first, _, rest = console.file.getvalue().partition("\n  $ ")  # type: ignore[attr-defined]
    assert (f"User {current_user().name} may not make 1 check: database. To make them, run", True) == (
        " ".join(first.split()),
        rest.startswith(f"sudo edge-agent --config {tmp_path}/agent.yaml --state-dir {tmp_path}/state doctor\n"),
    )
    console = Console(file=StringIO(), width=80, highlight=False)
    show_rights(console, found[:1], "")
    assert "" == console.file.getvalue()  # type: ignore[attr-defined]


def test_checks_that_were_not_made_are_counted_alike_everywhere():
    """The last line counts the checks that the first line names, however many findings stand for them."""
    found = [
        DATABASE.unseen(ProbeFailure("x", needs_rights=True)),
        STATE_DIR.unseen(ProbeFailure("y", needs_rights=True)),
    ]
    assert f"{len(unchecked(found))} not checked, 0 ok" == shown(*found)[-1]
