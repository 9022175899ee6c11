"""Owners and modes of files: who may do what, by the rules of the kernel without its privileges. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

READ, WRITE, ENTER = 4, 2, 1


@dataclass(frozen=True)
class Person:
    """A user of the system, with all groups."""

    name: str
    uid: int
    gids: frozenset[int]


@dataclass(frozen=True)
class File:
    """What stat(2) says of a path."""

    path: str
    kind: str
    """file, folder, socket, other, or empty = there is none."""
    uid: int = 0
    gid: int = 0
    mode: int = 0
    owner: str = ""
    group: str = ""
    changed: float = 0.0
    """Seconds since 1970."""
    size: int = 0

    @property
    def shown(self) -> str:
        """Write owner and mode as `ls` and `install` name them."""
        return f"{self.owner}:{self.group} {self.mode:04o}"


def may(person: Person, file: File, wish: int) -> bool:
    """Tell whether a user may read, write or enter (bits, as in a mode) one path; those above it are not looked at."""
    if person.uid == 0:
        return True
    if person.uid == file.uid:
        granted = file.mode >> 6
    elif file.gid in person.gids:
        granted = file.mode >> 3
    else:
        granted = file.mode
    return granted & wish == wish


def may_reach(person: Person, above: Iterable[File], file: File, wish: int) -> bool:
    """Likewise, with the folders above it."""
    return all(may(person, folder, ENTER) for folder in above) and may(person, file, wish)
