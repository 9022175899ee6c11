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

    state: RepositoryState | None = None
    problems: list[str] = field(default_factory=list)
    """Each prevents some site from updating, now or when it needs that file."""
    warnings: list[str] = field(default_factory=list)
    blobs: int = 0
    bytes_read: int = 0

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"problems": self.problems, "warnings": self.warnings, **(self.state.plain() if self.state else {})}


@dataclass(frozen=True)
class CheckScope:
    """The scope of a check."""

    deep: bool = True
    """Check the content of blobs; otherwise only their sizes."""
    only: Callable[[RepositoryState], Collection[str]] | None = None
    """Digests of the required bundles; None = all signed ones."""


def check(
    storage: RepositoryStorage, anchor: bytes, now: float, scope: CheckScope, advance: Advance
) -> RepositoryFindings:
    """Check everything in scope.

    Raises:
        InvalidRequest: there is no repository.
        OSError, UpstreamFailed, UpstreamRefused: the repository cannot be read.
    """
    findings = RepositoryFindings()
    try:
        findings.state = repository_reader.require(storage, anchor)
    except (UpdateError, BundleError) as error:
        findings.problems.append(error.message)
    findings.problems += _root_problems(storage)
    if state := findings.state:
        _check_expiries(findings, state, now)
        try:
            plan_text.require_signed(state.plan, state.bundles())
        except PlanInvalid as error:
            findings.problems.append(error.message)
        blobs, bundles = _BlobChecker(storage, scope, advance, findings), state.bundles()
        required = scope.only(state) if scope.only else bundles
        for digest in filter(required.__contains__, bundles):
            _check_bundle(blobs, bundles[digest])
    findings.problems = list(dict.fromkeys(findings.problems))
    return findings


def _check_expiries(findings: RepositoryFindings, state: RepositoryState, now: float) -> None:
    at = datetime.fromtimestamp(now, UTC)
    for expires, role in state.expiries():
        if expires <= at:
            findings.problems.append(f"'{role}' has expired on {expires:%Y-%m-%d}: no site installs anything")
        elif expires <= at + timedelta(days=SOON_DAYS):
            findings.warnings.append(f"'{role}' expires on {expires:%Y-%m-%d}: edge-convert renew")


def _root_problems(storage: RepositoryStorage) -> Iterator[str]:
    """Yield the problems in the chain of roots, which a site follows from its own root."""
    previous: Metadata[Root] | None = None
    stored = _stored_roots(storage)
    for version in range(1, max(stored, default=1) + 1):
        path = layout.path_of(ROOT, version)
        if version not in stored:
            yield f"{path} is missing: sites with an older root cannot update"
            previous = None
            continue
        try:
            root = layout.decode(Root, stored[version], path)
            for delegator in filter(None, (root, previous)):
                repository_reader.verify(delegator, ROOT, root, path)
            repository_reader.require_version(root, version, path)
        except UpdateError as error:
            yield error.message
            previous = None
        else:
            previous = root


def _stored_roots(storage: RepositoryStorage) -> dict[int, bytes]:
    """Return the existing roots by version; a gap of up to _GAP_MAX does not end the search."""
    stored: dict[int, bytes] = {}
    version = 1
    while version <= max(stored, default=1) + _GAP_MAX:
        raw = storage.read(layout.path_of(ROOT, version), layout.METADATA_BYTES_MAX[ROOT])
        if raw is not None:
            stored[version] = raw
        version += 1
    return stored


@dataclass
class _BlobChecker:
    storage: RepositoryStorage
    scope: CheckScope
    advance: Advance
    findings: RepositoryFindings
    seen: set[str] = field(default_factory=set)

    def check(self, sha256: str, size_bytes: int, owner: str) -> None:
        if sha256 in self.seen:
            return
        self.seen.add(sha256)
        self.findings.blobs += 1
        path = layout.blob_path(sha256)
        size = self.storage.size(path)
        if size is None:
            self.findings.problems.append(f"{path} of {owner} is missing")
        elif size != size_bytes:
            self.findings.problems.append(f"{path} of {owner} has {size} bytes; it should have {size_bytes}")
        elif self.scope.deep:
            self._check_hash(path, sha256, size_bytes, owner)

    def _check_hash(self, path: str, sha256: str, size_bytes: int, owner: str) -> None:
        hasher, bytes_read = hashlib.sha256(), 0
        for chunk in self.storage.chunks(path):
            hasher.update(chunk)
            bytes_read += len(chunk)
            self.advance(owner, bytes_read, size_bytes)
        self.findings.bytes_read += bytes_read
        if hasher.hexdigest() != sha256:
            self.findings.problems.append(f"{path} of {owner} is damaged: its content does not match its name")


def _check_bundle(blobs: _BlobChecker, target: BundleTarget) -> None:
    path = layout.blob_path(target.digest)
    raw = blobs.storage.read(path, MANIFEST_BYTES_MAX)
    if raw is None:
        blobs.findings.problems.append(f"{path}, the manifest of {target.name}, is missing")
    elif repository_reader.sha256(raw) != target.digest:
        blobs.findings.problems.append(f"{path}, the manifest of {target.name}, is damaged")
    else:
        blobs.findings.blobs += 1
        blobs.findings.problems += _manifest_problems(blobs, target, raw)


def _manifest_problems(blobs: _BlobChecker, target: BundleTarget, raw: bytes) -> Iterator[str]:
    try:
        bundle = manifest.parse(raw)
    except EdgeAgentError as error:
        yield f"the manifest of {target.name}: {error.message}"
        return
    if (bundle.task.name, bundle.version) != (target.task, target.version):
        name = f"{bundle.task.name} {bundle.version}"
        yield f"{target.digest[:12]} is signed as {target.name}, but its manifest is of {name}"
    for artifact in bundle.artifacts:
        blobs.check(artifact.sha256, artifact.size_bytes, f"{target.task} {target.version}")
