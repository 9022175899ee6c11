"""The interface of object stores, the names of a site's objects, and the errors of stores. Pure.

    site=<id>/segments/<epoch>-<sequence>.age and .json     segments that the site sealed, with their manifests
    site=<id>/status.json                                   the site's status object
    site=<id>/receipts.json                                 the receipts of the central team; only read here

The repository of updates is a second store, which is only read: formats/repository_metadata.py. `FolderStore`
and `BucketStore` (store_backends.py) implement the interface.

The messages of the store libraries contain URLs with queries and text from the server, so only the HTTP status and
the store's error code are logged.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge_agent.errors import (
    EdgeAgentError,
    UpstreamBusy,
    UpstreamFailed,
    UpstreamMissing,
    UpstreamRefused,
    UpstreamUnreachable,
)
from edge_agent.formats import segment

_MD5_TAG = re.compile(r'"?([0-9a-f]{32})"?')
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_WITHOUT_STATUS: tuple[tuple[re.Pattern[str], type[EdgeAgentError], str], ...] = (
    (
        re.compile("redirect without LOCATION"),
        UpstreamFailed,
        "was redirected without an address, as S3 does for another region: correct 'region' under 'options'",
    ),
    (
        re.compile("Unable to extract metadata|redirect|Header missing"),
        UpstreamFailed,
        "was answered, but not as a store of this kind does",
    ),
    (
        re.compile(r"Range request not supported|non-partial response|Requested \d+\.\.\d+, got"),
        UpstreamFailed,
        "was answered with something else than the requested range",
    ),
    (re.compile("response body error"), UpstreamUnreachable, "was cut off in the middle of the answer"),
)
_BY_STATUS: dict[str, type[EdgeAgentError]] = {
    **dict.fromkeys(("401", "403", "407"), UpstreamRefused),
    "404": UpstreamMissing,
    **dict.fromkeys(("408", "425", "429", "503", "509"), UpstreamBusy),
}
_CREDENTIAL_CODES = {
    *("ExpiredToken", "InvalidToken", "TokenRefreshRequired"),  # of S3 with 400
    *("InvalidAccessKeyId", "RequestTimeTooSkewed", "SignatureDoesNotMatch"),
}
_BUCKET_MISSING_CODES = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "AccountNotFound"}


@dataclass(frozen=True)
class ObjectMetadata:
    """An object as its store describes it."""

    size: int
    """Bytes."""
    tag: str = ""
    """Entity tag: changes with the content; empty = the store gives none."""
    sha256: str = ""
    """Of the content, where the store read the object to its end; otherwise empty."""
    md5: str = ""
    """Of the content, as the store reports it; otherwise empty."""

    def matches(self, content: bytes) -> bool | None:
        """Return whether the object has this content; None = the metadata cannot tell."""
        if self.size != len(content):
            return False
        if self.sha256:
            return self.sha256 == hashlib.sha256(content).hexdigest()
        # MD5 protects against accidents only. A different hash proves nothing: a store that encrypts reports another
        # one.
        return True if self.md5 and self.md5 == hashlib.md5(content, usedforsecurity=False).hexdigest() else None


@dataclass(frozen=True)
class FetchedObject:
    """The content of an object and its tag."""

    content: bytes
    tag: str = ""
    same: bool = False
    """The object still has the tag in `unless`; `content` is then empty."""


@dataclass(frozen=True)
class ByteRange:
    """A range of an object's bytes."""

    start: int
    count: int
    size: int
    """Bytes of the whole object."""


class ObjectStore(Protocol):
    """A store of objects. Every method may raise CapacityError, UpstreamRefused, UpstreamMissing or DiskFull."""

    name: str
    """For messages and logs; holds no secret."""

    async def head(self, key: str) -> ObjectMetadata | None:
        """Return an object's metadata; None = there is no such object."""

    async def put(self, key: str, content: bytes) -> str:
        """Write an object, atomically if the store can; return its tag, empty = it has none."""

    async def get(self, key: str, bytes_max: int, unless: str = "") -> FetchedObject | None:
        """Return an object, at most its first `bytes_max` + 1 bytes; None = there is no such object.

        Args:
            key: the object.
            bytes_max: bytes that the caller accepts.
            unless: tag of a version that the caller has already.
        """

    async def get_range(self, key: str, part: ByteRange, write: Callable[[bytes], None]) -> int | None:
        """Pass the bytes of a range to `write` as they arrive; return the object's size, None = there is none.

        Never passes more bytes than requested. An object that does not have `part.size` bytes is not read.
        """


@dataclass(frozen=True)
class SiteObjectKeys:
    """The names of a site's objects."""

    site: str

    def status(self) -> str:
        """Of the status object."""
        return f"site={self.site}/status.json"

    def receipts(self) -> str:
        """Of the receipts."""
        return f"site={self.site}/receipts.json"

    def sealed(self, stem: str) -> str:
        """Of a sealed segment."""
        return f"site={self.site}/segments/{stem}{segment.SEALED_SUFFIX}"

    def manifest(self, stem: str) -> str:
        """Of a segment's manifest."""
        return f"site={self.site}/segments/{stem}{segment.MANIFEST_SUFFIX}"


def md5_from_tag(tag: str) -> str:
    """Return the MD5 that an entity tag consists of; empty = it is not one."""
    match = _MD5_TAG.fullmatch(tag)
    return match[1] if match else ""


def classify_store_error(message: str, operation: str, store: str) -> EdgeAgentError:
    """Return the error that describes why an object store, or the network on the way to it, failed.

    Args:
        message: the library's message.
        operation: what was tried, such as "PUT site=a/status.json".
        store: name of the store, without anything secret.
    """
    status_match = _STATUS.search(message)
    if status_match is None:
        kind, outcome = next(
            ((kind, outcome) for pattern, kind, outcome in _WITHOUT_STATUS if pattern.search(message)),
            (UpstreamUnreachable, "got no answer"),
        )
        return kind(f"{store}: {operation} {outcome}")
    code = _error_code(message)
    kind = UpstreamMissing if is_bucket_missing(message) else _BY_STATUS.get(status_match[1], UpstreamFailed)
    kind = UpstreamRefused if is_credential_refused(message) else kind
    answer = f"{status_match[1]} {code}" if code else status_match[1]
    return kind(f"{store}: {operation} was answered with {answer}", status=status_match[1])


def is_bucket_missing(message: str) -> bool:
    """Return whether "not found" refers to the bucket or container, not to the object."""
    return _error_code(message) in _BUCKET_MISSING_CODES


def is_credential_refused(message: str) -> bool:
    """Return whether a refusal is about the key, its token or the clock, whichever object was asked for."""
    return _error_code(message) in _CREDENTIAL_CODES


def _error_code(message: str) -> str:
    match = _CODE.search(message)
    return match[1] if match else ""
