from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TaskKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_KIND_UNSPECIFIED: _ClassVar[TaskKind]
    TASK_KIND_CLASSIFY: _ClassVar[TaskKind]
    TASK_KIND_EXTRACT: _ClassVar[TaskKind]
    TASK_KIND_GENERATE: _ClassVar[TaskKind]
    TASK_KIND_EMBED: _ClassVar[TaskKind]
    TASK_KIND_DECIDE: _ClassVar[TaskKind]
    TASK_KIND_REDACT: _ClassVar[TaskKind]

class QuestionType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUESTION_TYPE_UNSPECIFIED: _ClassVar[QuestionType]
    QUESTION_TYPE_PREDICATE: _ClassVar[QuestionType]
    QUESTION_TYPE_CHOICE: _ClassVar[QuestionType]
    QUESTION_TYPE_SCORE: _ClassVar[QuestionType]

class Route(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROUTE_UNSPECIFIED: _ClassVar[Route]
    ROUTE_LOCAL: _ClassVar[Route]
    ROUTE_UPSTREAM: _ClassVar[Route]
    ROUTE_ABSTAINED: _ClassVar[Route]
    ROUTE_DEFERRED: _ClassVar[Route]

class OnLowConfidence(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_LOW_CONFIDENCE_UNSPECIFIED: _ClassVar[OnLowConfidence]
    ON_LOW_CONFIDENCE_ANSWER: _ClassVar[OnLowConfidence]
    ON_LOW_CONFIDENCE_ABSTAIN: _ClassVar[OnLowConfidence]
    ON_LOW_CONFIDENCE_ESCALATE: _ClassVar[OnLowConfidence]

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    MODE_BOOTSTRAP: _ClassVar[Mode]
    MODE_SHADOW: _ClassVar[Mode]
    MODE_HYBRID: _ClassVar[Mode]
    MODE_LOCAL: _ClassVar[Mode]

class NoThresholdReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NO_THRESHOLD_REASON_UNSPECIFIED: _ClassVar[NoThresholdReason]
    NO_THRESHOLD_REASON_NOT_CALIBRATED: _ClassVar[NoThresholdReason]
    NO_THRESHOLD_REASON_NONE_PROVED: _ClassVar[NoThresholdReason]
    NO_THRESHOLD_REASON_SCORES_VARY: _ClassVar[NoThresholdReason]
TASK_KIND_UNSPECIFIED: TaskKind
TASK_KIND_CLASSIFY: TaskKind
TASK_KIND_EXTRACT: TaskKind
TASK_KIND_GENERATE: TaskKind
TASK_KIND_EMBED: TaskKind
TASK_KIND_DECIDE: TaskKind
TASK_KIND_REDACT: TaskKind
QUESTION_TYPE_UNSPECIFIED: QuestionType
QUESTION_TYPE_PREDICATE: QuestionType
QUESTION_TYPE_CHOICE: QuestionType
QUESTION_TYPE_SCORE: QuestionType
ROUTE_UNSPECIFIED: Route
ROUTE_LOCAL: Route
ROUTE_UPSTREAM: Route
ROUTE_ABSTAINED: Route
ROUTE_DEFERRED: Route
ON_LOW_CONFIDENCE_UNSPECIFIED: OnLowConfidence
ON_LOW_CONFIDENCE_ANSWER: OnLowConfidence
ON_LOW_CONFIDENCE_ABSTAIN: OnLowConfidence
ON_LOW_CONFIDENCE_ESCALATE: OnLowConfidence
MODE_UNSPECIFIED: Mode
MODE_BOOTSTRAP: Mode
MODE_SHADOW: Mode
MODE_HYBRID: Mode
MODE_LOCAL: Mode
NO_THRESHOLD_REASON_UNSPECIFIED: NoThresholdReason
NO_THRESHOLD_REASON_NOT_CALIBRATED: NoThresholdReason
NO_THRESHOLD_REASON_NONE_PROVED: NoThresholdReason
NO_THRESHOLD_REASON_SCORES_VARY: NoThresholdReason

class QuestionOption(_message.Message):
    __slots__ = ("label", "description")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    label: str
    description: str
    def __init__(self, label: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class Question(_message.Message):
    __slots__ = ("name", "type", "instructions", "options", "threshold")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: QuestionType
    instructions: str
    options: _containers.RepeatedCompositeFieldContainer[QuestionOption]
    threshold: float
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[QuestionType, str]] = ..., instructions: _Optional[str] = ..., options: _Optional[_Iterable[_Union[QuestionOption, _Mapping]]] = ..., threshold: _Optional[float] = ...) -> None: ...

class BundleRef(_message.Message):
    __slots__ = ("task", "version", "digest")
    TASK_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    task: str
    version: str
    digest: str
    def __init__(self, task: _Optional[str] = ..., version: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_ms", "prefill_ms", "decode_ms", "upstream_ms")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_MS_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    upstream_ms: float
    def __init__(self, queue_ms: _Optional[float] = ..., prefill_ms: _Optional[float] = ..., decode_ms: _Optional[float] = ..., upstream_ms: _Optional[float] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("prediction_id", "bundle", "route", "timings", "device", "degraded", "input_tokens", "output_tokens", "reason", "model", "p_value")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    bundle: BundleRef
    route: Route
    timings: Timings
    device: str
    degraded: _containers.RepeatedScalarFieldContainer[str]
    input_tokens: int
    output_tokens: int
    reason: str
    model: str
    p_value: float
    def __init__(self, prediction_id: _Optional[str] = ..., bundle: _Optional[_Union[BundleRef, _Mapping]] = ..., route: _Optional[_Union[Route, str]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., device: _Optional[str] = ..., degraded: _Optional[_Iterable[str]] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., reason: _Optional[str] = ..., model: _Optional[str] = ..., p_value: _Optional[float] = ...) -> None: ...

class Confidence(_message.Message):
    __slots__ = ("value", "threshold", "below_threshold", "no_threshold_reason")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    BELOW_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    NO_THRESHOLD_REASON_FIELD_NUMBER: _ClassVar[int]
    value: float
    threshold: float
    below_threshold: bool
    no_threshold_reason: NoThresholdReason
    def __init__(self, value: _Optional[float] = ..., threshold: _Optional[float] = ..., below_threshold: _Optional[bool] = ..., no_threshold_reason: _Optional[_Union[NoThresholdReason, str]] = ...) -> None: ...

class InputError(_message.Message):
    __slots__ = ("reason", "message", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TaskLimits(_message.Message):
    __slots__ = ("input_tokens_max", "output_tokens_max", "inputs_max")
    INPUT_TOKENS_MAX_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_MAX_FIELD_NUMBER: _ClassVar[int]
    INPUTS_MAX_FIELD_NUMBER: _ClassVar[int]
    input_tokens_max: int
    output_tokens_max: int
    inputs_max: int
    def __init__(self, input_tokens_max: _Optional[int] = ..., output_tokens_max: _Optional[int] = ..., inputs_max: _Optional[int] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("name", "kind", "bundle", "labels", "limits", "ready", "signed", "threshold", "mode", "mode_by", "confidence_blocker", "gate", "questions", "open_questions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    MODE_BY_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_BLOCKER_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    QUESTIONS_FIELD_NUMBER: _ClassVar[int]
    OPEN_QUESTIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: TaskKind
    bundle: BundleRef
    labels: _containers.RepeatedScalarFieldContainer[str]
    limits: TaskLimits
    ready: bool
    signed: bool
    threshold: float
    mode: Mode
    mode_by: str
    confidence_blocker: str
    gate: str
    questions: _containers.RepeatedCompositeFieldContainer[Question]
    open_questions: bool
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[TaskKind, str]] = ..., bundle: _Optional[_Union[BundleRef, _Mapping]] = ..., labels: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[TaskLimits, _Mapping]] = ..., ready: _Optional[bool] = ..., signed: _Optional[bool] = ..., threshold: _Optional[float] = ..., mode: _Optional[_Union[Mode, str]] = ..., mode_by: _Optional[str] = ..., confidence_blocker: _Optional[str] = ..., gate: _Optional[str] = ..., questions: _Optional[_Iterable[_Union[Question, _Mapping]]] = ..., open_questions: _Optional[bool] = ...) -> None: ...
