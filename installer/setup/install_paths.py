"""The paths of an installation. With --root all of them are below one folder, for a trial."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SERVE = "edge-agent.service"
UPLINK = "edge-uplink.service"
WEB = "edge-agent-web.service"
UNITS = (SERVE, UPLINK, WEB)
_STATE = ("edge-agent", "edge-agent-web", "edge-uplink", "edge-exchange")
_CONF_KINDS = ("sysusers", "tmpfiles")


def edited_path(path: Path) -> Path:
    """Return where setup moves an installed file that somebody edited."""
    return path.with_name(f"{path.name}.edited")


@dataclass(frozen=True)
class InstallPaths:
    """Paths of one installation."""

    root: Path = Path("/")

    @property
    def trial(self) -> bool:
        """True if the installation is below another folder, and the machine itself is unchanged."""
        return self.root != Path("/")

    @property
    def home(self) -> Path:
        """All programs and the links to them."""
        return self.root / "opt/edge-agent"

    @property
    def programs(self) -> Path:
        """One folder for each program."""
        return self.home / "venvs"

    @property
    def current(self) -> Path:
        """The link to the program that runs."""
        return self.home / "current"

    @property
    def previous(self) -> Path:
        """The link to the previous program."""
        return self.home / "previous"

    @property
    def first_start(self) -> Path:
        """Exists from the first installation until serve was enabled once: an administrator can disable it later."""
        return self.home / "first-start"

    @property
    def lock(self) -> Path:
        """The lock of the running setup, outside of the folders that it installs and removes.

        Not in /run/lock, where any user could replace it by a link, or hold it.
        """
        return self.root / "run/edge-agent-setup.lock"

    @property
    def config(self) -> Path:
        """The technician's configuration, and the files of enrolment."""
        return self.root / "etc/edge-agent"

    @property
    def units(self) -> Path:
        """The units, and drop-ins."""
        return self.root / "etc/systemd/system"

    @property
    def kept(self) -> tuple[Path, ...]:
        """Existing paths that only purge removes: configuration, state, exchange folders, credentials, drop-ins of the
        units, and edited copies of installed files."""
        state = [self.root / "var/lib" / name for name in _STATE]
        stores = [self.root / "etc" / name for name in ("credstore.encrypted", "credstore")]
        secrets = [path for store in stores for path in sorted(store.glob("edge-agent-*.cred"))]
        drop_ins = [self.units / f"{unit}.d" for unit in UNITS]
        edited = [edited_path(path) for path in self.in_every_program]
        found = (self.config, *state, *secrets, *drop_ins, *edited)
        return tuple(path for path in found if path.exists() or path.is_symlink())

    @property
    def in_every_program(self) -> tuple[Path, ...]:
        """The units, and the files that name users and folders: every program installs them."""
        confs = (self.installed_path(kind, "edge-agent.conf") for kind in _CONF_KINDS)
        return (*(self.units / unit for unit in UNITS), *confs)

    def installed_path(self, kind: str, name: str) -> Path:
        """Return the path on the machine of a file from a program's share/ folder."""
        folders = {
            "systemd": "etc/systemd/system",
            "sysusers": "etc/sysusers.d",
            "tmpfiles": "etc/tmpfiles.d",
            "etc": "etc/edge-agent",
            "man": f"usr/local/share/man/man{name.rpartition('.')[2]}",
        }
        return self.root / folders[kind] / name

    @property
    def commands(self) -> dict[Path, Path]:
        """Links in the directories of PATH, with their targets."""
        return {
            self.root / "usr/local/bin/edge-agent": self.current / "bin/edge-agent",
            self.root / "usr/local/sbin/edge-agent-setup": self.current / "bin/edge-agent-setup",
        }
