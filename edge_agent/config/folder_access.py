"""Decide from facts that the callers gathered whether the daemons can use a folder of this machine.

`edge-agent enrol` and doctor check folders that serve as object stores, the daemon the path of a bundle to install.
"""

from __future__ import annotations

import errno
import shlex
from dataclasses import dataclass
from pathlib import Path

UPLINK_USER, UPLINK_GROUP = "edge-uplink", "edge-exchange"
HIDDEN_FROM_SERVICES = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108 - not used
"""Folders that the units do not see: ProtectHome= and PrivateTmp=."""
STORE_SCHEMES = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "https", "http")
"""Schemes of object stores that are not folders."""
RESTART_UPLINK = "sudo systemctl restart edge-uplink"


@dataclass(frozen=True)
class FolderFacts:
    """What a caller found at the folder of `uplink.url` or `uplink.updates_url`."""

    path: Path
    kind: str
    """"folder", or another type of file; empty = it does not exist."""
    written: bool
    """The uplink writes examples there; otherwise it only reads updates."""
    managed: bool
    """systemd runs the uplink."""
    usable: bool | None = None
    """The uplink's user has the permissions; None = not known."""
    owner_and_mode: str = ""
    """As in root:root 0755; empty = not known."""
    unit_allows: bool = True
    """The uplink's unit lets it write there."""


@dataclass(frozen=True)
class FolderProblem:
    """Why a daemon cannot use a folder, what to do, and the command for that."""

    message: str
    remedy: str
    command: str


def store_folder(url: str) -> Path | None:
    """Return the folder of a store's URL; None = the URL is empty, or the store is not a folder."""
    scheme, colon, rest = url.partition("://")
    if not url or (colon and scheme != "file"):
        return None
    return Path(rest if colon else url)


def is_hidden_from_services(path: Path) -> bool:
    """Tell whether an absolute path is hidden from the units."""
    return any(path.is_relative_to(folder) for folder in HIDDEN_FROM_SERVICES)


def judge_bundle_path(path: Path, code: int, *, managed: bool) -> FolderProblem | None:
    """Return why the daemon may not read a bundle; None = its unit and the permissions are not the cause.

    Args:
        path: the bundle.
        code: the errno of the attempt: ENOENT for a file that PrivateTmp= hides.
        managed: whether systemd runs the daemon.
    """
    if managed and is_hidden_from_services(path) and code in (errno.EACCES, errno.ENOENT):
        return FolderProblem(
            f"the daemon cannot see {path}: its unit hides home directories and /tmp",
            "Bring the bundle on a drive that is mounted below /media or /mnt, or copy it to a folder that all users"
            " may read; then install it from there.",
            f"sudo cp -r {shlex.quote(str(path))} /srv/ && sudo chmod -R a+rX {shlex.quote(f'/srv/{path.name}')}",
        )
    if code == errno.EACCES:
        return FolderProblem(
            f"the daemon runs as its own user, which may not read {path}",
            "Let all users enter the folders above it, and read it.",
            f"sudo chmod -R a+rX {shlex.quote(str(path))}",
        )
    return None


def judge_folder(facts: FolderFacts) -> FolderProblem | None:
    """Return why the uplink cannot use a folder; None = it can."""
    path = shlex.quote(str(facts.path))
    if facts.managed and is_hidden_from_services(facts.path):
        return FolderProblem(
            f"the uplink's service cannot see {facts.path}: its unit hides home directories and /tmp",
            "Use a folder below /mnt, /media or /srv, and name it under 'uplink' in agent.yaml.",
            f"sudoedit /etc/edge-agent/agent.yaml; {RESTART_UPLINK}",
        )
    if not facts.kind:
        return FolderProblem(
            f"the folder {facts.path} does not exist",
            "Mount its disk or share there, and restart the uplink, which never makes the folder itself.",
            f"lsblk -f; findmnt {path}; {RESTART_UPLINK}",
        )
    if facts.kind != "folder":
        return FolderProblem(
            f"{facts.path} is not a folder",
            "Correct 'url' or 'updates_url' under 'uplink'.",
            "sudoedit /etc/edge-agent/agent.yaml",
        )
    if facts.usable is False:
        return _rights_problem(facts, path)
    if facts.written and facts.managed and not facts.unit_allows:
        return FolderProblem(
            f"the uplink's unit may not write to {facts.path}: it has no drop-in for this folder",
            "Write the drop-in, and restart the uplink.",
            f"sudo edge-agent drop-ins --yes; {RESTART_UPLINK}",
        )
    return None


def _rights_problem(facts: FolderFacts, path: str) -> FolderProblem:
    owner = f" ({facts.owner_and_mode})" if facts.owner_and_mode else ""
    if not facts.written:
        return FolderProblem(
            f"{UPLINK_USER} may not read {facts.path}{owner}", "Let all users read it.", f"sudo chmod -R a+rX {path}"
        )
    return FolderProblem(
        f"{UPLINK_USER} may not write to {facts.path}{owner}",
        f"Make {UPLINK_USER} its owner. A disk without owners (FAT) is mounted with '-o uid={UPLINK_USER}' instead.",
        f"sudo chown {UPLINK_USER}:{UPLINK_GROUP} {path}",
    )
