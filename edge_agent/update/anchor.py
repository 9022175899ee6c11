"""A root of trust as people hand it over: what it says of itself, and whether two belong to one fleet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from edge_agent.update import chain


@dataclass(frozen=True)
class Anchor:
    """What people are told of it."""

    version: int
    expires: datetime
    keys: int
    threshold: int
    """How many of the keys sign the next root."""


def anchor_of(raw: bytes) -> Anchor:
    """Read a root that is signed by itself. Raises ValueError, with a sentence."""
    root = chain.root_of(raw).signed
    role = root.roles["root"]
    return Anchor(root.version, root.expires, len(role.keyids), role.threshold)


def same_fleet(ours: bytes, theirs: bytes) -> bool:
    """Tell whether two roots are the same, or one is signed by the keys of the other. Raises ValueError."""
    one, other = chain.root_of(ours), chain.root_of(theirs)
    return one.signed == other.signed or _signs(one, other) or _signs(other, one)


def _signs(one: Metadata[Root], other: Metadata[Root]) -> bool:
    try:
        one.verify_delegate("root", other)
    except RepositoryError:
        return False
    return True
