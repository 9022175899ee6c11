"""The report of one run of collect, as data and as JSON. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from convert.collect.example_files import TaskExampleCounts
from convert.collect.segment_chain import ChainBreak, SequenceGap
from convert.collect.segment_intake import RefusedDocument


@dataclass(frozen=True)
class PendingKey:
    """A site's key that the central team must accept or reject."""

    site: str
    key: str
    documents: int
    """Segments and status objects that it had signed in this run."""


@dataclass
class CollectReport:
    """The results of a run. At the end of the run every list is sorted."""

    segments_taken: int = 0
    records_taken: int = 0
    segments_held: int = 0
    """Stored in this run or before."""
    records_erased: int = 0
    concerned: list[dict[str, Any]] = field(default_factory=list)
    """Datasets and bundles that have records which this run erased (convert/dataset/lineage.py)."""
    sites: int = 0
    pinned: dict[str, str] = field(default_factory=dict)
    """Sites seen for the first time, with the key that is trusted from now on."""
    waiting: list[PendingKey] = field(default_factory=list)
    """Keys without a decision."""
    revoked: list[str] = field(default_factory=list)
    """Revoked sites that have data in a source or in the collection."""
    refused: list[RefusedDocument] = field(default_factory=list)
    replaced: list[RefusedDocument] = field(default_factory=list)
    """Refused, but their records came again in a later segment."""
    gaps: list[SequenceGap] = field(default_factory=list)
    breaks: list[ChainBreak] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    """Reads and writes that failed in this run; the next run tries again."""
    tasks: list[TaskExampleCounts] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing was refused and nothing failed. Gaps do not count: missing segments can still arrive."""
        return not (self.refused or self.breaks or self.troubles)

    def plain(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {"schema": "edge-agent/collected/v1", **asdict(self)}
