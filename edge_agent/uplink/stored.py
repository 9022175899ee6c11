"""What an upstream says of an object. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


@dataclass(frozen=True)
class Stored:
    """An object as the upstream describes it."""

    size: int
    """Bytes."""
    tag: str = ""
    """Changes with the content; empty = the store gives none."""
    sha256: str = ""
    """Of the content, where the place was read to the end."""
    md5: str = ""
    """Likewise, as the store says."""

    def tells(self, content: bytes) -> bool | None:
        """Tell whether it is this content; None = what is known does not say."""
        if self.size != len(content):
            return False
        if self.sha256:
            return self.sha256 == hashlib.sha256(content).hexdigest()
        # Another MD5 proves nothing: a store that encrypts gives the hash of something else.
        return True if self.md5 and self.md5 == md5_of(content) else None


@dataclass(frozen=True)
class Fetched:
    """An object's content and its tag."""

    content: bytes
    tag: str = ""
    same: bool = False
    """It is still the one that was had before; the content does not come again."""


@dataclass(frozen=True)
class Part:
    """Bytes of an object."""

    start: int
    count: int
    size: int
    """Bytes that all of the object has."""


def md5_in(tag: str) -> str:
    """Return the MD5 that an entity tag is made of; empty = none."""
    found = _MD5.fullmatch(tag)
    return found[1] if found else ""


def md5_of(content: bytes) -> str:
    """Return the hash by which stores name content; it protects against accidents only."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
