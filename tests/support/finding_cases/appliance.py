"""A site on a machine that looks installed: users, /etc, /opt and /usr/local/bin of its own, in a mount namespace.

with FaultySite(settings, appliance=True) as site:
    site.inside          # what is put in front of a command, so that it runs there

The daemon runs as the user edge-agent. Whoever makes a fault writes into `etc` and `opt`, which are those folders.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.daemon import RunningDaemon

DAEMON_UID, UPLINK_UID, EXCHANGE_GID, OPERATORS_GID, PERSON_UID = range(64_901, 64_906)
OPERATORS = "edge-agent-operators"
USERS = (
    f"edge-agent:x:{DAEMON_UID}:{DAEMON_UID}::/nonexistent:/usr/sbin/nologin\n"
    f"edge-uplink:x:{UPLINK_UID}:{UPLINK_UID}::/nonexistent:/usr/sbin/nologin\n"
    f"anna:x:{PERSON_UID}:{PERSON_UID}::/nonexistent:/bin/sh\n"
)
GROUPS = (
    f"edge-agent:x:{DAEMON_UID}:\nedge-uplink:x:{UPLINK_UID}:\nedge-exchange:x:{EXCHANGE_GID}:edge-agent,edge-uplink\n"
    f"{OPERATORS}:x:{OPERATORS_GID}:edge-agent,anna\nanna:x:{PERSON_UID}:\n"
)
MOUNTED = ("etc", "opt", "usr/local", "var/lib", "root")
AS_DAEMON = [
    "setpriv",
    f"--reuid={DAEMON_UID}",
    f"--regid={DAEMON_UID}",
    f"--groups={DAEMON_UID},{EXCHANGE_GID},{OPERATORS_GID}",
]
AS_OPERATOR = ["setpriv", f"--reuid={PERSON_UID}", f"--regid={PERSON_UID}", f"--groups={OPERATORS_GID}"]
"""A person whom an administrator has added to the group of operators."""


class ApplianceNamespace:
    """See the module. Ends with `close`."""

    def __init__(self, folder: Path) -> None:
        """Copy what the machine has, add the users, and mount it in a namespace of its own."""
        self.root = folder / "appliance"
        self.etc, self.opt, self.local, *empty = (self.root / each for each in MOUNTED)
        shutil.copytree("/etc", self.etc, symlinks=True, ignore=_unreadable)
        for each in (self.opt, self.local / "bin", self.local / "sbin", *empty):
            each.mkdir(parents=True)
        for name, lines in (("passwd", USERS), ("group", GROUPS)):
            with (self.etc / name).open("a", encoding="ascii") as file:
                file.write(lines)
        (self.etc / "edge-agent").mkdir(exist_ok=True)
        mounts = [f"mount --rbind {self.root / each} /{each}" for each in MOUNTED]
        # The interpreter may be in a home that only its owner may enter.
        kept = _home_of_python()
        if kept:
            (self.root / kept.relative_to("/")).mkdir(parents=True)
            mounts.insert(0, f"mount --bind {kept} {self.root / kept.relative_to('/')}")
        script = f"mount --make-rprivate / && {' && '.join(mounts)} && echo ready && exec sleep infinity"
        self._process = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        self.inside = ["nsenter", "-m", "-t", str(self._process.pid), f"--wd={folder}"]

    def take_over(self, daemon: RunningDaemon) -> Path:
        """Run a daemon there as its own user with /etc/edge-agent/agent.yaml; return that file's path on this side."""
        folder = daemon.state_dir.parent
        daemon.state_dir.mkdir(mode=0o700, exist_ok=True)
        os.chown(daemon.state_dir, DAEMON_UID, DAEMON_UID)
        daemon.inside, daemon.as_user = self.inside, AS_DAEMON
        daemon.config_named = Path("/etc/edge-agent/agent.yaml")
        here = self.etc / "edge-agent" / "agent.yaml"
        (folder / "agent.yaml").rename(here)
        return here

    def close(self) -> None:
        """End the namespace."""
        self._process.kill()
        self._process.communicate()


def _home_of_python() -> Path | None:
    """Return the folder below /root that holds the interpreter; None where it is elsewhere."""
    base = Path(sys.base_prefix)
    return Path(*base.parts[:3]) if base.is_relative_to("/root") else None


def _unreadable(folder: str, names: list[str]) -> set[str]:
    """Return the entries that cannot be copied, such as sockets and pipes."""
    return {name for name in names if not _is_plain(os.path.join(folder, name))}  # noqa: PTH118


def _is_plain(path: str) -> bool:
    found = Path(path)
    return found.is_symlink() or found.is_file() or found.is_dir()
