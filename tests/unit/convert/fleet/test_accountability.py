"""The append-only log: each line has the hash of the line before, so a changed, removed or inserted line is
detected."""

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
    """Lines are numbered from 1 and form a chain without problems, and the file has mode 0600."""
    assert [(1, "one"), (2, "two"), (3, "three")] == [(each.number, each.fields["said"]) for each in read_lines(log)]
    verdict = verify_chain(log)
    assert (3, ()) == (verdict.entries, verdict.problems)
    append_line(log, {"said": "four"})
    assert 4 == verify_chain(log).entries
    assert 0o600 == stat.S_IMODE(log.stat().st_mode)


def test_missing_log_is_empty(tmp_path: Path):
    """A log file that does not exist is verified as an empty log."""
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
def test_altered_log_is_reported_and_can_be_continued(log: Path, change: str):
    """A changed, removed, swapped, inserted or unreadable line is reported as a problem, and new lines can still be
    added."""
    rewrite(log, change)
    assert verify_chain(log).problems
    append_line(log, {"said": "later"})
    assert "later" == list(read_lines(log))[-1].fields["said"]


def test_truncated_log_is_detected_only_by_a_recorded_hash(log: Path):
    """The chain of a log without its last line is valid; verification detects the loss only with the recorded hash of
    that line."""
    noted = verify_chain(log).head
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    assert () == verify_chain(log).problems
    assert f"no line has the hash {noted}" in verify_chain(log, noted).problems[0]


def test_incomplete_last_line_is_removed(log: Path):
    """An incomplete last line, as after a power cut, is replaced by the next line that is added."""
    with log.open("ab") as file:
        file.write(b'{"number": 4, "prev')
    assert verify_chain(log).problems
    append_line(log, {"said": "four"})
    assert (4, ()) == (verify_chain(log).entries, verify_chain(log).problems)


def test_line_above_the_size_limit_is_refused(log: Path):
    """A line above the size limit is refused and the log stays unchanged."""
    with pytest.raises(ValueError, match="the limit is"):
        append_line(log, {"said": "x" * accountability.LINE_BYTES_MAX})
    assert (3, ()) == (verify_chain(log).entries, verify_chain(log).problems)


def test_long_consent_decision_is_split_into_entries(tmp_path: Path):
    """A decision about more records than one entry can name is written as several entries, so a withdrawal covers each
    of its records."""
    records = [f"clinic-1/{number}" for number in range(2 * accountability.SUBJECTS_MAX + 1)]
    accountability.record(tmp_path, "consent recorded", records)
    assert frozenset(records) == accountability.consents(tmp_path)
    last = accountability.record(tmp_path, "consent withdrawn", records[1:])
    assert frozenset(records[:1]) == accountability.consents(tmp_path)
    verdict = verify_chain(tmp_path / accountability.FILE_NAME)
    assert (5, last, ()) == (verdict.entries, verdict.head, verdict.problems)


@pytest.mark.slow
def test_user_without_a_name_is_logged_by_uid(tmp_path: Path):
    """A user that has no name, as in a container that runs under a numeric user, is logged as `uid NUMBER@HOST`."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    bare = {key: value for key, value in os.environ.items() if key not in ("LOGNAME", "USER", "LNAME", "USERNAME")}
    code = (
        "import os\nfrom convert.fleet import accountability\nos.setuid(54321)\nprint(accountability.current_actor())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("uid 54321@")
