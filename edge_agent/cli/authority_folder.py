"""Where this site's certificate authority is: one folder, found again by itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.config import config_files, config_paths
from edge_agent.errors import CertificateUnusable, ConfigInvalid

FOLDER = "tls"
CERTIFICATE = "ca.crt"
OLD_FOLDER = Path("edge-agent-tls")
"""Where 0.1 made it, below the folder of the shell."""


@dataclass(frozen=True)
class AuthorityFolder:
    """The folder of an authority."""

    path: Path
    note: str = ""
    """A sentence about the choice, for the person at the terminal."""


def find_authority(config_path: Path | None, environ: Mapping[str, str] = os.environ) -> AuthorityFolder | None:
    """Return the folder of this site's authority; None = there is none.

    The first of these that holds one: the folder of `access.client_ca_file`; `tls` beside agent.yaml; edge-agent/tls
    in the user's data directory; ./edge-agent-tls of version 0.1.
    """
    configured, beside = _configured_authority(config_path), _beside_agent_yaml(config_path)
    for folder in filter(None, (configured and configured.parent, beside, _in_data_dir(environ))):
        if _exists(folder / CERTIFICATE):
            return AuthorityFolder(folder)
    if not _exists(OLD_FOLDER / CERTIFICATE):
        return None
    old = OLD_FOLDER.absolute()
    move = f"'sudo mv {old} {beside}' lets every command find it"
    return AuthorityFolder(old, f"Version 0.1 made this authority here: {old}. {move}; agent.yaml may name it, too.")


def find_foreign_authority(config_path: Path | None) -> Path | None:
    """Return the file of `access.client_ca_file` if another authority issues the certificates of this site."""
    configured = _configured_authority(config_path)
    return configured if configured and configured.name != CERTIFICATE and _exists(configured) else None


def place_new_authority(config_path: Path | None, environ: Mapping[str, str] = os.environ) -> AuthorityFolder:
    """Return where a new authority belongs.

    Raises:
        CertificateUnusable: this user cannot make one beside agent.yaml.
    """
    beside = _beside_agent_yaml(config_path)
    if os.geteuid() == 0 or os.access(beside.parent, os.W_OK, effective_ids=True):
        return AuthorityFolder(beside)
    if beside.parent.exists():
        raise CertificateUnusable(
            f"this user may not write to {beside.parent}",
            remedy="Run the command with sudo. For a daemon of your own, name a folder of yours: --dir DIR.",
        )
    note = f"{beside.parent} does not exist, so this is in your data directory, for a daemon that you start yourself."
    return AuthorityFolder(_in_data_dir(environ), note)


def _beside_agent_yaml(config_path: Path | None) -> Path:
    return _agent_yaml(config_path).absolute().parent / FOLDER


def _in_data_dir(environ: Mapping[str, str]) -> Path:
    return (
        Path(environ.get("XDG_DATA_HOME") or Path(environ.get("HOME") or "/") / ".local/share") / "edge-agent" / FOLDER
    )


def _agent_yaml(config_path: Path | None) -> Path:
    return config_paths(config_path)[0]


def _configured_authority(config_path: Path | None) -> Path | None:
    """Return the authority that the configuration names, also where the rest of the configuration is not valid."""
    try:
        plain = config_files.read(_agent_yaml(config_path), optional=True).merged()
    except ConfigInvalid:
        return None
    access: Any = plain.get("access")
    named = access.get("client_ca_file") if isinstance(access, dict) else None
    return Path(named) if isinstance(named, str) and named else None


def _exists(path: Path) -> bool:
    """Tell whether a file exists. A folder that this user may not enter counts as one that holds it."""
    try:
        return path.exists()
    except PermissionError:
        return True
