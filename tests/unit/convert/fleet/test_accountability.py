"""The append-only log: each line names the one before, so that a changed, removed or inserted line shows."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from convert.fleet import accountability
from convert.fleet.accountability import START, append_line, read_lines, verify_chain


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return a log of three lines."""
    for word in ("one", "two", "three"):
        append_line(tmp_path / "log", {"said": word})
    return tmp_path / "log"


def test_lines_are_chained_and_private(log: Path):
    """Numbers from 1, the hash of the line before, and nobody else can read it."""
    assert [(1, "one"), (2, "two"), (3, "three")] == [(each.number, each.fields["said"]) for each in read_lines(log)]
    verdict = verify_chain(log)
    assert (3, ()) == (verdict.entries, verdict.problems)
    assert verdict.head == append_line(log, {"said": "four"}) or 4 == verify_chain(log).entries
    assert 0o600 == stat.S_IMODE(log.stat().st_mode)


def test_a_missing_log_is_empty(tmp_path: Path):
    """Nothing was decided yet."""
    assert (0, START, ()) == tuple(vars(verify_chain(tmp_path / "log")).values())
    assert [] == list(read_lines(tmp_path / "log"))


def rewrite(log: Path, change: str) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    if change == "changed":
        lines[1] = lines[1].replace(b"two", b"six")
    elif change == "removed":
        del lines[1]
    elif change == "swapped":
        lines[0], lines[1] = lines[1], lines[0]
    elif change == "inserted":
        lines.insert(1, json.dumps({"number": 2, "previous": START, "said": "x"}).encode() + b"\n")
    elif change == "not JSON":
        lines[1] = b"\xff\n"
    log.write_bytes(b"".join(lines))


@pytest.mark.parametrize("change", ["changed", "removed", "swapped", "inserted", "not JSON"])
def test_a_change_shows(log: Path, change: str):
    """The line is named, and new lines can still be added."""
    rewrite(log, change)
    assert verify_chain(log).problems
    append_line(log, {"said": "later"})
    assert "later" == list(read_lines(log))[-1].fields["said"]


def test_a_cut_end_shows_only_to_who_noted_the_last_hash(log: Path):
    """The chain alone cannot tell; a noted hash can."""
    noted = verify_chain(log).head
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    assert () == verify_chain(log).problems
    assert f"no line has the hash {noted}" in verify_chain(log, noted).problems[0]


def test_a_line_that_a_power_cut_left_is_removed(log: Path):
    """It was never reported as written."""
    with log.open("ab") as file:
        file.write(b'{"number": 4, "prev')
    assert verify_chain(log).problems
    append_line(log, {"said": "four"})
    assert (4, ()) == (verify_chain(log).entries, verify_chain(log).problems)


def test_a_line_has_a_limit(log: Path):
    """A longer one is refused and leaves the log as it was."""
    with pytest.raises(ValueError, match="the limit is"):
        append_line(log, {"said": "x" * accountability.LINE_BYTES_MAX})
    assert (3, ()) == (verify_chain(log).entries, verify_chain(log).problems)


def test_every_record_of_a_decision_counts(tmp_path: Path):
    """A decision about more records than one entry names makes several entries, so none keeps an earlier consent."""
    records = [f"clinic-1/{number}" for number in range(2 * accountability.SUBJECTS_MAX + 1)]
    accountability.record(tmp_path, "consent recorded", records)
    assert frozenset(records) == accountability.consents(tmp_path)
    last = accountability.record(tmp_path, "consent withdrawn", records[1:])
    assert frozenset(records[:1]) == accountability.consents(tmp_path)
    verdict = verify_chain(tmp_path / accountability.FILE_NAME)
    assert (5, last, ()) == (verdict.entries, verdict.head, verdict.problems)


@pytest.mark.slow
def test_a_user_without_a_name_is_logged_by_number(tmp_path: Path):
    """As in a container that runs under a number alone."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    bare = {key: value for key, value in os.environ.items() if key not in ("LOGNAME", "USER", "LNAME", "USERNAME")}
    code = (
        "import os\nfrom convert.fleet import accountability\nos.setuid(54321)\nprint(accountability.current_actor())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("uid 54321@")
