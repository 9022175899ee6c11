"""The paths in a repository, and the fields of its metadata beyond The Update Framework.

    metadata/1.root.json, 2.root.json …   N.targets.json   N.plan.json   N.snapshot.json   timestamp.json
    blobs/<sha256>                        manifests of bundles, their files, plans

It is the same in an object store, in a folder and on a USB drive. `root` and `targets` are signed by keys that stay
offline. `targets` names each bundle as the target `bundles/<task>/<digest>`, whose sha256 is the bundle's digest: the
target is the manifest, which names the bundle's files in turn. It delegates only `plan.json`, to the role `plan` with a
key of its own. `snapshot` and `timestamp` are signed by the online key.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from edge_agent.errors import UpdateUntrusted
from edge_agent.formats.repository_metadata import ISSUED_AT
from edge_agent.formats.signed_document import format_timestamp

ROOT, TARGETS, PLAN, SNAPSHOT, TIMESTAMP = "root", "targets", "plan", "snapshot", "timestamp"
ONLINE = "online"
"""The role name of the key that signs snapshot and timestamp."""
METADATA, BLOBS = "metadata", "blobs"
TIMESTAMP_PATH = f"{METADATA}/timestamp.json"
REVOKED = "x-edge-agent-revoked"
"""Signed in `targets`: the digests of bundles that were signed and then revoked. Sites do not read it."""
KEY_NAME = "x-edge-agent-name"
"""In a public key: its name. Signed with the metadata that list the key."""
DAYS = {ROOT: 365, TARGETS: 365, PLAN: 365, SNAPSHOT: 365, TIMESTAMP: 30}
"""How long new signatures are valid. Only the timestamp must be renewed often: it covers all other metadata."""
METADATA_BYTES_MAX = {
    ROOT: 512 * 1024,
    TARGETS: 5 * 1024 * 1024,
    PLAN: 5 * 1024 * 1024,
    SNAPSHOT: 2 * 1024 * 1024,
    TIMESTAMP: 16 * 1024,
}
"""Size limits of a site, the defaults of tuf's client."""
_WRITER = JSONSerializer(compact=True)
Kind = TypeVar("Kind", Root, Targets, Snapshot, Timestamp)


def path_of(role: str, version: int) -> str:
    """Return the path of a version of a role's metadata."""
    return TIMESTAMP_PATH if role == TIMESTAMP else f"{METADATA}/{version}.{role}.json"


def blob_path(sha256: str) -> str:
    """Return the path of a blob."""
    return f"{BLOBS}/{sha256}"


def target_of(task: str, digest: str) -> str:
    """Return the name of a bundle's target."""
    return f"bundles/{task}/{digest}"


def encode(metadata: Metadata[Any]) -> bytes:
    """Write a metadata file."""
    return metadata.to_bytes(_WRITER)


def decode(kind: type[Kind], raw: bytes, what: str) -> Metadata[Kind]:
    """Read a metadata file; checks no signature.

    Raises:
        UpdateUntrusted: not metadata of that kind.
    """
    try:
        metadata: Metadata[Kind] = Metadata.from_bytes(raw)
    except (DeserializationError, RecursionError) as error:
        raise UpdateUntrusted(f"{what} is not a metadata file: {error}") from None
    if not isinstance(metadata.signed, kind):
        raise UpdateUntrusted(f"{what} is metadata of another role: {metadata.signed.type}")
    return metadata


def check_root(raw: bytes, what: str) -> None:
    """Check that metadata are a root of trust. Raises UpdateUntrusted."""
    decode(Root, raw, what)


def issue(signed: Signed, version: int, now: float, days: float) -> None:
    """Set the version, time of issue and expiry of metadata."""
    signed.version = version
    signed.expires = datetime.fromtimestamp(now, UTC).replace(microsecond=0) + timedelta(days=days)
    signed.unrecognized_fields[ISSUED_AT] = format_timestamp(now)


def revoked_digests(targets: Targets) -> list[str]:
    """Return the digests of the bundles that were revoked."""
    return list(targets.unrecognized_fields.get(REVOKED, ()))


def meta_file(metadata: Metadata[Any], raw: bytes) -> MetaFile:
    """Return the entry of a metadata file in another role: version, length and sha256."""
    return MetaFile.from_data(metadata.signed.version, raw, ["sha256"])
