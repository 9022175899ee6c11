"""The installer file: a shell script that checks itself, followed by a tar with the payload."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipapp
from dataclasses import dataclass
from pathlib import Path

from installer.build.wheelhouse import PYTHONS

HEADER = Path(__file__).with_name("header.sh")
SETUP = Path(__file__).parent.parent / "setup"
_SIZE_DIGITS = 8


@dataclass(frozen=True)
class InstallerLabel:
    """The name of an installer: version, variant, architecture."""

    version: str
    variant: str
    machine: str = "x86_64"

    @property
    def file_name(self) -> str:
        """Name of the file."""
        gpu = "" if self.variant == "cpu" else f"-{self.variant}"
        return f"edge-agent-{self.version}-linux-{self.machine}{gpu}.run"


def write(path: Path, payload: Path, label: InstallerLabel) -> None:
    """Write the installer file from the folder of its payload: whole or not at all."""
    tar, partial = (path.with_name(f".{path.name}.{kind}") for kind in ("tar", "partial"))
    try:
        with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as archive:
            archive.add(payload, arcname=".", filter=_plain)
        _join(partial, tar, label)
        partial.replace(path)
    finally:
        tar.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)


def setup_program(target: Path) -> None:
    """Pack edge-agent-setup as one file that Python runs."""
    staged = target.with_name(".setup")
    package = staged / "installer/setup"
    package.mkdir(parents=True)
    (staged / "installer/__init__.py").write_bytes((SETUP.parent / "__init__.py").read_bytes())
    for source in sorted(SETUP.glob("*.py")):
        (package / source.name).write_bytes(source.read_bytes())
    main = "import sys\n\nfrom installer.setup.__main__ import main\n\nsys.exit(main())\n"
    (staged / "__main__.py").write_text(main, encoding="utf-8")
    zipapp.create_archive(staged, target)
    for path in sorted(staged.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    staged.rmdir()


def _plain(item: tarfile.TarInfo) -> tarfile.TarInfo:
    """Remove user and time of the build: the same content makes the same file."""
    item.uid = item.gid = item.mtime = 0
    item.uname = item.gname = ""
    item.mode = 0o755 if item.isdir() else 0o644
    item.name = item.name.removeprefix("./")
    return item


def _join(path: Path, tar: Path, label: InstallerLabel) -> None:
    with tar.open("rb") as file:
        payload_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    with path.open("wb") as out, tar.open("rb") as file:
        out.write(header(label, tar.stat().st_size, payload_sha256))
        while block := file.read(1 << 20):
            out.write(block)
        os.fchmod(out.fileno(), 0o755)
        out.flush()
        os.fsync(out.fileno())


def header(label: InstallerLabel, size: int, payload_sha256: str) -> bytes:
    """Return the shell script in front of a payload; it contains its own length and hash."""
    text = HEADER.read_text(encoding="utf-8")
    values = {
        "VERSION": label.version,
        "VARIANT": label.variant,
        "MACHINE": label.machine,
        "PYTHONS": " ".join(reversed(PYTHONS)),
        "SIZE": str(size),
        "PAYLOAD_SHA256": payload_sha256,
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    length = len(text.replace("@SKIP@", "0" * _SIZE_DIGITS).replace("@HEADER_SHA256@", payload_sha256).encode())
    text = text.replace("@SKIP@", f"{length:>0{_SIZE_DIGITS}}".lstrip("0").ljust(_SIZE_DIGITS))
    hashed = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("  header_sha256="))
    return text.replace("@HEADER_SHA256@", hashlib.sha256(hashed.encode()).hexdigest()).encode()
