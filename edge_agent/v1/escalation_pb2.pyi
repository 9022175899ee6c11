from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("online", "affordable", "free", "usual_ms", "model", "problem_reason", "problem", "day_micros", "month_micros", "day_micros_max", "month_micros_max", "tasks", "spare")
    ONLINE_FIELD_NUMBER: _ClassVar[int]
    AFFORDABLE_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    USUAL_MS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_REASON_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    DAY_MICROS_FIELD_NUMBER: _ClassVar[int]
    MONTH_MICROS_FIELD_NUMBER: _ClassVar[int]
    DAY_MICROS_MAX_FIELD_NUMBER: _ClassVar[int]
    MONTH_MICROS_MAX_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    SPARE_FIELD_NUMBER: _ClassVar[int]
    online: bool
    affordable: bool
    free: bool
    usual_ms: float
    model: str
    problem_reason: str
    problem: str
    day_micros: int
    month_micros: int
    day_micros_max: int
    month_micros_max: int
    tasks: _containers.RepeatedScalarFieldContainer[str]
    spare: bool
    def __init__(self, online: _Optional[bool] = ..., affordable: _Optional[bool] = ..., free: _Optional[bool] = ..., usual_ms: _Optional[float] = ..., model: _Optional[str] = ..., problem_reason: _Optional[str] = ..., problem: _Optional[str] = ..., day_micros: _Optional[int] = ..., month_micros: _Optional[int] = ..., day_micros_max: _Optional[int] = ..., month_micros_max: _Optional[int] = ..., tasks: _Optional[_Iterable[str]] = ..., spare: _Optional[bool] = ...) -> None: ...

class Turn(_message.Message):
    __slots__ = ("role", "text")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    role: str
    text: str
    def __init__(self, role: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class AskRequest(_message.Message):
    __slots__ = ("task", "turns", "answer_schema", "output_tokens_max", "background", "questions", "input")
    TASK_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_MAX_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_FIELD_NUMBER: _ClassVar[int]
    QUESTIONS_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    task: str
    turns: _containers.RepeatedCompositeFieldContainer[Turn]
    answer_schema: str
    output_tokens_max: int
    background: bool
    questions: _containers.RepeatedCompositeFieldContainer[AskedQuestion]
    input: str
    def __init__(self, task: _Optional[str] = ..., turns: _Optional[_Iterable[_Union[Turn, _Mapping]]] = ..., answer_schema: _Optional[str] = ..., output_tokens_max: _Optional[int] = ..., background: _Optional[bool] = ..., questions: _Optional[_Iterable[_Union[AskedQuestion, _Mapping]]] = ..., input: _Optional[str] = ...) -> None: ...

class AskedQuestion(_message.Message):
    __slots__ = ("name", "type", "instructions", "options")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    instructions: str
    options: _containers.RepeatedCompositeFieldContainer[AskedOption]
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., instructions: _Optional[str] = ..., options: _Optional[_Iterable[_Union[AskedOption, _Mapping]]] = ...) -> None: ...

class AskedOption(_message.Message):
    __slots__ = ("value", "description")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    value: str
    description: str
    def __init__(self, value: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class AskResponse(_message.Message):
    __slots__ = ("text", "finish", "failure", "typed")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    TYPED_FIELD_NUMBER: _ClassVar[int]
    text: str
    finish: AskFinish
    failure: AskFailure
    typed: TypedAnswers
    def __init__(self, text: _Optional[str] = ..., finish: _Optional[_Union[AskFinish, _Mapping]] = ..., failure: _Optional[_Union[AskFailure, _Mapping]] = ..., typed: _Optional[_Union[TypedAnswers, _Mapping]] = ...) -> None: ...

class TypedAnswers(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[TypedAnswer]
    def __init__(self, answers: _Optional[_Iterable[_Union[TypedAnswer, _Mapping]]] = ...) -> None: ...

class TypedAnswer(_message.Message):
    __slots__ = ("question", "probabilities")
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    question: str
    probabilities: _containers.RepeatedCompositeFieldContainer[OptionProbability]
    def __init__(self, question: _Optional[str] = ..., probabilities: _Optional[_Iterable[_Union[OptionProbability, _Mapping]]] = ...) -> None: ...

class OptionProbability(_message.Message):
    __slots__ = ("value", "probability")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    value: str
    probability: float
    def __init__(self, value: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class AskFailure(_message.Message):
    __slots__ = ("reason", "message", "remedy", "retry_seconds")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    RETRY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    remedy: str
    retry_seconds: float
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ..., retry_seconds: _Optional[float] = ...) -> None: ...

class AskFinish(_message.Message):
    __slots__ = ("model", "input_tokens", "output_tokens", "cost_micros", "complete")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_MICROS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    model: str
    input_tokens: int
    output_tokens: int
    cost_micros: int
    complete: bool
    def __init__(self, model: _Optional[str] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cost_micros: _Optional[int] = ..., complete: _Optional[bool] = ...) -> None: ...
