"""The help and the status report of `edge-agent-setup`."""

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
    """No line of `edge-agent-setup --help` is longer than 80 characters, the width of a text console."""
    monkeypatch.setenv("COLUMNS", "80")
    assert [] == [line for line in build_parser().format_help().splitlines() if len(line) > 80]


def test_status_lists_kept_files_with_their_sizes():
    """The status lists each kept folder on a line of its own with its size, or `size unknown without sudo` if the user
    cannot read it."""
    kept = {"/etc/edge-agent": 2000, "/var/lib/edge-agent": None}
    lines = as_text(InstallReport(PROGRAM, None, "zen4", {}, kept, [])).splitlines()
    assert "kept       /etc/edge-agent (2 kB)" in lines
    assert "           /var/lib/edge-agent (size unknown without sudo)" in lines


def test_size_of_an_unreadable_folder_is_an_error(tmp_path: Path):
    """The size of a folder that the user cannot read is a PermissionError instead of 0 bytes."""
    (tmp_path / "state").mkdir(mode=0)
    assert 0 == size_of(tmp_path / "state")
    with without_root(), pytest.raises(PermissionError):
        size_of(tmp_path / "state")
