"""From a trusted root to the plan: verifies the metadata in a folder, and keeps the chain of trusted roots.

TUF's own client verifies (TUF 1.0.34, section 5).

The folder is untrusted: the uplink or a USB drive has filled it. Files are read by name, within a limit, and never
through a link, a FIFO or a device.

The client gets an empty cache folder every time: if it relied on a cache and that was lost, an older repository would
be accepted. State that must not be lost is in state.db, and repository_acceptance.py compares it with the result of
this module. So this module ensures that metadata is signed as the roots demand, complete, and not expired by this
machine's clock, but not that it is new.

The chain of roots leads from the root that the site was given to the newest one. All of its roots are stored in
state.db.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
)
from tuf.api.metadata import Metadata, Root, TargetFile
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edge_agent.durable.atomic_files import disk_errors
from edge_agent.errors import (
    ConfigInvalid,
    MediaFailed,
    PathUnsafe,
    StoreDamaged,
    UpdateError,
    UpdateExpired,
    UpdateIncomplete,
    UpdateOutdated,
    UpdateUntrusted,
)
from edge_agent.formats.plan import FILE_NAME, PLAN_BYTES_MAX
from edge_agent.formats.repository_metadata import TIMESTAMP
from edge_agent.store.bundle_archive import READ, BundleMember, open_inside
from edge_agent.store.state_database import TrustTable

ROOT_BYTES_MAX = 512 * 1024
TARGETS_BYTES_MAX = 5 * 1024 * 1024
ROOTS_MAX = 256
"""Roots that one check follows; the next check continues from there."""
ROLES = ("root", "timestamp", "snapshot", "targets", "plan")
# One delegation: a role to which `plan` delegated in turn would have no floor.
_CONFIG = UpdaterConfig(
    max_root_rotations=ROOTS_MAX,
    max_delegations=1,
    root_max_length=ROOT_BYTES_MAX,
    targets_max_length=TARGETS_BYTES_MAX,
)
# Metadata is parsed before its signature is checked, so malicious JSON may cause these errors.
_HOSTILE_ERRORS = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class MetadataChain:
    """The verified metadata and plan of a folder."""

    metadata: Mapping[str, Metadata[Any]]
    """By role; without `plan` if `targets` does not delegate it."""
    plan: bytes
    """Empty = none was published yet."""
    files: Mapping[str, bytes]
    """All files except the roots, by path."""

    @property
    def versions(self) -> dict[str, int]:
        """The version of each role's metadata."""
        return {role: metadata.signed.version for role, metadata in self.metadata.items()}

    @property
    def listed(self) -> dict[str, int]:
        """The version of each metadata file that the snapshot names, by file name."""
        return {name: file.version for name, file in self.metadata["snapshot"].signed.meta.items()}

    def sha256(self, role: str) -> str:
        """Return the sha256 of the signed part of a role's metadata."""
        return hashlib.sha256(self.metadata[role].signed_bytes).hexdigest()

    @property
    def expires(self) -> float:
        """When the first metadata file expires, in seconds since 1970."""
        return float(min(metadata.signed.expires.timestamp() for metadata in self.metadata.values()))

    def delegator(self, role: str) -> Any:
        """Return the signed part of the metadata that delegates a role to its keys."""
        return self.metadata["targets" if role == "plan" else "root"].signed

    def signers(self, role: str) -> tuple[str, ...]:
        """Return the valid keys that have signed a role's metadata."""
        metadata = self.metadata[role]
        result = self.delegator(role).get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        return tuple(sorted(result.signed))

    def has_enough_signers(self, role: str, signers: tuple[str, ...]) -> bool:
        """Tell whether signatures of these keys would still be enough for a role."""
        if role not in self.metadata:
            return False
        delegated = self.delegator(role).get_delegated_role(role)
        return len(set(signers) & set(delegated.keyids)) >= int(delegated.threshold)


def verify_chain(
    source: RepositoryFolder, root: bytes, scratch: Path, on_roots: Callable[[dict[int, bytes]], None]
) -> MetadataChain:
    """Verify a folder from a trusted root on.

    Args:
        source: the folder.
        root: the newest trusted root.
        scratch: a folder for TUF's client; its content is deleted.
        on_roots: called with the newer trusted roots, by version, even if the rest fails.

    Raises:
        UpdateUntrusted, UpdateExpired, UpdateIncomplete: the message names the file.
        SiteError: this disk failed.
    """
    fetcher = FolderFetcher(source)
    with disk_errors(scratch):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700, parents=True)
        try:
            updater = Updater(str(scratch), "", fetcher=fetcher, config=_CONFIG, bootstrap=root)
            try:
                updater.refresh()
            finally:
                history = (scratch / "root_history").iterdir()
                roots = {int(path.name.partition(".")[0]): path.read_bytes() for path in history}
                on_roots({version: raw for version, raw in sorted(roots.items()) if raw != root})
            plan = _plan(source, updater.get_targetinfo(FILE_NAME))
        except (RepositoryError, DownloadError, *_HOSTILE_ERRORS) as error:
            raise _explain(error, source, fetcher.files) from None
        paths = {role: scratch / f"{role}.json" for role in ROLES}
        metadata = {role: Metadata[Any].from_bytes(path.read_bytes()) for role, path in paths.items() if path.exists()}
    files = {f"{METADATA}/{name}": raw for name, raw in fetcher.files.items() if not name.endswith("root.json")}
    return MetadataChain(metadata, b"".join(plan.values()), files | plan)


def root_name(version: int) -> str:
    """Return the name of a root."""
    return f"{version}.root.json"


def parse_root(raw: bytes) -> Metadata[Root]:
    """Read a root that is signed by itself. Raises ValueError, with a sentence."""
    try:
        root: Metadata[Root] = Metadata.from_bytes(raw)
        if not isinstance(root.signed, Root):
            raise ValueError(f"it is the metadata of another role: {root.signed.type}")
        root.verify_delegate("root", root)
    except (RepositoryError, *_HOSTILE_ERRORS) as error:
        raise ValueError(_message_of(error)) from None
    return root


def parse_next_root(previous: Metadata[Root], raw: bytes) -> Metadata[Root]:
    """Read the root that comes after another one. Raises ValueError."""
    root = parse_root(raw)
    try:
        previous.verify_delegate("root", root)
    except RepositoryError as error:
        raise ValueError(str(error)) from None
    if root.signed.version != previous.signed.version + 1:
        raise ValueError(f"version {root.signed.version} does not come after {previous.signed.version}")
    return root


def _plan(source: RepositoryFolder, target: TargetFile | None) -> dict[str, bytes]:
    """Return the plan that the signed metadata name, by its path; nothing if they name none."""
    if target is None:
        return {}
    sha256 = target.hashes.get("sha256", "")
    path = f"{BLOBS}/{sha256}"
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise UpdateUntrusted(f"the metadata in {source.path} name {FILE_NAME} without its sha256")
    try:
        raw = source.read(BLOBS, sha256, PLAN_BYTES_MAX)
    except FileTooLong:
        raise UpdateIncomplete(f"{path} in {source.path} has more than {PLAN_BYTES_MAX} bytes") from None
    if raw is None:
        raise UpdateIncomplete(f"the plan is missing in {source.path}: {path}")
    target.verify_length_and_hashes(raw)
    return {path: raw}


def _explain(error: Exception, source: RepositoryFolder, files: Mapping[str, bytes]) -> UpdateError:
    """Return the error for a technician."""
    last = next(reversed(list(files)), TIMESTAMP)
    if isinstance(error, ExpiredMetadataError):  # it names the role, whose signature was checked before
        match = re.search("|".join(ROLES), str(error))
        role = match.group() if match else ""
        contents = [raw for name, raw in files.items() if name.endswith(f"{role}.json")]
        expires = Metadata[Any].from_bytes(contents[-1]).signed.expires if contents else None
        since = f" (since {expires:%Y-%m-%d %H:%M} UTC)" if expires else ""
        return UpdateExpired(f"the update in {source.path} is no longer valid: {error}{since}")
    if isinstance(error, DownloadHTTPError):
        return UpdateIncomplete(f"{error} in {source.path}")
    if isinstance(error, DeserializationError):
        return UpdateIncomplete(f"{METADATA}/{last} in {source.path} is damaged: it is cut short, or not metadata")
    if isinstance(error, LengthOrHashMismatchError):
        message = f"files in {source.path} do not belong together, or one is damaged"
        return UpdateIncomplete(f"{message}: {METADATA}/{last}, or {FILE_NAME}")
    return UpdateUntrusted(f"{METADATA}/{last} in {source.path} is not trusted: {_message_of(error)}")


def _message_of(error: Exception) -> str:
    return str(error) or "it holds a number that cannot be signed"  # such as NaN, for which TUF's error has no message


METADATA, BLOBS = "metadata", "blobs"
MEDIA_ERRORS = frozenset(
    {
        errno.EIO,
        errno.ENODEV,
        errno.ENXIO,
        errno.ENOMEDIUM,
        errno.ENOTCONN,
        errno.ESTALE,
        errno.EREMOTEIO,
        errno.ESHUTDOWN,
        errno.ETIMEDOUT,
        errno.EUCLEAN,
        errno.EBADMSG,
    }
)
"""Errors of a drive that was pulled out or fails; a missing file has other errors."""
_HIDDEN_ERRORS = frozenset({errno.EACCES, errno.EPERM})
"""Errors of a drive that was mounted for another user."""


class FileTooLong(Exception):
    """A file is longer than it may be."""


class RepositoryFolder:
    """A folder with a repository: `incoming/`, a USB drive, or the one accepted last."""

    def __init__(self, path: Path, *, is_media: bool = False) -> None:
        """Open nothing yet; `is_media`: a person has brought it, so it may be pulled out at any time."""
        self.path, self.is_media = path, is_media

    def read(self, folder: str, name: str, bytes_max: int) -> bytes | None:
        """Return a file's bytes; None = no readable file. Raises FileTooLong, MediaFailed."""
        try:
            with self._open(folder, name) as fd, open(fd, "rb", closefd=False) as file:
                raw = file.read(bytes_max + 1)
        except OSError as error:
            self.require_media(f"{folder}/{name}", error.errno)
            return None
        except PathUnsafe:
            return None
        if len(raw) > bytes_max:
            raise FileTooLong
        return raw

    def size(self, folder: str, name: str) -> int:
        """Return the bytes of a file; -1 = there is none that can be read. Raises MediaFailed."""
        try:
            with self._open(folder, name) as fd:
                return os.fstat(fd).st_size
        except OSError as error:
            self.require_media(f"{folder}/{name}", error.errno)
            return -1
        except PathUnsafe:
            return -1

    def require_media(self, name: str, code: int | None) -> None:
        """Raise MediaFailed if an error code shows that the drive was pulled out, fails, or may not be read."""
        if self.is_media and code in _HIDDEN_ERRORS:
            message = f"the daemon's user may not read {name} on the USB drive at {self.path}"
            raise MediaFailed(message, remedy=MediaFailed.remedy_hidden, path=self.path, file=name)
        if self.is_media and code in MEDIA_ERRORS:
            cause = f"the USB drive at {self.path} was pulled out or is failing"
            message = f"{cause}: cannot read {name}: {os.strerror(code)}"
            raise MediaFailed(message, remedy=MediaFailed.remedy_reading, path=self.path, file=name)

    @contextmanager
    def blobs(self, sizes: dict[str, int]) -> Iterator[dict[str, BundleMember]]:
        """Yield the blobs that exist with the right size, of `sizes` by sha256; readable in the block."""
        try:
            root_fd = os.open(self.path, READ | os.O_DIRECTORY)
        except OSError:
            yield {}
            return
        try:
            yield {
                sha256: BundleMember(f"{BLOBS}/{sha256}", size, partial(open_inside, root_fd, f"{BLOBS}/{sha256}"))
                for sha256, size in sizes.items()
                if self.size(BLOBS, sha256) == size
            }
        finally:
            os.close(root_fd)

    @contextmanager
    def _open(self, folder: str, name: str) -> Iterator[int]:
        root_fd = os.open(self.path, READ | os.O_DIRECTORY)
        try:
            fd = open_inside(root_fd, f"{folder}/{name}")
        finally:
            os.close(root_fd)
        try:
            yield fd
        finally:
            os.close(fd)


class FolderFetcher(FetcherInterface):
    """Reads metadata for TUF's client, and keeps its content."""

    def __init__(self, source: RepositoryFolder) -> None:
        """Read from a folder."""
        self._source = source
        self.files: dict[str, bytes] = {}
        """By name, in the order in which they were read."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        raise DownloadHTTPError(f"{url} is never streamed", 404)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return a metadata file. Raises DownloadHTTPError (404), DownloadLengthMismatchError."""
        name = url.rpartition("/")[2]
        try:
            raw = self._source.read(METADATA, name, max_length)
        except FileTooLong:
            raise DownloadLengthMismatchError(f"{METADATA}/{name} has more than {max_length} bytes") from None
        if raw is None:
            raise DownloadHTTPError(f"{METADATA}/{name} is missing", 404)
        self.files[name] = raw
        return raw


log = structlog.get_logger("edge_agent.update")
_FOREIGN_REMEDY = "Take a USB drive, or an address, of the fleet that this site belongs to. Nothing was installed."


class RootChain:
    """The chain of trusted roots: see the module."""

    def __init__(self, first: Path, records: TrustTable) -> None:
        """Read nothing yet; `first` is the file with the root that the site was given."""
        self._first, self._records = first, records
        self._roots: dict[int, bytes] = {}

    @property
    def version(self) -> int | None:
        """The version of the newest root; None = the roots were not read yet."""
        return max(self._roots, default=None)

    def newest(self) -> tuple[int, bytes]:
        """Return version and bytes of the newest root. Raises ConfigInvalid, StoreDamaged."""
        self._roots = self._roots or self._connect(self._records.roots())
        version = max(self._roots)
        return version, self._roots[version]

    def learn(self, roots: dict[int, bytes]) -> None:
        """Store newer roots."""
        if roots:
            self._records.add_roots(roots)
            self._roots |= roots
            log.info("root_rotated", version=max(roots))

    def require_same_fleet(self, source: RepositoryFolder) -> None:
        """Refuse a folder that has another root of one of these versions. Raises UpdateUntrusted."""
        for version, raw in self._roots.items():
            if not self._has_same_root(source, version, raw):
                fault = f"{source.path} belongs to another fleet"
                message = f"{fault}: its {version}.root.json is not the one trusted here"
                raise UpdateUntrusted(message, remedy=_FOREIGN_REMEDY, path=source.path)

    def outdated_error(self, source: RepositoryFolder) -> UpdateOutdated | None:
        """Return the error for a folder that was made before keys were replaced; None = it was not."""
        versions = [version for version in self._roots if source.size(METADATA, root_name(version)) >= 0]
        if not versions or max(versions) == self.version:
            return None
        message = (
            f"{source.path} was made before keys were replaced: it ends with root {max(versions)}, not {self.version}"
        )
        return UpdateOutdated(message, path=source.path)

    def _has_same_root(self, source: RepositoryFolder, version: int, ours: bytes) -> bool:
        try:
            theirs = source.read(METADATA, root_name(version), ROOT_BYTES_MAX)
            return theirs in (None, ours) or parse_root(theirs or b"").signed == _parse_stored(ours).signed
        except (FileTooLong, ValueError):
            return False

    def _connect(self, stored: dict[int, bytes]) -> dict[int, bytes]:
        """Return the stored roots if the site's first root is among them; otherwise start again with that one."""
        try:
            raw = self._first.read_bytes()
            anchor = parse_root(raw)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            message = f"update.root_file: {self._first} is not a root of trust: {reason}"
            remedy = "Put the root.json there that the central team handed over with 'edge-convert keys'."
            raise ConfigInvalid(message, remedy=remedy, path=self._first) from None
        version = anchor.signed.version
        if version not in stored or _parse_stored(stored[version]).signed != anchor.signed:
            self._records.add_roots({version: raw}, replace=True)
            return {version: raw}
        newest = anchor
        try:
            for next_version in range(version + 1, max(stored) + 1):
                newest = parse_next_root(newest, stored.get(next_version, b""))
        except ValueError as error:
            raise _damaged_error(error) from None
        return {number: raw for number, raw in stored.items() if number >= version}


def _parse_stored(raw: bytes) -> Metadata[Root]:
    try:
        return parse_root(raw)
    except ValueError as error:
        raise _damaged_error(error) from None


def _damaged_error(error: Exception) -> StoreDamaged:
    remedy = "Check the disk; then stop the daemon, move state.db* and blobs away, and install the bundles again."
    return StoreDamaged(f"a root of trust in state.db is damaged: {error}", remedy=remedy)


@dataclass(frozen=True)
class TrustRoot:
    """The facts about a root of trust for people."""

    version: int
    expires: datetime
    keys: int
    threshold: int
    """How many of the keys must sign the next root."""


def parse_trust_root(raw: bytes) -> TrustRoot:
    """Read a root that is signed by itself. Raises ValueError, with a sentence."""
    root = parse_root(raw).signed
    role = root.roles["root"]
    return TrustRoot(root.version, root.expires, len(role.keyids), role.threshold)


def same_fleet(ours: bytes, theirs: bytes) -> bool:
    """Tell whether two roots are the same, or one is signed by the keys of the other. Raises ValueError."""
    one, other = parse_root(ours), parse_root(theirs)
    return one.signed == other.signed or _signs(one, other) or _signs(other, one)


def _signs(one: Metadata[Root], other: Metadata[Root]) -> bool:
    try:
        one.verify_delegate("root", other)
    except RepositoryError:
        return False
    return True
