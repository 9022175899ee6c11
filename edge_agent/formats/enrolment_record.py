"""`enrolment.json`: by which enrolment file a box became a site, and which files that wrote. It holds no secrets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edge_agent.errors import DocumentInvalid
from edge_agent.formats import strict_json
from edge_agent.formats.manifest import Sha256
from edge_agent.formats.signed_document import At, ExchangedModel, SiteId

FILE_NAME = "enrolment.json"
ENROLMENT_BYTES_MAX = 256 * 1024
Secrecy = Literal["none", "encrypted", "plain"]
"""How the uplink's credentials lie on the disk."""


class SiteEnrolment(ExchangedModel):
    """What is remembered."""

    schema_: Literal["edge-agent/enrolment/v1"] = Field(default="edge-agent/enrolment/v1", alias="schema")
    site: SiteId
    kit_sha256: Sha256
    issued_at: At
    expires_at: At
    enrolled_at: At
    """By this machine's clock."""
    secrecy: Secrecy
    files: dict[Annotated[str, Field(max_length=1000)], Sha256] = Field(max_length=100)
    """By path: what a purge removes, with this file."""


def encode(enrolment: SiteEnrolment) -> bytes:
    """Write the file."""
    return enrolment.model_dump_json(by_alias=True, indent=1).encode() + b"\n"


def parse(raw: bytes) -> SiteEnrolment:
    """Read the file. Raises DocumentInvalid."""
    try:
        return strict_json.validate(SiteEnrolment, strict_json.decode(raw))
    except ValueError as error:
        raise DocumentInvalid(f"{FILE_NAME}: {strict_json.first_problem(error, show=True)}") from None
