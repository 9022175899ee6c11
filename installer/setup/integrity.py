"""Checks the files of an installed program against their recorded hashes.

pip records the files of the wheels; `record_files` records those that setup adds.
"""

from __future__ import annotations

import base64
import csv
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

_RECORD = "RECORD"


def damaged_files(program: Path) -> list[Path]:
    """Return the files of a program that are missing or changed."""
    return [path for path, expected in _recorded(program) if _digest(path) != expected]


def record_files(program: Path, files: Iterable[Path]) -> None:
    """Record the hashes of files of a program, in pip's format. Raises OSError."""
    with (program / _RECORD).open("w", encoding="utf-8", newline="") as file:
        rows = ([str(path.relative_to(program)), f"sha256={_digest(path)}", path.stat().st_size] for path in files)
        csv.writer(file, lineterminator="\n").writerows(rows)


def _recorded(program: Path) -> Iterator[tuple[Path, str]]:
    wheels = sorted(program.glob("lib/python*/site-packages/*.dist-info/RECORD"))
    own = [program / _RECORD] if (program / _RECORD).is_file() else []  # version 0.1 wrote none
    for record, folder in [*((each, each.parent.parent) for each in wheels), *((each, program) for each in own)]:
        with record.open(encoding="utf-8", newline="") as file:
            for name, digest, _ in csv.reader(file):
                if digest.startswith("sha256="):  # files that were compiled here have no hash
                    yield folder / name, digest.removeprefix("sha256=")


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return "unreadable"
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
