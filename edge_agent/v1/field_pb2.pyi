import datetime

from edge_agent.v1 import task_pb2 as _task_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Share(_message.Message):
    __slots__ = ("hits", "rows", "value", "low", "high")
    HITS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    hits: int
    rows: int
    value: float
    low: float
    high: float
    def __init__(self, hits: _Optional[int] = ..., rows: _Optional[int] = ..., value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class FieldAlarm(_message.Message):
    __slots__ = ("task", "digest", "alarm", "since_time", "end_time", "message", "remedy", "demoted", "question")
    TASK_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ALARM_FIELD_NUMBER: _ClassVar[int]
    SINCE_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    DEMOTED_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    task: str
    digest: str
    alarm: str
    since_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    message: str
    remedy: str
    demoted: bool
    question: str
    def __init__(self, task: _Optional[str] = ..., digest: _Optional[str] = ..., alarm: _Optional[str] = ..., since_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ..., demoted: _Optional[bool] = ..., question: _Optional[str] = ...) -> None: ...

class FieldDay(_message.Message):
    __slots__ = ("day", "counts", "agreement")
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    DAY_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    day: str
    counts: _containers.ScalarMap[str, int]
    agreement: Share
    def __init__(self, day: _Optional[str] = ..., counts: _Optional[_Mapping[str, int]] = ..., agreement: _Optional[_Union[Share, _Mapping]] = ...) -> None: ...

class FieldAgreement(_message.Message):
    __slots__ = ("source", "label", "agreed", "recent")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    RECENT_FIELD_NUMBER: _ClassVar[int]
    source: str
    label: str
    agreed: Share
    recent: Share
    def __init__(self, source: _Optional[str] = ..., label: _Optional[str] = ..., agreed: _Optional[_Union[Share, _Mapping]] = ..., recent: _Optional[_Union[Share, _Mapping]] = ...) -> None: ...

class FieldTest(_message.Message):
    __slots__ = ("judge", "wrong", "target", "delta", "evidence", "evidence_max", "refuted", "unjudged")
    JUDGE_FIELD_NUMBER: _ClassVar[int]
    WRONG_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_MAX_FIELD_NUMBER: _ClassVar[int]
    REFUTED_FIELD_NUMBER: _ClassVar[int]
    UNJUDGED_FIELD_NUMBER: _ClassVar[int]
    judge: str
    wrong: Share
    target: float
    delta: float
    evidence: float
    evidence_max: float
    refuted: bool
    unjudged: int
    def __init__(self, judge: _Optional[str] = ..., wrong: _Optional[_Union[Share, _Mapping]] = ..., target: _Optional[float] = ..., delta: _Optional[float] = ..., evidence: _Optional[float] = ..., evidence_max: _Optional[float] = ..., refuted: _Optional[bool] = ..., unjudged: _Optional[int] = ...) -> None: ...

class FieldEvent(_message.Message):
    __slots__ = ("event", "before", "now")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    event: str
    before: float
    now: float
    def __init__(self, event: _Optional[str] = ..., before: _Optional[float] = ..., now: _Optional[float] = ...) -> None: ...

class FieldStream(_message.Message):
    __slots__ = ("what", "calibrated", "reference_rows", "reference_rows_missing", "window_rows", "windows", "events")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    CALIBRATED_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_ROWS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_ROWS_MISSING_FIELD_NUMBER: _ClassVar[int]
    WINDOW_ROWS_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    what: str
    calibrated: bool
    reference_rows: int
    reference_rows_missing: int
    window_rows: int
    windows: int
    events: _containers.RepeatedCompositeFieldContainer[FieldEvent]
    def __init__(self, what: _Optional[str] = ..., calibrated: _Optional[bool] = ..., reference_rows: _Optional[int] = ..., reference_rows_missing: _Optional[int] = ..., window_rows: _Optional[int] = ..., windows: _Optional[int] = ..., events: _Optional[_Iterable[_Union[FieldEvent, _Mapping]]] = ...) -> None: ...

class FieldConfidence(_message.Message):
    __slots__ = ("confidence", "answers", "agreed", "reviewed", "reviewed_agreed")
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    REVIEWED_FIELD_NUMBER: _ClassVar[int]
    REVIEWED_AGREED_FIELD_NUMBER: _ClassVar[int]
    confidence: float
    answers: Share
    agreed: Share
    reviewed: Share
    reviewed_agreed: int
    def __init__(self, confidence: _Optional[float] = ..., answers: _Optional[_Union[Share, _Mapping]] = ..., agreed: _Optional[_Union[Share, _Mapping]] = ..., reviewed: _Optional[_Union[Share, _Mapping]] = ..., reviewed_agreed: _Optional[int] = ...) -> None: ...

class FieldDisagreement(_message.Message):
    __slots__ = ("prediction_id", "answer_time", "source", "ours", "theirs", "confidence")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    ANSWER_TIME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    OURS_FIELD_NUMBER: _ClassVar[int]
    THEIRS_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    answer_time: _timestamp_pb2.Timestamp
    source: str
    ours: str
    theirs: str
    confidence: float
    def __init__(self, prediction_id: _Optional[str] = ..., answer_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., source: _Optional[str] = ..., ours: _Optional[str] = ..., theirs: _Optional[str] = ..., confidence: _Optional[float] = ...) -> None: ...

class FieldLabel(_message.Message):
    __slots__ = ("label", "answers", "examples")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    label: str
    answers: int
    examples: int
    def __init__(self, label: _Optional[str] = ..., answers: _Optional[int] = ..., examples: _Optional[int] = ...) -> None: ...

class FieldMoney(_message.Message):
    __slots__ = ("task", "day", "questions", "cost_micros")
    TASK_FIELD_NUMBER: _ClassVar[int]
    DAY_FIELD_NUMBER: _ClassVar[int]
    QUESTIONS_FIELD_NUMBER: _ClassVar[int]
    COST_MICROS_FIELD_NUMBER: _ClassVar[int]
    task: str
    day: str
    questions: int
    cost_micros: int
    def __init__(self, task: _Optional[str] = ..., day: _Optional[str] = ..., questions: _Optional[int] = ..., cost_micros: _Optional[int] = ...) -> None: ...

class FieldSeries(_message.Message):
    __slots__ = ("bundle", "active", "first_time", "last_time", "days", "totals", "agreement", "tests", "streams", "alarms", "confidences", "disagreements", "threshold", "labels", "question")
    class TotalsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    FIRST_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_TIME_FIELD_NUMBER: _ClassVar[int]
    DAYS_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    TESTS_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCES_FIELD_NUMBER: _ClassVar[int]
    DISAGREEMENTS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    bundle: _task_pb2.BundleRef
    active: bool
    first_time: _timestamp_pb2.Timestamp
    last_time: _timestamp_pb2.Timestamp
    days: _containers.RepeatedCompositeFieldContainer[FieldDay]
    totals: _containers.ScalarMap[str, int]
    agreement: _containers.RepeatedCompositeFieldContainer[FieldAgreement]
    tests: _containers.RepeatedCompositeFieldContainer[FieldTest]
    streams: _containers.RepeatedCompositeFieldContainer[FieldStream]
    alarms: _containers.RepeatedCompositeFieldContainer[FieldAlarm]
    confidences: _containers.RepeatedCompositeFieldContainer[FieldConfidence]
    disagreements: _containers.RepeatedCompositeFieldContainer[FieldDisagreement]
    threshold: float
    labels: _containers.RepeatedCompositeFieldContainer[FieldLabel]
    question: str
    def __init__(self, bundle: _Optional[_Union[_task_pb2.BundleRef, _Mapping]] = ..., active: _Optional[bool] = ..., first_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., days: _Optional[_Iterable[_Union[FieldDay, _Mapping]]] = ..., totals: _Optional[_Mapping[str, int]] = ..., agreement: _Optional[_Iterable[_Union[FieldAgreement, _Mapping]]] = ..., tests: _Optional[_Iterable[_Union[FieldTest, _Mapping]]] = ..., streams: _Optional[_Iterable[_Union[FieldStream, _Mapping]]] = ..., alarms: _Optional[_Iterable[_Union[FieldAlarm, _Mapping]]] = ..., confidences: _Optional[_Iterable[_Union[FieldConfidence, _Mapping]]] = ..., disagreements: _Optional[_Iterable[_Union[FieldDisagreement, _Mapping]]] = ..., threshold: _Optional[float] = ..., labels: _Optional[_Iterable[_Union[FieldLabel, _Mapping]]] = ..., question: _Optional[str] = ...) -> None: ...
