"""`wants.json`: the blobs that serve asks its mirror for. Unsigned: who can write it can only make a mirror fetch.

It is written again whenever it changes. Order is urgency. A mirror fetches each blob from `blobs/<sha256>` of the
repository into `incoming/blobs/<sha256>`. A blob stays wanted until serve has it in its own store, so also while it
lies in `incoming/`; one that is not wanted any more a mirror deletes there. It cannot check signatures, so serve tells
it how far the roots are known, and when what it brought was not trusted.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edge_agent.errors import DocumentInvalid
from edge_agent.formats import strict_json
from edge_agent.formats.manifest import Sha256
from edge_agent.formats.signed_document import At, ExchangedModel

SCHEMA = "edge-agent/wants/v1"
FILE_NAME = "wants.json"
DOWNLOAD_REQUESTS_BYTES_MAX = 1024 * 1024
BLOBS_MAX = 4096


class DownloadRequest(ExchangedModel):
    """One blob."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0, le=2**62)]


class DownloadRequests(ExchangedModel):
    """All of them."""

    schema_: Literal["edge-agent/wants/v1"] = Field(default="edge-agent/wants/v1", alias="schema")
    at: At
    """By the site's clock, which may be wrong."""
    blobs: tuple[DownloadRequest, ...] = Field(default=(), max_length=BLOBS_MAX)
    bytes_per_second_max: int | None = Field(default=None, ge=1000, le=10**10)
    """What the plan allows; None = no cap of its own."""
    root_version: int | None = Field(default=None, ge=1, le=2**31)
    """Of the newest root that serve trusts: the mirror asks for those after it. None = the mirror's own count."""
    again: bool = False
    """What lies in `incoming/metadata` does not verify: the mirror fetches all of it again, at most once an hour."""


def encode(wants: DownloadRequests) -> bytes:
    """Write the file."""
    return wants.model_dump_json(by_alias=True, indent=1).encode() + b"\n"


def parse(raw: bytes) -> DownloadRequests:
    """Read the file.

    Raises:
        DocumentInvalid: too large, not JSON, or a rule is broken.
    """
    if len(raw) > DOWNLOAD_REQUESTS_BYTES_MAX:
        raise DocumentInvalid(f"{FILE_NAME} has {len(raw)} bytes; the limit is {DOWNLOAD_REQUESTS_BYTES_MAX}")
    try:
        return strict_json.validate(DownloadRequests, strict_json.decode(raw))
    except ValueError as error:
        raise DocumentInvalid(f"{FILE_NAME}: {strict_json.first_problem(error, show=True)}") from None
