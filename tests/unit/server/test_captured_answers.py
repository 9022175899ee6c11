"""Conversion of stored records to what reviewers see, and of answers to what is captured."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.capture.capture_values import HumanFeedback, ReviewCursor, ReviewItem
from edge_agent.engine.job_dispatch import EngineAnswer
from edge_agent.engine.protocol import EntitySpan, JobResult
from edge_agent.errors import InvalidRequest, UnknownTask
from edge_agent.formats import example_records
from edge_agent.routing.policy import EscalationContext, RouteDecision, RouteReason
from edge_agent.server import feedback, finished_answers
from edge_agent.server.finished_answers import FinishedAnswer, LargeModelAnswer
from edge_agent.store.state_database import InstalledBundle
from edge_agent.v1 import feedback_pb2, task_pb2
from edge_agent.v1 import inference_pb2 as pb
from tests.support.examples import DIGEST, prediction
from tests.support.examples import feedback as feedback_record
from tests.support.site_cases import manifest


def plain(record) -> dict:
    return json.loads(example_records.encode(record))


def test_captured_classification_is_shown_completely():
    """A reviewer sees input, answer, confidence with its threshold, scores, the labels to choose from, and the time."""
    message = feedback.prediction_message(ReviewItem(plain(prediction()), reviewed=False), manifest())
    assert ("p-1", "refund number 1", "refund") == (message.prediction_id, message.input, message.output)
    assert (0.75, 0.8, True) == (
        message.confidence.value,
        message.confidence.threshold,
        message.confidence.below_threshold,
    )
    assert [("refund", 0.75), ("price", 0.25)] == [(each.label, each.score) for each in message.scores]
    assert ["refund", "price"] == message.labels
    assert (task_pb2.TASK_KIND_CLASSIFY, task_pb2.ROUTE_LOCAL, DIGEST) == (
        message.kind,
        message.route,
        message.bundle.digest,
    )
    assert datetime(2026, 9, 21, 14, 13, 21, tzinfo=UTC) == message.answer_time.ToDatetime(UTC)


def test_missing_fields_stay_unset():
    """A generation has no confidence, and a task that was removed no labels."""
    record = prediction(kind="generate", scores=[], confidence=None, threshold=None, label_mass=None)
    message = feedback.prediction_message(ReviewItem(plain(record), reviewed=False), None)
    assert not message.HasField("confidence")
    assert [] == list(message.labels)


def test_extraction_lists_its_entity_types():
    """The labels of an extraction are its entity types without the BIO prefixes."""
    message = feedback.prediction_message(
        ReviewItem(plain(prediction(kind="extract", scores=[])), reviewed=True), manifest("visit")
    )
    assert (["PATIENT", "DRUG"], True) == (list(message.labels), message.reviewed)


@pytest.mark.parametrize(
    ("field", "kind", "changes"),
    [
        ("accept", "classify", {"verdict": "accept", "value": ""}),
        ("corrected_label", "classify", {}),
        ("corrected_json", "extract", {"value": "{}"}),
        ("corrected_text", "generate", {"value": "better"}),
        ("reject_reason", "classify", {"verdict": "reject", "value": "", "reason": "nonsense"}),
    ],
)
def test_feedback_is_shown_as_it_was_given(field, kind, changes):
    """Feedback is shown in the field of the request that submitted it."""
    said = plain(feedback_record(**changes))
    message = feedback.prediction_message(ReviewItem(plain(prediction(kind=kind)), True, (said,)), manifest())
    assert field == message.feedback[0].WhichOneof("verdict")
    assert ("f-1", "anna") == (message.feedback[0].feedback_id, message.feedback[0].reviewer)


@pytest.mark.parametrize("letter", ["\0", "\n", "\r", "\x1b", "\x7f", "\u2028", "\u202e"])
async def test_reviewer_name_with_control_characters_is_refused(letter):
    """A reviewer's name with a line break or control character is refused, because it appears in tables and logs; names
    in any script are accepted."""
    servicer = feedback.FeedbackServicer(None, None)
    request = feedback_pb2.SubmitFeedbackRequest(prediction_id="not one!", reviewer=f"Anna{letter}Berg", accept=True)
    with pytest.raises(InvalidRequest, match="reviewer holds"):
        await servicer.SubmitFeedback(request, None)
    for name in ("Anna Berg", "Zoë", "\u5c71\u7530\u3000\u592a\u90ce", "till-3"):
        request.reviewer = name
        with pytest.raises(InvalidRequest, match="prediction_id"):
            await servicer.SubmitFeedback(request, None)


ROWS = st.integers(0, 2**62)


@given(st.builds(ReviewCursor, st.integers(0, 5), ROWS, ROWS, ROWS, st.floats(0, 2), ROWS, st.floats(0, 1), ROWS))
def test_page_token_restores_its_position(place):
    """A page token restores the position after the last answer shown of each stream."""
    assert place == feedback.parse_page_token(feedback.make_page_token(place))


def test_audit_stream_has_a_sampling_probability():
    """An answer of the audit stream has its sampling probability; others have none."""
    record = plain(prediction())
    drawn = feedback.prediction_message(
        ReviewItem(record, reviewed=False, stream="audit", probability=0.25), manifest()
    )
    other = feedback.prediction_message(ReviewItem(record, reviewed=False, stream="diverse"), manifest())
    assert (feedback_pb2.REVIEW_STREAM_AUDIT, 0.25) == (drawn.review_stream, drawn.sampling_probability)
    assert (feedback_pb2.REVIEW_STREAM_DIVERSE, False) == (
        other.review_stream,
        other.HasField("sampling_probability"),
    )


def test_unknown_review_stream_is_refused():
    """An unspecified stream requests all streams; an unknown one is refused."""
    assert feedback.parse_review_stream(feedback_pb2.REVIEW_STREAM_UNSPECIFIED) is None
    with pytest.raises(InvalidRequest, match="stream 99 is not supported"):
        feedback.parse_review_stream(99)


@given(st.text(max_size=40))
def test_forged_page_token_is_refused_or_harmless(token):
    """A page token that a caller invented raises only InvalidRequest."""
    try:
        found = feedback.parse_page_token(token)
    except InvalidRequest:
        return
    assert [int, int, int, int, float, int] == [type(each) for each in found]


def finished(task: str, done: JobResult, text: str = "Anna takes ibuprofen") -> FinishedAnswer:
    bundle = InstalledBundle(DIGEST, b"", manifest(task), signed=False, installed_at=0.0)
    return FinishedAnswer(text, EngineAnswer(done, 0.0), bundle, "p-1")


@pytest.mark.parametrize(("wish", "route"), [("answer", "local"), ("abstain", "abstained")])
def test_captured_classification_has_the_best_label(wish, route):
    """The best label is captured even if it was withheld, because a reviewer corrects it."""
    done = finished("pos-intent", JobResult(job_id="p-1", scores=[0.25, 0.75], label_mass=0.5))
    result = pb.ClassifyResult()
    done = done._replace(decision=finished_answers.decide_on_local_answer(done, EscalationContext(low_confidence=wish)))
    finished_answers.fill_classification(result.classification, done, top_k=1)
    said = finished_answers.captured_label(done, result.classification)
    assert ("price", [("price", 0.75), ("refund", 0.25)]) == (said.output, said.scores)
    assert (0.75, None, False, 0.5, route) == (said.confidence, said.threshold, said.sure, said.label_mass, said.route)


def test_captured_extraction_has_the_record():
    """An extraction is captured as its record, without the positions of entities."""
    found = [EntitySpan(label="PATIENT", start=0, end=4, score=0.9)]
    done = finished("visit", JobResult(job_id="p-1", entities=found, confidence=0.9))
    result = pb.ExtractResult()
    done = done._replace(decision=finished_answers.decide_on_local_answer(done, EscalationContext()))
    finished_answers.fill_extraction(result.extraction, done)
    said = finished_answers.captured_extraction(done, result.extraction)
    assert {"PATIENT": ["Anna"], "DRUG": []} == json.loads(said.output)
    assert (0.9, "local", ()) == (said.confidence, said.route, said.scores)


def test_captured_generation_has_the_text():
    """A generation is captured as its text, without a confidence."""
    said = finished_answers.captured_generation(finished("talk", JobResult(job_id="p-1")), "Hello")
    assert ("Hello", None, False) == (said.output, said.confidence, said.sure)


def test_local_and_teacher_answers_are_captured_separately():
    """In mode shadow the large model's answer is captured as teacher answer; scores and confidence are those of the
    local one."""
    done = finished("pos-intent", JobResult(job_id="p-1", scores=[0.25, 0.75], label_mass=0.5))
    done = done._replace(
        decision=RouteDecision("upstream", RouteReason.MODE_SHADOW),
        large_model=LargeModelAnswer("refund", "large-1", 9.0),
    )
    result = pb.ClassifyResult()
    finished_answers.fill_classification(result.classification, done, top_k=1)
    said = finished_answers.captured_label(done, result.classification)
    assert ("price", 0.75, "refund", "large-1") == (
        said.local_answer,
        said.confidence,
        said.teacher_answer,
        said.model,
    )
    assert "refund" == said.output


def test_withheld_extraction_is_captured_as_local_answer():
    """A withheld record is captured as the local answer; if only the large model answered, there is no local answer."""
    withheld = finished("visit", JobResult(job_id="p-1", confidence=0.1))
    withheld = withheld._replace(
        decision=finished_answers.decide_on_local_answer(withheld, EscalationContext(low_confidence="abstain"))
    )
    result = pb.ExtractResult()
    finished_answers.fill_extraction(result.extraction, withheld)
    assert ("", {"PATIENT": [], "DRUG": []}) == (
        result.extraction.json,
        json.loads(finished_answers.captured_extraction(withheld, result.extraction).local_answer or ""),
    )
    alone = withheld._replace(
        answer=finished_answers.NO_LOCAL_ANSWER,
        decision=RouteDecision("upstream", RouteReason.MODE_BOOTSTRAP),
        large_model=LargeModelAnswer("{}", "large-1", 9.0),
    )
    said = finished_answers.captured_extraction(alone, pb.Extraction())
    assert (None, "{}", None) == (said.local_answer, said.teacher_answer, said.confidence)


@pytest.mark.parametrize("old", [True, False])
def test_reviewer_sees_local_and_teacher_answers(old):
    """The returned answer is reviewed; confidence and scores are those of the local answer, also in a record of version
    0.1."""
    record = plain(prediction(route="upstream", model="large-1", output="price"))
    if old:  # as version 0.1 wrote it: the local model's grades beside the large model's output
        local = record.pop("local")
        record |= {name: value for name, value in local.items() if name != "answer"}
    message = feedback.prediction_message(ReviewItem(record, reviewed=False), manifest())
    assert ("price", "refund", "price", "large-1") == (
        message.output,
        message.local_answer,
        message.teacher_answer,
        message.teacher_model,
    )
    assert (0.75, 0.8, "refund") == (message.confidence.value, message.confidence.threshold, message.scores[0].label)


def test_local_answer_that_was_not_captured_is_not_shown():
    """Version 0.1 captured the confidence of an escalated record without the record: neither is shown."""
    record = plain(prediction(kind="extract", route="upstream", model="large-1", output="{}", scores=[]))
    message = feedback.prediction_message(ReviewItem(record, reviewed=False), manifest("visit"))
    assert ("{}", False, False) == (
        message.teacher_answer,
        message.HasField("local_answer"),
        message.HasField("confidence"),
    )


class _OneAnswer:
    """A capture with one answer of a task that is no longer installed, and the feedback on it."""

    def __init__(self, kind: str) -> None:
        self.stored: list[HumanFeedback] = []
        self._found = ReviewItem(plain(prediction(kind=kind)), reviewed=False)

    async def find_prediction(self, prediction_id: str) -> ReviewItem:
        return self._found

    async def store_feedback(self, said: HumanFeedback, record: object, manifest: object) -> None:
        self.stored.append(said)

    def bundle_of(self, task: str) -> object:
        raise UnknownTask("it is not installed")


@pytest.mark.parametrize("value", ['{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud83d"}', '{"a": 1, "a": 2}', "[", "[]"])
async def test_corrected_record_that_is_not_strict_json_is_refused(value):
    """A corrected record that the central team could not read is refused while the reviewer can still correct it."""
    kept = _OneAnswer("extract")
    request = feedback_pb2.SubmitFeedbackRequest(prediction_id="p-1", reviewer="anna", corrected_json=value)
    with pytest.raises(InvalidRequest, match="corrected_json is not"):
        await feedback.FeedbackServicer(kept, kept).SubmitFeedback(request, None)
    assert [] == kept.stored


async def test_a_corrected_record_is_stored_as_it_was_sent():
    """A corrected record is stored byte for byte, including escaped characters."""
    kept, value = _OneAnswer("extract"), '{"a": "\\ud83d\\ude00", "b": 2.50}'
    request = feedback_pb2.SubmitFeedbackRequest(prediction_id="p-1", reviewer="anna", corrected_json=value)
    await feedback.FeedbackServicer(kept, kept).SubmitFeedback(request, None)
    assert [value] == [each.value for each in kept.stored]
