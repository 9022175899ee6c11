"""Where everything lies. With --root all of it is below a folder, so that an installation can be tried."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_STATE = ("edge-agent", "edge-agent-web", "edge-uplink", "edge-exchange")


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
    def lock(self) -> Path:
        """Held by the one setup that runs; outside of what it installs and removes."""
        return self.root / "run/lock/edge-agent-setup.lock"

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
        """What only purge removes: configuration, state, exchange folders, credentials, drop-ins of the units."""
        state = [self.root / "var/lib" / name for name in _STATE]
        stores = [self.root / "etc" / name for name in ("credstore.encrypted", "credstore")]
        secrets = [path for store in stores for path in sorted(store.glob("edge-agent-*.cred"))]
        drop_ins = sorted(self.units.glob("edge-*.service.d"))
        return tuple(path for path in (self.config, *state, *secrets, *drop_ins) if path.exists())

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
