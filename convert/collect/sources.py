"""Sources of segments: a folder (a USB drive, a mounted share) or an object store. Both are untrusted input.

    site=<id>/segments/<epoch>-<sequence>.age and .json      sealed examples
    site=<id>/status.json                                    the site's own status
    site=<id>/receipts.json                                  collected segments; the only file written here

Writes to a folder survive an unplugged drive; an object store stores an object whole or not at all.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from edge_agent.durable import atomic_files
from edge_agent.errors import InvalidRequest
from edge_agent.errors.base import CONNECTION_REMEDY, connection_setting
from edge_agent.formats import segment, status_object
from edge_agent.formatting import counted

SITE_PREFIX, SEGMENTS = "site=", "segments"
_SHARED_MODE = 0o644
_SCHEMES = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "https", "http")
_STORES: Callable[..., Any] = from_url  # its type is a union of six stores; the URL selects one
_RETRY: dict[str, Any] = {"max_retries": 5, "retry_timeout": timedelta(seconds=120)}


class SourceFailed(Exception):
    """A source, or one object in it, cannot be read or written now. The message is a complete sentence."""


@dataclass
class SiteListing:
    """The objects of one site in a source."""

    site: str
    sealed: dict[str, int] = field(default_factory=dict)
    """Name of a segment, without suffix: size of its sealed file in bytes."""
    manifests: set[str] = field(default_factory=set)
    """Names of segments that have a manifest."""
    status: bool = False
    receipts: bool = False

    def add(self, parts: tuple[str, ...], size_bytes: int) -> None:
        """Add one object by its path below the site; unknown paths are ignored."""
        self.status |= parts == (status_object.FILE_NAME,)
        self.receipts |= parts == (segment.RECEIPTS_FILE_NAME,)
        if parts[:-1] == (SEGMENTS,):
            stem, dot, suffix = parts[-1].partition(".")
            if segment.parse_name(stem) is None:
                return
            if dot + suffix == segment.SEALED_SUFFIX:
                self.sealed[stem] = size_bytes
            elif dot + suffix == segment.MANIFEST_SUFFIX:
                self.manifests.add(stem)

    def missing_half(self, stem: str) -> str:
        """Return the name of the missing file of a segment; empty = none is missing."""
        if stem not in self.manifests:
            return "manifest"
        return "" if stem in self.sealed else "sealed file"


class SegmentSource(Protocol):
    """A place with the sites' segments. Every method can raise SourceFailed."""

    name: str
    """Its name for messages, as the user wrote it."""

    def objects(self) -> Iterator[tuple[str, int]]:
        """Yield path and size in bytes of every object below `site=…/`; this can take long."""

    def read(self, path: str, bytes_max: int) -> bytes:
        """Return an object; a larger one raises SourceFailed."""

    def write(self, path: str, content: bytes) -> None:
        """Write an object, whole or not at all."""


def open_source(location: str, options: Mapping[str, str]) -> SegmentSource:
    """Return the source for a path or URL; `options` are for the object store (endpoint, region, keys…).

    Raises:
        InvalidRequest: no such folder, or an unknown URL or option.
    """
    if "://" not in location:
        return FolderSource(Path(location))
    return BucketSource(location, open_store(location, options))


def open_store(url: str, options: Mapping[str, str]) -> Any:
    """Return the object store below a URL.

    Raises:
        InvalidRequest: an unknown URL or option.
    """
    if url.partition("://")[0] not in _SCHEMES:
        raise InvalidRequest(
            f"'{url}' is neither a folder nor an object store",
            remedy="Name a folder, or a URL with s3://, gs:// or az://.",
        )
    if setting := connection_setting(options):
        raise InvalidRequest(f"--store-option: '{setting}' is a setting of the connection", remedy=CONNECTION_REMEDY)
    plain: dict[str, Any] = dict(options)
    client: dict[str, Any] = {"timeout": timedelta(seconds=60), "connect_timeout": timedelta(seconds=10)}
    if plain.pop("allow_http", "").lower() == "true":
        client["allow_http"] = True
    if proxy := plain.pop("proxy_url", ""):
        client["proxy_url"] = proxy
    try:
        return _STORES(url, config=plain or None, client_options=client, retry_config=_RETRY)
    except (BaseError, ValueError) as error:
        remedy = "Options have the names of obstore, such as --store-option endpoint=https://…"
        raise InvalidRequest(f"cannot use {url}: {error}", remedy=remedy) from None


def listings(source: SegmentSource) -> tuple[list[SiteListing], str]:
    """Return the contents of the source, sorted by site, and an error if the list is incomplete; empty = complete."""
    by_site: dict[str, SiteListing] = {}
    problem = ""
    try:
        for path, size_bytes in source.objects():
            first, *rest = path.split("/")
            if first.startswith(SITE_PREFIX) and rest:
                site = first.removeprefix(SITE_PREFIX)
                by_site.setdefault(site, SiteListing(site)).add(tuple(rest), size_bytes)
    except SourceFailed as error:
        problem = str(error)
    return [by_site[site] for site in sorted(by_site)], problem


def path_of(site: str, *names: str) -> str:
    """Return the path of an object of a site."""
    return "/".join((SITE_PREFIX + site, *names))


class FolderSource:
    """A folder. Links are not followed and only regular files are read, because a USB drive can contain anything."""

    def __init__(self, root: Path) -> None:
        """Raise InvalidRequest if there is no such folder."""
        if not root.is_dir():
            raise InvalidRequest(f"{root} is not a folder", remedy="Name the folder that holds site=…/ folders.")
        self.name = str(root)
        self._root = root

    def objects(self) -> Iterator[tuple[str, int]]:
        """Yield regular files below `site=…/`; then fail if a file or folder among these cannot be read."""
        with _translated_errors(self.name), os.scandir(self._root) as entries:
            site_entries = (each for each in entries if each.name.startswith(SITE_PREFIX))
            sites = sorted(each.name for each in site_entries if each.is_dir(follow_symlinks=False))
        errors: list[OSError] = []
        for site in sites:
            yield from self._files(site, errors)
        unreadable = [error for error in errors if not isinstance(error, FileNotFoundError)]
        if unreadable:
            more = f", and {counted(len(unreadable) - 1, 'more path')}" if len(unreadable) > 1 else ""
            raise SourceFailed(f"{unreadable[0].filename}: {unreadable[0].strerror}{more}")

    def _files(self, site: str, errors: list[OSError]) -> Iterator[tuple[str, int]]:
        for folder, _, names in os.walk(self._root / site, onerror=errors.append):
            for path in (Path(folder, name) for name in names):
                try:
                    info = path.lstat()
                except OSError as error:  # FileNotFoundError is ignored later: an uplink renames its files
                    errors.append(error)
                    continue
                if stat.S_ISREG(info.st_mode):
                    yield path.relative_to(self._root).as_posix(), info.st_size

    def read(self, path: str, bytes_max: int) -> bytes:
        """Read a regular file."""
        with _translated_errors(f"{self.name}/{path}"):
            fd = os.open(self._root / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(fd, "rb") as file:
                content = file.read(bytes_max + 1)
        if len(content) > bytes_max:
            raise SourceFailed(f"{path} has more than {bytes_max} bytes")
        return content

    def write(self, path: str, content: bytes) -> None:
        """Write and sync a file that the site's uplink, another user, can read."""
        with _translated_errors(f"{self.name}/{path}"):
            atomic_files.write_atomically(self._root / path, content, _SHARED_MODE)


class BucketSource:
    """An object store below a prefix."""

    def __init__(self, name: str, store: Any) -> None:
        """Use an obstore store."""
        self.name = name
        self._store = store

    def objects(self) -> Iterator[tuple[str, int]]:
        """List all objects, page by page."""
        with _translated_errors(self.name):
            for page in obstore.list(self._store):
                yield from ((entry["path"], entry["size"]) for entry in page)

    def read(self, path: str, bytes_max: int) -> bytes:
        """Get an object, after checking its size."""
        with _translated_errors(f"{self.name}/{path}"):
            result = obstore.get(self._store, path)
            if result.meta["size"] > bytes_max:
                raise SourceFailed(f"{self.name}/{path} has {result.meta['size']} bytes; the limit is {bytes_max}")
            return bytes(result.bytes())

    def write(self, path: str, content: bytes) -> None:
        """Put an object in one request."""
        with _translated_errors(f"{self.name}/{path}"):
            obstore.put(self._store, path, content, use_multipart=False)


@contextmanager
def _translated_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:  # obstore also raises FileNotFoundError
        # obstore's message continues with a dump of its internals.
        reason = getattr(error, "strerror", None) or str(error).partition("Debug source")[0].strip()
        raise SourceFailed(f"{what}: {reason[:500]}") from None
