"""Every error of the appliance, in families by who must act.

    EdgeAgentError
    ├── CallerError          the caller changes the request
    │   ├── UnknownTask, WrongTaskKind, UnknownQuestion, InvalidRequest, EmptyInput, InputTooLong, TooManyInputs
    │   ├── PredictionUnknown
    │   ├── DeadlineExpired, RequestCancelled
    ├── AccessError          the issuer of certificates issues another, or the caller uses another socket
    │   ├── RoleMissing, CertificateExpired
    ├── CapacityError        the caller retries after `retry_seconds`
    │   ├── QueueFull, ShareExceeded, RateExceeded, DeadlineUnattainable
    │   ├── EngineNotReady, Draining, SpoolStalled, StreamBroken, RedactionHeld
    │   ├── UpstreamUnreachable, UpstreamBusy, UpstreamFailed
    ├── ModelError           the central team looks at the model
    │   ├── ModelLoadFailed, ModelFailed, EngineCrashed, InputQuarantined
    ├── BundleError          the central team builds the bundle again
    │   ├── BundleUnreadable, ManifestInvalid, SchemaUnknown, FileMissing, HashMismatch, PathUnsafe, BundleTooLarge,
    │   ├── BundleUnsigned, RequirementUnmet
    ├── ExchangeError        the maker or carrier of the file looks at it
    │   ├── DocumentInvalid, SignatureInvalid, RecordInvalid, SegmentDamaged
    │   ├── UploadConflict, EnrolmentFileInvalid, EnrolmentFileRefused
    ├── UpdateError          the central team looks at what it published, or brings a newer copy
    │   ├── PlanInvalid, UpdateUntrusted, UpdateOutdated, UpdateExpired, UpdateIncomplete
    ├── StateError           the operator names another version, or activates first
    │   ├── UnknownBundle, AmbiguousBundle, NothingToRollBack, BundleInUse
    └── SiteError            the technician changes something on this machine
        ├── ConfigInvalid, StateDirInUse, StateDirUnwritable, SocketInUse, SocketPathTooLong, DiskFull, StoreDamaged,
        ├── MemoryShort, DeviceUnusable, MediaFailed, CertificateUnusable, SystemdFailed,
        ├── WebTokenUnusable
        ├── ExchangeDirUnusable, UpstreamRefused, UpstreamMissing

Each class has one stable `reason`, which clients may test for. Each instance has a message that stands alone, a remedy
(what the reader can do next) and every dynamic value of the message in `metadata`. The map to gRPC codes is in
`edge_agent/server/error_status.py` and nowhere else. Errors cross the pipe from a child as (reason, message, remedy,
metadata) and are rebuilt by `from_wire`.
"""

from __future__ import annotations

import contextlib
import math

from edge_agent.errors.artifact_errors import (
    BundleError,
    BundleTooLarge,
    BundleUnreadable,
    BundleUnsigned,
    DocumentInvalid,
    EnrolmentFileInvalid,
    EnrolmentFileRefused,
    ExchangeError,
    FileMissing,
    HashMismatch,
    ManifestInvalid,
    PathUnsafe,
    PlanInvalid,
    RecordInvalid,
    RequirementUnmet,
    SchemaUnknown,
    SegmentDamaged,
    SignatureInvalid,
    UpdateError,
    UpdateExpired,
    UpdateIncomplete,
    UpdateOutdated,
    UpdateUntrusted,
    UploadConflict,
)
from edge_agent.errors.base import EdgeAgentError
from edge_agent.errors.call_errors import (
    AccessError,
    CallerError,
    CapacityError,
    CertificateExpired,
    DeadlineExpired,
    DeadlineUnattainable,
    Draining,
    EmptyInput,
    EngineCrashed,
    EngineNotReady,
    InputQuarantined,
    InputTooLong,
    InvalidRequest,
    ModelError,
    ModelFailed,
    ModelLoadFailed,
    PredictionUnknown,
    QueueFull,
    RateExceeded,
    RedactionHeld,
    RequestCancelled,
    RoleMissing,
    ShareExceeded,
    SpoolStalled,
    StreamBroken,
    TooManyInputs,
    UnknownQuestion,
    UnknownTask,
    UpstreamBusy,
    UpstreamFailed,
    UpstreamUnreachable,
    WrongTaskKind,
)
from edge_agent.errors.site_errors import (
    AmbiguousBundle,
    BundleInUse,
    CertificateUnusable,
    ConfigInvalid,
    DeviceUnusable,
    DiskFull,
    ExchangeDirUnusable,
    MediaFailed,
    MemoryShort,
    NothingToRollBack,
    SiteError,
    SocketInUse,
    SocketPathTooLong,
    StateDirInUse,
    StateDirUnwritable,
    StateError,
    StoreDamaged,
    SystemdFailed,
    UnknownBundle,
    UpstreamMissing,
    UpstreamRefused,
    WebTokenUnusable,
)

__all__ = [
    "BY_REASON",
    "RETRY_SECONDS_MAX",
    "AccessError",
    "AmbiguousBundle",
    "BundleError",
    "BundleInUse",
    "BundleTooLarge",
    "BundleUnreadable",
    "BundleUnsigned",
    "CallerError",
    "CapacityError",
    "CertificateExpired",
    "CertificateUnusable",
    "ConfigInvalid",
    "DeadlineExpired",
    "DeadlineUnattainable",
    "DeviceUnusable",
    "DiskFull",
    "DocumentInvalid",
    "Draining",
    "EdgeAgentError",
    "EmptyInput",
    "EngineCrashed",
    "EngineNotReady",
    "EnrolmentFileInvalid",
    "EnrolmentFileRefused",
    "ExchangeDirUnusable",
    "ExchangeError",
    "FileMissing",
    "HashMismatch",
    "InputQuarantined",
    "InputTooLong",
    "InvalidRequest",
    "ManifestInvalid",
    "MediaFailed",
    "MemoryShort",
    "ModelError",
    "ModelFailed",
    "ModelLoadFailed",
    "NothingToRollBack",
    "PathUnsafe",
    "PlanInvalid",
    "PredictionUnknown",
    "QueueFull",
    "RateExceeded",
    "RecordInvalid",
    "RedactionHeld",
    "RequestCancelled",
    "RequirementUnmet",
    "RoleMissing",
    "SchemaUnknown",
    "SegmentDamaged",
    "ShareExceeded",
    "SignatureInvalid",
    "SiteError",
    "SocketInUse",
    "SocketPathTooLong",
    "SpoolStalled",
    "StateDirInUse",
    "StateDirUnwritable",
    "StateError",
    "StoreDamaged",
    "StreamBroken",
    "SystemdFailed",
    "TooManyInputs",
    "UnknownBundle",
    "UnknownQuestion",
    "UnknownTask",
    "UpdateError",
    "UpdateExpired",
    "UpdateIncomplete",
    "UpdateOutdated",
    "UpdateUntrusted",
    "UploadConflict",
    "UpstreamBusy",
    "UpstreamFailed",
    "UpstreamMissing",
    "UpstreamRefused",
    "UpstreamUnreachable",
    "WebTokenUnusable",
    "WrongTaskKind",
    "from_wire",
]


RETRY_SECONDS_MAX = 60.0
"""The longest delay that is taken from a child."""


def _leaves(family: type[EdgeAgentError]) -> list[type[EdgeAgentError]]:
    classes = [family] if "reason" in vars(family) and family is not EdgeAgentError else []
    for child in family.__subclasses__():
        classes += _leaves(child)
    return classes


BY_REASON: dict[str, type[EdgeAgentError]] = {cls.reason: cls for cls in _leaves(EdgeAgentError)}


def from_wire(reason: str, message: str, remedy: str, metadata: dict[str, str]) -> EdgeAgentError:
    """Rebuild an error that a child sent; an unknown reason becomes ModelFailed."""
    cls = BY_REASON.get(reason, ModelFailed)
    error = cls(message, remedy=remedy)
    error.metadata = dict(metadata)  # not as keywords: a child may send any key
    if isinstance(error, CapacityError):
        error.retry_seconds = _parse_seconds(metadata.get("retry_seconds", ""), error.retry_seconds)
    return error


def _parse_seconds(text: str, default: float) -> float:
    """Read a delay that a child wrote, within what a caller can be told to wait."""
    with contextlib.suppress(ValueError):
        seconds = float(text)
        return min(max(seconds, 0.0), RETRY_SECONDS_MAX) if math.isfinite(seconds) else default
    return default
