"""Secrets of the uplink: encrypted by systemd to this machine, and handed over by it to one service.

A file that was copied from this machine opens nowhere else; root on this machine can open it. Where systemd cannot
encrypt, the secret lies in the open, readable by root alone.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_agent.formats.enrolment import Secrecy

_SECONDS_MAX = 60
_PROGRAM = "systemd-creds"


@dataclass(frozen=True)
class Sealed:
    """A secret as it goes to the disk."""

    content: bytes
    encrypted: bool


def encrypt(name: str, plain: bytes) -> Sealed:
    """Encrypt a secret under the name by which systemd hands it over, if this machine can."""
    sealed = _run(["encrypt", f"--name={name}", "-", "-"], plain)
    if sealed and _run(["decrypt", f"--name={name}", "-", "-"], sealed) == plain:
        return Sealed(sealed, encrypted=True)
    return Sealed(plain, encrypted=False)


def drop_in(paths: Mapping[str, Path], secrecy: Secrecy) -> bytes:
    """Return the part of the uplink's unit that has systemd hand the secrets over, by their names."""
    directive = "LoadCredentialEncrypted" if secrecy == "encrypted" else "LoadCredential"
    lines = [f"{directive}={name}:{path}" for name, path in paths.items()]
    return "\n".join(["# Written by 'edge-agent enrol'.", "[Service]", *lines, ""]).encode()


def _run(arguments: list[str], given: bytes) -> bytes:
    """Run systemd's program; nothing comes back when it is not there or fails."""
    command = [shutil.which(_PROGRAM) or _PROGRAM, *arguments]
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=_SECONDS_MAX, check=True)  # noqa: S603 - systemd's
    except (OSError, subprocess.SubprocessError):
        return b""
    return done.stdout
