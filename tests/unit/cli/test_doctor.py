"""`edge-agent doctor` as a command: its text, JSON, exit code, and its result for an ordinary user."""

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


def test_doctor_without_daemon_ends_with_1_and_names_serve(tmp_path):
    """Without a daemon, `doctor` reports the missing sockets as faults with the command that starts one, and ends with
    1."""
    result = doctor(tmp_path)
    assert 1 == result.exit_code
    assert "  $ edge-agent serve" in result.stdout
    assert "4 faults" in result.stdout.splitlines()[-1]


def test_answering_daemon_passes_its_checks(tmp_path):
    """With a daemon that answers, the checks of daemon, engine and tasks are ok, and the missing signature is a
    warning."""
    with FakeDaemon(f"unix:{tmp_path}/inference.sock", f"unix:{tmp_path}/admin.sock"):
        found = findings(tmp_path)
    assert ("ok", "ok", "ok", "warning") == tuple(found[name] for name in ("daemon", "engine", "tasks", "signatures"))


def test_doctor_json_has_user_verdict_and_counts(tmp_path):
    """`doctor --json` contains the schema, the worst verdict, the user's id, the counts and each finding by its
    check."""
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
def test_worst_verdict_is_the_overall_verdict(expected, verdicts):
    """A fault is worse than a check that could not be made, and that is worse than a warning."""
    assert expected == worst(Finding("x", "y", verdict, "") for verdict in verdicts)


def test_finding_is_shown_with_remedy_and_unbroken_commands():
    """`doctor` prints passed checks on one line, wraps sentences, and prints each command whole on its own line."""
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


def test_findings_with_the_same_remedy_print_it_once():
    """Two dead sockets that one command repairs are printed with one remedy."""
    dead = [
        Finding("socket", "sockets", "fault", f"{name}.sock is dead", "Start it.", "edge-agent serve", name)
        for name in ("one", "two")
    ]
    lines = shown(*dead)
    assert (2, 1) == (sum("FAULT" in line for line in lines), sum("$ edge-agent serve" in line for line in lines))


def test_all_option_also_shows_passed_checks():
    """With everything shown, each passed check has its own line with its result."""
    assert " ok    clock: it says 12:00" in shown(Finding("clock", "machine", "ok", "it says 12:00"), everything=True)


def test_json_counts_every_verdict():
    """The JSON document has a count for every verdict, also 0 for one that no finding has."""
    assert dict.fromkeys(VERDICTS, 0) | {"note": 1} == as_document([Finding("x", "y", "note", "")])["counts"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_checks_an_ordinary_user_may_not_make_are_unseen(tmp_path):
    """For an ordinary user, `doctor` marks checks of unreadable files as unseen and not as faults, makes the other
    checks, and proposes sudo."""
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


def test_first_line_names_checks_that_need_root(tmp_path):
    """For an ordinary user, `doctor` begins with the checks that need root and the sudo command with the same options;
    it omits this if every check was made."""
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


def test_summary_counts_checks_that_were_not_made():
    """The last line counts the same unmade checks as the first line, even if several findings are about one check."""
    found = [
        DATABASE.unseen(ProbeFailure("x", needs_rights=True)),
        STATE_DIR.unseen(ProbeFailure("y", needs_rights=True)),
    ]
    assert f"{len(unchecked(found))} not checked, 0 ok" == shown(*found)[-1]
