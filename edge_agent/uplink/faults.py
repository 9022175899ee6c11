"""What went wrong at the upstream, by name and with what to do. Pure.

The libraries' messages hold addresses with their queries and whatever a server wrote, so nothing of them is passed on
but the HTTP status and the store's own short code.
"""

from __future__ import annotations

import re

from edge_agent.errors import EdgeAgentError, UpstreamBusy, UpstreamFailed, UpstreamMissing, UpstreamRefused
from edge_agent.errors import UpstreamUnreachable as Unreachable

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_BUSY = {"408", "425", "429", "503", "509"}
_REFUSED = {"401", "403", "407"}
_MISSING_CODES = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "AccountNotFound"}


def from_store(said: str, kind: str, doing: str, upstream: str) -> EdgeAgentError:
    """Name what an object store or the way to it said.

    Args:
        said: the library's message.
        kind: the name of the library's class of errors.
        doing: what was tried, for the sentence, such as "PUT site=a/status.json".
        upstream: where, without anything secret.
    """
    found, code = _STATUS.search(said), _CODE.search(said)
    status = found[1] if found else ""
    answer = " ".join(part for part in (status, code[1] if code else "") if part)
    sentence = f"{upstream}: {doing} was answered with {answer}" if answer else f"{upstream}: {doing} got no answer"
    if status in _REFUSED or kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return UpstreamRefused(sentence, status=status)
    if status == "404" or (code and code[1] in _MISSING_CODES):
        return UpstreamMissing(sentence, status=status)
    if status in _BUSY:
        return UpstreamBusy(sentence, status=status)
    if answer:
        return UpstreamFailed(sentence, status=status)
    if "Unable to extract metadata" in said or "redirect" in said:
        return UpstreamFailed(f"{upstream}: {doing} was answered, but not as a store of this kind does")
    return Unreachable(sentence)


def too_slow(doing: str, upstream: str) -> EdgeAgentError:
    """Name a request that was given up."""
    return Unreachable(f"{upstream}: {doing} took longer than it may")


def names_the_place(said: str) -> bool:
    """Tell whether a store that says "not found" means the bucket or container, not the object."""
    code = _CODE.search(said)
    return bool(code and code[1] in _MISSING_CODES)
