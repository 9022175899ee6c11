"""Every error of the appliance, in families by who must act.

    EdgeAgentError
    ├── CallerError          the caller changes the request
    │   ├── UnknownTask, WrongTaskKind, InvalidRequest, EmptyInput, InputTooLong, TooManyInputs
    │   ├── PredictionUnknown
    │   ├── DeadlineExpired, RequestCancelled
    ├── CapacityError        the caller tries again after `retry_seconds`
    │   ├── QueueFull, EngineNotReady, Draining, StreamBroken
    │   ├── UpstreamUnreachable, UpstreamBusy, UpstreamFailed
    ├── ModelError           the central team looks at the model
    │   ├── ModelLoadFailed, ModelFailed, EngineCrashed, InputQuarantined
    ├── BundleError          the central team builds the bundle anew
    │   ├── BundleUnreadable, ManifestInvalid, SchemaUnknown, FileMissing, HashMismatch, PathUnsafe, BundleTooLarge,
    │   ├── BundleUnsigned, RequirementUnmet
    ├── ExchangeError        whoever made or carried the file looks at it
    │   ├── DocumentInvalid, SignatureInvalid, RecordInvalid, SegmentDamaged
    │   ├── UploadConflict
    ├── StateError           the operator names another version, or activates first
    │   ├── UnknownBundle, AmbiguousBundle, NothingToRollBack, BundleInUse
    └── SiteError            the technician changes something on this machine
        ├── ConfigInvalid, StateDirInUse, StateDirUnwritable, SocketInUse, SocketPathTooLong, DiskFull, StoreDamaged,
        ├── MemoryShort, StickFailed
        ├── ExchangeDirUnusable, UpstreamRefused, UpstreamMissing

Each class has one stable `reason`, which devices may test for, and each instance has a sentence that stands alone, a
remedy (what the reader can do next) and every dynamic value of the sentence in `metadata`. The map to gRPC codes is in
`edge_agent/service/status.py` and nowhere else. Errors cross the pipe from a child as (reason, message, remedy,
metadata) and are rebuilt by `from_wire`.
"""

from __future__ import annotations

from typing import ClassVar


class EdgeAgentError(Exception):
    """The root: never raised itself."""

    reason: ClassVar[str] = "INTERNAL"
    remedy_default: ClassVar[str] = ""

    def __init__(self, message: str, *, remedy: str = "", **metadata: object) -> None:
        """Keep the sentence, the remedy and the dynamic values (as text)."""
        super().__init__(message)
        self.message = message
        self.remedy = remedy or self.remedy_default
        self.metadata = {key: str(value) for key, value in metadata.items()}


class CallerError(EdgeAgentError):
    """The caller changes the request."""


class UnknownTask(CallerError):
    """No task of that name is installed."""

    reason = "TASK_UNKNOWN"


class WrongTaskKind(CallerError):
    """The task does something else than this call asks for."""

    reason = "TASK_KIND_MISMATCH"


class InvalidRequest(CallerError):
    """A field of the request breaks its rule."""

    reason = "REQUEST_INVALID"


class EmptyInput(CallerError):
    """An input has no text."""

    reason = "INPUT_EMPTY"
    remedy_default = "Send text with at least one character that is not white space."


class InputTooLong(CallerError):
    """An input has more tokens than the task allows."""

    reason = "INPUT_TOO_LONG"
    remedy_default = "Shorten the text, or split it over several inputs."


class TooManyInputs(CallerError):
    """A request has more inputs than the task allows."""

    reason = "TOO_MANY_INPUTS"
    remedy_default = "Send the inputs in several requests."


class PredictionUnknown(CallerError):
    """No answer of that id is kept here."""

    reason = "PREDICTION_UNKNOWN"
    remedy_default = (
        "Answers are kept for 'window_seconds' where 'collect' under 'examples' in agent.yaml allows it; "
        "check the id, and send feedback earlier."
    )


class DeadlineExpired(CallerError):
    """The caller's deadline passed before the answer was there."""

    reason = "DEADLINE_EXPIRED"
    remedy_default = "Allow more time, or send less at once."


class RequestCancelled(CallerError):
    """The caller went away."""

    reason = "CANCELLED"


class CapacityError(EdgeAgentError):
    """The caller tries again after `retry_seconds`."""

    def __init__(self, message: str, *, retry_seconds: float = 1.0, remedy: str = "", **metadata: object) -> None:
        """Keep also how long to wait, in seconds."""
        super().__init__(message, remedy=remedy, **metadata)
        self.retry_seconds = retry_seconds


class QueueFull(CapacityError):
    """The engine's queue has no room."""

    reason = "QUEUE_FULL"
    remedy_default = "Try again after the delay in RetryInfo."


class EngineNotReady(CapacityError):
    """The model is loading, or its process is being started again."""

    reason = "ENGINE_NOT_READY"
    remedy_default = "Try again after the delay in RetryInfo."


class Draining(CapacityError):
    """The daemon is stopping."""

    reason = "DRAINING"
    remedy_default = "Connect again when the daemon is back."


class StreamBroken(CapacityError):
    """The engine's process ended in the middle of a stream."""

    reason = "STREAM_BROKEN"
    remedy_default = "Send the request again; the text so far is not complete."


class UpstreamUnreachable(CapacityError):
    """No answer comes from the upstream, or none in time."""

    reason = "UPSTREAM_UNREACHABLE"
    remedy_default = (
        "Check the network, and 'url' and 'options' under 'uplink' in agent.yaml; it is tried again by itself."
    )


class UpstreamBusy(CapacityError):
    """The upstream asks for patience."""

    reason = "UPSTREAM_BUSY"
    remedy_default = "Nothing: it is tried again by itself, with longer pauses. If it stays, ask who runs the store."


class UpstreamFailed(CapacityError):
    """The upstream answers, but not as it should."""

    reason = "UPSTREAM_FAILED"
    remedy_default = (
        "It is tried again. If it stays: is it the right 'url' under 'uplink' in agent.yaml, or a login page before it?"
    )


class ModelError(EdgeAgentError):
    """The central team looks at the model."""


class ModelLoadFailed(ModelError):
    """The model's files do not load."""

    reason = "MODEL_LOAD_FAILED"
    remedy_default = (
        "Install the bundle again, which replaces damaged files; if that does not help, have it built again. "
        "'edge-agent rollback TASK' goes back to the version before."
    )


class ModelFailed(ModelError):
    """The model gave no usable answer to one request."""

    reason = "MODEL_FAILED"
    remedy_default = "Report the input and the bundle digest to the team that made the bundle."


class EngineCrashed(ModelError):
    """The engine's process died on this request."""

    reason = "ENGINE_CRASHED"
    remedy_default = "Report the input and the bundle digest to the team that made the bundle."


class InputQuarantined(ModelError):
    """The input killed the engine's process before, alone."""

    reason = "INPUT_QUARANTINED"
    remedy_default = "Report the input and the bundle digest to the team that made the bundle; do not send it again."


class BundleError(EdgeAgentError):
    """The central team builds the bundle anew. Nothing was installed."""


class BundleUnreadable(BundleError):
    """The path is no bundle directory and no tar."""

    reason = "BUNDLE_UNREADABLE"


class ManifestInvalid(BundleError):
    """manifest.json breaks a rule."""

    reason = "MANIFEST_INVALID"


class SchemaUnknown(BundleError):
    """manifest.json is of a schema this agent does not know."""

    reason = "SCHEMA_UNKNOWN"
    remedy_default = "Update edge-agent, or build the bundle for this agent's version."


class FileMissing(BundleError):
    """A file that the manifest names is not in the bundle."""

    reason = "FILE_MISSING"


class HashMismatch(BundleError):
    """A file's bytes are not the ones the manifest names."""

    reason = "HASH_MISMATCH"
    remedy_default = "Copy the bundle again; if it repeats, have it published again."


class PathUnsafe(BundleError):
    """A path in the bundle leaves the bundle."""

    reason = "PATH_UNSAFE"


class BundleTooLarge(BundleError):
    """The bundle, or a file of it, is over a limit."""

    reason = "BUNDLE_TOO_LARGE"


class BundleUnsigned(BundleError):
    """The bundle has no signature and the site does not allow that."""

    reason = "BUNDLE_UNSIGNED"
    remedy_default = "Install a signed bundle, or set 'allow_unsigned: true' under 'store' in agent.yaml."


class RequirementUnmet(BundleError):
    """The bundle needs something that this machine or agent does not have."""

    reason = "REQUIREMENT_UNMET"


class ExchangeError(EdgeAgentError):
    """Whoever made or carried a file between site and centre looks at it. Nothing was taken over from it."""


class DocumentInvalid(ExchangeError):
    """A manifest of a segment, receipts or a status object break a rule."""

    reason = "DOCUMENT_INVALID"
    remedy_default = "Fetch or copy the file again; if it repeats, look at the program that wrote it."


class SignatureInvalid(ExchangeError):
    """A signed document is not by one of the trusted keys, or was changed."""

    reason = "SIGNATURE_INVALID"
    remedy_default = (
        "Fetch or copy the file again; if it repeats, find out who changed it, or which key it should have."
    )


class RecordInvalid(ExchangeError):
    """A record of an example breaks a rule."""

    reason = "RECORD_INVALID"
    remedy_default = "Read it with a newer edge-agent, or look at the program that wrote it."


class SegmentDamaged(ExchangeError):
    """A sealed segment does not open or unpack."""

    reason = "SEGMENT_DAMAGED"
    remedy_default = "Check that the key is the one it was sealed to; otherwise fetch or copy the segment again."


class UploadConflict(ExchangeError):
    """The upstream has something else under the name of a segment."""

    reason = "UPLOAD_CONFLICT"
    remedy_default = (
        "Nothing was overwritten. Find out at the centre who wrote it, and move it away; the segment then goes up."
    )


class StateError(EdgeAgentError):
    """The operator names another version, or does something else first."""


class UnknownBundle(StateError):
    """No installed bundle of the task matches."""

    reason = "BUNDLE_UNKNOWN"
    remedy_default = "'edge-agent models' lists what is installed."


class AmbiguousBundle(StateError):
    """More than one installed bundle matches."""

    reason = "BUNDLE_AMBIGUOUS"
    remedy_default = "Give more characters of the digest."


class NothingToRollBack(StateError):
    """The task has no bundle before the active one."""

    reason = "NOTHING_TO_ROLL_BACK"
    remedy_default = "'edge-agent models' lists what is installed; 'edge-agent activate' chooses one."


class BundleInUse(StateError):
    """The bundle answers, or is kept for rollback."""

    reason = "BUNDLE_IN_USE"
    remedy_default = "Activate another version first, or remove the whole task."


class SiteError(EdgeAgentError):
    """The technician changes something on this machine."""


class ConfigInvalid(SiteError):
    """agent.yaml breaks a rule."""

    reason = "CONFIG_INVALID"


class StateDirInUse(SiteError):
    """Another daemon owns the state directory."""

    reason = "STATE_DIR_IN_USE"
    remedy_default = "Stop the other daemon, or choose another --state-dir."


class StateDirUnwritable(SiteError):
    """The state directory cannot be created or written."""

    reason = "STATE_DIR_UNWRITABLE"
    remedy_default = "Choose another --state-dir, or give the daemon's user write access."


class SocketInUse(SiteError):
    """Another process listens there."""

    reason = "SOCKET_IN_USE"
    remedy_default = "Stop the other process, or choose another --run-dir or port."


class SocketPathTooLong(SiteError):
    """A Unix socket path has more bytes than the kernel takes."""

    reason = "SOCKET_PATH_TOO_LONG"
    remedy_default = "Choose a shorter --run-dir."


class DiskFull(SiteError):
    """The disk has no room for the bundle."""

    reason = "DISK_FULL"
    remedy_default = "Free some space; 'edge-agent models' shows versions that 'edge-agent remove' can delete."


class MemoryShort(SiteError):
    """The model needs more memory than there is for it."""

    reason = "MEMORY_SHORT"
    remedy_default = (
        "Free some memory, remove a task, or lower 'sequences_max' under 'engine' in agent.yaml; "
        "where 'memory_bytes_max' or a limit of the service is the reason, raise it."
    )


class StickFailed(SiteError):
    """A stick could not be written or read to the end. Nothing was deleted."""

    reason = "STICK_FAILED"
    remedy_default = "Put the stick in again, or another one, and run the command again; it goes on where it stopped."


class ExchangeDirUnusable(SiteError):
    """The uplink cannot read the outbox, or write its notes or the receipts."""

    reason = "EXCHANGE_DIR_UNUSABLE"
    remedy_default = "Give the uplink's user the rights that docs/uplink.md lists, and check the disk ('dmesg')."


class UpstreamRefused(SiteError):
    """The upstream does not accept the site's credential."""

    reason = "UPSTREAM_REFUSED"
    remedy_default = (
        "Check the rights of the credential (get, put) and this machine's clock; it is tried again by itself."
    )


class UpstreamMissing(SiteError):
    """The bucket, container or folder is not there."""

    reason = "UPSTREAM_MISSING"
    remedy_default = (
        "Create it, mount its disk, or correct 'url' under 'uplink' in agent.yaml; it is tried again by itself."
    )


class StoreDamaged(SiteError):
    """The store's own files are missing or changed."""

    reason = "STORE_DAMAGED"
    remedy_default = "Install the bundle again: what is intact stays, what is damaged is replaced."


def _leaves(family: type[EdgeAgentError]) -> list[type[EdgeAgentError]]:
    found = [family] if "reason" in vars(family) and family is not EdgeAgentError else []
    for child in family.__subclasses__():
        found += _leaves(child)
    return found


BY_REASON: dict[str, type[EdgeAgentError]] = {cls.reason: cls for cls in _leaves(EdgeAgentError)}


def from_wire(reason: str, message: str, remedy: str, metadata: dict[str, str]) -> EdgeAgentError:
    """Rebuild an error that a child sent; an unknown reason becomes ModelFailed."""
    cls = BY_REASON.get(reason, ModelFailed)
    error = cls(message, remedy=remedy)
    error.metadata = dict(metadata)  # not as keywords: a child may send any key
    return error
