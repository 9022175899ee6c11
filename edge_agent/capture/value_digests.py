"""Keyed digests of replaced values: by them a site finds the records of a person without keeping what identifies one.

A digest is the start of HMAC-SHA-256 (RFC 2104) under a key that never leaves the site, so nobody without the key can
try values. A value has up to three forms, each with a digest, so that it is found as people write it:

- its letters and digits, without case, blanks and punctuation: "DE89 3704 0044" is "de8937040044";
- words in any order: "Müller, Anna" is "Anna Müller";
- the last nine digits of a number of nine or more: "+49 171 1234567" is "0171 1234567".
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from edge_agent.durable.atomic_files import disk_errors, write_durably
from edge_agent.errors import StoreDamaged

DIGEST_BYTES = 16
KEY_BYTES = 32
VALUE_CHARS_MAX = 1000
"""Longest value that can be searched for."""
_TAIL_DIGITS = 9
_SEARCH_CHARS_MIN = 3
_BEGIN, _BETWEEN, _END = r"(?<!\w)", r"[\W_]{0,3}", r"(?!\w)"


def forms_of(value: str) -> frozenset[str]:
    """Return the forms by which a value is found; empty for a value without letters and digits."""
    words = ["".join(filter(str.isalnum, word)) for word in re.split(r"[\s,;]+", fold(value))]
    words = [word for word in words if word]
    compact = "".join(words)
    if not compact:
        return frozenset()
    found = {f"whole:{compact}"}
    if len(words) > 1 and any(char.isalpha() for char in compact):
        found.add(f"words:{' '.join(sorted(words))}")
    if compact.isdecimal() and len(compact) >= _TAIL_DIGITS:
        found.add(f"tail:{compact[-_TAIL_DIGITS:]}")
    return frozenset(found)


def text_pattern(value: str) -> re.Pattern[str] | None:
    """Return a pattern that finds a value where it stands in a folded text, however it is spaced; None = too short.

    It finds what no rule replaced. A match begins and ends at the border of a word.
    """
    compact = "".join(filter(str.isalnum, fold(value)))
    if len(compact) < _SEARCH_CHARS_MIN:
        return None
    return re.compile(f"{_BEGIN}{_BETWEEN.join(map(re.escape, compact))}{_END}")


def fold(text: str) -> str:
    """Return a text without differences of case, of compatibility forms (NFKC) and of the script of its digits."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if folded.isascii():
        return folded
    return "".join(str(int(char)) if char.isdecimal() else char for char in folded)


class ValueDigester:
    """Makes digests with the key of one site."""

    def __init__(self, key: bytes) -> None:
        """Use a key of KEY_BYTES."""
        self._key = key

    def digests(self, values: Iterable[str]) -> frozenset[bytes]:
        """Return the digests of all forms of some values, each of DIGEST_BYTES."""
        return frozenset(
            hmac.digest(self._key, form.encode("utf-8", "surrogatepass"), hashlib.sha256)[:DIGEST_BYTES]
            for value in values
            for form in forms_of(value)
        )


def load_digest_key(path: Path) -> bytes:
    """Read the key; make it, with 0600, if there is none.

    Raises:
        StoreDamaged: the file holds no such key. It is left alone: stored digests need the key that was in it.
        StateDirUnwritable, DiskFull: it cannot be read, or a new one cannot be written.
    """
    with disk_errors(path):
        key = path.read_bytes() if path.exists() else b""
    if not key:
        key = secrets.token_bytes(KEY_BYTES)
        write_durably(path, key)
    if len(key) != KEY_BYTES:
        said = f"{path} has {len(key)} bytes; the key of the value digests has {KEY_BYTES}"
        raise StoreDamaged(said, remedy=f"Restore {path.name} from a backup, or move it away: then 'edge-agent erase"
                           " --value -' finds only what is kept from then on.", path=path)  # fmt: skip
    return key
