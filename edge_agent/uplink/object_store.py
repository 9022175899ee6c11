"""What an upstream says of an object. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from edge_agent.errors import EdgeAgentError, UpstreamBusy, UpstreamFailed, UpstreamMissing, UpstreamRefused
from edge_agent.errors import UpstreamUnreachable as Unreachable

_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


@dataclass(frozen=True)
class Stored:
    """An object as the upstream describes it."""

    size: int
    """Bytes."""
    tag: str = ""
    """Changes with the content; empty = the store gives none."""
    sha256: str = ""
    """Of the content, where the place was read to the end."""
    md5: str = ""
    """Likewise, as the store says."""

    def tells(self, content: bytes) -> bool | None:
        """Tell whether it is this content; None = what is known does not say."""
        if self.size != len(content):
            return False
        if self.sha256:
            return self.sha256 == hashlib.sha256(content).hexdigest()
        # Another MD5 proves nothing: a store that encrypts gives the hash of something else.
        return True if self.md5 and self.md5 == md5_of(content) else None


@dataclass(frozen=True)
class Fetched:
    """An object's content and its tag."""

    content: bytes
    tag: str = ""
    same: bool = False
    """It is still the one that was had before; the content does not come again."""


@dataclass(frozen=True)
class Part:
    """Bytes of an object."""

    start: int
    count: int
    size: int
    """Bytes that all of the object has."""


def md5_in(tag: str) -> str:
    """Return the MD5 that an entity tag is made of; empty = none."""
    found = _MD5.fullmatch(tag)
    return found[1] if found else ""


def md5_of(content: bytes) -> str:
    """Return the hash by which stores name content; it protects against accidents only."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


# What went wrong at the upstream, by name and with what to do. Pure.
#
# The libraries' messages hold addresses with their queries and whatever a server wrote, so nothing of them is passed on
# but the HTTP status and the store's own short code.
_STATUS = re.compile(r"status code: (\d{3})")
_WITHOUT_STATUS: tuple[tuple[re.Pattern[str], tuple[type[EdgeAgentError], str]], ...] = (
    (
        re.compile("Unable to extract metadata|redirect|Header missing"),
        (UpstreamFailed, "was answered, but not as a store of this kind does"),
    ),
    (
        re.compile(r"Range request not supported|non-partial response|Requested \d+\.\.\d+, got"),
        (UpstreamFailed, "brought something else than the part that was asked for"),
    ),
    (re.compile("response body error"), (Unreachable, "was cut off in the middle of the answer")),
)
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_BY_STATUS: dict[str, type[EdgeAgentError]] = {
    **dict.fromkeys(("401", "403", "407"), UpstreamRefused),
    "404": UpstreamMissing,
    **dict.fromkeys(("408", "425", "429", "503", "509"), UpstreamBusy),
}
_MISSING_CODES = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "AccountNotFound"}


def from_store(said: str, doing: str, upstream: str) -> EdgeAgentError:
    """Name what an object store or the way to it said.

    Args:
        said: the library's message.
        doing: what was tried, for the sentence, such as "PUT site=a/status.json".
        upstream: where, without anything secret.
    """
    found = _STATUS.search(said)
    if found is None:
        return _without_status(said, f"{upstream}: {doing}")
    code = _CODE.search(said)
    kind = UpstreamMissing if names_the_place(said) else _BY_STATUS.get(found[1], UpstreamFailed)
    answer = f"{found[1]} {code[1]}" if code else found[1]
    return kind(f"{upstream}: {doing} was answered with {answer}", status=found[1])


def _without_status(said: str, what: str) -> EdgeAgentError:
    kind, came = next(
        (meant for pattern, meant in _WITHOUT_STATUS if pattern.search(said)), (Unreachable, "got no answer")
    )
    return kind(f"{what} {came}")


def too_slow(doing: str, upstream: str) -> EdgeAgentError:
    """Name a request that was given up."""
    return Unreachable(f"{upstream}: {doing} took longer than it may")


def names_the_place(said: str) -> bool:
    """Tell whether a store that says "not found" means the bucket or container, not the object."""
    code = _CODE.search(said)
    return bool(code and code[1] in _MISSING_CODES)
