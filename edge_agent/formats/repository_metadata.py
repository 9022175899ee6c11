"""The metadata of a repository as a mirror reads it, and `wants.json`, the daemon's requests to the mirror.

The metadata is that of The Update Framework (TUF 1.0.34, sections 4.4 to 4.6) with consistent snapshots. A mirror has
no keys: the metadata that it reads is untrusted, and the site verifies all of it again. So only version numbers,
lengths and hashes are read, each within a limit, and files that are too large are not read at all.

    metadata/timestamp.json -> <n>.snapshot.json -> <n>.targets.json, <n>.plan.json -> blobs/<sha256> of the plan
    metadata/<n>.root.json

`wants.json` is unsigned, because with it one can only make a mirror download. It is written again whenever it changes,
the most urgent blob first. A mirror fetches each blob from `blobs/<sha256>` of the repository into
`incoming/blobs/<sha256>`. A blob stays requested until the daemon has it in its own store, so also while it lies in
`incoming/`; the mirror deletes a blob there that is no longer requested. The mirror cannot check signatures, so the
daemon tells it the newest trusted root, and whether the metadata that it brought was not trusted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field

from edge_agent.errors import DocumentInvalid
from edge_agent.formats import plan, strict_json
from edge_agent.formats.manifest import Sha256
from edge_agent.formats.signed_document import At, ExchangedModel

ISSUED_AT = "x-edge-agent-issued-at"
"""Signed in every metadata file, RFC 3339: the only time that a site stores."""
TIMESTAMP = "timestamp.json"
TIMESTAMP_BYTES_MAX = 16 * 1024
SNAPSHOT_BYTES_MAX = 64 * 1024
TARGETS_BYTES_MAX = 5_000_000
PLAN_ROLE_BYTES_MAX = 64 * 1024
ROOT_BYTES_MAX = 512_000
ROOTS_MAX = 1024
"""Roots of one repository; about one a year is usual."""

_Number = Annotated[int, Field(ge=1, le=2**31)]


@dataclass(frozen=True)
class MetadataFile:
    """A file that metadata names, with the limit, length and hash that apply to it."""

    name: str
    bytes_max: int
    length: int | None = None
    sha256: str = ""
    """Empty = not known."""
    folder: Literal["metadata", "blobs"] = "metadata"

    @property
    def key(self) -> str:
        """Its name in the repository."""
        return f"{self.folder}/{self.name}"

    def is_this(self, raw: bytes) -> bool:
        """Tell whether a content fits the limit, and the length and hash if they are known."""
        length_fits = len(raw) <= self.bytes_max and self.length in (None, len(raw))
        return length_fits and self.sha256 in ("", hashlib.sha256(raw).hexdigest())


@dataclass(frozen=True)
class MetadataSet:
    """Metadata that belongs together, with the blob of its plan."""

    timestamp: bytes
    metadata: Mapping[str, bytes]
    """By name below metadata/, without the timestamp."""
    plan_sha256: str = ""
    """Empty = it has no plan."""
    plan: bytes = b""


class _Hashes(ExchangedModel):
    sha256: Sha256 | None = None


class _Entry(ExchangedModel):
    version: _Number
    length: Annotated[int, Field(ge=0)] | None = None
    hashes: _Hashes = _Hashes()


class _TargetHashes(ExchangedModel):
    sha256: Sha256


class _Target(ExchangedModel):
    length: Annotated[int, Field(ge=0, le=plan.PLAN_BYTES_MAX)]
    hashes: _TargetHashes


class _Root(ExchangedModel):
    type_: Literal["root"] = Field(alias="_type")
    version: _Number


class _TimestampMeta(ExchangedModel):
    snapshot: _Entry = Field(alias="snapshot.json")


class _Timestamp(ExchangedModel):
    type_: Literal["timestamp"] = Field(alias="_type")
    meta: _TimestampMeta


class _SnapshotMeta(ExchangedModel):
    targets: _Entry = Field(alias="targets.json")
    plan: _Entry | None = Field(default=None, alias="plan.json")


class _Snapshot(ExchangedModel):
    type_: Literal["snapshot"] = Field(alias="_type")
    meta: _SnapshotMeta


class _PlanTargets(ExchangedModel):
    plan: _Target | None = Field(default=None, alias="plan.json")


class _Targets(ExchangedModel):
    type_: Literal["targets"] = Field(alias="_type")
    targets: _PlanTargets


_Model = TypeVar("_Model", bound=ExchangedModel)


class _File(ExchangedModel, Generic[_Model]):
    signed: _Model


def root_name(version: int) -> str:
    """Return the name of a root below metadata/."""
    return f"{version}.root.json"


def root_version(name: str) -> int:
    """Return the version in the name of a root; 0 = it is not the name of a root."""
    number, _, rest = name.partition(".")
    return int(number) if rest == "root.json" and number.isdecimal() and len(number) <= len(str(2**31)) else 0


def check_root(raw: bytes, version: int) -> None:
    """Check that a file is a root of that version, without its signatures.

    Raises:
        DocumentInvalid: it is not a root, or has another version.
    """
    declared = _read(_File[_Root], raw, root_name(version)).signed.version
    if declared != version:
        raise DocumentInvalid(f"{root_name(version)} says that it is version {declared}")


def follow_metadata(timestamp: bytes) -> Generator[MetadataFile, bytes, MetadataSet]:
    """Yield one after the other the files to which a timestamp leads; the caller sends the content of each.

    Raises:
        DocumentInvalid: a content is not what it should be.
    """
    entry = _read(_File[_Timestamp], timestamp, TIMESTAMP).signed.meta.snapshot
    snapshot = _metadata_file(entry, "snapshot", SNAPSHOT_BYTES_MAX)
    metadata = {snapshot.name: (yield snapshot)}
    roles = _read(_File[_Snapshot], metadata[snapshot.name], snapshot.name).signed.meta
    targets = _metadata_file(roles.targets, "targets", TARGETS_BYTES_MAX)
    metadata[targets.name] = yield targets
    if roles.plan is None:
        return MetadataSet(timestamp, metadata)
    role = _metadata_file(roles.plan, "plan", PLAN_ROLE_BYTES_MAX)
    metadata[role.name] = yield role
    target = _read(_File[_Targets], metadata[role.name], role.name).signed.targets.plan
    if target is None:
        return MetadataSet(timestamp, metadata)
    blob = MetadataFile(target.hashes.sha256, plan.PLAN_BYTES_MAX, target.length, target.hashes.sha256, "blobs")
    return MetadataSet(timestamp, metadata, blob.sha256, (yield blob))


def _metadata_file(entry: _Entry, role: str, bytes_max: int) -> MetadataFile:
    return MetadataFile(f"{entry.version}.{role}.json", bytes_max, entry.length, entry.hashes.sha256 or "")


def _read(model: type[_Model], raw: bytes, name: str) -> _Model:
    try:
        return strict_json.validate(model, strict_json.decode(raw))
    except ValueError as error:
        raise DocumentInvalid(f"{name}: {strict_json.first_problem(error, show=True)}") from None


SCHEMA = "edge-agent/wants/v1"
FILE_NAME = "wants.json"
DOWNLOAD_REQUESTS_BYTES_MAX = 1024 * 1024
BLOBS_MAX = 4096


class DownloadRequest(ExchangedModel):
    """A requested blob."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0, le=2**62)]


class DownloadRequests(ExchangedModel):
    """`wants.json`."""

    schema_: Literal["edge-agent/wants/v1"] = Field(default="edge-agent/wants/v1", alias="schema")
    at: At
    """By the site's clock, which may be wrong."""
    blobs: tuple[DownloadRequest, ...] = Field(default=(), max_length=BLOBS_MAX)
    bytes_per_second_max: int | None = Field(default=None, ge=1000, le=10**10)
    """The plan's cap; None = it has none."""
    root_version: int | None = Field(default=None, ge=1, le=2**31)
    """The newest root that the daemon trusts: the mirror fetches those after it. None = by the mirror's own count."""
    again: bool = False
    """The metadata in `incoming/metadata` does not verify: the mirror fetches all of it again, at most once an hour."""


def encode(requests: DownloadRequests) -> bytes:
    """Write the file."""
    return requests.model_dump_json(by_alias=True, indent=1).encode() + b"\n"


def parse(raw: bytes) -> DownloadRequests:
    """Read the file.

    Raises:
        DocumentInvalid: too large, not JSON, or a rule is broken.
    """
    if len(raw) > DOWNLOAD_REQUESTS_BYTES_MAX:
        raise DocumentInvalid(f"{FILE_NAME} has {len(raw)} bytes; the limit is {DOWNLOAD_REQUESTS_BYTES_MAX}")
    return _read(DownloadRequests, raw, FILE_NAME)
