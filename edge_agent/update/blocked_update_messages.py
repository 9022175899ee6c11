"""The trusted content of a repository, and the messages about an update that cannot continue.

There is a state, a reason and a sentence for every cause in every phase. A sentence names the next step of a person, if
one is needed: status, the console and the answer of an import show it unchanged. `None` means that the cause does not
block that phase: a bundle in the store needs no drive and no network.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edge_agent.errors import EdgeAgentError
from edge_agent.formats.plan import RolloutPlan
from edge_agent.formats.status_object import UpdateState
from edge_agent.formatting import megabytes_to_free


@dataclass(frozen=True)
class SignedBundle:
    """A bundle that the offline keys have signed."""

    task: str
    version: str
    size_bytes: int
    """Of its manifest."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Those of its manifest in the metadata, by algorithm."""

    def is_this(self, manifest_bytes: bytes) -> bool:
        """Tell whether a manifest has every signed hash; False if an algorithm is unknown."""
        try:
            return all(hashlib.new(name, manifest_bytes).hexdigest() == value for name, value in self.hashes.items())
        except ValueError:
            return False


@dataclass(frozen=True)
class VerifiedRepository:
    """A repository that is signed, not expired, and not older than what was seen before."""

    plan: RolloutPlan | None = None
    """None = none was published yet."""
    bundles: Mapping[str, SignedBundle] = field(default_factory=dict)
    """By digest."""
    issued_at: float = 0.0
    """The newest signed time so far, in seconds since 1970: the true time is not earlier."""
    expires: float = 0.0
    """When the first metadata file expires, in seconds since 1970; 0 = there is none."""
    problem: EdgeAgentError | None = None
    """Why the repository in `incoming/` is not trusted, if this is an earlier one that still is."""

    @property
    def plan_version(self) -> int:
        """The version of the plan; 0 = there is none."""
        return self.plan.version if self.plan else 0


@dataclass(frozen=True)
class CopyProgress:
    """How far a copy has come. Read by other threads."""

    name: str = ""
    """Task and version; empty = nothing is copied."""
    bytes: int = 0
    bytes_total: int = 0


IMPORT_AGAIN = "insert the USB drive again and import it ('sudo edge-agent media import /media/usb')"
NOTHING_LOST = "nothing is lost"
STOPPED_WHILE_COPYING = "the daemon or the machine stopped while it was copied from a USB drive"


class BlockingCause(enum.Enum):
    """Why an update does not continue."""

    FILES_MISSING = "FILES_MISSING"
    """Files are missing on this machine, and no drive has brought them yet."""
    DRIVE_INCOMPLETE = "UPDATE_INCOMPLETE"
    """A file on the USB drive is missing, cut short or damaged."""
    DRIVE_UNREADABLE = "STICK_FAILED"
    """The USB drive was pulled out, or fails."""
    DISK_FULL = "DISK_FULL"
    DISK_FAILED = "STORE_DAMAGED"
    """This machine's own disk cannot be read or written; the reason is that of the error."""
    AGENT_OLD = "REQUIREMENT_UNMET"
    """This agent cannot use the bundle; the reason is that of the error."""
    INTERRUPTED = "INTERRUPTED"
    """The daemon or the machine stopped in the middle of the step."""


class UpdatePhase(enum.Enum):
    """What was under way."""

    FETCHING = "fetching"
    """Files are missing on this machine, and no drive is being imported."""
    IMPORTING = "importing"
    """A bundle is copied from a USB drive into the store."""
    ADMITTING = "admitting"
    """A bundle is copied from `incoming/` into the store."""
    TESTING = "testing"
    SWITCHING = "switching"


@dataclass(frozen=True)
class DownloadBlocker:
    """Why the uplink does not bring files."""

    message: str
    """As the end of a sentence: "the uplink is offline"."""
    has_uplink: bool = True
    """It may bring them later."""
    disk_full: bool = False
    """Its disk has no room for them."""


@dataclass(frozen=True)
class BlockedUpdate:
    """The numbers and names for the message."""

    detail: str = ""
    """The files that are missing, or the message of the error."""
    reason: str = ""
    """The reason of the error; empty = that of the cause."""
    disk: str = ""
    """The folder whose disk is full."""
    short_bytes: int | None = None
    """Bytes to free before it can continue; 0 = there is room now, None = unknown."""
    download: DownloadBlocker | None = None
    """Why the uplink does not bring the files; None = it does."""


@dataclass(frozen=True)
class Explanation:
    """The state, reason and message of a blocked update."""

    state: UpdateState
    reason: str = ""
    message: str = ""


def explain(cause: BlockingCause, phase: UpdatePhase, seen: BlockedUpdate) -> Explanation | None:
    """Return the message about an update that a cause blocks in a phase; None = it does not block it."""
    from_drive = cause in (BlockingCause.DRIVE_INCOMPLETE, BlockingCause.DRIVE_UNREADABLE)
    match phase:
        case UpdatePhase.FETCHING if cause is BlockingCause.DISK_FULL:
            return _no_room_to_fetch(seen)
        case UpdatePhase.FETCHING:
            return _not_here(cause, seen)
        case UpdatePhase.IMPORTING:
            return _import_failed(cause, seen)
        case _ if from_drive or cause is BlockingCause.INTERRUPTED:
            return None  # the bundle is on this machine: the step is repeated from there
        case _ if cause is BlockingCause.FILES_MISSING:
            return _not_here(cause, seen)
        case _:
            return _blocked_here(cause, seen)


def _not_here(cause: BlockingCause, seen: BlockedUpdate) -> Explanation:
    """Explain missing files: either the uplink brings them, or a person must."""
    if seen.download is None:
        return Explanation("fetching", message=f"{seen.detail} still to come")
    if cause is BlockingCause.INTERRUPTED:
        return Explanation("waiting", "INTERRUPTED", f"{STOPPED_WHILE_COPYING}: {IMPORT_AGAIN}; {NOTHING_LOST}")
    if cause is not BlockingCause.FILES_MISSING:  # an import has failed before, and its message still applies
        return Explanation("waiting", seen.reason or cause.value, seen.detail)
    if seen.download.disk_full:
        return _no_room_to_fetch(replace(seen, detail=seen.download.message))
    more = ", or wait for the uplink" if seen.download.has_uplink else ""
    message = f"{seen.detail} missing on this machine, and {seen.download.message}: {IMPORT_AGAIN}{more}"
    return Explanation("waiting", "FILES_MISSING", message)


def _no_room_to_fetch(seen: BlockedUpdate) -> Explanation:
    if seen.short_bytes is None:  # the message of the last measurement still applies
        return Explanation("waiting", "DISK_FULL", seen.detail)
    by_uplink = seen.download is None or seen.download.disk_full
    if seen.short_bytes == 0:
        again = "the uplink tries again within an hour" if by_uplink else IMPORT_AGAIN
        return Explanation("waiting", "FILES_MISSING", f"{_disk(seen)} has room for it now: {again}")
    after = "the download then continues automatically" if by_uplink else f"then {IMPORT_AGAIN}"
    return Explanation("waiting", "DISK_FULL", f"{_free(seen)}; {after}")


def _import_failed(cause: BlockingCause, seen: BlockedUpdate) -> Explanation:
    """Explain a failed import: a person brings the drive again, as it may be gone, or the uplink brings the rest."""
    state: UpdateState = "fetching" if seen.download is None else "waiting"
    reason = seen.reason or cause.value
    match cause:
        case BlockingCause.FILES_MISSING | BlockingCause.DRIVE_INCOMPLETE:
            again = "have the USB drive written again for this site, and import it"
            return Explanation(state, "UPDATE_INCOMPLETE", f"{seen.detail}: {again}")
        case BlockingCause.DRIVE_UNREADABLE:
            return Explanation(state, "STICK_FAILED", f"{seen.detail}: {IMPORT_AGAIN}; {NOTHING_LOST}")
        case BlockingCause.DISK_FULL:
            return Explanation(state, "DISK_FULL", f"{_free(seen)}; then {IMPORT_AGAIN}")
        case BlockingCause.DISK_FAILED:
            check = "check the disk of this machine ('dmesg')"
            return Explanation(state, reason, f"{seen.detail}: {check}, then {IMPORT_AGAIN}")
        case BlockingCause.AGENT_OLD:
            return Explanation(state, reason, f"{seen.detail}: update edge-agent, then {IMPORT_AGAIN}")
        case BlockingCause.INTERRUPTED:
            return Explanation(state, "INTERRUPTED", f"{STOPPED_WHILE_COPYING}: {IMPORT_AGAIN}; {NOTHING_LOST}")


def _blocked_here(cause: BlockingCause, seen: BlockedUpdate) -> Explanation:
    """Explain a block with all files on this machine: the step is tried again automatically."""
    if cause is BlockingCause.DISK_FULL:
        if seen.short_bytes == 0:
            return Explanation("staged", message=f"{_disk(seen)} has room for it now; it continues in a moment")
        return Explanation("staged", "DISK_FULL", f"{_free(seen)}; it then continues automatically")
    return Explanation("staged", seen.reason or cause.value, f"{seen.detail}; it is tried again automatically")


def _disk(seen: BlockedUpdate) -> str:
    return f"the disk of {seen.disk}" if seen.disk else "the disk"


def _free(seen: BlockedUpdate) -> str:
    if seen.short_bytes:
        return f"{_disk(seen)} is too full for it: free {megabytes_to_free(seen.short_bytes)}"
    return (
        f"{_disk(seen)} is full ({seen.detail}): free some space"
        if seen.detail
        else f"{_disk(seen)} is full: free some space"
    )
