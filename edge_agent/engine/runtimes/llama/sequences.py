"""What has a sequence of the context: prompts that jobs share, and jobs. `cache.py` owns them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Prompt:
    """What a bundle's jobs begin with, and what else their keys and values depend on."""

    tokens: tuple[int, ...]
    adapter: str
    """Its hash; empty for the bare weights."""
    exact: bool
    """Scores stand on it: it is computed in batches of fewer than 64 rows, and never taken from others."""

    @property
    def root(self) -> Hashable:
        """Under which prefixes like this one are kept."""
        return self.adapter, self.exact


@dataclass(eq=False)
class Resident:
    """A prefix in the buffer."""

    prompt: Prompt
    sequence: int
    cells: list[int]
    jobs: int = 0


@dataclass(eq=False)
class Place:
    """A job's sequence."""

    prompt: Prompt
    sequence: int
    resident: Resident | None = None
    """Whose cells hold the prompt; without one the job has a prompt of its own."""
    cells: list[int] = field(default_factory=list)
    """Of the tokens behind the resident's, in their order."""
    packed: int = 0
    """So many of these, from the first on, lie side by side; the others among those of other streams."""
    reserved: int = 0
    """The most cells that it may come to need."""
    lost: bool = False
    """It was written out, and could not be written in again."""

    @property
    def shared(self) -> int:
        """How many tokens it has in the resident's cells."""
        return len(self.resident.cells) if self.resident else 0

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return self.shared + len(self.cells)

    @property
    def last(self) -> int:
        """The highest cell; -1 without any."""
        own = self.cells[-1] if self.cells else -1
        return max(own, self.resident.cells[-1]) if self.resident else own


class Writers(NamedTuple):
    """Places that get one token each, step after step; no score comes of them."""

    places: Sequence[Place]
    sequences: Sequence[int]
