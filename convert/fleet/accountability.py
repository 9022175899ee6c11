"""The log of decisions about personal data: accepted keys, recorded consents, erased and purged records.

It is next to the registry of sites in the collection, as JSON lines. Each line contains the hash of the line before, so
a changed or removed line is detected. The log is the only record of consents; one counts until it is withdrawn.

A line is on the disk when `append_line` returns. The file has mode 0600. A person who can write the file can also write
a whole new chain, or cut off its end: note the hash of the last line elsewhere, and `verify_chain` reports whether the
chain still contains it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_agent.durable.atomic_files import sync_directory
from edge_agent.errors.base import user_name
from edge_agent.formats.signed_document import format_timestamp

LINE_BYTES_MAX = 1024 * 1024
START = "0" * 64
"""The first line contains this in place of a hash."""
_BLOCK = 64 * 1024


@dataclass(frozen=True)
class ChainedEntry:
    """One line."""

    number: int
    sha256: str
    """Hash of the line, without its newline."""
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class ChainVerdict:
    """The result of `verify_chain`."""

    entries: int
    head: str
    """The hash of the last line; START = there is none."""
    problems: tuple[str, ...]


def append_line(path: Path, fields: Mapping[str, Any]) -> str:
    """Add a line, and return its hash. Raises OSError; ValueError for a line that is too long.

    A last line without a newline, as a power cut leaves it, was never reported as written, and is removed.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(fd, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        size = _complete_bytes(fd)
        os.ftruncate(fd, size)
        block = os.pread(fd, LINE_BYTES_MAX + 1, max(0, size - LINE_BYTES_MAX - 1))
        last = block.rstrip(b"\n").rpartition(b"\n")[2]
        number, previous = _number_of(last) + 1, _sha256(last) if last else START
        line = json.dumps({"number": number, "previous": previous, **fields}, ensure_ascii=False).encode()
        if len(line) >= LINE_BYTES_MAX:
            raise ValueError(f"a line of the log has {len(line)} bytes; the limit is {LINE_BYTES_MAX}")
        rest = memoryview(line + b"\n")
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(path.parent)
    return _sha256(line)


def read_lines(path: Path) -> Iterator[ChainedEntry]:
    """Yield the lines that are JSON objects, whether their chain holds or not; none if there is no file."""
    for line in _lines(path):
        with contextlib.suppress(ValueError):
            fields = json.loads(line)
            if isinstance(fields, dict):
                number = fields.get("number")
                yield ChainedEntry(number if isinstance(number, int) else 0, _sha256(line), fields)


def verify_chain(path: Path, noted_hash: str = "") -> ChainVerdict:
    """Check that each line contains the hash of the line before; `noted_hash` is a hash that the chain must contain."""
    problems, previous, number, hashes = [], START, 0, {START}
    for number, line in enumerate(_lines(path), 1):
        problems += [f"line {number}: {problem}" for problem in _problems(line, number, previous)]
        previous = _sha256(line)
        hashes.add(previous)
    if noted_hash and noted_hash.lower() not in hashes:
        problems.append(f"no line has the hash {noted_hash}: lines were removed or changed since it was noted")
    return ChainVerdict(number, previous, tuple(problems))


def _problems(line: bytes, number: int, previous: str) -> Iterator[str]:
    try:
        fields = json.loads(line)
    except ValueError:
        yield "is not JSON"
        return
    if not isinstance(fields, dict):
        yield "is not a JSON object"
    elif fields.get("previous") != previous:
        yield "does not continue the line before: a line was changed, removed or inserted"
    elif fields.get("number") != number:
        yield f"has the number {fields.get('number')}"


def _lines(path: Path) -> Iterator[bytes]:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        while line := file.readline(LINE_BYTES_MAX + 1):
            yield line.rstrip(b"\n")


def _complete_bytes(fd: int) -> int:
    """Return the size of the file without a last line that has no newline."""
    end = os.fstat(fd).st_size
    while end:
        begin = max(0, end - _BLOCK)
        newline = os.pread(fd, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return 0


def _number_of(line: bytes) -> int:
    """Return the number of a line; 0 = none: the next line continues the chain, and `verify_chain` reports it."""
    try:
        return int(json.loads(line)["number"])
    except (ValueError, KeyError, TypeError):
        return 0


def _sha256(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


FILE_NAME = "accountability.jsonl"
Action = Literal[
    "key accepted",
    "key retired",
    "key rejected",
    "site revoked",
    "site restored",
    "consent recorded",
    "consent withdrawn",
    "records erased",
    "records purged",
]
SUBJECTS_MAX = 1000
"""Largest number of records in one entry; more records make several entries."""


@dataclass(frozen=True)
class DecisionEntry:
    """One entry of the log."""

    number: int
    at: str
    actor: str
    """User and machine; or `collect`, if the program decided by a rule, as for the first key of a new site."""
    action: str
    subjects: tuple[str, ...]
    """A site, or records as SITE/PREDICTION_ID."""
    details: Mapping[str, Any]
    sha256: str


def record(folder: Path, action: Action, subjects: Iterable[str], *, actor: str = "", **details: Any) -> str:
    """Add an entry, or several for many subjects, and return the hash of the last line; durable on return. Raises
    OSError."""
    names, last_hash = list(subjects), START
    shared = {"at": format_timestamp(time.time()), "actor": actor or current_actor(), "action": action}
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, max(1, len(names)), SUBJECTS_MAX):
        part = names[start : start + SUBJECTS_MAX]
        fields = {**shared, "count": len(part), "subjects": part, "details": details}
        last_hash = append_line(folder / FILE_NAME, fields)
    return last_hash


def current_actor() -> str:
    """Return user and machine; under sudo, the user who ran sudo."""
    return f"{user_name()}@{socket.gethostname()}"


def entries(folder: Path) -> list[DecisionEntry]:
    """Return the entries, the oldest first; lines of another form are left out."""
    decisions = []
    for line in read_lines(folder / FILE_NAME):
        fields = line.fields
        subjects = fields.get("subjects")
        texts = [fields.get(key) for key in ("at", "actor", "action")]
        if isinstance(subjects, list) and all(isinstance(text, str) for text in texts):
            at, actor, action = map(str, texts)
            details = fields.get("details")
            if not isinstance(details, dict):
                details = {}
            entry = DecisionEntry(line.number, at, actor, action, tuple(map(str, subjects)), details, line.sha256)
            decisions.append(entry)
    return decisions


def consents(folder: Path) -> frozenset[str]:
    """Return the records, as SITE/PREDICTION_ID, whose consent is recorded and not withdrawn."""
    consented: set[str] = set()
    for entry in entries(folder):
        if entry.action == "consent recorded":
            consented.update(entry.subjects)
        elif entry.action in ("consent withdrawn", "records erased"):
            consented.difference_update(entry.subjects)
    return frozenset(consented)
