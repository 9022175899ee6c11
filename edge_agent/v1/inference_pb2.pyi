from edge_agent.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason

class ClassifyRequest(_message.Message):
    __slots__ = ("task", "texts", "request_id", "on_low_confidence", "top_k")
    TASK_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ON_LOW_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    task: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    request_id: str
    on_low_confidence: _task_pb2.OnLowConfidence
    top_k: int
    def __init__(self, task: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., request_id: _Optional[str] = ..., on_low_confidence: _Optional[_Union[_task_pb2.OnLowConfidence, str]] = ..., top_k: _Optional[int] = ...) -> None: ...

class LabelScore(_message.Message):
    __slots__ = ("label", "score")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    label: str
    score: float
    def __init__(self, label: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class Classification(_message.Message):
    __slots__ = ("label", "confidence", "scores", "label_mass", "provenance")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    LABEL_MASS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    label: str
    confidence: _task_pb2.Confidence
    scores: _containers.RepeatedCompositeFieldContainer[LabelScore]
    label_mass: float
    provenance: _task_pb2.Provenance
    def __init__(self, label: _Optional[str] = ..., confidence: _Optional[_Union[_task_pb2.Confidence, _Mapping]] = ..., scores: _Optional[_Iterable[_Union[LabelScore, _Mapping]]] = ..., label_mass: _Optional[float] = ..., provenance: _Optional[_Union[_task_pb2.Provenance, _Mapping]] = ...) -> None: ...

class ClassifyResult(_message.Message):
    __slots__ = ("classification", "error")
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    classification: Classification
    error: _task_pb2.InputError
    def __init__(self, classification: _Optional[_Union[Classification, _Mapping]] = ..., error: _Optional[_Union[_task_pb2.InputError, _Mapping]] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ClassifyResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ClassifyResult, _Mapping]]] = ...) -> None: ...

class DecideRequest(_message.Message):
    __slots__ = ("task", "texts", "request_id", "on_low_confidence", "questions", "open_questions")
    TASK_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ON_LOW_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    QUESTIONS_FIELD_NUMBER: _ClassVar[int]
    OPEN_QUESTIONS_FIELD_NUMBER: _ClassVar[int]
    task: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    request_id: str
    on_low_confidence: _task_pb2.OnLowConfidence
    questions: _containers.RepeatedScalarFieldContainer[str]
    open_questions: _containers.RepeatedCompositeFieldContainer[_task_pb2.Question]
    def __init__(self, task: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., request_id: _Optional[str] = ..., on_low_confidence: _Optional[_Union[_task_pb2.OnLowConfidence, str]] = ..., questions: _Optional[_Iterable[str]] = ..., open_questions: _Optional[_Iterable[_Union[_task_pb2.Question, _Mapping]]] = ...) -> None: ...

class DecisionAnswer(_message.Message):
    __slots__ = ("question", "type", "label", "probabilities", "score", "confidence", "provenance", "calibrated", "confident", "label_mass")
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATED_FIELD_NUMBER: _ClassVar[int]
    CONFIDENT_FIELD_NUMBER: _ClassVar[int]
    LABEL_MASS_FIELD_NUMBER: _ClassVar[int]
    question: str
    type: _task_pb2.QuestionType
    label: str
    probabilities: _containers.RepeatedCompositeFieldContainer[LabelScore]
    score: float
    confidence: _task_pb2.Confidence
    provenance: _task_pb2.Provenance
    calibrated: bool
    confident: bool
    label_mass: float
    def __init__(self, question: _Optional[str] = ..., type: _Optional[_Union[_task_pb2.QuestionType, str]] = ..., label: _Optional[str] = ..., probabilities: _Optional[_Iterable[_Union[LabelScore, _Mapping]]] = ..., score: _Optional[float] = ..., confidence: _Optional[_Union[_task_pb2.Confidence, _Mapping]] = ..., provenance: _Optional[_Union[_task_pb2.Provenance, _Mapping]] = ..., calibrated: _Optional[bool] = ..., confident: _Optional[bool] = ..., label_mass: _Optional[float] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[DecisionAnswer]
    def __init__(self, answers: _Optional[_Iterable[_Union[DecisionAnswer, _Mapping]]] = ...) -> None: ...

class DecideResult(_message.Message):
    __slots__ = ("decision", "error")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    error: _task_pb2.InputError
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., error: _Optional[_Union[_task_pb2.InputError, _Mapping]] = ...) -> None: ...

class DecideResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[DecideResult]
    def __init__(self, results: _Optional[_Iterable[_Union[DecideResult, _Mapping]]] = ...) -> None: ...

class ExtractRequest(_message.Message):
    __slots__ = ("task", "texts", "request_id", "on_low_confidence")
    TASK_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ON_LOW_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    task: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    request_id: str
    on_low_confidence: _task_pb2.OnLowConfidence
    def __init__(self, task: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., request_id: _Optional[str] = ..., on_low_confidence: _Optional[_Union[_task_pb2.OnLowConfidence, str]] = ...) -> None: ...

class Entity(_message.Message):
    __slots__ = ("label", "text", "start", "end", "score")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    label: str
    text: str
    start: int
    end: int
    score: float
    def __init__(self, label: _Optional[str] = ..., text: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...

class Field(_message.Message):
    __slots__ = ("name", "confidence")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    confidence: float
    def __init__(self, name: _Optional[str] = ..., confidence: _Optional[float] = ...) -> None: ...

class Extraction(_message.Message):
    __slots__ = ("json", "entities", "confidence", "provenance", "fields")
    JSON_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    json: str
    entities: _containers.RepeatedCompositeFieldContainer[Entity]
    confidence: _task_pb2.Confidence
    provenance: _task_pb2.Provenance
    fields: _containers.RepeatedCompositeFieldContainer[Field]
    def __init__(self, json: _Optional[str] = ..., entities: _Optional[_Iterable[_Union[Entity, _Mapping]]] = ..., confidence: _Optional[_Union[_task_pb2.Confidence, _Mapping]] = ..., provenance: _Optional[_Union[_task_pb2.Provenance, _Mapping]] = ..., fields: _Optional[_Iterable[_Union[Field, _Mapping]]] = ...) -> None: ...

class ExtractResult(_message.Message):
    __slots__ = ("extraction", "error")
    EXTRACTION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    extraction: Extraction
    error: _task_pb2.InputError
    def __init__(self, extraction: _Optional[_Union[Extraction, _Mapping]] = ..., error: _Optional[_Union[_task_pb2.InputError, _Mapping]] = ...) -> None: ...

class ExtractResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ExtractResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ExtractResult, _Mapping]]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("task", "text", "request_id", "output_tokens_max", "temperature", "seed", "stops", "escalate", "logprobs")
    TASK_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_MAX_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STOPS_FIELD_NUMBER: _ClassVar[int]
    ESCALATE_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    task: str
    text: str
    request_id: str
    output_tokens_max: int
    temperature: float
    seed: int
    stops: _containers.RepeatedScalarFieldContainer[str]
    escalate: bool
    logprobs: int
    def __init__(self, task: _Optional[str] = ..., text: _Optional[str] = ..., request_id: _Optional[str] = ..., output_tokens_max: _Optional[int] = ..., temperature: _Optional[float] = ..., seed: _Optional[int] = ..., stops: _Optional[_Iterable[str]] = ..., escalate: _Optional[bool] = ..., logprobs: _Optional[int] = ...) -> None: ...

class GenerateFinish(_message.Message):
    __slots__ = ("reason", "provenance", "tokens")
    REASON_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    reason: FinishReason
    provenance: _task_pb2.Provenance
    tokens: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    def __init__(self, reason: _Optional[_Union[FinishReason, str]] = ..., provenance: _Optional[_Union[_task_pb2.Provenance, _Mapping]] = ..., tokens: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ...) -> None: ...

class TokenLogprob(_message.Message):
    __slots__ = ("token", "logprob", "alternatives")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    logprob: float
    alternatives: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    def __init__(self, token: _Optional[bytes] = ..., logprob: _Optional[float] = ..., alternatives: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("text", "finish")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    text: str
    finish: GenerateFinish
    def __init__(self, text: _Optional[str] = ..., finish: _Optional[_Union[GenerateFinish, _Mapping]] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("task", "texts", "request_id")
    TASK_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    task: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    request_id: str
    def __init__(self, task: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("values", "provenance")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    provenance: _task_pb2.Provenance
    def __init__(self, values: _Optional[_Iterable[float]] = ..., provenance: _Optional[_Union[_task_pb2.Provenance, _Mapping]] = ...) -> None: ...

class EmbedResult(_message.Message):
    __slots__ = ("embedding", "error")
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    embedding: Embedding
    error: _task_pb2.InputError
    def __init__(self, embedding: _Optional[_Union[Embedding, _Mapping]] = ..., error: _Optional[_Union[_task_pb2.InputError, _Mapping]] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[EmbedResult]
    def __init__(self, results: _Optional[_Iterable[_Union[EmbedResult, _Mapping]]] = ...) -> None: ...

class ListTasksRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTasksResponse(_message.Message):
    __slots__ = ("tasks", "next_page_token")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[_task_pb2.Task]
    next_page_token: str
    def __init__(self, tasks: _Optional[_Iterable[_Union[_task_pb2.Task, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetTaskRequest(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: str
    def __init__(self, task: _Optional[str] = ...) -> None: ...

class GetTaskResponse(_message.Message):
    __slots__ = ("task", "record_schema")
    TASK_FIELD_NUMBER: _ClassVar[int]
    RECORD_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    record_schema: str
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ..., record_schema: _Optional[str] = ...) -> None: ...
