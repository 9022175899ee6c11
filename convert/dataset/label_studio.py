"""Exports examples to Label Studio (https://labelstud.io) for central review, and reads the results. Pure.

Out: tasks with the model's answer as a prediction, and the labelling interface to paste. Back: the JSON export, where
each annotation becomes feedback on the prediction it names. An annotation equal to the model's answer accepts it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

from pydantic import ValidationError

from edge_agent.capture.redact.model_findings import texts_of_value
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.errors import InvalidRequest
from edge_agent.formats import strict_json
from edge_agent.formats.example_records import ExampleFeedback

if TYPE_CHECKING:
    from convert.dataset.surrogates import FindsValues

EXPORT_BYTES_MAX = 1024 * 1024 * 1024
_REDACTOR = Redactor()
_FROM, _TO = "answer", "input"
_REMEDY = "Export the project from Label Studio as JSON, not as JSON-MIN or CSV."


@dataclass(frozen=True)
class ReviewTask:
    """One example to review."""

    site: str
    prediction_id: str
    task: str
    input: str
    output: str
    """The answer of the site; an equal annotation accepts it."""
    local_answer: str | None
    confidence: float | None
    """Confidence of the local answer."""
    version: str
    """The bundle that gave the local answer."""
    teacher_answer: str | None = None
    teacher_model: str = ""
    review_stream: str | None = None
    """audit (drawn at random), uncertain, diverse or new; None = the site's agent had no streams."""
    sampling_probability: float | None = None
    """audit: the sampling probability."""


def task_of(review: ReviewTask, *, choices: bool) -> dict[str, Any]:
    """Return a task; with `choices` the answer is one of the labels, otherwise text.

    Each model's answer is a separate prediction under the model's name; the answer of the site comes first.
    """
    predictions = []
    if review.teacher_answer is not None:
        predictions.append(_prediction(review.teacher_answer, review.teacher_model or "large model", None, choices))
    if review.local_answer is not None:
        predictions.append(_prediction(review.local_answer, review.version, review.confidence, choices))
    names = ("input", "output", "site", "prediction_id", "task")
    data = {name: getattr(review, name) for name in names} | {"review_stream": review.review_stream or "uncertain"}
    if review.sampling_probability is not None:
        data["sampling_probability"] = review.sampling_probability
    return {"data": data, "predictions": predictions}


def _prediction(answer: str, version: str, score: float | None, choices: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"choices": [answer]} if choices else {"text": [answer]}
    result = {"from_name": _FROM, "to_name": _TO, "type": "choices" if choices else "textarea", "value": value}
    scored = {} if score is None else {"score": score}
    return {"model_version": version, "result": [result], **scored}


def label_task_of(data: Mapping[str, Any], label: str, score: float) -> dict[str, Any]:
    """Return a task about a label, which is selected; `data` has the fields for `read_reviews`, and reasons."""
    result = {"from_name": _FROM, "to_name": _TO, "type": "choices", "value": {"choices": [label]}}
    prediction = {"model_version": "label errors", "score": score, "result": [result]}
    return {"data": dict(data), "predictions": [prediction]}


def interface(labels: Sequence[str], *, reasons: bool = False) -> str:
    """Return the labelling interface: a choice of the labels, or a text to edit when there are none.

    With `reasons` each task shows its reason in `reason`.
    """
    choices = "".join(f"    <Choice value={quoteattr(label)}/>\n" for label in labels)
    control = f'  <TextArea name="{_FROM}" toName="{_TO}" editable="true" maxSubmissions="1"/>\n'
    if labels:
        control = f'  <Choices name="{_FROM}" toName="{_TO}" choice="single">\n{choices}  </Choices>\n'
    stream = "" if reasons else '  <Header value="$review_stream" size="6"/>\n'
    reason = '  <Header value="$reason" size="5"/>\n' if reasons else ""
    return f'<View>\n{stream}  <Text name="{_TO}" value="$input"/>\n{reason}{control}</View>\n'


@dataclass(frozen=True)
class ReadReviews:
    """The reviews of an export."""

    feedback: tuple[ExampleFeedback, ...]
    unread: tuple[int, ...] = ()
    """Numbers of the tasks with a review that is left out, because the redaction model fails on the typed text."""


@dataclass(frozen=True)
class _Annotation:
    """One answer of a person."""

    number: int
    """Of its task in the export, from 1."""
    data: Mapping[str, Any]
    raw: Mapping[str, Any]
    """The annotation as exported."""
    value: str

    @property
    def accepts(self) -> bool:
        """Return whether it is the answer that the site gave."""
        return bool(self.value == self.data["output"])

    @property
    def is_typed(self) -> bool:
        """Whether a person typed the value, instead of selecting a label or keeping the answer."""
        return not self.accepts and not any(
            each["from_name"] == _FROM and "choices" in each["value"] for each in self.raw["result"]
        )

    @property
    def record(self) -> dict[str, Any] | None:
        """Return the typed record; None = a text."""
        try:
            record = json.loads(self.value)
        except ValueError:
            return None
        return record if isinstance(record, dict) else None

    @property
    def texts(self) -> list[str]:
        """Return the typed texts as redaction reads them."""
        record = self.record
        return [self.value] if record is None else list(texts_of_value(record))


def read_reviews(export: bytes, find: FindsValues | None = None) -> ReadReviews:
    """Read a JSON export. Cancelled and empty annotations are skipped; what people typed passes the rules of a site.

    Args:
        export: the file.
        find: finds values with a redaction model in the typed texts, in addition to the rules.

    Raises:
        InvalidRequest: it is not such an export, or a task in it was not made by `task_of`; the message has its number.
        As serving, with a model.
    """
    try:
        tasks = strict_json.decode(export)
    except ValueError as error:
        raise InvalidRequest(f"the export is not valid JSON: {error}", remedy=_REMEDY) from None
    if not isinstance(tasks, list):
        raise InvalidRequest("the export must be a list of tasks", remedy=_REMEDY)
    annotations: list[_Annotation] = []
    typed: list[str] = []
    for number, task in enumerate(tasks, 1):
        with _refuse_malformed(number):
            answers = list(_annotations(number, task))
            annotations += answers
            typed += [text for annotation in answers if annotation.is_typed for text in annotation.texts]
    if find is not None:
        find(typed)  # all at once, which is faster than one after the other
    feedback: list[ExampleFeedback] = []
    unread: list[int] = []
    for annotation in annotations:
        with _refuse_malformed(annotation.number):
            value = _redact(annotation, find) if annotation.is_typed else annotation.value
            if value is None:
                unread.append(annotation.number)
            else:
                feedback.append(_feedback(annotation, value))
    return ReadReviews(tuple(feedback), tuple(unread))


@contextmanager
def _refuse_malformed(number: int) -> Iterator[None]:
    """Turn an error in a task that is not as `task_of` made it into InvalidRequest with its number."""
    try:
        yield
    except ValidationError as error:
        message = f"task {number} of the export: {strict_json.first_problem(error)}"
        raise InvalidRequest(message, remedy=_REMEDY) from None
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        message = f"task {number} of the export lacks what 'edge-convert dataset' wrote: {error}"
        raise InvalidRequest(message, remedy=_REMEDY) from None


def _annotations(number: int, task: Mapping[str, Any]) -> Iterator[_Annotation]:
    """Yield the answers of a task."""
    data = task["data"]
    for annotation in task["annotations"]:
        value = _value(annotation["result"])
        if value is not None and not annotation.get("was_cancelled"):
            yield _Annotation(number, data, annotation, value)


def _feedback(annotation: _Annotation, value: str) -> ExampleFeedback:
    """Return a review; `value` is redacted if somebody typed it."""
    data, at = annotation.data, annotation.raw["updated_at"]
    # The same annotation exported again is the same record; a changed one is a new record.
    identity = json.dumps([data["site"], data["prediction_id"], annotation.raw["id"], at, annotation.value])
    key = hashlib.sha256(identity.encode()).hexdigest()[:32]
    reviewer = annotation.raw.get("completed_by")
    if isinstance(reviewer, dict):
        reviewer = reviewer.get("email") or reviewer.get("id")
    return ExampleFeedback(
        record_id=f"review:{key}",
        feedback_id=key,
        site=data["site"],
        at=at,
        prediction_id=data["prediction_id"],
        task=data["task"],
        reviewer=f"label-studio:{reviewer}"[:100],
        verdict="accept" if annotation.accepts else "corrected",
        value="" if annotation.accepts else value,
    )


def _value(result: list[dict[str, Any]]) -> str | None:
    """Return the single answer of an annotation."""
    for each in result:
        if each["from_name"] == _FROM:
            values = each["value"].get("choices") or each["value"].get("text") or []
            return str(values if isinstance(values, str) else values[0]) if values else None
    return None


def _redact(annotation: _Annotation, find: FindsValues | None) -> str | None:
    """Redact a typed text or record; new placeholders get numbers that the example does not have yet.

    None = the model fails on it.
    """
    findings = find(annotation.texts) if find is not None else None
    if find is not None and findings is None:
        return None
    session = _REDACTOR.start(f"{annotation.data.get('input', '')}\n{annotation.data['output']}", findings=findings)
    record = annotation.record
    if record is None:
        return session.text(annotation.value)
    redacted = session.value(record)
    return json.dumps(redacted, ensure_ascii=False) if session.counts else annotation.value
