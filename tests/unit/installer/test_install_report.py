"""What `edge-agent-setup` prints: its help, and its status."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer.setup.__main__ import build_parser
from installer.setup.durable_files import size_of
from installer.setup.install_report import InstallReport, as_text
from installer.setup.programs import InstalledProgram
from tests.support.rights import without_root

PROGRAM = InstalledProgram(Path("/opt/edge-agent/venvs/abc"), "1.0", "cpu", "", "3.13", "/usr/bin/python3", "today")


def test_the_help_fits_80_columns(monkeypatch: pytest.MonkeyPatch):
    """A technician reads it on a console without a window to widen."""
    monkeypatch.setenv("COLUMNS", "80")
    assert [] == [line for line in build_parser().format_help().splitlines() if len(line) > 80]


def test_what_a_purge_would_remove_is_listed_line_by_line():
    """In columns; what this user may not read has no size, and is not empty."""
    kept = {"/etc/edge-agent": 2000, "/var/lib/edge-agent": None}
    lines = as_text(InstallReport(PROGRAM, None, "zen4", {}, kept, [])).splitlines()
    assert "kept       /etc/edge-agent (2 kB)" in lines
    assert "           /var/lib/edge-agent (size unknown without sudo)" in lines


def test_a_folder_that_may_not_be_read_has_no_size(tmp_path: Path):
    """An ordinary user would otherwise see the state of a site as 0 bytes."""
    (tmp_path / "state").mkdir(mode=0)
    assert 0 == size_of(tmp_path / "state")
    with without_root(), pytest.raises(PermissionError):
        size_of(tmp_path / "state")
