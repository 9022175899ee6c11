"""The object stores: folders, and buckets through obstore (S3, GCS, Azure, HTTP with PUT)."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import pwd
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
import yaml
from obstore.exceptions import BaseError, NotModifiedError
from obstore.store import from_url

from edge_agent.config import UplinkConfig
from edge_agent.config.folder_access import store_folder
from edge_agent.durable.atomic_files import sync_directory, write_durably
from edge_agent.errors import (
    ConfigInvalid,
    DiskFull,
    SiteError,
    StateDirUnwritable,
    UpstreamFailed,
    UpstreamMissing,
    UpstreamRefused,
    UpstreamUnreachable,
)
from edge_agent.errors.base import CONNECTION_REMEDY, connection_setting
from edge_agent.formats.strict_yaml import load_yaml
from edge_agent.uplink.object_store import (
    ByteRange,
    FetchedObject,
    ObjectMetadata,
    ObjectStore,
    classify_store_error,
    is_bucket_missing,
    is_credential_refused,
    md5_from_tag,
)

FILE_MODE, FOLDER_MODE = 0o640, 0o750
_MISSING_REMEDY = (
    "Mount its disk or share there ('lsblk -f' and 'findmnt' show what is mounted), or correct 'url' or 'updates_url'"
    " under 'uplink'; then 'sudo systemctl restart edge-uplink'."
)
_DISK_REMEDY = (
    "Check the disk or the share that is mounted there ('findmnt', 'sudo dmesg | tail'). The uplink retries"
    " automatically."
)


class FolderStore:
    """An existing folder. It is never created: a disk that is not mounted looks like a missing folder."""

    def __init__(self, root: Path) -> None:
        """Store objects below `root`."""
        self.name = str(root)
        self._root = root

    async def head(self, key: str) -> ObjectMetadata | None:
        """Read the file to its end and return its size and hash."""
        return await asyncio.to_thread(self._head, key)

    async def put(self, key: str, content: bytes) -> str:
        """Write a temporary file, sync it, rename it, and sync the folder."""
        await asyncio.to_thread(self._put, key, content)
        return ""

    async def get(self, key: str, bytes_max: int, unless: str = "") -> FetchedObject | None:
        """Read the file."""
        return await asyncio.to_thread(self._get, key, bytes_max, unless)

    async def get_range(self, key: str, part: ByteRange, write: Callable[[bytes], None]) -> int | None:
        """Read a range of the file."""
        size, content = await asyncio.to_thread(self._get_range, key, part)
        write(content)
        return size

    def _head(self, key: str) -> ObjectMetadata | None:
        with self._classify_errors(key):
            try:
                with self._open(key) as fd, open(fd, "rb", closefd=False) as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                    return ObjectMetadata(os.fstat(fd).st_size, sha256=sha256)
            except FileNotFoundError:
                return None

    def _put(self, key: str, content: bytes) -> None:
        path = self._root / key
        with self._classify_errors(key):
            for folder in reversed(path.relative_to(self._root).parents[:-1]):
                if not (self._root / folder).is_dir():
                    (self._root / folder).mkdir(mode=FOLDER_MODE, exist_ok=True)
                    sync_directory((self._root / folder).parent)
            write_durably(path, content, FILE_MODE)

    def _get(self, key: str, bytes_max: int, unless: str) -> FetchedObject | None:
        with self._classify_errors(key):
            try:
                with self._open(key) as fd, open(fd, "rb", closefd=False) as file:
                    content = file.read(bytes_max + 1)
            except FileNotFoundError:
                return None
        tag = hashlib.sha256(content).hexdigest()
        return FetchedObject(b"", tag, same=True) if tag == unless else FetchedObject(content, tag)

    def _get_range(self, key: str, part: ByteRange) -> tuple[int | None, bytes]:
        with self._classify_errors(key):
            try:
                with self._open(key) as fd:
                    size = os.fstat(fd).st_size
                    return size, os.pread(fd, part.count, part.start) if size == part.size else b""
            except FileNotFoundError:
                return None, b""

    @contextmanager
    def _open(self, key: str) -> Iterator[int]:
        fd = os.open(self._root / key, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _classify_errors(self, key: str) -> Iterator[None]:
        self._require_folder()
        try:
            yield
        except DiskFull as error:
            raise DiskFull(error.message, remedy="Free some space there; the uplink retries automatically.") from None
        except StateDirUnwritable as error:
            raise self._refusal(error.message) from None
        except PermissionError as error:
            raise self._refusal(f"cannot use {self._root / key}: {error.strerror}") from None
        except SiteError as error:
            raise UpstreamFailed(error.message, remedy=_DISK_REMEDY) from None
        except OSError as error:
            message = f"cannot use {self._root / key}: {error.strerror}"
            if error.errno == errno.EROFS:
                raise self._refusal(message) from None
            raise UpstreamFailed(message, remedy=_DISK_REMEDY) from None

    def _require_folder(self) -> None:
        """Check the folder itself. Its errors concern the whole store: their metadata has the path as `folder`."""
        try:
            is_folder = stat.S_ISDIR(os.stat(self._root).st_mode)  # noqa: PTH116 - Path.is_dir hides the reason
            allowed = is_folder and os.access(self._root, os.R_OK | os.X_OK, effective_ids=True)
        except (FileNotFoundError, NotADirectoryError):
            is_folder = allowed = False
        except PermissionError:
            is_folder, allowed = True, False
        except OSError as error:  # a share whose server is gone, a disk that fails
            message = f"the folder {self._root} does not answer: {error.strerror}"
            raise UpstreamUnreachable(message, remedy=_DISK_REMEDY, folder=str(self._root)) from None
        if not is_folder:
            message = f"the folder {self._root} does not exist"
            raise UpstreamMissing(message, remedy=_MISSING_REMEDY, folder=str(self._root))
        if not allowed:
            raise self._refusal(f"{_user()} may not read the folder {self._root}", folder=str(self._root))

    def _refusal(self, message: str, **metadata: str) -> UpstreamRefused:
        remedy = (
            f"'sudo edge-agent doctor' shows whether {_user()} lacks the rights or the unit has no drop-in for"
            f" {self._root}, and the command for it. The uplink retries automatically."
        )
        return UpstreamRefused(message, remedy=remedy, **metadata)


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"


CREDENTIALS_BYTES_MAX = 64 * 1024
_MD5_TAG_SCHEMES = ("s3://", "s3a://", "gs://")
"""Stores whose entity tag is the MD5 of the content, unless they encrypt it with a managed key."""
_HEADERS = ("authorization",)
_NO_CA_CERTIFICATES = "No CA certificates"
"""The library's message on a machine without CA certificates, such as a minimal Debian."""
_READ_METHODS = ("HEAD", "GET")


class BucketStore:
    """A store below a prefix. Requests are not retried here; the caller decides."""

    def __init__(self, name: str, store: Any, config: UplinkConfig, *, tag_is_md5: bool) -> None:
        """Use an obstore store."""
        self.name = name
        self._store, self._config = store, config
        self._tag_is_md5 = tag_is_md5
        self._can_read = False

    async def head(self, key: str) -> ObjectMetadata | None:
        """Request size and tag."""
        async with self._request("HEAD", key, 0) as request:
            metadata = await obstore.head_async(self._store, key)
        if request.absent:
            return None
        self._can_read = True
        tag = metadata["e_tag"] or ""
        return ObjectMetadata(metadata["size"], tag, md5=md5_from_tag(tag) if self._tag_is_md5 else "")

    async def put(self, key: str, content: bytes) -> str:
        """Put in one request, so that an interrupted upload leaves nothing behind."""
        async with self._request("PUT", key, len(content)):
            result = await obstore.put_async(self._store, key, content, use_multipart=False)
        return result["e_tag"] or ""

    async def get(self, key: str, bytes_max: int, unless: str = "") -> FetchedObject | None:
        """Read at most `bytes_max` + 1 bytes, whatever size the store reports."""
        pieces, size = [], 0
        async with self._request("GET", key, 0) as request:
            try:
                response = await obstore.get_async(
                    self._store, key, options={"if_none_match": unless} if unless else {}
                )
            except NotModifiedError:
                return FetchedObject(b"", unless, same=True)
            async for piece in response.stream(min_chunk_size=64 * 1024):
                pieces.append(bytes(piece))
                size += len(pieces[-1])
                request.extend(size / self._config.bytes_per_second_min)
                if size > bytes_max:
                    break
        if request.absent:
            return None
        self._can_read = True
        return FetchedObject(b"".join(pieces)[: bytes_max + 1], response.meta["e_tag"] or "")

    async def get_range(self, key: str, part: ByteRange, write: Callable[[bytes], None]) -> int | None:
        """Read a range in one request; the whole object without a range request, which every server supports."""
        whole = part.count == part.size
        options: Any = {} if whole else {"range": (part.start, part.start + part.count)}
        received = 0
        async with self._request("GET", key, 0) as request:
            response = await obstore.get_async(self._store, key, options=options)
            if response.meta["size"] != part.size:
                return response.meta["size"]
            # Unbuffered, because buffered bytes would be lost if the connection breaks.
            async for chunk in response.stream(min_chunk_size=1):
                piece = bytes(chunk)[: part.count - received]
                received += len(piece)
                write(piece)
                request.extend(received / self._config.bytes_per_second_min)
                if len(piece) < len(chunk):
                    raise UpstreamFailed(f"{self.name}: GET {key} returned more bytes than requested")
        return None if request.absent else part.size

    @asynccontextmanager
    async def _request(self, method: str, key: str, size: int) -> AsyncIterator[_TimedRequest]:
        """Limit the time and classify errors; `absent` is set when there is no such object."""
        seconds = self._config.request_seconds_max + size / self._config.bytes_per_second_min
        request = _TimedRequest(asyncio.get_running_loop().time() + seconds)
        try:
            async with request.limit:
                yield request
        except TimeoutError:
            raise UpstreamUnreachable(f"{self.name}: {method} {key} took longer than {seconds:g} s") from None
        except (BaseError, OSError) as error:
            message = str(error)
            fault = classify_store_error(message, f"{method} {key}", self.name)
            request.absent = method in _READ_METHODS and (
                (isinstance(error, FileNotFoundError) and not is_bucket_missing(message))
                # Without the right to list a bucket, missing objects are reported as "forbidden".
                or (self._can_read and isinstance(fault, UpstreamRefused) and not is_credential_refused(message))
            )
            if not request.absent:
                raise fault from None


class _TimedRequest:
    """The time limit of one request, and whether its object is missing."""

    def __init__(self, initial_limit: float) -> None:
        self._initial_limit = initial_limit
        self.limit = asyncio.timeout_at(initial_limit)
        self.absent = False

    def extend(self, seconds: float) -> None:
        """Move the limit to `seconds` after the initial one, as content arrives."""
        self.limit.reschedule(self._initial_limit + seconds)


def open_examples_store(config: UplinkConfig) -> ObjectStore | None:
    """Return the store for examples; None = none is configured. No request is made yet.

    Raises:
        ConfigInvalid: no store supports the URL, or the credential file is invalid or readable for others.
    """
    return _open(config, "", config.url, config.options, config.credentials_file)


def open_updates_store(config: UplinkConfig) -> ObjectStore | None:
    """Return the store of updates; None = none is configured. No request is made yet.

    Raises:
        ConfigInvalid: as for `open_examples_store`.
    """
    return _open(config, "updates_", config.updates_url, config.updates_options, config.updates_credentials_file)


def store_identities(config: UplinkConfig) -> tuple[str, str]:
    """Return the identities of the stores for examples and for updates; empty = none is configured.

    Equal identities share one connectivity state.
    """
    return _identity(config.url, config.options), _identity(config.updates_url, config.updates_options)


def _identity(url: str, options: dict[str, str]) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc} {options.get('endpoint', '')}".strip() if parts.netloc else url


def _open(
    config: UplinkConfig, prefix: str, url: str, options: dict[str, str], credentials_file: str
) -> ObjectStore | None:
    """Return a store; `prefix` is that of its keys in the configuration."""
    if not url:
        return None
    folder = store_folder(url)
    if folder:
        return FolderStore(folder)
    parts = urlsplit(url)
    name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}{parts.path}"  # an IPv6 address in brackets
    bucket = _open_bucket(prefix, url, options, credentials_file)
    return BucketStore(name, bucket, config, tag_is_md5=url.startswith(_MD5_TAG_SCHEMES))


def read_credentials(path: Path, prefix: str) -> dict[str, str]:
    """Read a credential file: YAML with names and values. `prefix` is that of its key in the configuration.

    Raises:
        ConfigInvalid: it is unreadable, readable for others, or has another content; values are never shown.
    """
    remedy = "It holds lines like 'access_key_id: …', and its mode is 0400 with the uplink's user as owner."
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(fd, "rb") as file:  # noqa: PTH123 - from a descriptor
            if stat.S_IMODE(os.fstat(fd).st_mode) & 0o007:
                raise ConfigInvalid(f"{path} may be read by everyone", remedy=f"chmod o= {path}")
            plain = load_yaml(file.read(CREDENTIALS_BYTES_MAX))
    except OSError as error:
        raise ConfigInvalid(
            f"cannot read uplink.{prefix}credentials_file {path}: {error.strerror}", remedy=remedy
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigInvalid(f"uplink.{prefix}credentials_file {path} is not valid YAML", remedy=remedy) from None
    if not isinstance(plain, dict) or not all(isinstance(value, str | int) for value in plain.values()):
        raise ConfigInvalid(f"uplink.{prefix}credentials_file {path} must hold names and values", remedy=remedy)
    credentials = {str(key): str(value) for key, value in plain.items()}
    if setting := connection_setting(credentials):
        message = f"'{setting}' in uplink.{prefix}credentials_file {path} is a setting of the connection"
        raise ConfigInvalid(message, remedy=CONNECTION_REMEDY)
    return credentials


def _open_bucket(prefix: str, url: str, settings: dict[str, str], credentials_file: str) -> Any:
    secrets = read_credentials(Path(credentials_file), prefix) if credentials_file else {}
    options: dict[str, Any] = {**settings, **secrets}
    headers = {name: options.pop(name) for name in _HEADERS if name in options}
    # BucketStore sets a time limit by size; the caller retries.
    client: dict[str, Any] = {"timeout": timedelta(days=1), "connect_timeout": timedelta(seconds=10)}
    if headers:
        client["default_headers"] = headers
    if options.pop("allow_http", "").lower() == "true":
        client["allow_http"] = True
    if proxy := options.pop("proxy_url", ""):
        client["proxy_url"] = proxy
    if ca_file := options.pop("root_certificate_file", ""):
        client["root_certificate"] = _read_certificate(Path(ca_file))
    opener: Any = from_url
    try:
        return opener(url, config=options or None, client_options=client, retry_config={"max_retries": 0})
    except (BaseError, ValueError, TypeError) as error:
        if _NO_CA_CERTIFICATES in str(error):
            message = "uplink: this machine has no CA certificates, so it cannot verify servers"
            raise ConfigInvalid(message, remedy="Install the system's: apt install ca-certificates.") from None
        # The library's message may contain secret values; its class does not.
        fault = f"{prefix}url, its options or its credential ({type(error).__name__})"
        message = f"uplink: the store does not accept this {fault}"
        remedy = f"Known names of {urlsplit(url).scheme}:// are those of obstore; given: {sorted(options)}."
        raise ConfigInvalid(message, remedy=remedy) from None


def _read_certificate(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"cannot read uplink.options.root_certificate_file {path}: {error.strerror}"
        raise ConfigInvalid(message, remedy="A file with certificates in PEM.") from None
