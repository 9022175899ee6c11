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


def explain(cause: BlockingCause, phase: UpdatePhase, details: BlockedUpdate) -> Explanation | None:
    """Return the message about an update that a cause blocks in a phase; None = it does not block it."""
    from_drive = cause in (BlockingCause.DRIVE_INCOMPLETE, BlockingCause.DRIVE_UNREADABLE)
    match phase:
        case UpdatePhase.FETCHING if cause is BlockingCause.DISK_FULL:
            return _explain_full_disk(details)
        case UpdatePhase.FETCHING:
            return _explain_missing(cause, details)
        case UpdatePhase.IMPORTING:
            return _explain_failed_import(cause, details)
        case _ if from_drive or cause is BlockingCause.INTERRUPTED:
            return None  # the bundle is on this machine: the step is repeated from there
        case _ if cause is BlockingCause.FILES_MISSING:
            return _explain_missing(cause, details)
        case _:
            return _explain_blocked_step(cause, details)


def _explain_missing(cause: BlockingCause, details: BlockedUpdate) -> Explanation:
    """Explain missing files: either the uplink brings them, or a person must."""
    if details.download is None:
        return Explanation("fetching", message=f"{details.detail} still to come")
    if cause is BlockingCause.INTERRUPTED:
        return Explanation("waiting", "INTERRUPTED", f"{STOPPED_WHILE_COPYING}: {IMPORT_AGAIN}; {NOTHING_LOST}")
    if cause is not BlockingCause.FILES_MISSING:  # an import has failed before, and its message still applies
        return Explanation("waiting", details.reason or cause.value, details.detail)
    if details.download.disk_full:
        return _explain_full_disk(replace(details, detail=details.download.message))
    alternative = ", or wait for the uplink" if details.download.has_uplink else ""
    message = f"{details.detail} missing on this machine, and {details.download.message}: {IMPORT_AGAIN}{alternative}"
    return Explanation("waiting", "FILES_MISSING", message)


def _explain_full_disk(details: BlockedUpdate) -> Explanation:
    if details.short_bytes is None:  # the message of the last measurement still applies
        return Explanation("waiting", "DISK_FULL", details.detail)
    by_uplink = details.download is None or details.download.disk_full
    if details.short_bytes == 0:
        remedy = "the uplink tries again within an hour" if by_uplink else IMPORT_AGAIN
        return Explanation("waiting", "FILES_MISSING", f"{_disk_text(details)} has room for it now: {remedy}")
    follow_up = "the download then continues automatically" if by_uplink else f"then {IMPORT_AGAIN}"
    return Explanation("waiting", "DISK_FULL", f"{_free_space_text(details)}; {follow_up}")


def _explain_failed_import(cause: BlockingCause, details: BlockedUpdate) -> Explanation:
    """Explain a failed import: a person brings the drive again, as it may be gone, or the uplink brings the rest."""
    state: UpdateState = "fetching" if details.download is None else "waiting"
    reason = details.reason or cause.value
    match cause:
        case BlockingCause.FILES_MISSING | BlockingCause.DRIVE_INCOMPLETE:
            remedy = "have the USB drive written again for this site, and import it"
            return Explanation(state, "UPDATE_INCOMPLETE", f"{details.detail}: {remedy}")
        case BlockingCause.DRIVE_UNREADABLE:
            return Explanation(state, "STICK_FAILED", f"{details.detail}: {IMPORT_AGAIN}; {NOTHING_LOST}")
        case BlockingCause.DISK_FULL:
            return Explanation(state, "DISK_FULL", f"{_free_space_text(details)}; then {IMPORT_AGAIN}")
        case BlockingCause.DISK_FAILED:
            check = "check the disk of this machine ('dmesg')"
            return Explanation(state, reason, f"{details.detail}: {check}, then {IMPORT_AGAIN}")
        case BlockingCause.AGENT_OLD:
            return Explanation(state, reason, f"{details.detail}: update edge-agent, then {IMPORT_AGAIN}")
        case BlockingCause.INTERRUPTED:
            return Explanation(state, "INTERRUPTED", f"{STOPPED_WHILE_COPYING}: {IMPORT_AGAIN}; {NOTHING_LOST}")


def _explain_blocked_step(cause: BlockingCause, details: BlockedUpdate) -> Explanation:
    """Explain a block with all files on this machine: the step is tried again automatically."""
    if cause is BlockingCause.DISK_FULL:
        if details.short_bytes == 0:
            return Explanation("staged", message=f"{_disk_text(details)} has room for it now; it continues in a moment")
        return Explanation("staged", "DISK_FULL", f"{_free_space_text(details)}; it then continues automatically")
    return Explanation("staged", details.reason or cause.value, f"{details.detail}; it is tried again automatically")


def _disk_text(details: BlockedUpdate) -> str:
    return f"the disk of {details.disk}" if details.disk else "the disk"


def _free_space_text(details: BlockedUpdate) -> str:
    if details.short_bytes:
        return f"{_disk_text(details)} is too full for it: free {megabytes_to_free(details.short_bytes)}"
    error = f" ({details.detail})" if details.detail else ""
    return f"{_disk_text(details)} is full{error}: free some space"
