import datetime

from edge_agent.v1 import field_pb2 as _field_pb2
from edge_agent.v1 import task_pb2 as _task_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EngineState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENGINE_STATE_UNSPECIFIED: _ClassVar[EngineState]
    ENGINE_STATE_STARTING: _ClassVar[EngineState]
    ENGINE_STATE_READY: _ClassVar[EngineState]
    ENGINE_STATE_BACKING_OFF: _ClassVar[EngineState]
    ENGINE_STATE_FAILED: _ClassVar[EngineState]
    ENGINE_STATE_STOPPING: _ClassVar[EngineState]

class WarningKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WARNING_KIND_UNSPECIFIED: _ClassVar[WarningKind]
    WARNING_KIND_UNSIGNED: _ClassVar[WarningKind]
    WARNING_KIND_ENGINE: _ClassVar[WarningKind]
    WARNING_KIND_CONFINEMENT: _ClassVar[WarningKind]
    WARNING_KIND_DEVICE: _ClassVar[WarningKind]
    WARNING_KIND_REVOKED: _ClassVar[WarningKind]
    WARNING_KIND_TASK_SILENT: _ClassVar[WarningKind]
    WARNING_KIND_CONFIDENCE: _ClassVar[WarningKind]
    WARNING_KIND_BUNDLE_BROKEN: _ClassVar[WarningKind]
    WARNING_KIND_COMPONENT: _ClassVar[WarningKind]
    WARNING_KIND_EXAMPLES_OFF: _ClassVar[WarningKind]
    WARNING_KIND_EXAMPLES_STALLED: _ClassVar[WarningKind]
    WARNING_KIND_EXAMPLES_EXCHANGE: _ClassVar[WarningKind]
    WARNING_KIND_NOT_CAPTURED: _ClassVar[WarningKind]
    WARNING_KIND_STORE_STALLED: _ClassVar[WarningKind]
    WARNING_KIND_REDACTION: _ClassVar[WarningKind]
    WARNING_KIND_REDACTION_MISSED: _ClassVar[WarningKind]
    WARNING_KIND_TCP: _ClassVar[WarningKind]
    WARNING_KIND_AUDIT_LOG: _ClassVar[WarningKind]

class LinkState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LINK_STATE_UNSPECIFIED: _ClassVar[LinkState]
    LINK_STATE_ONLINE: _ClassVar[LinkState]
    LINK_STATE_PROBING: _ClassVar[LinkState]
    LINK_STATE_OFFLINE: _ClassVar[LinkState]
    LINK_STATE_SILENT: _ClassVar[LinkState]

class UpdateState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPDATE_STATE_UNSPECIFIED: _ClassVar[UpdateState]
    UPDATE_STATE_WAITING: _ClassVar[UpdateState]
    UPDATE_STATE_FETCHING: _ClassVar[UpdateState]
    UPDATE_STATE_STAGED: _ClassVar[UpdateState]
    UPDATE_STATE_TESTING: _ClassVar[UpdateState]
    UPDATE_STATE_SWITCHING: _ClassVar[UpdateState]
    UPDATE_STATE_PROBATION: _ClassVar[UpdateState]
    UPDATE_STATE_DONE: _ClassVar[UpdateState]
    UPDATE_STATE_FAILED: _ClassVar[UpdateState]
    UPDATE_STATE_ROLLED_BACK: _ClassVar[UpdateState]
    UPDATE_STATE_HELD: _ClassVar[UpdateState]
ENGINE_STATE_UNSPECIFIED: EngineState
ENGINE_STATE_STARTING: EngineState
ENGINE_STATE_READY: EngineState
ENGINE_STATE_BACKING_OFF: EngineState
ENGINE_STATE_FAILED: EngineState
ENGINE_STATE_STOPPING: EngineState
WARNING_KIND_UNSPECIFIED: WarningKind
WARNING_KIND_UNSIGNED: WarningKind
WARNING_KIND_ENGINE: WarningKind
WARNING_KIND_CONFINEMENT: WarningKind
WARNING_KIND_DEVICE: WarningKind
WARNING_KIND_REVOKED: WarningKind
WARNING_KIND_TASK_SILENT: WarningKind
WARNING_KIND_CONFIDENCE: WarningKind
WARNING_KIND_BUNDLE_BROKEN: WarningKind
WARNING_KIND_COMPONENT: WarningKind
WARNING_KIND_EXAMPLES_OFF: WarningKind
WARNING_KIND_EXAMPLES_STALLED: WarningKind
WARNING_KIND_EXAMPLES_EXCHANGE: WarningKind
WARNING_KIND_NOT_CAPTURED: WarningKind
WARNING_KIND_STORE_STALLED: WarningKind
WARNING_KIND_REDACTION: WarningKind
WARNING_KIND_REDACTION_MISSED: WarningKind
WARNING_KIND_TCP: WarningKind
WARNING_KIND_AUDIT_LOG: WarningKind
LINK_STATE_UNSPECIFIED: LinkState
LINK_STATE_ONLINE: LinkState
LINK_STATE_PROBING: LinkState
LINK_STATE_OFFLINE: LinkState
LINK_STATE_SILENT: LinkState
UPDATE_STATE_UNSPECIFIED: UpdateState
UPDATE_STATE_WAITING: UpdateState
UPDATE_STATE_FETCHING: UpdateState
UPDATE_STATE_STAGED: UpdateState
UPDATE_STATE_TESTING: UpdateState
UPDATE_STATE_SWITCHING: UpdateState
UPDATE_STATE_PROBATION: UpdateState
UPDATE_STATE_DONE: UpdateState
UPDATE_STATE_FAILED: UpdateState
UPDATE_STATE_ROLLED_BACK: UpdateState
UPDATE_STATE_HELD: UpdateState

class ListRedactionAuditRequest(_message.Message):
    __slots__ = ("judged", "after", "count")
    JUDGED_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    judged: bool
    after: int
    count: int
    def __init__(self, judged: _Optional[bool] = ..., after: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class ListRedactionAuditResponse(_message.Message):
    __slots__ = ("texts",)
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedCompositeFieldContainer[AuditedText]
    def __init__(self, texts: _Optional[_Iterable[_Union[AuditedText, _Mapping]]] = ...) -> None: ...

class AuditedText(_message.Message):
    __slots__ = ("row", "prediction_id", "task", "model", "text", "redacted", "spans", "missed", "wrong")
    ROW_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REDACTED_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    WRONG_FIELD_NUMBER: _ClassVar[int]
    row: int
    prediction_id: str
    task: str
    model: str
    text: str
    redacted: str
    spans: _containers.RepeatedCompositeFieldContainer[ReplacedSpan]
    missed: _containers.RepeatedCompositeFieldContainer[MissedSpan]
    wrong: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, row: _Optional[int] = ..., prediction_id: _Optional[str] = ..., task: _Optional[str] = ..., model: _Optional[str] = ..., text: _Optional[str] = ..., redacted: _Optional[str] = ..., spans: _Optional[_Iterable[_Union[ReplacedSpan, _Mapping]]] = ..., missed: _Optional[_Iterable[_Union[MissedSpan, _Mapping]]] = ..., wrong: _Optional[_Iterable[int]] = ...) -> None: ...

class MissedSpan(_message.Message):
    __slots__ = ("start", "end", "label")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    label: str
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ..., label: _Optional[str] = ...) -> None: ...

class JudgeRedactionRequest(_message.Message):
    __slots__ = ("prediction_id", "missed", "wrong")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    WRONG_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    missed: _containers.RepeatedCompositeFieldContainer[MissedSpan]
    wrong: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, prediction_id: _Optional[str] = ..., missed: _Optional[_Iterable[_Union[MissedSpan, _Mapping]]] = ..., wrong: _Optional[_Iterable[int]] = ...) -> None: ...

class JudgeRedactionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TryRedactionRequest(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class TryRedactionResponse(_message.Message):
    __slots__ = ("redacted", "spans", "model", "held_because")
    REDACTED_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    HELD_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    redacted: str
    spans: _containers.RepeatedCompositeFieldContainer[ReplacedSpan]
    model: str
    held_because: str
    def __init__(self, redacted: _Optional[str] = ..., spans: _Optional[_Iterable[_Union[ReplacedSpan, _Mapping]]] = ..., model: _Optional[str] = ..., held_because: _Optional[str] = ...) -> None: ...

class ReplacedSpan(_message.Message):
    __slots__ = ("start", "end", "placeholder", "rule", "by_rules", "by_model", "score")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    PLACEHOLDER_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    BY_RULES_FIELD_NUMBER: _ClassVar[int]
    BY_MODEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    placeholder: str
    rule: str
    by_rules: bool
    by_model: bool
    score: float
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ..., placeholder: _Optional[str] = ..., rule: _Optional[str] = ..., by_rules: _Optional[bool] = ..., by_model: _Optional[bool] = ..., score: _Optional[float] = ...) -> None: ...

class Engine(_message.Message):
    __slots__ = ("name", "runtime", "state", "pid", "resident_bytes", "pending", "restarts", "problem", "tasks", "device", "details", "fallback", "partial", "running", "running_max")
    class DetailsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_MAX_FIELD_NUMBER: _ClassVar[int]
    name: str
    runtime: str
    state: EngineState
    pid: int
    resident_bytes: int
    pending: int
    restarts: int
    problem: str
    tasks: _containers.RepeatedScalarFieldContainer[str]
    device: str
    details: _containers.ScalarMap[str, str]
    fallback: str
    partial: str
    running: int
    running_max: int
    def __init__(self, name: _Optional[str] = ..., runtime: _Optional[str] = ..., state: _Optional[_Union[EngineState, str]] = ..., pid: _Optional[int] = ..., resident_bytes: _Optional[int] = ..., pending: _Optional[int] = ..., restarts: _Optional[int] = ..., problem: _Optional[str] = ..., tasks: _Optional[_Iterable[str]] = ..., device: _Optional[str] = ..., details: _Optional[_Mapping[str, str]] = ..., fallback: _Optional[str] = ..., partial: _Optional[str] = ..., running: _Optional[int] = ..., running_max: _Optional[int] = ...) -> None: ...

class Bundle(_message.Message):
    __slots__ = ("ref", "kind", "runtime", "active", "previous", "signed", "size_bytes", "install_time", "confidence_blocker", "gate", "revoked")
    REF_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    INSTALL_TIME_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_BLOCKER_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    ref: _task_pb2.BundleRef
    kind: _task_pb2.TaskKind
    runtime: str
    active: bool
    previous: bool
    signed: bool
    size_bytes: int
    install_time: _timestamp_pb2.Timestamp
    confidence_blocker: str
    gate: str
    revoked: bool
    def __init__(self, ref: _Optional[_Union[_task_pb2.BundleRef, _Mapping]] = ..., kind: _Optional[_Union[_task_pb2.TaskKind, str]] = ..., runtime: _Optional[str] = ..., active: _Optional[bool] = ..., previous: _Optional[bool] = ..., signed: _Optional[bool] = ..., size_bytes: _Optional[int] = ..., install_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., confidence_blocker: _Optional[str] = ..., gate: _Optional[str] = ..., revoked: _Optional[bool] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("agent_version", "start_time", "serving", "resident_bytes", "tasks", "engines", "warnings", "store_bytes", "disk_free_bytes", "examples", "updates", "uplink", "escalation", "alarms", "counts", "warning_details", "draining_seconds", "site", "denied", "redaction")
    class DeniedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    STORE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    UPLINK_FIELD_NUMBER: _ClassVar[int]
    ESCALATION_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    WARNING_DETAILS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    DENIED_FIELD_NUMBER: _ClassVar[int]
    REDACTION_FIELD_NUMBER: _ClassVar[int]
    agent_version: str
    start_time: _timestamp_pb2.Timestamp
    serving: bool
    resident_bytes: int
    tasks: _containers.RepeatedCompositeFieldContainer[_task_pb2.Task]
    engines: _containers.RepeatedCompositeFieldContainer[Engine]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    store_bytes: int
    disk_free_bytes: int
    examples: ExamplesStatus
    updates: UpdatesStatus
    uplink: UplinkStatus
    escalation: EscalationStatus
    alarms: _containers.RepeatedCompositeFieldContainer[_field_pb2.FieldAlarm]
    counts: _containers.RepeatedCompositeFieldContainer[TaskCounts]
    warning_details: _containers.RepeatedCompositeFieldContainer[StatusWarning]
    draining_seconds: float
    site: str
    denied: _containers.ScalarMap[str, int]
    redaction: RedactionStatus
    def __init__(self, agent_version: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., serving: _Optional[bool] = ..., resident_bytes: _Optional[int] = ..., tasks: _Optional[_Iterable[_Union[_task_pb2.Task, _Mapping]]] = ..., engines: _Optional[_Iterable[_Union[Engine, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ..., store_bytes: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., examples: _Optional[_Union[ExamplesStatus, _Mapping]] = ..., updates: _Optional[_Union[UpdatesStatus, _Mapping]] = ..., uplink: _Optional[_Union[UplinkStatus, _Mapping]] = ..., escalation: _Optional[_Union[EscalationStatus, _Mapping]] = ..., alarms: _Optional[_Iterable[_Union[_field_pb2.FieldAlarm, _Mapping]]] = ..., counts: _Optional[_Iterable[_Union[TaskCounts, _Mapping]]] = ..., warning_details: _Optional[_Iterable[_Union[StatusWarning, _Mapping]]] = ..., draining_seconds: _Optional[float] = ..., site: _Optional[str] = ..., denied: _Optional[_Mapping[str, int]] = ..., redaction: _Optional[_Union[RedactionStatus, _Mapping]] = ...) -> None: ...

class RedactionStatus(_message.Message):
    __slots__ = ("task", "model", "waiting", "waiting_seconds", "held_because", "counts", "audit", "rules", "proved_rules")
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TASK_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    WAITING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    HELD_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    PROVED_RULES_FIELD_NUMBER: _ClassVar[int]
    task: str
    model: str
    waiting: int
    waiting_seconds: float
    held_because: str
    counts: _containers.ScalarMap[str, int]
    audit: RedactionAudit
    rules: str
    proved_rules: str
    def __init__(self, task: _Optional[str] = ..., model: _Optional[str] = ..., waiting: _Optional[int] = ..., waiting_seconds: _Optional[float] = ..., held_because: _Optional[str] = ..., counts: _Optional[_Mapping[str, int]] = ..., audit: _Optional[_Union[RedactionAudit, _Mapping]] = ..., rules: _Optional[str] = ..., proved_rules: _Optional[str] = ...) -> None: ...

class RedactionAudit(_message.Message):
    __slots__ = ("waiting", "texts", "values", "missed", "share", "low", "high", "target", "exceeded")
    WAITING_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    EXCEEDED_FIELD_NUMBER: _ClassVar[int]
    waiting: int
    texts: int
    values: int
    missed: int
    share: float
    low: float
    high: float
    target: float
    exceeded: bool
    def __init__(self, waiting: _Optional[int] = ..., texts: _Optional[int] = ..., values: _Optional[int] = ..., missed: _Optional[int] = ..., share: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., target: _Optional[float] = ..., exceeded: _Optional[bool] = ...) -> None: ...

class StatusWarning(_message.Message):
    __slots__ = ("kind", "about", "message")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ABOUT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    kind: WarningKind
    about: str
    message: str
    def __init__(self, kind: _Optional[_Union[WarningKind, str]] = ..., about: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class EscalationStatus(_message.Message):
    __slots__ = ("online", "affordable", "model", "problem_reason", "problem", "usual_ms", "day_micros", "month_micros", "day_micros_max", "month_micros_max", "tasks", "waiting", "waiting_seconds", "opinions", "given_up")
    class WaitingEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class GivenUpEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ONLINE_FIELD_NUMBER: _ClassVar[int]
    AFFORDABLE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_REASON_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    USUAL_MS_FIELD_NUMBER: _ClassVar[int]
    DAY_MICROS_FIELD_NUMBER: _ClassVar[int]
    MONTH_MICROS_FIELD_NUMBER: _ClassVar[int]
    DAY_MICROS_MAX_FIELD_NUMBER: _ClassVar[int]
    MONTH_MICROS_MAX_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    WAITING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    OPINIONS_FIELD_NUMBER: _ClassVar[int]
    GIVEN_UP_FIELD_NUMBER: _ClassVar[int]
    online: bool
    affordable: bool
    model: str
    problem_reason: str
    problem: str
    usual_ms: float
    day_micros: int
    month_micros: int
    day_micros_max: int
    month_micros_max: int
    tasks: _containers.RepeatedScalarFieldContainer[str]
    waiting: _containers.ScalarMap[str, int]
    waiting_seconds: float
    opinions: int
    given_up: _containers.ScalarMap[str, int]
    def __init__(self, online: _Optional[bool] = ..., affordable: _Optional[bool] = ..., model: _Optional[str] = ..., problem_reason: _Optional[str] = ..., problem: _Optional[str] = ..., usual_ms: _Optional[float] = ..., day_micros: _Optional[int] = ..., month_micros: _Optional[int] = ..., day_micros_max: _Optional[int] = ..., month_micros_max: _Optional[int] = ..., tasks: _Optional[_Iterable[str]] = ..., waiting: _Optional[_Mapping[str, int]] = ..., waiting_seconds: _Optional[float] = ..., opinions: _Optional[int] = ..., given_up: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Durations(_message.Message):
    __slots__ = ("bounds_seconds", "counts", "total_seconds")
    BOUNDS_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    bounds_seconds: _containers.RepeatedScalarFieldContainer[float]
    counts: _containers.RepeatedScalarFieldContainer[int]
    total_seconds: float
    def __init__(self, bounds_seconds: _Optional[_Iterable[float]] = ..., counts: _Optional[_Iterable[int]] = ..., total_seconds: _Optional[float] = ...) -> None: ...

class TaskCounts(_message.Message):
    __slots__ = ("task", "answers", "errors", "graded", "below_threshold", "output_tokens", "queue", "total", "held_up")
    class AnswersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class ErrorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class HeldUpEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TASK_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    GRADED_FIELD_NUMBER: _ClassVar[int]
    BELOW_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    HELD_UP_FIELD_NUMBER: _ClassVar[int]
    task: str
    answers: _containers.ScalarMap[str, int]
    errors: _containers.ScalarMap[str, int]
    graded: int
    below_threshold: int
    output_tokens: int
    queue: Durations
    total: Durations
    held_up: _containers.ScalarMap[str, int]
    def __init__(self, task: _Optional[str] = ..., answers: _Optional[_Mapping[str, int]] = ..., errors: _Optional[_Mapping[str, int]] = ..., graded: _Optional[int] = ..., below_threshold: _Optional[int] = ..., output_tokens: _Optional[int] = ..., queue: _Optional[_Union[Durations, _Mapping]] = ..., total: _Optional[_Union[Durations, _Mapping]] = ..., held_up: _Optional[_Mapping[str, int]] = ...) -> None: ...

class UplinkStatus(_message.Message):
    __slots__ = ("state", "upstream", "since_time", "contact_time", "retry_time", "failures", "waiting_segments", "waiting_bytes", "sent_segments", "sent_bytes", "problems", "downloads", "age_seconds")
    STATE_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_FIELD_NUMBER: _ClassVar[int]
    SINCE_TIME_FIELD_NUMBER: _ClassVar[int]
    CONTACT_TIME_FIELD_NUMBER: _ClassVar[int]
    RETRY_TIME_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    WAITING_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_BYTES_FIELD_NUMBER: _ClassVar[int]
    SENT_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    DOWNLOADS_FIELD_NUMBER: _ClassVar[int]
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    state: LinkState
    upstream: str
    since_time: _timestamp_pb2.Timestamp
    contact_time: _timestamp_pb2.Timestamp
    retry_time: _timestamp_pb2.Timestamp
    failures: int
    waiting_segments: int
    waiting_bytes: int
    sent_segments: int
    sent_bytes: int
    problems: _containers.RepeatedCompositeFieldContainer[UplinkProblem]
    downloads: UplinkDownloads
    age_seconds: float
    def __init__(self, state: _Optional[_Union[LinkState, str]] = ..., upstream: _Optional[str] = ..., since_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., contact_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., retry_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., failures: _Optional[int] = ..., waiting_segments: _Optional[int] = ..., waiting_bytes: _Optional[int] = ..., sent_segments: _Optional[int] = ..., sent_bytes: _Optional[int] = ..., problems: _Optional[_Iterable[_Union[UplinkProblem, _Mapping]]] = ..., downloads: _Optional[_Union[UplinkDownloads, _Mapping]] = ..., age_seconds: _Optional[float] = ...) -> None: ...

class UplinkProblem(_message.Message):
    __slots__ = ("reason", "message", "remedy", "about")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    ABOUT_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    remedy: str
    about: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ..., about: _Optional[str] = ...) -> None: ...

class UplinkDownloads(_message.Message):
    __slots__ = ("state", "repository", "since_time", "retry_time", "refresh_time", "waiting_blobs", "waiting_bytes", "fetched_blobs", "fetched_bytes")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    SINCE_TIME_FIELD_NUMBER: _ClassVar[int]
    RETRY_TIME_FIELD_NUMBER: _ClassVar[int]
    REFRESH_TIME_FIELD_NUMBER: _ClassVar[int]
    WAITING_BLOBS_FIELD_NUMBER: _ClassVar[int]
    WAITING_BYTES_FIELD_NUMBER: _ClassVar[int]
    FETCHED_BLOBS_FIELD_NUMBER: _ClassVar[int]
    FETCHED_BYTES_FIELD_NUMBER: _ClassVar[int]
    state: LinkState
    repository: str
    since_time: _timestamp_pb2.Timestamp
    retry_time: _timestamp_pb2.Timestamp
    refresh_time: _timestamp_pb2.Timestamp
    waiting_blobs: int
    waiting_bytes: int
    fetched_blobs: int
    fetched_bytes: int
    def __init__(self, state: _Optional[_Union[LinkState, str]] = ..., repository: _Optional[str] = ..., since_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., retry_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., refresh_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., waiting_blobs: _Optional[int] = ..., waiting_bytes: _Optional[int] = ..., fetched_blobs: _Optional[int] = ..., fetched_bytes: _Optional[int] = ...) -> None: ...

class TaskUpdate(_message.Message):
    __slots__ = ("task", "active", "previous", "candidate", "state", "since_time", "reason", "message", "attempts")
    TASK_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_TIME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    task: str
    active: _task_pb2.BundleRef
    previous: _task_pb2.BundleRef
    candidate: _task_pb2.BundleRef
    state: UpdateState
    since_time: _timestamp_pb2.Timestamp
    reason: str
    message: str
    attempts: int
    def __init__(self, task: _Optional[str] = ..., active: _Optional[_Union[_task_pb2.BundleRef, _Mapping]] = ..., previous: _Optional[_Union[_task_pb2.BundleRef, _Mapping]] = ..., candidate: _Optional[_Union[_task_pb2.BundleRef, _Mapping]] = ..., state: _Optional[_Union[UpdateState, str]] = ..., since_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., attempts: _Optional[int] = ...) -> None: ...

class UpdatesStatus(_message.Message):
    __slots__ = ("channel", "plan_version", "problem", "tasks", "copying", "copied_bytes", "total_bytes")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    PLAN_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    COPYING_FIELD_NUMBER: _ClassVar[int]
    COPIED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    channel: str
    plan_version: int
    problem: str
    tasks: _containers.RepeatedCompositeFieldContainer[TaskUpdate]
    copying: str
    copied_bytes: int
    total_bytes: int
    def __init__(self, channel: _Optional[str] = ..., plan_version: _Optional[int] = ..., problem: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[TaskUpdate, _Mapping]]] = ..., copying: _Optional[str] = ..., copied_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ...) -> None: ...

class ExamplesStatus(_message.Message):
    __slots__ = ("counters", "retained", "spool_bytes", "outbox_bytes", "outbox_segments", "epoch", "collect", "review_waiting", "audit", "loss_seconds")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class RetainedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class CollectEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class ReviewWaitingEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class LossSecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    RETAINED_FIELD_NUMBER: _ClassVar[int]
    SPOOL_BYTES_FIELD_NUMBER: _ClassVar[int]
    OUTBOX_BYTES_FIELD_NUMBER: _ClassVar[int]
    OUTBOX_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    COLLECT_FIELD_NUMBER: _ClassVar[int]
    REVIEW_WAITING_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    LOSS_SECONDS_FIELD_NUMBER: _ClassVar[int]
    counters: _containers.ScalarMap[str, int]
    retained: _containers.ScalarMap[str, int]
    spool_bytes: int
    outbox_bytes: int
    outbox_segments: int
    epoch: str
    collect: _containers.ScalarMap[str, str]
    review_waiting: _containers.ScalarMap[str, int]
    audit: ReviewAudit
    loss_seconds: _containers.ScalarMap[str, float]
    def __init__(self, counters: _Optional[_Mapping[str, int]] = ..., retained: _Optional[_Mapping[str, int]] = ..., spool_bytes: _Optional[int] = ..., outbox_bytes: _Optional[int] = ..., outbox_segments: _Optional[int] = ..., epoch: _Optional[str] = ..., collect: _Optional[_Mapping[str, str]] = ..., review_waiting: _Optional[_Mapping[str, int]] = ..., audit: _Optional[_Union[ReviewAudit, _Mapping]] = ..., loss_seconds: _Optional[_Mapping[str, float]] = ...) -> None: ...

class ReviewAudit(_message.Message):
    __slots__ = ("drawn", "reviewed", "waiting", "lost")
    DRAWN_FIELD_NUMBER: _ClassVar[int]
    REVIEWED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    drawn: int
    reviewed: int
    waiting: int
    lost: int
    def __init__(self, drawn: _Optional[int] = ..., reviewed: _Optional[int] = ..., waiting: _Optional[int] = ..., lost: _Optional[int] = ...) -> None: ...

class SealExamplesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SealExamplesResponse(_message.Message):
    __slots__ = ("segments", "site", "outbox_path", "receipts_path")
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    OUTBOX_PATH_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_PATH_FIELD_NUMBER: _ClassVar[int]
    segments: int
    site: str
    outbox_path: str
    receipts_path: str
    def __init__(self, segments: _Optional[int] = ..., site: _Optional[str] = ..., outbox_path: _Optional[str] = ..., receipts_path: _Optional[str] = ...) -> None: ...

class ReadReceiptsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReadReceiptsResponse(_message.Message):
    __slots__ = ("segments",)
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    segments: int
    def __init__(self, segments: _Optional[int] = ...) -> None: ...

class ImportUpdateRequest(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...

class ImportUpdateResponse(_message.Message):
    __slots__ = ("copying", "copied_bytes", "total_bytes", "updates")
    COPYING_FIELD_NUMBER: _ClassVar[int]
    COPIED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    copying: str
    copied_bytes: int
    total_bytes: int
    updates: UpdatesStatus
    def __init__(self, copying: _Optional[str] = ..., copied_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., updates: _Optional[_Union[UpdatesStatus, _Mapping]] = ...) -> None: ...

class ListBundlesRequest(_message.Message):
    __slots__ = ("task", "page_size", "page_token")
    TASK_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    task: str
    page_size: int
    page_token: str
    def __init__(self, task: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListBundlesResponse(_message.Message):
    __slots__ = ("bundles", "next_page_token")
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    bundles: _containers.RepeatedCompositeFieldContainer[Bundle]
    next_page_token: str
    def __init__(self, bundles: _Optional[_Iterable[_Union[Bundle, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class InstallBundleRequest(_message.Message):
    __slots__ = ("path", "no_activate", "request_id")
    PATH_FIELD_NUMBER: _ClassVar[int]
    NO_ACTIVATE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    path: str
    no_activate: bool
    request_id: str
    def __init__(self, path: _Optional[str] = ..., no_activate: _Optional[bool] = ..., request_id: _Optional[str] = ...) -> None: ...

class InstallBundleResponse(_message.Message):
    __slots__ = ("bundle", "newly_installed")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    NEWLY_INSTALLED_FIELD_NUMBER: _ClassVar[int]
    bundle: Bundle
    newly_installed: bool
    def __init__(self, bundle: _Optional[_Union[Bundle, _Mapping]] = ..., newly_installed: _Optional[bool] = ...) -> None: ...

class ActivateBundleRequest(_message.Message):
    __slots__ = ("task", "bundle")
    TASK_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    task: str
    bundle: str
    def __init__(self, task: _Optional[str] = ..., bundle: _Optional[str] = ...) -> None: ...

class ActivateBundleResponse(_message.Message):
    __slots__ = ("bundle",)
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    bundle: Bundle
    def __init__(self, bundle: _Optional[_Union[Bundle, _Mapping]] = ...) -> None: ...

class RollbackTaskRequest(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: str
    def __init__(self, task: _Optional[str] = ...) -> None: ...

class RollbackTaskResponse(_message.Message):
    __slots__ = ("bundle",)
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    bundle: Bundle
    def __init__(self, bundle: _Optional[_Union[Bundle, _Mapping]] = ...) -> None: ...

class RemoveBundleRequest(_message.Message):
    __slots__ = ("task", "bundle")
    TASK_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    task: str
    bundle: str
    def __init__(self, task: _Optional[str] = ..., bundle: _Optional[str] = ...) -> None: ...

class RemoveBundleResponse(_message.Message):
    __slots__ = ("freed_bytes",)
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    freed_bytes: int
    def __init__(self, freed_bytes: _Optional[int] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AllowUpdateRequest(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: str
    def __init__(self, task: _Optional[str] = ...) -> None: ...

class AllowUpdateResponse(_message.Message):
    __slots__ = ("task", "was_held")
    TASK_FIELD_NUMBER: _ClassVar[int]
    WAS_HELD_FIELD_NUMBER: _ClassVar[int]
    task: TaskUpdate
    was_held: bool
    def __init__(self, task: _Optional[_Union[TaskUpdate, _Mapping]] = ..., was_held: _Optional[bool] = ...) -> None: ...

class SetModeRequest(_message.Message):
    __slots__ = ("task", "mode")
    TASK_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    task: str
    mode: _task_pb2.Mode
    def __init__(self, task: _Optional[str] = ..., mode: _Optional[_Union[_task_pb2.Mode, str]] = ...) -> None: ...

class GetFieldReportRequest(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: str
    def __init__(self, task: _Optional[str] = ...) -> None: ...

class GetFieldReportResponse(_message.Message):
    __slots__ = ("series", "tasks", "escalation", "collect", "money")
    class CollectEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SERIES_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    ESCALATION_FIELD_NUMBER: _ClassVar[int]
    COLLECT_FIELD_NUMBER: _ClassVar[int]
    MONEY_FIELD_NUMBER: _ClassVar[int]
    series: _containers.RepeatedCompositeFieldContainer[_field_pb2.FieldSeries]
    tasks: _containers.RepeatedCompositeFieldContainer[_task_pb2.Task]
    escalation: EscalationStatus
    collect: _containers.ScalarMap[str, str]
    money: _containers.RepeatedCompositeFieldContainer[_field_pb2.FieldMoney]
    def __init__(self, series: _Optional[_Iterable[_Union[_field_pb2.FieldSeries, _Mapping]]] = ..., tasks: _Optional[_Iterable[_Union[_task_pb2.Task, _Mapping]]] = ..., escalation: _Optional[_Union[EscalationStatus, _Mapping]] = ..., collect: _Optional[_Mapping[str, str]] = ..., money: _Optional[_Iterable[_Union[_field_pb2.FieldMoney, _Mapping]]] = ...) -> None: ...

class SetModeResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ...) -> None: ...

class EraseValuesRequest(_message.Message):
    __slots__ = ("values", "dry_run")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    dry_run: bool
    def __init__(self, values: _Optional[_Iterable[str]] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class EraseValuesResponse(_message.Message):
    __slots__ = ("found", "found_by_digest", "found_by_text", "kept_here", "sent", "tasks", "erased", "told", "erasure")
    class TasksEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    FOUND_FIELD_NUMBER: _ClassVar[int]
    FOUND_BY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FOUND_BY_TEXT_FIELD_NUMBER: _ClassVar[int]
    KEPT_HERE_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    ERASED_FIELD_NUMBER: _ClassVar[int]
    TOLD_FIELD_NUMBER: _ClassVar[int]
    ERASURE_FIELD_NUMBER: _ClassVar[int]
    found: int
    found_by_digest: int
    found_by_text: int
    kept_here: int
    sent: int
    tasks: _containers.ScalarMap[str, int]
    erased: int
    told: int
    erasure: int
    def __init__(self, found: _Optional[int] = ..., found_by_digest: _Optional[int] = ..., found_by_text: _Optional[int] = ..., kept_here: _Optional[int] = ..., sent: _Optional[int] = ..., tasks: _Optional[_Mapping[str, int]] = ..., erased: _Optional[int] = ..., told: _Optional[int] = ..., erasure: _Optional[int] = ...) -> None: ...

class GetPrivacyReportRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetPrivacyReportResponse(_message.Message):
    __slots__ = ("counts", "held", "erasures", "digests", "digests_max", "digest_days", "retention_days")
    class RetentionDaysEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    ERASURES_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_MAX_FIELD_NUMBER: _ClassVar[int]
    DIGEST_DAYS_FIELD_NUMBER: _ClassVar[int]
    RETENTION_DAYS_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.RepeatedCompositeFieldContainer[PrivacyCount]
    held: _containers.RepeatedCompositeFieldContainer[HeldExamples]
    erasures: _containers.RepeatedCompositeFieldContainer[Erasure]
    digests: int
    digests_max: int
    digest_days: float
    retention_days: _containers.ScalarMap[str, float]
    def __init__(self, counts: _Optional[_Iterable[_Union[PrivacyCount, _Mapping]]] = ..., held: _Optional[_Iterable[_Union[HeldExamples, _Mapping]]] = ..., erasures: _Optional[_Iterable[_Union[Erasure, _Mapping]]] = ..., digests: _Optional[int] = ..., digests_max: _Optional[int] = ..., digest_days: _Optional[float] = ..., retention_days: _Optional[_Mapping[str, float]] = ...) -> None: ...

class PrivacyCount(_message.Message):
    __slots__ = ("task", "what", "name", "number")
    TASK_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    task: str
    what: str
    name: str
    number: int
    def __init__(self, task: _Optional[str] = ..., what: _Optional[str] = ..., name: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class HeldExamples(_message.Message):
    __slots__ = ("task", "kept", "waiting", "sealed")
    TASK_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    task: str
    kept: int
    waiting: int
    sealed: int
    def __init__(self, task: _Optional[str] = ..., kept: _Optional[int] = ..., waiting: _Optional[int] = ..., sealed: _Optional[int] = ...) -> None: ...

class Erasure(_message.Message):
    __slots__ = ("number", "erase_time", "erased", "told", "confirmed")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ERASE_TIME_FIELD_NUMBER: _ClassVar[int]
    ERASED_FIELD_NUMBER: _ClassVar[int]
    TOLD_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    number: int
    erase_time: _timestamp_pb2.Timestamp
    erased: int
    told: int
    confirmed: int
    def __init__(self, number: _Optional[int] = ..., erase_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., erased: _Optional[int] = ..., told: _Optional[int] = ..., confirmed: _Optional[int] = ...) -> None: ...
