"""Records of examples, which a site writes into segments and the central team reads.

One JSON object per line, of one of four types. A *prediction* is one redacted input with its answer. *Feedback* is a
person's verdict on a prediction; it may come in a later segment than its prediction, or in the same one. An *opinion*
is the large model's answer to an input that was answered without it (a teacher label), likewise. A *tombstone* requests
the central team to delete a prediction, its feedback and its opinion, wherever they are.

A prediction keeps the local answer and the large model's answer apart. Scores, confidence and threshold belong to the
local answer alone: they are next to `output` if the bundle's own model gave that, otherwise in `local`. Version 0.1
wrote them next to the large model's output; `separate_answers` corrects such a record.

`record_id` identifies duplicates: the same record may come twice (a segment made again after damage), but always with
the same content.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, model_validator

from edge_agent.errors import RecordInvalid
from edge_agent.formats import strict_json
from edge_agent.formats.manifest import Kind, Sha256, TaskName, Version
from edge_agent.formats.questions import QuestionName
from edge_agent.formats.signed_document import At, ExchangedModel, SiteId

SCHEMA = "edge-agent/example/v1"
RECORD_BYTES_MAX = 2 * 1024 * 1024
Consent = Literal["off", "local", "upstream"]
"""off = nothing is kept; local = kept on the site; upstream = may leave for the central team."""
Class = Literal["routine", "unsure", "escalated", "reviewed"]
"""Why a prediction was kept, in eviction order when there is no room.

reviewed = it has feedback of people; never evicted.
"""
Verdict = Literal["accept", "corrected", "reject"]
Why = Literal["deferred", "audit"]
"""Why the large model is asked after the answer was given.

deferred = it should have answered, but could not be asked in time; audit = drawn at random among confident answers.
"""
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Probability = Annotated[float, Field(gt=0.0, le=1.0)]
ReviewStream = Literal["audit", "uncertain", "diverse", "new"]
"""Why people are asked to review an answer.

audit = drawn at random among all answers; uncertain = with little confidence; diverse = so that no label is missing;
new = unlike the inputs of calibration.
"""
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9:_-]{1,100}$")]


class BundleVersion(ExchangedModel):
    """The exact bundle that answered."""

    version: Version
    digest: Sha256


class RedactionSummary(ExchangedModel):
    """The rules that redacted the input before it was written, and how often each replaced something."""

    version: str = Field(max_length=64)
    """The version of the set of rules."""
    rules: tuple[str, ...] = Field(max_length=200)
    """Names of the rules that ran, in their order."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Replacements by the name of the rule; a rule without any is left out. A value found by a redaction model counts
    under "model:" and its type."""
    model: str = Field(default="", max_length=200)
    """The bundle of the redaction model that read the texts, task@version; empty = rules alone did."""


class RetentionReason(ExchangedModel):
    """Why the record was kept, so that statistics can correct for the selection."""

    because: Class
    share: Share = 1.0
    """The probability with which a prediction like this one was sealed; rows of the audit always are."""


class _ExampleRecord(ExchangedModel):
    schema_: Literal["edge-agent/example/v1"] = Field(default="edge-agent/example/v1", alias="schema")
    record_id: Identifier
    site: SiteId
    at: At


class LocalAnswer(ExchangedModel):
    """The answer of the bundle's own model, with its confidence."""

    answer: str
    """As in `ExamplePrediction.output`."""
    scores: tuple[tuple[str, float], ...] = ()
    """classify and decide: every label with its calibrated score, best first."""
    confidence: float | None = None
    """0 to 1; None where the kind has none."""
    threshold: float | None = None
    sure: bool = False
    """The answer was confident by the bundle's threshold, floor and gate. False without a threshold."""
    label_mass: float | None = None


class ExamplePrediction(_ExampleRecord):
    """One input and its answers."""

    type: Literal["prediction"] = "prediction"
    prediction_id: Identifier
    task: TaskName
    kind: Kind
    question: QuestionName | None = None
    """decide: the answered question about the input; each has a record of its own. None for any other kind."""
    bundle: BundleVersion
    input: str
    """Redacted."""
    output: str
    """The answer, even if it was withheld; empty = there was none, for example because the large model was offline.

    classify and decide: a label. extract: a JSON object. generate: text.
    """
    scores: tuple[tuple[str, float], ...] = ()
    """This and the four fields below are those of LocalAnswer, for `output`; empty if the large model gave it."""
    confidence: float | None = None
    threshold: float | None = None
    sure: bool
    label_mass: float | None = None
    p_value: Share | None = None
    """The p-value of the bundle's gate; None = it has no gate. If it is too small, `reason` has OUT_OF_DISTRIBUTION."""
    local: LocalAnswer | None = None
    """The answer of the bundle's own model if `output` is the large model's; None = it was not asked, or `output` is
    its own, or version 0.1 did not keep it."""
    route: Literal["local", "upstream", "abstained", "deferred"]
    reason: str = Field(default="", max_length=200)
    """The reasons for the route, UPPER_SNAKE words separated by blanks; may be empty."""
    model: str = Field(default="", max_length=200)
    """The large model that gave `output`; empty = the bundle's own did."""
    teacher_scores: tuple[tuple[str, Share], ...] = ()
    """The labels with the large model's probabilities; empty = it gave none. Older readers ignore it."""
    redaction: RedactionSummary
    kept: RetentionReason
    review_stream: ReviewStream | None = None
    """The stream in which people review it; None = written by an agent without streams."""
    sampling_probability: Probability | None = None
    """audit: the probability with which a kept answer was drawn at that time. Times `kept.share` it is the probability
    that the record is here as part of the audit. None in every other stream."""

    @model_validator(mode="after")
    def _check_sampling_probability(self) -> ExamplePrediction:
        if (self.review_stream == "audit") != (self.sampling_probability is not None):
            raise ValueError("sampling_probability goes with review_stream audit, and with no other")
        return self

    @model_validator(mode="after")
    def _check_question(self) -> ExamplePrediction:
        if (self.kind == "decide") != (self.question is not None):
            raise ValueError("question goes with kind decide, and with no other")
        return self

    @model_validator(mode="after")
    def _separate_answers(self) -> Self:
        """Move the local model's grades from the large model's answer, where version 0.1 wrote them, to `local`."""
        if self.teacher_answer is not None and self.local is None:
            local = local_answer(self.model_dump(include=_ANSWER_FIELDS))
            object.__setattr__(self, "local", LocalAnswer.model_validate(local) if local else None)
            for name, default in UNGRADED.items():
                object.__setattr__(self, name, default)
        return self

    @property
    def local_answer(self) -> LocalAnswer | None:
        """The answer of the bundle's own model; None = it gave none, or it is not known."""
        if self.teacher_answer is not None:
            return self.local
        grades = {name: getattr(self, name) for name in UNGRADED}
        return LocalAnswer(answer=self.output, **grades) if self.output else None

    @property
    def teacher_answer(self) -> str | None:
        """The large model's answer; None = it was not asked."""
        return self.output if self.route == "upstream" or self.model else None


class ExampleFeedback(_ExampleRecord):
    """A person's verdict on a prediction."""

    type: Literal["feedback"] = "feedback"
    feedback_id: Identifier
    prediction_id: Identifier
    task: TaskName
    reviewer: str = Field(max_length=100)
    verdict: Verdict
    value: str = ""
    """corrected: the correct label, JSON object or text, redacted like an input. Empty otherwise."""
    reason: str = Field(default="", max_length=2000)
    """reject: the reason, redacted like an input."""


class ExampleTeacherLabel(_ExampleRecord):
    """The large model's answer to an input that was answered without it. No person has seen it."""

    type: Literal["opinion"] = "opinion"
    prediction_id: Identifier
    """A prediction has at most one opinion."""
    task: TaskName
    model: str = Field(min_length=1, max_length=200)
    """The name of the model at its server."""
    why: Why
    value: str
    """The answer, in the form of `output`: a label of the task, a JSON object or a text; redacted."""
    scores: tuple[tuple[str, Share], ...] = ()
    """As `teacher_scores` of a prediction."""


class ExampleTombstone(_ExampleRecord):
    """A request to delete a prediction, its feedback and its opinion."""

    type: Literal["tombstone"] = "tombstone"
    prediction_id: Identifier


def example_key(prediction: Mapping[str, Any]) -> str:
    """Return the key by which examples are grouped: the task, or TASK/QUESTION for a decide task."""
    question = prediction.get("question")
    return f"{prediction['task']}/{question}" if question else str(prediction["task"])


def task_of_key(key: str) -> str:
    """Return the task of an `example_key`."""
    return key.partition("/")[0]


def question_of_key(key: str) -> str:
    """Return the question of an `example_key`; empty = it has none."""
    return key.partition("/")[2]


UNGRADED: dict[str, Any] = {"scores": (), "confidence": None, "threshold": None, "sure": False, "label_mass": None}
"""The grades of an answer that the bundle's own model did not give."""
_ANSWER_FIELDS = {"output", "local", "route", "model", *UNGRADED}


def teacher_answer(prediction: Mapping[str, Any]) -> str | None:
    """Return the large model's answer in a prediction decoded from JSON; None = it was not asked."""
    by_teacher = prediction["route"] == "upstream" or prediction.get("model")
    return str(prediction["output"]) if by_teacher else None


def local_answer(prediction: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the answer of the bundle's own model in the form of LocalAnswer; None = it gave none, or it is not known.

    For a classification that the large model answered, version 0.1 kept the local scores, the best of which is the
    local answer. For an extracted record it kept only the confidence, which is useless without the answer.
    """
    if prediction.get("local"):
        local: dict[str, Any] = {**prediction["local"]}
        return local
    grades = {name: prediction.get(name, default) for name, default in UNGRADED.items()}
    if teacher_answer(prediction) is None:
        return {"answer": str(prediction["output"]), **grades} if prediction["output"] else None
    return {"answer": str(grades["scores"][0][0]), **grades} if grades["scores"] else None


def separate_answers(prediction: dict[str, Any]) -> dict[str, Any]:
    """Return a prediction decoded from JSON with its answers apart, whatever version wrote it."""
    if prediction["type"] != "prediction" or teacher_answer(prediction) is None:
        return prediction
    return {**prediction, **UNGRADED, "local": local_answer(prediction)}


AnyRecord = ExamplePrediction | ExampleFeedback | ExampleTeacherLabel | ExampleTombstone
Record = Annotated[AnyRecord, Field(discriminator="type")]
_RECORDS: TypeAdapter[AnyRecord] = TypeAdapter(Record, config=ConfigDict(defer_build=True))


def encode(record: AnyRecord) -> bytes:
    """Encode a record as one line of UTF-8 JSON with its newline."""
    return record.model_dump_json(by_alias=True).encode() + b"\n"


def parse(line: bytes) -> AnyRecord:
    """Read one line.

    Raises:
        RecordInvalid: too long, not JSON, another schema, or a rule is broken; the message names the field and shows
            nothing of the content.
    """
    if len(line) > RECORD_BYTES_MAX:
        raise RecordInvalid(f"a record has {len(line)} bytes; the limit is {RECORD_BYTES_MAX}")
    try:
        return strict_json.validate_as(_RECORDS, strict_json.decode(line))
    except ValueError as error:
        raise RecordInvalid(f"a record breaks a rule: {strict_json.first_problem(error)}") from None


def parse_stored(raw: bytes) -> dict[str, Any]:
    """Read a record of a site's spool, where predictions have no `kept` yet: it is added when they leave.

    Raises:
        RecordInvalid: as `parse`.
    """
    try:
        plain = strict_json.decode(raw)
        strict_json.validate_as(_RECORDS, {"kept": {"because": "routine"}, **plain})
    except (ValueError, TypeError):  # TypeError: not an object
        raise RecordInvalid("a kept record breaks a rule") from None
    record: dict[str, Any] = plain
    return separate_answers(record)
