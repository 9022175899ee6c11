"""Name resolution of a process that a test controls: the process sees other files for hosts and resolver.

with HostNames(folder) as names:
    names.known("large-model.test", "127.0.0.1")
    subprocess.Popen([*names.inside, "curl", "http://large-model.test"])
    names.unknown(SILENT)

Needs root, for a mount namespace and for the port that resolvers ask.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

REFUSING, SILENT = "127.0.0.97", "127.0.0.98"
"""Resolvers: nobody listens there; somebody takes every question and never answers."""
_PORT = 53
_MOUNTED = 'mount --bind "$0/hosts" /etc/hosts && mount --bind "$0/resolv.conf" /etc/resolv.conf && exec "$@"'


def why_not() -> str:
    """Return why this is not possible here; empty = it is."""
    if not shutil.which("unshare"):
        return "unshare is missing (sudo apt-get install util-linux)"
    return "" if os.geteuid() == 0 else "only root may make mount namespaces"


class HostNames:
    """See the module."""

    def __init__(self, folder: Path) -> None:
        """Write both files into a folder; nothing is known yet."""
        folder.mkdir()
        self._hosts, self._resolver = folder / "hosts", folder / "resolv.conf"
        self.unknown(REFUSING)
        self.inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNTED, str(folder)]
        """Put in front of a command, to run it where these are the names."""
        self._silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def known(self, name: str, address: str) -> None:
        """Resolve one name and no other. Written in place, because the mount shows this very file."""
        self._hosts.write_text(f"{address} {name}\n")

    def unknown(self, resolver: str) -> None:
        """Remove all names; each lookup goes to that resolver."""
        self._resolver.write_text(f"nameserver {resolver}\n")
        self._hosts.write_text("")

    def __enter__(self) -> Self:
        self._silent.bind((SILENT, _PORT))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._silent.close()
