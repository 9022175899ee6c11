"""How old and how expired metadata may be, against what was seen before. Pure.

A floor counts as long as the signatures under it would still be believed: until root (for the plan: targets) has taken
so many of the keys away that they would not. So whoever ran up the numbers with a stolen key loses them with the key;
a key more loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tuf.api.metadata import Metadata

from edge_agent.errors import UpdateExpired, UpdateOutdated, UpdateUntrusted
from edge_agent.formats.document import seconds
from edge_agent.formats.plan import FILE_NAME
from edge_agent.store.update_records import MetadataFloor
from edge_agent.update.chain import Chain

ISSUED_AT = "x-edge-agent-issued-at"
"""Signed in every metadata file, RFC 3339: the only time that a site keeps."""
_TWO_REMEDY = "Have the central team look who published it, and publish again: 'edge-convert verify-repo'."
_NONE = MetadataFloor(0, (), 0.0)
Floors = Mapping[str, MetadataFloor]
"""By role; that of `plan.json` goes by the number in the plan."""


def holding(found: Chain, before: Floors) -> Floors:
    """Return the floors that still count."""
    return {name: floor for name, floor in before.items() if found.still_count(_role(name), floor.signers)}


def raised(found: Chain, versions: Mapping[str, int], before: Floors, where: object) -> dict[str, MetadataFloor]:
    """Return the floors that these versions make.

    Raises:
        UpdateOutdated: a version is below its floor.
        UpdateUntrusted: the snapshot no longer names a file that it named, or there are two timestamps of a version.
    """
    floors = {}
    for name, version in versions.items():
        floor, role = before.get(name, _NONE), _role(name)
        if version < floor.version:
            numbers = f"{name} {version}, not {floor.version}"
            made = _made(_issued_at(found.metadata[role]), floor.issued_at)
            raise UpdateOutdated(
                f"{where} is older than what this site has seen: {made}{numbers}", path=where, role=name
            )
        listed = found.listed if name == "snapshot" else {}
        _require_listed(listed, floor.listed, where)
        sha256 = found.sha256(name) if name == "timestamp" else ""
        if version == floor.version and floor.sha256 not in ("", sha256):
            said = f"{where} has another {name} {version} than the one that this site has seen"
            raise UpdateUntrusted(said, remedy=_TWO_REMEDY, path=where, role=name)
        issued_at = max(_issued_at(found.metadata[role]), floor.issued_at)
        floors[name] = MetadataFloor(version, found.signers(role), issued_at, listed, sha256)
    return floors


def newest(floors: Floors) -> float:
    """Return the newest signed time."""
    return max(floor.issued_at for floor in floors.values())


def require_current(found: Chain, clock: float, signed: float, where: object) -> None:
    """Refuse what has expired by the clock, or by the newest signed time. Raises UpdateExpired."""
    for role, metadata in found.metadata.items():
        expires = metadata.signed.expires
        if expires.timestamp() <= max(clock, signed):
            said = f"the update in {where} is no longer valid: '{role}' expired at {_day(expires)}"
            raise UpdateExpired(f"{said}; {_by(clock, signed)}", path=where, role=role)


def _require_listed(now: Mapping[str, int], before: Mapping[str, int], where: object) -> None:
    """Hold what a snapshot names against what it named before: TUF 1.0.34, section 5.5.5."""
    for file, version in before.items():
        if file not in now:
            said = f"the snapshot in {where} no longer names {file}, which it named when this site saw it last"
            raise UpdateUntrusted(said, path=where, role="snapshot")
        if now[file] < version:
            said = f"{where} is older than what this site has seen: its snapshot names {file} {now[file]}"
            raise UpdateOutdated(f"{said}, not {version}", path=where, role="snapshot")


def _role(name: str) -> str:
    return "plan" if name == FILE_NAME else name


def _issued_at(metadata: Metadata[Any]) -> float:
    """Return when metadata were signed, as they say; 0 = they do not."""
    try:
        return seconds(metadata.signed.unrecognized_fields.get(ISSUED_AT, ""))
    except (ValueError, TypeError, AttributeError):
        return 0.0


def _made(issued_at: float, floor: float) -> str:
    """Return both times in words, where they are known and tell the two apart."""
    made, seen = (_day(datetime.fromtimestamp(at, UTC)) for at in (issued_at, floor))
    return f"made at {made}, and there was one of {seen}; " if issued_at and made != seen else ""


def _by(clock: float, signed: float) -> str:
    said = f"this machine's clock says {_day(datetime.fromtimestamp(clock, UTC))}"
    later = _day(datetime.fromtimestamp(signed, UTC))
    return said if clock >= signed else f"{said}, but it is {later} or later, for somebody has signed then"


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
