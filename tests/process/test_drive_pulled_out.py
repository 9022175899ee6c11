"""A USB drive that is removed or fills up during an export: its files are complete or missing, and the command
fails."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.cli.media import check_readable, copy_out
from edge_agent.errors import ConfigInvalid, DocumentInvalid
from edge_agent.formats import segment
from tests.support.forking_script import ForkingScript
from tests.support.rights import without_root
from tests.support.strace import Point, failed_at, killed_at, needs_strace, points, sample

IMPORTS = """
import sys
from pathlib import Path
from edge_agent.cli.media import copy_out
"""
EXPORT = f"""{IMPORTS}
copying = copy_out(Path(sys.argv[1]), Path(sys.argv[2]))
assert (copying.failure is None) == (not copying.missing)
sys.exit(3 if copying.failure else 0)
"""
SEGMENTS = 3


class Export:
    """An outbox, and a USB drive that is emptied for each point."""

    def __init__(self, root: Path) -> None:
        self.outbox, self.drive = root / "outbox", root / "drive" / "site=site-1"
        (self.outbox / "segments").mkdir(parents=True)
        for number in range(1, SEGMENTS + 1):
            stem = segment.name_of("0" * 16, number)
            (self.outbox / "segments" / f"{stem}.age").write_bytes(bytes([number]) * 50_000)
            (self.outbox / "segments" / f"{stem}.json").write_bytes(b"{}")
        (self.outbox / "status.json").write_bytes(b"{}")
        self.log = root / "log"
        self.sealed = files(self.outbox)
        self.working = ForkingScript(IMPORTS, EXPORT, root)

    def points(self) -> list[Point]:
        """Count the calls of an undisturbed export."""
        return points(lambda *tracer: self.run(*tracer), self.log)

    def run(self, *tracer: str):
        """Export to an empty drive."""
        shutil.rmtree(self.drive.parent, ignore_errors=True)
        self.drive.parent.mkdir()
        return self.working.run([str(self.outbox), str(self.drive)], *tracer)

    def hold(self) -> None:
        """Check that the files on the drive are complete and no manifest lacks its segment; the next export writes the
        rest."""
        there = {name: content for name, content in files(self.drive).items() if not Path(name).name.startswith(".")}
        assert there.items() <= self.sealed.items()
        manifests = {name for name in there if name.startswith("segments/") and name.endswith(".json")}
        assert {name.replace(".json", ".age") for name in manifests} <= there.keys()
        assert 0 == self.working.run([str(self.outbox), str(self.drive)]).returncode
        assert self.sealed == files(self.drive)
        assert self.sealed == files(self.outbox)


def files(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder, by their path in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def export(tmp_path: Path) -> Iterator[Export]:
    """Return an outbox to export."""
    made = Export(tmp_path)
    with made.working:
        yield made


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "ENODEV"])
def test_failing_drive_is_reported_or_complete(export: Export, error: str):
    """If a system call fails during an export, the command exits with 3, or the drive has every file."""
    codes: Counter[int] = Counter()
    for point in sample(export.points()):
        done = export.run(*failed_at(*point, error))
        assert done.returncode in (0, 3), (point, done.stderr)
        if done.returncode == 0:
            assert export.sealed == files(export.drive)
        codes[done.returncode] += 1
        export.hold()
    assert codes[3] > 0


@needs_strace
def test_killed_export_leaves_complete_files(export: Export):
    """A killed export leaves only complete files on the drive, and the next export finishes it."""
    for point in sample(export.points()):
        assert 0 != export.run(*killed_at(*point)).returncode, point
        export.hold()


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/proc/self/status"), os.mkfifo], ids=["link", "fifo"])
def test_link_or_fifo_on_a_drive_is_not_read(tmp_path: Path, make: Callable[[Path], None]):
    """An export stops with an error at a link, which could expose a file of this machine, or at a FIFO, which would
    block."""
    (tmp_path / "outbox" / "segments").mkdir(parents=True)
    (tmp_path / "outbox" / "status.json").write_bytes(b"{}")
    (tmp_path / "drive").mkdir()
    make(tmp_path / "drive" / "status.json")
    copying = copy_out(tmp_path / "outbox", tmp_path / "drive")
    assert isinstance(copying.failure, DocumentInvalid)
    assert ["status.json"] == copying.missing


def test_export_without_permission_suggests_sudo(tmp_path: Path):
    """An operator who can open admin.sock but not read the outbox gets an error with the remedy to use sudo, and no
    traceback."""
    outbox = tmp_path / "outbox"
    outbox.mkdir(mode=0)
    with without_root(), pytest.raises(ConfigInvalid, match="Permission denied") as refused:
        check_readable(outbox)
    assert "Run the command with sudo." == refused.value.remedy
    outbox.chmod(0o700)
    check_readable(outbox)
