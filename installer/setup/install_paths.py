"""Where everything lies. With --root all of it is below a folder, so that an installation can be tried."""

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
    """Return where the text of a laid file goes that somebody had edited."""
    return path.with_name(f"{path.name}.edited")


@dataclass(frozen=True)
class InstallPaths:
    """Paths of one installation."""

    root: Path = Path("/")

    @property
    def trial(self) -> bool:
        """True when the machine itself is not touched."""
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
        """The link to the one before."""
        return self.home / "previous"

    @property
    def first_start(self) -> Path:
        """Is there from the first installation until serve was enabled, once: an administrator may disable it."""
        return self.home / "first-start"

    @property
    def lock(self) -> Path:
        """Held by the one setup that runs; outside of what it installs and removes.

        Not in /run/lock: there every user could put a link in its place, or hold it.
        """
        return self.root / "run/edge-agent-setup.lock"

    @property
    def config(self) -> Path:
        """The technician's configuration, and what enrolment wrote."""
        return self.root / "etc/edge-agent"

    @property
    def units(self) -> Path:
        """The units, and drop-ins."""
        return self.root / "etc/systemd/system"

    @property
    def kept(self) -> tuple[Path, ...]:
        """What only purge removes: configuration, state, exchange folders, credentials, drop-ins of the units, and
        what somebody had edited of the files that setup lays."""
        state = [self.root / "var/lib" / name for name in _STATE]
        stores = [self.root / "etc" / name for name in ("credstore.encrypted", "credstore")]
        secrets = [path for store in stores for path in sorted(store.glob("edge-agent-*.cred"))]
        drop_ins = [self.units / f"{unit}.d" for unit in UNITS]
        edited = [edited_path(path) for path in self.always_laid]
        found = (self.config, *state, *secrets, *drop_ins, *edited)
        return tuple(path for path in found if path.exists() or path.is_symlink())

    @property
    def always_laid(self) -> tuple[Path, ...]:
        """The units, and the files that name users and folders: every program lays them."""
        confs = (self.laid(kind, "edge-agent.conf") for kind in _CONF_KINDS)
        return (*(self.units / unit for unit in UNITS), *confs)

    def laid(self, kind: str, name: str) -> Path:
        """Return where a file of a program's share/ folder belongs on the machine."""
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
        """Links that put the commands where a shell finds them, and what they lead to."""
        return {
            self.root / "usr/local/bin/edge-agent": self.current / "bin/edge-agent",
            self.root / "usr/local/sbin/edge-agent-setup": self.current / "bin/edge-agent-setup",
        }
