"""The status object: what a site says of itself to the centre, signed by the site's key.

It names the highest sequence of each epoch, so that the centre knows of segments that did not come without listing
anything. Counters are totals of the epoch and never go down within it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field

from edge_agent.formats import document
from edge_agent.formats.document import At, Epoch, Exchanged, Signed, SiteId
from edge_agent.formats.example import Consent
from edge_agent.formats.manifest import Kind, Sha256, TaskName, Version

SCHEMA = "edge-agent/status/v1"
FILE_NAME = "status.json"
Count = Annotated[int, Field(ge=0, le=2**62)]


class TaskStatus(Exchanged):
    """One task of the site."""

    task: TaskName
    kind: Kind
    version: Version
    digest: Sha256
    ready: bool
    collect: Consent


class SiteStatus(Exchanged):
    """The heartbeat of a site."""

    schema_: Literal["edge-agent/status/v1"] = Field(default="edge-agent/status/v1", alias="schema")
    site: SiteId
    at: At
    """By the site's clock, which may be wrong."""
    agent_version: str = Field(max_length=64)
    epoch: Epoch
    """The epoch in which the site seals now."""
    highest: dict[Epoch, int] = Field(default_factory=dict, max_length=1000)
    """Highest sequence sealed, by epoch; 0 = none yet."""
    missing: dict[Epoch, tuple[document.SequenceNumber, ...]] = Field(default_factory=dict, max_length=1000)
    """Segments that were sealed and lost or damaged on the site before a receipt came; do not wait for them."""
    counters: dict[str, Count] = Field(default_factory=dict, max_length=200)
    retained_bytes: Count = 0
    """Bytes of examples that the site holds, sealed or not."""
    tasks: tuple[TaskStatus, ...] = Field(default=(), max_length=1000)


def verify(raw: bytes, keys: Collection[str] | None) -> Signed[SiteStatus]:
    """Read a status object and check its signature; `keys` as in `document.verify`.

    Raises:
        DocumentInvalid: no status object.
        SignatureInvalid: not signed by one of the keys, or changed afterwards.
    """
    return document.verify(raw, SiteStatus, FILE_NAME, keys)
