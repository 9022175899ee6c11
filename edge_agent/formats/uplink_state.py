"""`uplink.json`: the state of the uplink for other programs on the machine, unsigned, for status and for routing.

It is written again when something changes and at least every 60 s. Readers use it only while it is fresh; afterwards,
and without it, the upstream counts as offline. The clock of `running_seconds` is CLOCK_BOOTTIME (clock_gettime(2)),
which all processes of one boot share, and which cannot be set.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edge_agent.errors import DocumentInvalid
from edge_agent.formats import strict_json
from edge_agent.formats.signed_document import At, ExchangedModel

SCHEMA = "edge-agent/uplink/v1"
FILE_NAME = "uplink.json"
STATE_BYTES_MAX = 256 * 1024
REFRESH_SECONDS = 60.0
FRESH_SECONDS = 3 * REFRESH_SECONDS


class UplinkStateProblem(ExchangedModel):
    """Something that keeps the uplink from doing its work."""

    reason: str = Field(max_length=64)
    message: str = Field(max_length=1000)
    remedy: str = Field(default="", max_length=1000)
    about: str = Field(default="", max_length=200)
    """Name of the segment, or of the file of an update; empty = all."""


class DownloadProgress(ExchangedModel):
    """The progress of downloads."""

    repository: str = Field(max_length=500)
    """The address of the repository, without secrets."""
    state: Literal["online", "offline", "probing"]
    since: At
    retry_at: At | None = None
    """The time of the next try; None = at once."""
    refreshed_at: At | None = None
    """When all metadata was last found to be complete here; None = not since this uplink started."""
    waiting_blobs: int = Field(ge=0)
    waiting_bytes: int = Field(ge=0)
    fetched_blobs: int = Field(ge=0)
    """Since this uplink started."""
    fetched_bytes: int = Field(ge=0)
    """Metadata included."""


class UplinkState(ExchangedModel):
    """The known state of the upstream, and the segments that wait for it."""

    schema_: Literal["edge-agent/uplink/v1"] = Field(default="edge-agent/uplink/v1", alias="schema")
    pid: int
    version: str = Field(max_length=64)
    upstream: str = Field(max_length=500)
    """The address to which examples go, without secrets."""
    at: At
    """When this was written, by a clock that may be wrong."""
    running_seconds: float
    """The same time by CLOCK_BOOTTIME."""
    state: Literal["online", "offline", "probing"]
    """Of the object store for examples; without one, of the repository of updates."""
    since: At
    last_contact: At | None = None
    retry_at: At | None = None
    """The time of the next try; None = at once."""
    failures: int = Field(ge=0)
    """In a row."""
    waiting_segments: int = Field(ge=0)
    waiting_bytes: int = Field(ge=0)
    sent_segments: int = Field(ge=0)
    """Since this uplink started."""
    sent_bytes: int = Field(ge=0)
    downloads: DownloadProgress | None = None
    """None = this uplink brings no updates."""
    problems: tuple[UplinkStateProblem, ...] = Field(default=(), max_length=100)


def encode(state: UplinkState) -> bytes:
    """Write the file."""
    return state.model_dump_json(by_alias=True, indent=1).encode() + b"\n"


def parse(raw: bytes) -> UplinkState:
    """Read the file.

    Raises:
        DocumentInvalid: too large, not JSON, or a rule is broken.
    """
    if len(raw) > STATE_BYTES_MAX:
        raise DocumentInvalid(f"{FILE_NAME} has {len(raw)} bytes; the limit is {STATE_BYTES_MAX}")
    try:
        return strict_json.validate(UplinkState, strict_json.decode(raw))
    except ValueError as error:
        raise DocumentInvalid(f"{FILE_NAME}: {strict_json.first_problem(error, show=True)}") from None
