"""Telling systemd, where it runs, that this machine has become a site, or that drop-ins have changed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

DAEMON, UPLINK = "edge-agent.service", "edge-uplink.service"
_BOOTED = Path("/run/systemd/system")
_SECONDS_MAX = 300


def is_systemd_running() -> bool:
    """Tell whether systemd runs this machine (sd_booted(3))."""
    return _BOOTED.is_dir() and shutil.which("systemctl") is not None


def stop_services() -> None:
    """Stop both, for a change that they may not see half of."""
    _systemctl("stop", UPLINK, DAEMON)


def restart_services(*, uplink: bool) -> list[str]:
    """Have systemd read its units again, and start what should run now; return what did not, as sentences."""
    reload_units()
    units = filter(_known, (DAEMON, UPLINK) if uplink else (DAEMON,))
    return [f"{unit} did not start: 'journalctl -u {unit}' explains why" for unit in units if not _start(unit)]


def reload_units() -> None:
    """Have systemd read its units again."""
    _systemctl("daemon-reload")


def _start(unit: str) -> bool:
    _systemctl("enable", unit)
    return _systemctl("restart", unit)


def _known(unit: str) -> bool:
    return _systemctl("cat", unit)


def _systemctl(*arguments: str) -> bool:
    command = [shutil.which("systemctl") or "systemctl", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS_MAX, check=False)  # noqa: S603 - systemd's
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
