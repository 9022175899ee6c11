"""A USB drive that is pulled out or fills up during an export: it has whole files or none, and the command fails."""

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
from tests.support.forking import Forking
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
    """An outbox, and a USB drive that is new for each point."""

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
        self.working = Forking(IMPORTS, EXPORT, root)

    def points(self) -> list[Point]:
        """Count the calls of an undisturbed export."""
        return points(lambda *tracer: self.run(*tracer), self.log)

    def run(self, *tracer: str):
        """Export to an empty drive."""
        shutil.rmtree(self.drive.parent, ignore_errors=True)
        self.drive.parent.mkdir()
        return self.working.run([str(self.outbox), str(self.drive)], *tracer)

    def hold(self) -> None:
        """Everything on the drive is whole, no manifest is without its segment; the next export brings the rest."""
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
def test_a_drive_that_fails_in_the_middle_is_named(export: Export, error: str):
    """At each sampled call: the export says that files are missing, or all are there."""
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
def test_an_export_that_is_killed_leaves_whole_files(export: Export):
    """At each sampled call; what was begun is done again."""
    for point in sample(export.points()):
        assert 0 != export.run(*killed_at(*point)).returncode, point
        export.hold()


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/proc/self/status"), os.mkfifo], ids=["link", "fifo"])
def test_what_is_no_file_on_a_drive_is_not_read(tmp_path: Path, make: Callable[[Path], None]):
    """A link would show a file of this machine, and a FIFO would be waited for: the copy stops there and says so."""
    (tmp_path / "outbox" / "segments").mkdir(parents=True)
    (tmp_path / "outbox" / "status.json").write_bytes(b"{}")
    (tmp_path / "drive").mkdir()
    make(tmp_path / "drive" / "status.json")
    copying = copy_out(tmp_path / "outbox", tmp_path / "drive")
    assert isinstance(copying.failure, DocumentInvalid)
    assert ["status.json"] == copying.missing


def test_an_operator_who_may_not_read_the_outbox_is_told_to_use_sudo(tmp_path: Path):
    """The group of operators opens admin.sock, not the files that leave the site: that is an error, not a traceback."""
    outbox = tmp_path / "outbox"
    outbox.mkdir(mode=0)
    with without_root(), pytest.raises(ConfigInvalid, match="Permission denied") as refused:
        check_readable(outbox)
    assert "Run the command with sudo." == refused.value.remedy
    outbox.chmod(0o700)
    check_readable(outbox)
