"""For tests of doctor: a table of facts, and the finding of each rule."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edge_agent.config import Config, UpdateConfig, UplinkConfig
from edge_agent.doctor.all_checks import run_checks
from edge_agent.doctor.findings import Finding
from edge_agent.doctor.installation import FileInfo, Installation, SystemUser

DAEMON = SystemUser("edge-agent", 501, frozenset({501, 510}))
UPLINK = SystemUser("edge-uplink", 502, frozenset({502, 510}))
DAY = 86_400.0


def verdicts(found: Iterable[Finding]) -> dict[str, str]:
    """Return the verdict of each check; of several findings the last."""
    return {finding.check: finding.verdict for finding in found}


def only(found: Iterable[Finding], check: str) -> Finding:
    """Return the one finding of a check."""
    (finding,) = [each for each in found if each.check == check]
    return finding


def told(found: Iterable[Finding], check: str) -> tuple[str, bool]:
    """Return the verdict of a check, and whether it has a remedy and a command."""
    finding = only(found, check)
    return finding.verdict, bool(finding.remedy and finding.command)


def file(path: str, mode: int = 0o600, kind: str = "file", uid: int = 501, gid: int = 510, **more: Any) -> FileInfo:
    """Return a stat(2) result as a doctor fact."""
    return FileInfo(path, kind, uid, gid, mode, "edge-agent", "edge-exchange", **{"size": 100, **more})


def place(folder: Path, root: Path | None = None, **sections: Any) -> Installation:
    """Return a place below a folder of the test, with nobody's users."""
    quiet = {"metrics": {"address": ""}, **sections}
    config = Config(state_dir=folder / "state", run_dir=folder / "run", **quiet)
    return Installation(config, root=root or folder / "root", run=lambda _: None, find_user=lambda _: None)


def looked(where: Installation) -> dict[str, Finding]:
    """Examine a place; return the last finding of each check."""
    return {finding.check: finding for finding in run_checks(where)}


def enrolled(folder: Path) -> dict[str, Any]:
    """Return sections of a site that takes updates."""
    return {
        "update": UpdateConfig(root_file=str(folder / "root.json"), incoming_dir=str(folder / "incoming")),
        "uplink": UplinkConfig(updates_url=str(folder / "repository"), notes_dir=str(folder / "notes")),
    }


def link(path: Path, target: str) -> None:
    """Make a symbolic link, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def program(path: Path) -> None:
    """Make an executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    os.chmod(path, 0o755)  # noqa: PTH101
