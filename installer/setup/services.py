"""What systemd is asked to do. Where it does not run, as in most containers, or in a trial, it is asked nothing."""

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
_SHOWN = ("Id", "ActiveState", "NeedDaemonReload", "MainPID")
_NO_SUCH_ACCOUNT = 6  # of userdel(8) and groupdel(8)
GROUPS = ("edge-devices", "edge-reviewers", "edge-agent-operators", "edge-exchange")


@dataclass(frozen=True)
class Services:
    """The units of the appliance."""

    places: InstallPaths
    wanted: bool
    """False with --no-start: users and folders are made, nothing is started or stopped."""

    @property
    def running(self) -> bool:
        """True where systemd is there and may be asked."""
        return not self.places.trial and Path("/run/systemd/system").is_dir()

    @property
    def acts(self) -> bool:
        """True where services are started and restarted."""
        return self.running and self.wanted

    def run_unchanged(self, program: InstalledProgram) -> bool:
        """Tell whether the services run from this program, under the units as they are on the disk."""
        if not self.running:
            return False
        asked = ["systemctl", "show", "--property", ",".join(_SHOWN), *UNITS]
        return run_as_installed(_quietly(asked), lambda pid: program_of(self.places.programs, pid), program.name)

    def prepare(self) -> list[str]:
        """Make the users, groups and folders that the units need, as far as systemd is installed; say what was made."""
        done = [] if self.places.trial else [said for said in map(self._create, PREPARING) if said]
        if self.running:
            _must(["systemctl", "daemon-reload"])
        return done

    def _create(self, kind: str) -> str:
        files = sorted(map(str, (self.places.root / f"etc/{kind}.d").glob("edge-*.conf")))
        command = [f"systemd-{kind}", *PREPARING[kind], *files]
        if not files or not shutil.which(command[0]):
            return ""
        _must(command)
        return f"{command[0]}: {', '.join(files)}"

    def start(self, units: list[str]) -> None:
        """Enable and start serve, once; afterwards restart it, unless somebody disabled it.

        Raises:
            SetupError: serve does not come up. A way out that does not is no reason to take anything back.
        """
        if not self.acts:
            return
        _quietly(["systemctl", "reset-failed", *units])
        if self.places.first_start.exists():
            _must(["systemctl", "enable", SERVE])
            durable_files.remove(self.places.first_start)
        _must(["systemctl", "restart" if self.state(SERVE)[1] == "enabled" else "try-restart", SERVE])
        _quietly(["systemctl", "try-restart", UPLINK, WEB])

    def stop(self) -> None:
        """Stop and disable the units. Raises SetupError where one still runs."""
        if not self.running:
            return
        _quietly(["systemctl", "stop", *UNITS])
        for unit in UNITS:  # each alone: where one has no file, systemctl disables none of them
            _quietly(["systemctl", "disable", unit])
        still = [unit for unit in UNITS if self.state(unit)[0] in ("active", "deactivating", "reloading")]
        if still:
            said = f"{' and '.join(still)} cannot be stopped; nothing was removed"
            raise SetupError(FAILED, said, f"'systemctl status {' '.join(still)}' says more.")

    def forget(self) -> None:
        """Let systemd notice that units are gone."""
        if self.running:
            _quietly(["systemctl", "daemon-reload"])

    def state(self, unit: str) -> tuple[str, str]:
        """Return such as ("active", "enabled")."""
        return _quietly(["systemctl", "is-active", unit]), _quietly(["systemctl", "is-enabled", unit])

    def remove_users(self) -> list[str]:
        """Remove the users and groups; return a sentence for each that stays."""
        if self.places.trial:
            return []
        users = {name: _refusal(["userdel", name]) for name in USERS}
        # The group of a user goes with it, or stays with it.
        groups = {name: _refusal(["groupdel", name]) for name in (*GROUPS, *USERS) if not users.get(name)}
        staying = [("user", *each) for each in users.items()] + [("group", *each) for each in groups.items()]
        return [f"the {kind} {name} stays: {said}" for kind, name, said in staying if said]


def run_as_installed(shown: str, program_of_pid: Callable[[int], str], program: str) -> bool:
    """Tell whether a restart would change nothing, from what 'systemctl show' says of the units.

    It would where serve is not active, or a unit is between two states, or its process is another program's, or its
    file on the disk is not the one that systemd has read.
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
    """Return the users and groups of this machine, as they are written down."""
    return Path("/etc/passwd").read_text(errors="replace"), Path("/etc/group").read_text(errors="replace")


def _quietly(command: list[str]) -> str:
    """Run a command whose failure changes nothing; return what it said."""
    if not shutil.which(command[0]):
        return "unknown"
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    return done.stdout.strip() or "unknown"


def _refusal(command: list[str]) -> str:
    """Run userdel or groupdel; return why it removed nothing, empty where it did or there was nothing to remove."""
    if not shutil.which(command[0]):
        return f"there is no command '{command[0]}' here"
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode in (0, _NO_SUCH_ACCOUNT):
        return ""
    return done.stderr.strip() or f"'{' '.join(command)}' ended with {done.returncode}"


def _must(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()[-5:]
        said = "\n        ".join([f"'{' '.join(command)}' failed:", *lines])
        raise SetupError(FAILED, said, "'journalctl -u edge-agent -e' and 'edge-agent doctor' say more.")
