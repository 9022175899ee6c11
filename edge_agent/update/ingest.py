"""Copies a signed bundle into the store, and requests its missing files from the mirror.

The signature covers a bundle's manifest, which names every file by sha256 and size. So each file is checked when it is
copied into the store, wherever it came from, and files that the store has already are neither fetched nor read. Copying
does not change the active bundle.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge_agent.config import Config
from edge_agent.durable.atomic_files import disk_errors, write_durably
from edge_agent.errors import (
    BundleError,
    BundleUnreadable,
    DocumentInvalid,
    FileMissing,
    HashMismatch,
    UpdateIncomplete,
    UpdateUntrusted,
)
from edge_agent.formats import repository_metadata
from edge_agent.formats.manifest import MANIFEST_BYTES_MAX, Manifest, digest_of, parse
from edge_agent.formats.repository_metadata import DownloadRequest, DownloadRequests
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.formatting import counted, format_bytes, shorten_digest
from edge_agent.store.bundle_archive import BundleMember
from edge_agent.store.bundle_store import Store
from edge_agent.store.state_database import InstalledBundle
from edge_agent.update.blocked_update_messages import CopyProgress, SignedBundle, VerifiedRepository
from edge_agent.update.metadata_chain import BLOBS, FileTooLong, RepositoryFolder
from edge_agent.update.repository_acceptance import RepositoryTrust

FILE_MODE, FOLDER_MODE = 0o640, 0o750


@dataclass(frozen=True)
class MissingFiles:
    """The files of a bundle that are missing or damaged in a folder."""

    count: int
    bytes: int
    fault: str
    """What is wrong with the first of them: "blobs/0123456789ab… is cut short, to 5 bytes of 1.2 MB"."""

    @property
    def amount(self) -> str:
        """Their number and total size: "2 files (1.5 MB)"."""
        return f"{counted(self.count, 'file')} ({format_bytes(self.bytes)})"

    @property
    def faults(self) -> str:
        """What is wrong with the first, and the number of others."""
        others = self.count - 1
        return f"{self.fault}, like {counted(others, 'other file')}" if others else self.fault


class BundleIngest:
    """Owns wants.json. Synchronous; used on the store's thread."""

    def __init__(
        self, config: Config, store: Store, trust: RepositoryTrust, now: Callable[[], float] = time.time
    ) -> None:
        """Bring bundles into a store."""
        self._incoming, self._requests_file, self._state_dir = config.incoming, config.wants, config.state_dir
        self._reserve_bytes = max(config.uplink.disk_reserve_bytes, config.store.disk_reserve_bytes)
        self._store, self._trust, self._now = store, trust, now
        self._verified = VerifiedRepository()
        self._damaged: set[str] = set()
        """Blobs in the store with the right size but wrong bytes."""
        self._refused: set[str] = set()
        """Blobs that the mirror brought damaged. They are not requested until it has deleted them."""
        self._requests = _read_requests(self._requests_file)
        self.copied = CopyProgress()
        self.on_progress: Callable[[CopyProgress], None] = lambda _: None
        """Called with `copied` whenever it changes."""

    def refresh(self, source: Path) -> VerifiedRepository:
        """Return what is trusted now: `RepositoryTrust.refresh`."""
        self._verified = self._trust.refresh(source)
        return self._verified

    def awaits_first(self, source: Path) -> bool:
        """Tell whether no update has arrived yet: `RepositoryTrust.awaits_first`."""
        return self._trust.awaits_first(source)

    def missing_files(self, source: Path, verified: VerifiedRepository, digest: str) -> Sequence[DownloadRequest]:
        """Return the files of a bundle missing in the store and in a folder; its manifest alone if that is missing."""
        self._verified = verified
        signed = verified.bundles.get(digest)
        if signed is None:
            return ()  # revoked a moment ago: `admit` reports it
        folder = self._folder(source)
        raw = self._manifest_bytes(folder, digest, signed)
        if raw is None:
            return (DownloadRequest(sha256=digest, size_bytes=signed.size_bytes),)
        return tuple(request for request in self._needed_files(raw) if not self._has_arrived(folder, request))

    def describe_missing(self, source: Path, verified: VerifiedRepository, digest: str) -> MissingFiles | None:
        """Describe what `missing_files` returns; None = nothing is missing. Raises MediaFailed."""
        missing = self.missing_files(source, verified, digest)
        if not missing:
            return None
        size = sum(request.size_bytes for request in missing)
        return MissingFiles(len(missing), size, _describe_fault(self._folder(source), missing[0]))

    def download_shortage(self, missing_bytes: int) -> int:
        """Return the bytes to free for a download, whose files are in `incoming/` and in the store for a while."""
        folder = self._incoming if self._incoming.exists() else self._state_dir
        copies = 2 if folder.stat().st_dev == self._state_dir.stat().st_dev else 1
        return max(0, copies * missing_bytes + self._reserve_bytes - shutil.disk_usage(folder).free)

    def _folder(self, source: Path) -> RepositoryFolder:
        return RepositoryFolder(source, is_media=source != self._incoming)

    def admit(self, source: Path, digest: str) -> InstalledBundle:
        """Copy a signed bundle into the store, with every byte checked. It does not answer yet.

        Raises:
            UpdateUntrusted: it is not signed, or no longer.
            UpdateIncomplete: a file is missing or damaged.
            MediaFailed: the USB drive was pulled out, or fails.
            BundleError: this agent cannot use the bundle.
            SiteError: it does not fit on this disk, or the disk failed.
        """
        signed = self._verified.bundles.get(digest)
        if signed is None:
            raise UpdateUntrusted(f"bundle {digest[:12]} is not signed, or no longer signed", digest=digest)
        folder = self._folder(source)
        raw = self._manifest_bytes(folder, digest, signed)
        if raw is None:
            raise UpdateIncomplete(
                f"the manifest of {signed.task} {signed.version} is missing in {source}: blobs/{digest}"
            )
        manifest = parse(raw)
        if manifest.task.name != signed.task:
            message = f"bundle {digest[:12]} is signed for task {signed.task}, but made for {manifest.task.name}"
            raise UpdateUntrusted(message, task=signed.task, digest=digest)
        try:
            return self._copy(folder, raw, manifest)
        finally:
            self._show_progress(CopyProgress())

    def request_downloads(
        self, verified: VerifiedRepository | None, digests: Collection[str], bytes_per_second_max: int | None
    ) -> None:
        """Write wants.json, if it changes.

        Args:
            verified: the trusted repository; None = none is, and earlier requests stay.
            digests: bundles to fetch, the most urgent first.
            bytes_per_second_max: the plan's cap; None = it has none.
        """
        previous = self._requests or DownloadRequests(at=format_timestamp(self._now()))
        blobs, cap = previous.blobs, previous.bytes_per_second_max
        if verified is not None:
            blobs, cap = self._blobs_to_request(verified, digests), bytes_per_second_max
        requests = DownloadRequests(
            at=previous.at,
            blobs=blobs,
            bytes_per_second_max=cap,
            root_version=self._trust.root_version,
            again=isinstance(self._trust.problem, UpdateUntrusted | UpdateIncomplete),
        )
        if requests == self._requests:
            return
        requests = requests.model_copy(update={"at": format_timestamp(self._now())})
        with disk_errors(self._requests_file):
            self._requests_file.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        write_durably(self._requests_file, repository_metadata.encode(requests), FILE_MODE)
        self._requests = requests

    def _blobs_to_request(self, verified: VerifiedRepository, digests: Collection[str]) -> tuple[DownloadRequest, ...]:
        requests: dict[str, DownloadRequest] = {}
        folder = RepositoryFolder(self._incoming)
        for digest in digests:
            signed = verified.bundles.get(digest)
            if signed is None:
                continue
            requests.setdefault(digest, DownloadRequest(sha256=digest, size_bytes=signed.size_bytes))
            raw = self._manifest_bytes(folder, digest, signed)
            for request in self._needed_files(raw) if raw else ():
                if not self._still_refused(request.sha256):
                    requests.setdefault(request.sha256, request)
        return tuple(requests.values())[: repository_metadata.BLOBS_MAX]

    def _has_arrived(self, folder: RepositoryFolder, request: DownloadRequest) -> bool:
        is_refused = folder.path == self._incoming and self._still_refused(request.sha256)
        return not is_refused and folder.size(BLOBS, request.sha256) == request.size_bytes

    def _still_refused(self, sha256: str) -> bool:
        if sha256 in self._refused and RepositoryFolder(self._incoming).size(BLOBS, sha256) < 0:
            self._refused.discard(sha256)
        return sha256 in self._refused

    def _manifest_bytes(self, folder: RepositoryFolder, digest: str, signed: SignedBundle) -> bytes | None:
        """Return the signed manifest; None = it has not arrived."""
        try:
            raw = folder.read(BLOBS, digest, min(signed.size_bytes, MANIFEST_BYTES_MAX))
        except FileTooLong:
            return None
        return raw if raw is not None and digest_of(raw) == digest and signed.is_this(raw) else None

    def _needed_files(self, raw: bytes) -> list[DownloadRequest]:
        """Return the files of a bundle that the store does not have."""
        try:
            manifest = parse(raw)
        except BundleError:
            return []  # `admit` explains why this agent cannot use it
        return [
            DownloadRequest(sha256=artifact.sha256, size_bytes=artifact.size_bytes)
            for artifact in manifest.artifacts
            if artifact.sha256 in self._damaged or not self._store.holds(artifact)
        ]

    def _copy(self, folder: RepositoryFolder, raw: bytes, manifest: Manifest) -> InstalledBundle:
        artifacts = {artifact.sha256: artifact for artifact in manifest.artifacts}
        needed = {request.sha256: request.size_bytes for request in self._needed_files(raw)}
        self._show_progress(CopyProgress(f"{manifest.task.name} {manifest.version}", 0, sum(needed.values())))
        with folder.blobs({sha256: artifact.size_bytes for sha256, artifact in artifacts.items()}) as blobs:
            members = {
                sha256: _CountedMember(blob.path, blob.size_bytes, blob.open_fd, blob.offset, self._add_copied)
                for sha256, blob in blobs.items()
            }
            try:
                bundle = self._store.admit(raw, members)
            except (FileMissing, HashMismatch) as error:
                raise self._incomplete_error(error, folder, manifest) from None
            except BundleUnreadable as error:
                self._require_readable(error, folder)
                raise
        self._damaged -= artifacts.keys()
        return bundle

    def _require_readable(self, error: BundleUnreadable, folder: RepositoryFolder) -> None:
        """Raise the error for a failed read: the drive is gone, or the mirror must bring the file again."""
        code = error.metadata.get("errno")
        if code is None:
            return  # it could be read, but its content is wrong
        folder.require_media(error.metadata["path"], int(code))
        if folder.path == self._incoming:
            self._refused.add(error.metadata["path"].rpartition("/")[2])
        raise UpdateIncomplete(f"a file in {folder.path} is damaged: {error.message}", path=folder.path)

    def _incomplete_error(self, error: BundleError, folder: RepositoryFolder, manifest: Manifest) -> UpdateIncomplete:
        """Note the file that must be fetched again; return the error."""
        paths = {artifact.path: artifact.sha256 for artifact in manifest.artifacts}
        sha256 = paths[error.metadata["path"]]
        if isinstance(error, FileMissing):
            self._damaged.add(sha256)
            return UpdateIncomplete(error.message, path=folder.path)
        if folder.path == self._incoming:
            self._refused.add(sha256)
        return UpdateIncomplete(f"a file in {folder.path} is damaged: {error.message}", path=folder.path)

    def _add_copied(self, bytes_read: int) -> None:
        self._show_progress(replace(self.copied, bytes=self.copied.bytes + bytes_read))

    def _show_progress(self, copied: CopyProgress) -> None:
        self.copied = copied
        self.on_progress(copied)


@dataclass(frozen=True)
class _CountedMember(BundleMember):
    """A file that reports the number of its bytes while they are read."""

    count: Callable[[int], None] = lambda _: None

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes, and call `count` with the size of each chunk."""
        for chunk in super().chunks():
            self.count(len(chunk))
            yield chunk


def _describe_fault(folder: RepositoryFolder, request: DownloadRequest) -> str:
    """Describe what is wrong with a file."""
    name, size = f"{BLOBS}/{shorten_digest(request.sha256)}", folder.size(BLOBS, request.sha256)
    if size < 0:
        return f"{name} is not there"
    if size < request.size_bytes:
        return f"{name} is cut short, to {format_bytes(size)} of {format_bytes(request.size_bytes)}"
    return f"{name} is damaged"


def _read_requests(path: Path) -> DownloadRequests | None:
    """Return the content of the file; None = it must be written again."""
    try:
        with path.open("rb") as file:
            return repository_metadata.parse(file.read(repository_metadata.DOWNLOAD_REQUESTS_BYTES_MAX + 1))
    except (OSError, DocumentInvalid):
        return None
