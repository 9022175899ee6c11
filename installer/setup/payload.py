"""The content of an installer file, unpacked: manifest, wheels for each Python, files for the machine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from installer.setup.errors import MACHINE, REFUSED, SetupError


@dataclass(frozen=True)
class Payload:
    """One unpacked installer file. Its hash was checked before it was unpacked."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def version(self) -> str:
        """Version of the agent."""
        return str(self.manifest["version"])

    @property
    def variant(self) -> str:
        """ "cpu", "vulkan" or "cuda"."""
        return str(self.manifest["variant"])

    @property
    def glibc(self) -> tuple[int, ...]:
        """The oldest version of glibc on which its libraries run."""
        return tuple(int(part) for part in self.manifest["glibc"].split("."))

    @property
    def common(self) -> Path:
        """The files that every Python needs."""
        return self.folder / "common"

    @property
    def share(self) -> Path:
        """The files that setup installs on the machine."""
        return self.common / "share"

    @property
    def pip(self) -> Path:
        """The wheel of pip, which Python runs without unpacking it."""
        return next(self.common.glob("pip-*.whl"))

    def lock(self, python: str) -> Path:
        """Return the list of wheels for a Python such as "3.13", each with its hash. Raises SetupError."""
        path = self.folder / f"python{python}" / "lock.txt"
        if not path.exists():
            supported = ", ".join(self.manifest["installed_bytes"])
            message = f"Python {python} is not supported; this installer has packages for {supported}"
            raise SetupError(MACHINE, message, "Install one of these versions.")
        return path

    def wheels(self, python: str) -> tuple[Path, Path]:
        """Return the folders of wheels: for every Python, and for this one."""
        return self.common / "wheels", self.folder / f"python{python}" / "wheels"

    def installed_bytes(self, python: str) -> int:
        """Return the size of the installed program."""
        return int(self.manifest["installed_bytes"][python])

    def identity(self, python: str, interpreter: Path) -> str:
        """Return the name of the program under an interpreter: a hash, so the same content has the same name."""
        parts = [self.lock(python).read_bytes(), json.dumps(self.manifest, sort_keys=True).encode()]
        for path in sorted(path for path in self.share.rglob("*") if path.is_file()):
            parts += [str(path.relative_to(self.share)).encode(), path.read_bytes()]
        parts.append(f"{python} {interpreter}".encode())
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:12]


def read_payload(folder: Path) -> Payload:
    """Read an unpacked installer file. Raises SetupError."""
    try:
        return Payload(folder, json.loads((folder / "common/manifest.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SetupError(REFUSED, f"{folder} is not an unpacked installer: {error}", "Copy the file again.") from None
