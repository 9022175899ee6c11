"""Roots of trust: what one says, whether two belong to one fleet, and the chain of roots that a site has followed.

The chain leads from the root that the site was given to the newest one. All of its roots are stored in state.db.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from edge_agent.errors import ConfigInvalid, StoreDamaged, UpdateOutdated, UpdateUntrusted
from edge_agent.store.update_records import TrustTable
from edge_agent.update import metadata_chain
from edge_agent.update.metadata_chain import METADATA, FileTooLong, RepositoryFolder

log = structlog.get_logger("edge_agent.update")
_FOREIGN_REMEDY = "Take a USB drive, or an address, of the fleet that this site belongs to. Nothing was installed."


class RootChain:
    """See the module."""

    def __init__(self, first: Path, records: TrustTable) -> None:
        """Read nothing yet; `first` is the file with the root that the site was given."""
        self._first, self._records = first, records
        self._known: dict[int, bytes] = {}

    @property
    def version(self) -> int | None:
        """Of the newest; None = they were not read yet."""
        return max(self._known, default=None)

    def newest(self) -> tuple[int, bytes]:
        """Return version and bytes. Raises ConfigInvalid, StoreDamaged."""
        self._known = self._known or self._connected(self._records.roots())
        version = max(self._known)
        return version, self._known[version]

    def learn(self, roots: dict[int, bytes]) -> None:
        """Remember newer roots."""
        if roots:
            self._records.add_roots(roots)
            self._known |= roots
            log.info("root_rotated", version=max(roots))

    def require_same_fleet(self, source: RepositoryFolder) -> None:
        """Refuse a folder whose roots are others than these. Raises UpdateUntrusted."""
        for version, raw in self._known.items():
            if not self._same(source, version, raw):
                said = f"{source.path} belongs to another fleet: its {version}.root.json is not the one trusted here"
                raise UpdateUntrusted(said, remedy=_FOREIGN_REMEDY, path=source.path)

    def aged(self, source: RepositoryFolder) -> UpdateOutdated | None:
        """Return what to say of a folder that was made before keys were replaced; None = it was not."""
        held = [version for version in self._known if source.size(METADATA, metadata_chain.root_name(version)) >= 0]
        if not held or max(held) == self.version:
            return None
        said = f"{source.path} was made before keys were replaced: it ends with root {max(held)}, not {self.version}"
        return UpdateOutdated(said, path=source.path)

    def _same(self, source: RepositoryFolder, version: int, ours: bytes) -> bool:
        try:
            theirs = source.read(METADATA, metadata_chain.root_name(version), metadata_chain.ROOT_BYTES_MAX)
            return theirs in (None, ours) or metadata_chain.parse_root(theirs or b"").signed == _stored(ours).signed
        except (FileTooLong, ValueError):
            return False

    def _connected(self, stored: dict[int, bytes]) -> dict[int, bytes]:
        """Return the stored roots if the first is among them; otherwise start again with that."""
        raw, anchor = self._anchor()
        version = anchor.signed.version
        if version not in stored or _stored(stored[version]).signed != anchor.signed:
            self._records.add_roots({version: raw}, replace=True)
            return {version: raw}
        newest = anchor
        for following in range(version + 1, max(stored) + 1):
            newest = _after(newest, stored.get(following, b""))
        return {each: raw for each, raw in stored.items() if each >= version}

    def _anchor(self) -> tuple[bytes, Metadata[Root]]:
        try:
            raw = self._first.read_bytes()
            return raw, metadata_chain.parse_root(raw)
        except (OSError, ValueError) as error:
            said = f"update.root_file: {self._first} is no root of trust: {getattr(error, 'strerror', None) or error}"
            remedy = "Put the root.json there that the central team handed over with 'edge-convert keys'."
            raise ConfigInvalid(said, remedy=remedy, path=self._first) from None


def _stored(raw: bytes) -> Metadata[Root]:
    try:
        return metadata_chain.parse_root(raw)
    except ValueError as error:
        raise _damaged(error) from None


def _after(before: Metadata[Root], raw: bytes) -> Metadata[Root]:
    try:
        return metadata_chain.parse_next_root(before, raw)
    except ValueError as error:
        raise _damaged(error) from None


def _damaged(error: Exception) -> StoreDamaged:
    remedy = "Check the disk; then stop the daemon, move state.db* and blobs away, and install the bundles again."
    return StoreDamaged(f"a root of trust in state.db is damaged: {error}", remedy=remedy)


@dataclass(frozen=True)
class TrustRoot:
    """What people are told of it."""

    version: int
    expires: datetime
    keys: int
    threshold: int
    """How many of the keys sign the next root."""


def parse_trust_root(raw: bytes) -> TrustRoot:
    """Read a root that is signed by itself. Raises ValueError, with a sentence."""
    root = metadata_chain.parse_root(raw).signed
    role = root.roles["root"]
    return TrustRoot(root.version, root.expires, len(role.keyids), role.threshold)


def same_fleet(ours: bytes, theirs: bytes) -> bool:
    """Tell whether two roots are the same, or one is signed by the keys of the other. Raises ValueError."""
    one, other = metadata_chain.parse_root(ours), metadata_chain.parse_root(theirs)
    return one.signed == other.signed or _signs(one, other) or _signs(other, one)


def _signs(one: Metadata[Root], other: Metadata[Root]) -> bool:
    try:
        one.verify_delegate("root", other)
    except RepositoryError:
        return False
    return True
