"""Calls of systemd. There are none if it does not run, as in most containers, or in a trial."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from installer.setup import durable_files
from installer.setup.errors import FAILED, SetupError
from installer.setup.install_paths import SERVE, UNITS, UPLINK, WEB, InstallPaths
from installer.setup.programs import InstalledProgram, program_of

USERS = ("edge-agent", "edge-uplink", "edge-web")
PREPARING = {"sysusers": (), "tmpfiles": ("--create",)}
_UNIT_PROPERTIES = ("Id", "ActiveState", "NeedDaemonReload", "MainPID")
_NO_SUCH_ACCOUNT = 6  # of userdel(8) and groupdel(8)
GROUPS = ("edge-devices", "edge-reviewers", "edge-agent-operators", "edge-exchange")


@dataclass(frozen=True)
class Services:
    """The units of the appliance."""

    paths: InstallPaths
    starts_units: bool
    """False with --no-start: users and folders are made, but no unit is started or restarted."""

    @property
    def running(self) -> bool:
        """True if systemd runs and this is not a trial."""
        return not self.paths.trial and Path("/run/systemd/system").is_dir()

    @property
    def acts(self) -> bool:
        """True if units are started and restarted."""
        return self.running and self.starts_units

    def run_unchanged(self, program: InstalledProgram) -> bool:
        """Return whether the services run from this program, with the unit files that are on the disk."""
        if not self.running:
            return False
        show = ["systemctl", "show", "--property", ",".join(_UNIT_PROPERTIES), *UNITS]
        return run_as_installed(_run_quietly(show), lambda pid: program_of(self.paths.programs, pid), program.name)

    def prepare(self) -> list[str]:
        """Make the users, groups and folders of the units, if systemd's tools are installed; return the steps."""
        steps = [] if self.paths.trial else [step for step in map(self._create, PREPARING) if step]
        if self.running:
            _run_or_fail(["systemctl", "daemon-reload"])
        return steps

    def _create(self, kind: str) -> str:
        files = sorted(map(str, (self.paths.root / f"etc/{kind}.d").glob("edge-*.conf")))
        command = [f"systemd-{kind}", *PREPARING[kind], *files]
        if not files or not shutil.which(command[0]):
            return ""
        _run_or_fail(command)
        return f"{command[0]}: {', '.join(files)}"

    def start(self, units: list[str]) -> None:
        """Enable and start serve after the first installation; later restart it, if it runs or is enabled.

        Raises:
            SetupError: serve does not start. A failure of the uplink or the console is not an error.
        """
        if not self.acts:
            return
        _run_quietly(["systemctl", "reset-failed", *units])
        if self.paths.first_start.exists():
            _run_or_fail(["systemctl", "enable", SERVE])
            durable_files.remove(self.paths.first_start)
        _run_or_fail(["systemctl", "restart" if self.state(SERVE)[1] == "enabled" else "try-restart", SERVE])
        _run_quietly(["systemctl", "try-restart", UPLINK, WEB])

    def stop(self) -> None:
        """Stop and disable the units. Raises SetupError if one still runs."""
        if not self.running:
            return
        _run_quietly(["systemctl", "stop", *UNITS])
        for unit in UNITS:  # one at a time: if one has no file, systemctl disables none of them
            _run_quietly(["systemctl", "disable", unit])
        still = [unit for unit in UNITS if self.state(unit)[0] in ("active", "deactivating", "reloading")]
        if still:
            message = f"{' and '.join(still)} cannot be stopped; nothing was removed"
            raise SetupError(FAILED, message, f"'systemctl status {' '.join(still)}' shows the reason.")

    def reload_units(self) -> None:
        """Make systemd read the units again after some were removed."""
        if self.running:
            _run_quietly(["systemctl", "daemon-reload"])

    def state(self, unit: str) -> tuple[str, str]:
        """Return the states of a unit, such as ("active", "enabled")."""
        return _run_quietly(["systemctl", "is-active", unit]), _run_quietly(["systemctl", "is-enabled", unit])

    def remove_users(self) -> list[str]:
        """Remove the users and groups; return a note for each that could not be removed."""
        if self.paths.trial:
            return []
        users = {name: _removal_failure(["userdel", name]) for name in USERS}
        # The group of a user that stays cannot be removed.
        groups = {name: _removal_failure(["groupdel", name]) for name in (*GROUPS, *USERS) if not users.get(name)}
        staying = [("user", *each) for each in users.items()] + [("group", *each) for each in groups.items()]
        return [f"the {kind} {name} stays: {reason}" for kind, name, reason in staying if reason]


def run_as_installed(shown: str, program_of_pid: Callable[[int], str], program: str) -> bool:
    """Return whether a restart would change nothing, from the output of 'systemctl show' for the units.

    It would if serve is not active, if a unit is between two states, if its process belongs to another program, or if
    systemd has not read its current file.
    """
    units = [dict(line.split("=", 1) for line in each.splitlines() if "=" in line) for each in shown.split("\n\n")]
    states = {each.get("Id"): each.get("ActiveState") for each in units}
    if states.get(SERVE) != "active" or not {*states.values()} <= {"active", "inactive"}:
        return False
    active = [each for each in units if each["ActiveState"] == "active"]
    return all(
        each.get("NeedDaemonReload") == "no" and program_of_pid(int(each.get("MainPID", "0"))) == program
        for each in active
    )


def accounts() -> tuple[str, str]:
    """Return the content of /etc/passwd and /etc/group."""
    return Path("/etc/passwd").read_text(errors="replace"), Path("/etc/group").read_text(errors="replace")


def _run_quietly(command: list[str]) -> str:
    """Run a command and ignore its failure; return its output."""
    if not shutil.which(command[0]):
        return "unknown"
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    return done.stdout.strip() or "unknown"


def _removal_failure(command: list[str]) -> str:
    """Run userdel or groupdel; return the reason of a failure, empty if the account is gone."""
    if not shutil.which(command[0]):
        return f"there is no command '{command[0]}' here"
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode in (0, _NO_SUCH_ACCOUNT):
        return ""
    return done.stderr.strip() or f"'{' '.join(command)}' ended with {done.returncode}"


def _run_or_fail(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()[-5:]
        message = "\n        ".join([f"'{' '.join(command)}' failed:", *lines])
        raise SetupError(FAILED, message, "'journalctl -u edge-agent -e' and 'edge-agent doctor' show the reason.")
