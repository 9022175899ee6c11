"""Checks a repository: every signature, every root, every file of every signed bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tuf.api.metadata import Metadata, Root

from convert.publish import layout, plan_text, repository_reader
from convert.publish.layout import ROOT
from convert.publish.repository_reader import BundleTarget, RepositoryState
from convert.publish.repository_storage import Advance, RepositoryStorage
from edge_agent.errors import BundleError, EdgeAgentError, PlanInvalid, UpdateError
from edge_agent.formats import manifest
from edge_agent.formats.manifest import MANIFEST_BYTES_MAX

SOON_DAYS = 14
_GAP_MAX = 8
"""Largest gap in the numbers of roots that is detected."""


@dataclass
class RepositoryFindings:
    """The problems of a repository."""

    held: RepositoryState | None = None
    problems: list[str] = field(default_factory=list)
    """Each prevents some site from updating, now or when it needs that file."""
    warnings: list[str] = field(default_factory=list)
    blobs: int = 0
    bytes_read: int = 0

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"problems": self.problems, "warnings": self.warnings, **(self.held.plain() if self.held else {})}


@dataclass(frozen=True)
class CheckScope:
    """The scope of a check."""

    deep: bool = True
    """Check the content of blobs; otherwise only their sizes."""
    only: Callable[[RepositoryState], Collection[str]] | None = None
    """Digests of the required bundles; None = all signed ones."""


def check(
    place: RepositoryStorage, anchor: bytes, now: float, scope: CheckScope, advance: Advance
) -> RepositoryFindings:
    """Check everything in scope.

    Raises:
        InvalidRequest: there is no repository.
        OSError, UpstreamFailed, UpstreamRefused: the repository cannot be read.
    """
    found = RepositoryFindings()
    try:
        found.held = repository_reader.require(place, anchor)
    except (UpdateError, BundleError) as error:
        found.problems.append(error.message)
    found.problems += _roots(place)
    if found.held:
        _look(found, found.held, now, _BlobChecker(place, scope, advance, found))
    found.problems = list(dict.fromkeys(found.problems))
    return found


def _look(found: RepositoryFindings, held: RepositoryState, now: float, blobs: _BlobChecker) -> None:
    _expiries(found, held, now)
    try:
        plan_text.require_signed(held.plan, held.bundles())
    except PlanInvalid as error:
        found.problems.append(error.message)
    _bundles(blobs, held)


def _expiries(found: RepositoryFindings, held: RepositoryState, now: float) -> None:
    at = datetime.fromtimestamp(now, UTC)
    for expires, role in held.expiries():
        if expires <= at:
            found.problems.append(f"'{role}' has expired on {expires:%Y-%m-%d}: no site installs anything")
        elif expires <= at + timedelta(days=SOON_DAYS):
            found.warnings.append(f"'{role}' expires on {expires:%Y-%m-%d}: edge-convert renew")


def _roots(place: RepositoryStorage) -> Iterator[str]:
    """Yield the problems in the chain of roots, which a site follows from its own root."""
    before: Metadata[Root] | None = None
    stored = _stored_roots(place)
    for version in range(1, max(stored, default=1) + 1):
        path = layout.path_of(ROOT, version)
        if version not in stored:
            yield f"{path} is missing: sites with an older root cannot update"
            before = None
            continue
        try:
            root = layout.decode(Root, stored[version], path)
            for by in filter(None, (root, before)):
                repository_reader.verify(by, ROOT, root, path)
            repository_reader.require_version(root, version, path)
        except UpdateError as error:
            yield error.message
            before = None
        else:
            before = root


def _stored_roots(place: RepositoryStorage) -> dict[int, bytes]:
    """Return the existing roots by version; a gap of up to _GAP_MAX does not end the search."""
    stored: dict[int, bytes] = {}
    version = 1
    while version <= max(stored, default=1) + _GAP_MAX:
        raw = place.read(layout.path_of(ROOT, version), layout.METADATA_BYTES_MAX[ROOT])
        if raw is not None:
            stored[version] = raw
        version += 1
    return stored


@dataclass
class _BlobChecker:
    place: RepositoryStorage
    scope: CheckScope
    advance: Advance
    found: RepositoryFindings
    seen: set[str] = field(default_factory=set)

    def look(self, sha256: str, size_bytes: int, whose: str) -> None:
        if sha256 in self.seen:
            return
        self.seen.add(sha256)
        self.found.blobs += 1
        path = layout.blob(sha256)
        size = self.place.size(path)
        if size is None:
            self.found.problems.append(f"{path} of {whose} is missing")
        elif size != size_bytes:
            self.found.problems.append(f"{path} of {whose} has {size} bytes; it should have {size_bytes}")
        elif self.scope.deep:
            self._hash(path, sha256, size_bytes, whose)

    def _hash(self, path: str, sha256: str, size_bytes: int, whose: str) -> None:
        hashed, done = hashlib.sha256(), 0
        for chunk in self.place.chunks(path):
            hashed.update(chunk)
            done += len(chunk)
            self.advance(whose, done, size_bytes)
        self.found.bytes_read += done
        if hashed.hexdigest() != sha256:
            self.found.problems.append(f"{path} of {whose} is damaged: its content does not match its name")


def _bundles(blobs: _BlobChecker, held: RepositoryState) -> None:
    only = blobs.scope.only(held) if blobs.scope.only else held.bundles()
    for digest in filter(only.__contains__, held.bundles()):
        _bundle(blobs, held.bundles()[digest])


def _bundle(blobs: _BlobChecker, signed: BundleTarget) -> None:
    path = layout.blob(signed.digest)
    raw = blobs.place.read(path, MANIFEST_BYTES_MAX)
    if raw is None:
        blobs.found.problems.append(f"{path}, the manifest of {signed.name}, is missing")
    elif repository_reader.sha256(raw) != signed.digest:
        blobs.found.problems.append(f"{path}, the manifest of {signed.name}, is damaged")
    else:
        blobs.found.blobs += 1
        blobs.found.problems += _manifest(blobs, signed, raw)


def _manifest(blobs: _BlobChecker, signed: BundleTarget, raw: bytes) -> Iterator[str]:
    try:
        of = manifest.parse(raw)
    except EdgeAgentError as error:
        yield f"the manifest of {signed.name}: {error.message}"
        return
    if (of.task.name, of.version) != (signed.task, signed.version):
        yield f"{signed.digest[:12]} is signed as {signed.name}, but its manifest is of {of.task.name} {of.version}"
    for artifact in of.artifacts:
        blobs.look(artifact.sha256, artifact.size_bytes, f"{signed.task} {signed.version}")
