"""Whether an installed program is what was installed: every file against the hash that pip wrote down."""

from __future__ import annotations

import base64
import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path


def damaged_files(program: Path) -> list[Path]:
    """Return the files of a program that are missing or changed."""
    return [path for path, expected in _recorded(program) if _digest(path) != expected]


def _recorded(program: Path) -> Iterator[tuple[Path, str]]:
    for record in sorted(program.glob("lib/python*/site-packages/*.dist-info/RECORD")):
        with record.open(encoding="utf-8", newline="") as file:
            for name, digest, _ in csv.reader(file):
                if digest.startswith("sha256="):  # what was compiled here has no hash
                    yield record.parent.parent / name, digest.removeprefix("sha256=")


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return "unreadable"
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
