"""The uplink's upload log: written after an upload, locked, and only a hint."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.errors import DiskFull, ExchangeDirUnusable, StateDirInUse
from edge_agent.uplink import upload as notes_module
from edge_agent.uplink.upload import UploadLog
from tests.support.mounts import tmpfs

STEM = "0123456789abcdef-{:010d}"
UPSTREAM = "s3://fleet"
DAY = 86_400.0
HOLD = """
import sys
from pathlib import Path
from edge_agent.uplink.upload import UploadLog

notes = UploadLog(Path(sys.argv[1]), "s3://fleet")
print("open", flush=True)
sys.stdin.read()
"""


def stems(*numbers: int) -> list[str]:
    """Return names of segments."""
    return [STEM.format(number) for number in numbers]


def test_logged_upload_survives_a_restart(tmp_path: Path):
    """An entry counts for its time; one that a wrong clock dated in the future does not."""
    with UploadLog(tmp_path, UPSTREAM) as notes:
        notes.add(stems(1)[0], at=1000)
        assert notes.is_settled(stems(1)[0], 1000, DAY)
    with UploadLog(tmp_path, UPSTREAM) as notes:
        assert notes.is_settled(stems(1)[0], 1000 + DAY - 1, DAY)
        assert not notes.is_settled(stems(1)[0], 1000 + DAY, DAY)
        assert not notes.is_settled(stems(1)[0], 999, DAY)
        assert not notes.is_settled(stems(2)[0], 1000, DAY)


@pytest.mark.parametrize(
    "damage", [b"{", b'{"segment": "0123', b"\xff\xfe\n", b"[]\n", b'{"segment": "../x", "at": 1}\n']
)
def test_damaged_line_is_dropped(tmp_path: Path, damage: bytes):
    """The lines before a damaged one count, and the next one is written correctly."""
    with UploadLog(tmp_path, UPSTREAM) as notes:
        notes.add(stems(1)[0], at=1)
    with (tmp_path / "uploaded.jsonl").open("ab") as file:
        file.write(damage)
    for expected in ([True, False], [True, True]):
        with UploadLog(tmp_path, UPSTREAM) as notes:
            assert expected == [notes.is_settled(stem, 1, DAY) for stem in stems(1, 2)]
            notes.add(stems(2)[0], at=1)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b'{"schema": "edge-agent/uplink-notes/v9"}\n'])
def test_invalid_upload_log_is_replaced(tmp_path: Path, content: bytes):
    """It is written anew."""
    (tmp_path / "uploaded.jsonl").write_bytes(content)
    with UploadLog(tmp_path, UPSTREAM) as notes:
        assert not notes.is_settled(stems(1)[0], 1, DAY)
        notes.add(stems(1)[0], at=1)
    assert 2 == len((tmp_path / "uploaded.jsonl").read_bytes().splitlines())


def test_entries_of_deleted_segments_are_removed(tmp_path: Path):
    """Entries of deleted segments are removed together once there are many."""
    many = notes_module.STALE_LINES_MAX + 1
    with UploadLog(tmp_path, UPSTREAM) as notes:
        for stem in stems(*range(1, many + 2)):
            notes.add(stem, at=1)
        notes.keep(stems(*range(2, many + 2)))
        assert notes.is_settled(stems(1)[0], 1, DAY)
        notes.keep(stems(many + 1))
        assert not notes.is_settled(stems(1)[0], 1, DAY)
        assert notes.is_settled(stems(many + 1)[0], 1, DAY)
    assert 2 == len((tmp_path / "uploaded.jsonl").read_bytes().splitlines())


def test_second_uplink_is_refused_with_the_process_id(tmp_path: Path):
    """The lock ends with its process, however that ends."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert "open\n" == holder.stdout.readline()
        with pytest.raises(StateDirInUse, match=f"in use by process {holder.pid}$"):
            UploadLog(tmp_path, UPSTREAM)
        holder.kill()
    UploadLog(tmp_path, UPSTREAM).close()


def add_until_full(notes: UploadLog) -> int:
    """Log segments from number 2 on; return the first that did not fit."""
    for number in range(2, 2000):
        try:
            notes.add(stems(number)[0], at=1)
        except DiskFull:
            return number
    raise AssertionError("the disk does not get full")


def test_upload_log_recovers_from_a_full_disk(tmp_path: Path):
    """The entry that did not fit is absent, earlier ones are there, and with space it can be added."""
    with tmpfs(tmp_path / "disk", "size=64k") as disk, UploadLog(disk / "notes", UPSTREAM) as notes:
        notes.add(stems(1)[0], at=1)
        (disk / "filler").write_bytes(b"\0" * 4096 * 8)
        number = add_until_full(notes)
        assert not notes.is_settled(stems(number)[0], 1, DAY)
        (disk / "filler").unlink()
        notes.add(stems(number)[0], at=1)
        assert notes.is_settled(stems(1)[0], 1, DAY)
        assert number == (disk / "notes" / "uploaded.jsonl").read_bytes().count(b"segment")


def test_an_uplink_that_starts_before_the_daemon_makes_a_private_state_directory(tmp_path: Path):
    """The state directory has mode 0700 even if the uplink creates it, because the daemon stores examples there."""
    with UploadLog(tmp_path / "state" / "uplink", "s3://fleet"):
        assert 0o700 == stat.S_IMODE((tmp_path / "state").stat().st_mode)
        assert 0o750 == stat.S_IMODE((tmp_path / "state" / "uplink").stat().st_mode)


def test_folder_that_cannot_be_created_is_named(tmp_path: Path):
    """The error names the folder and the command that shows the required rights."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ExchangeDirUnusable, match="file/notes") as caught:
        UploadLog(tmp_path / "file" / "notes", UPSTREAM)
    assert "its rights in the folder" in caught.value.remedy
