"""What one run of collect did and found, as data and as JSON. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from convert.collect.example_files import TaskExampleCounts
from convert.collect.segment_chain import ChainBreak, SequenceGap
from convert.collect.segment_intake import RefusedDocument


@dataclass(frozen=True)
class PendingKey:
    """A key of a site that somebody has to accept or reject."""

    site: str
    key: str
    documents: int
    """Segments and status objects that it had signed in this run."""


@dataclass
class CollectReport:
    """What happened. Every list is in a fixed order when the run is over."""

    segments_taken: int = 0
    records_taken: int = 0
    segments_held: int = 0
    """Taken in this run or before."""
    records_erased: int = 0
    sites: int = 0
    pinned: dict[str, str] = field(default_factory=dict)
    """Sites seen for the first time: the key that binds from now on."""
    waiting: list[PendingKey] = field(default_factory=list)
    """Keys that nobody has decided about."""
    revoked: list[str] = field(default_factory=list)
    """Sites of which something is here or there, and that are left alone."""
    refused: list[RefusedDocument] = field(default_factory=list)
    replaced: list[RefusedDocument] = field(default_factory=list)
    """Refused, but their records came again in a later segment."""
    gaps: list[SequenceGap] = field(default_factory=list)
    breaks: list[ChainBreak] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    """What could not be read or written in this run; it may be possible in the next."""
    tasks: list[TaskExampleCounts] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing was refused and nothing failed. Gaps are no fault of this run: what is missing may be on its way."""
        return not (self.refused or self.breaks or self.troubles)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"schema": "edge-agent/collected/v1", **asdict(self)}
