"""One input between the local and the large model: redaction, correction of answers, time limits and failures."""

import asyncio
import json
from dataclasses import replace

import pytest
import structlog

from edge_agent.capture.redact.model_findings import FoundValue, ModelFindings
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.errors import EngineNotReady, RedactionHeld, UpstreamBusy, UpstreamFailed
from edge_agent.routing.large_model_questions import ModelAnswer
from edge_agent.routing.policy import EscalationContext, LargeModelAvailability, RouteReason
from edge_agent.server import finished_answers
from edge_agent.server.finished_answers import NO_LOCAL_ANSWER, FinishedAnswer
from edge_agent.server.model_router import ModelRouter, RoutedInput
from edge_agent.server.uplink_client import LargeModelFinish
from edge_agent.v1 import inference_pb2 as pb
from tests.support.eventually import turns
from tests.unit.server.test_finished_answers import AT_75, finished

GOOD = LargeModelAvailability(configured=True, allowed=True, online=True, affordable=True, free=True)
END = LargeModelFinish("big-1", 10, 5, 0, complete=True)
SHADOW, HYBRID = EscalationContext("shadow", "as_mode", None), EscalationContext("hybrid", "as_mode", None)


class ScriptedLargeModel:
    """A connection to a large model that gives these answers in turn, or raises them."""

    def __init__(self, *answers) -> None:
        self.answers, self.asked = list(answers), []

    def availability(self, task):
        return GOOD

    async def ask(self, question, seconds):
        self.asked.append(question)
        said = self.answers.pop(0)
        if isinstance(said, Exception):
            raise said
        for piece in said if isinstance(said, list) else [said]:
            yield piece
        yield END


class HybridTasks:
    """Every task is in mode hybrid."""

    def mode_of(self, task: str) -> str:
        return "hybrid"


class RedactingCapture:
    """A capture that redacts with the given session, and stores questions if `defers`."""

    def __init__(self, redaction, *, defers: bool = False) -> None:
        self._redaction, self._defers = redaction, defers
        self.text_redaction = self.questions = self

    async def start(self, task: str, text: str, seconds: float):
        return self._redaction()

    def can_defer(self, task: str) -> bool:
        return self._defers


def item(done: FinishedAnswer, text: str, seconds: float = 5.0) -> RoutedInput:
    return RoutedInput(text, done.bundle, asyncio.get_running_loop().time() + seconds)


async def answer(says, done, asked, text="hi", seconds=5.0):
    """Answer an input whose local answer is `done`, or the error that it raises."""
    sample = done if isinstance(done, FinishedAnswer) else finished("classify", scores=(0.2, 0.6, 0.2))

    async def local() -> list[FinishedAnswer]:
        if isinstance(done, Exception):
            raise done
        return [done]

    escalation = ModelRouter(says, HybridTasks(), RedactingCapture(Redactor().start))
    (given,) = await escalation.answer(item(sample, text, seconds), asked, local)
    return given


UNSURE = finished("classify", scores=(0.2, 0.6, 0.2))


async def test_redacted_values_are_restored_in_a_record():
    """Values that were replaced before the question are restored in the record, with JSON quoting."""
    done = finished("extract", confidence=0.1)
    says = ScriptedLargeModel('{"product": ["[EMAIL_1]"], "price": ["[EMAIL_1] twice"]}')
    given = await answer(says, done, HYBRID, "write to anna@example.org")
    assert "anna" not in says.asked[0].turns[-1][1]
    expected = {"product": ["anna@example.org"], "price": ["anna@example.org twice"]}
    assert expected == json.loads(given.large_model.value)


async def test_placeholder_split_over_two_pieces_is_restored():
    """A placeholder that a stream delivers in two pieces is restored, and other text is not delayed."""
    says = ScriptedLargeModel(["Dear [EM", "AIL_1], see [1", "] and [", "x"])
    escalation = ModelRouter(says, HybridTasks(), RedactingCapture(Redactor().start))
    written = escalation.stream_text(item(finished("generate"), "to anna@example.org"))
    *pieces, end = [piece async for piece in written]
    assert "Dear anna@example.org, see [1] and [x" == "".join(pieces) == end.value
    assert "Dear " == pieces[0]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (["prose", "prose again"], RouteReason.UPSTREAM_FAILED),
        ([UpstreamFailed("no")], RouteReason.UPSTREAM_FAILED),
        ([UpstreamBusy("no")], RouteReason.UPSTREAM_BUSY),
        (["prose", UpstreamBusy("no")], RouteReason.UPSTREAM_BUSY),
    ],
)
async def test_failed_escalation_returns_the_local_answer(answers, reason):
    """After two bad answers or an error, the local answer is returned with the reason."""
    says = ScriptedLargeModel(*answers)
    given = await answer(says, UNSURE, HYBRID)
    assert ("local", reason, None) == (given.decision.route, given.decision.reason, given.large_model)
    assert [] == says.answers


STRANGER = finished(
    "classify",
    calibration=AT_75 | {"gate": {"score": "label_mass", "held_up_max": 0.25, "scores": [0.5, 1.0, 1.5]}},
    scores=(0.0, 1.0, 0.0),
    label_mass=0.01,
)


async def test_out_of_distribution_input_is_escalated():
    """In hybrid an answer that the gate holds up is escalated at any confidence; if that fails the local answer is
    returned, marked."""
    asked = await answer(ScriptedLargeModel('{"label": "stock"}'), STRANGER, HYBRID)
    assert ("stock", RouteReason.OUT_OF_DISTRIBUTION, 0.25) == (
        asked.large_model.value,
        asked.decision.reason,
        asked.decision.p_value,
    )
    failed = await answer(ScriptedLargeModel(UpstreamFailed("no")), STRANGER, HYBRID)
    assert ("local", True) == (failed.decision.route, failed.decision.below_threshold)
    assert {"OUT_OF_DISTRIBUTION", "UPSTREAM_FAILED"} == set(failed.decision.degraded)


async def test_gate_result_is_captured_in_shadow():
    """In shadow the large model's answer is returned without a mark, and the gate's result is captured with it."""
    given = await answer(ScriptedLargeModel('{"label": "stock"}'), STRANGER, SHADOW)
    decision = given.decision
    assert (RouteReason.MODE_SHADOW, True, (), 0.25) == (
        decision.reason,
        decision.below_threshold,
        decision.degraded,
        decision.p_value,
    )
    message = pb.ClassifyResult()
    finished_answers.fill_classification(message.classification, given, 0)
    kept_of_it = finished_answers.captured_label(given, message.classification)
    assert (("MODE_SHADOW", "OUT_OF_DISTRIBUTION"), "OUT_OF_DISTRIBUTION", False) == (
        kept_of_it.reasons,
        kept_of_it.held_up,
        kept_of_it.sure,
    )


async def test_large_model_is_not_asked_without_time():
    """If only the time margin is left, the large model is not asked."""
    says = ScriptedLargeModel('{"label": "stock"}')
    given = await answer(says, UNSURE, HYBRID, seconds=0.05)
    assert (RouteReason.UPSTREAM_FAILED, []) == (given.decision.reason, says.asked)


async def test_in_shadow_one_model_may_fail():
    """In shadow the answer of the model that did not fail is returned with the failure of the other; if both fail, the
    local error is raised."""
    lost = await answer(ScriptedLargeModel('{"label": "stock"}'), EngineNotReady("loading"), SHADOW)
    assert ("stock", NO_LOCAL_ANSWER, ("ENGINE_NOT_READY",)) == (
        lost.large_model.value,
        lost.answer,
        lost.decision.degraded,
    )
    alone = await answer(ScriptedLargeModel(UpstreamFailed("no")), UNSURE, SHADOW)
    assert (None, "local") == (alone.large_model, alone.decision.route)
    with pytest.raises(EngineNotReady):
        await answer(ScriptedLargeModel(UpstreamFailed("no")), EngineNotReady("loading"), SHADOW)


SURE = finished("classify", scores=(0.01, 0.98, 0.01))


@pytest.mark.parametrize(
    ("share", "kept", "done", "expected"),
    [(1.0, True, SURE, True), (0.5, True, SURE, False), (1.0, False, SURE, False), (1.0, True, UNSURE, False)],
)
async def test_confident_answer_is_drawn_for_the_audit(share, kept, done, expected):
    """A confident answer is drawn if it can be captured; it is returned at once and the large model is not asked
    yet."""
    says = ScriptedLargeModel('{"label": "stock"}')
    escalation = ModelRouter(says, HybridTasks(), RedactingCapture(Redactor().start, defers=kept), share, lambda: 0.7)

    async def local() -> list[FinishedAnswer]:
        return [done]

    asked = escalation.context(done.bundle.manifest, "as_mode", asyncio.get_running_loop().time() + 5)
    (given,) = await escalation.answer(item(done, "hi"), asked, local)
    assert (expected, kept) == (given.audited, asked.deferrable)
    assert bool(says.asked) is (done is UNSURE)


async def test_failed_question_is_deferred():
    """If the question can be captured, a failed escalation returns the local answer as deferred, with the reason."""
    given = await answer(ScriptedLargeModel(UpstreamFailed("no")), UNSURE, replace(HYBRID, deferrable=True))
    decision = given.decision
    assert ("deferred", RouteReason.UPSTREAM_FAILED, True) == (decision.route, decision.reason, decision.later)


class BrokenSession:
    """A redaction session one of whose methods raises an unexpected exception."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __call__(self) -> "BrokenSession":
        return self._or("start", self)

    def text(self, text: str) -> str:
        return self._or("text", text)

    def restore(self, text: str) -> str:
        return self._or("restore", text)

    def split(self, text: str) -> tuple[str, str]:
        return text, ""

    def _or(self, where: str, value):
        if where == self.where:
            raise LookupError(f"{where} is broken")
        return value


def broken_escalation(says, where: str) -> ModelRouter:
    return ModelRouter(says, HybridTasks(), RedactingCapture(BrokenSession(where)))


@pytest.mark.parametrize("asked", [HYBRID, SHADOW])
@pytest.mark.parametrize("where", ["start", "text", "restore"])
async def test_redaction_failure_returns_the_local_answer(asked, where):
    """The local answer is returned with the reason, the exception is logged, and nothing unredacted was sent."""
    done, says = finished("extract", confidence=0.1), ScriptedLargeModel('{"product": ["x"], "price": []}')

    async def local() -> list[FinishedAnswer]:
        return [done]

    with structlog.testing.capture_logs() as logged:
        (given,) = await broken_escalation(says, where).answer(item(done, "hi"), asked, local)
    assert (None, RouteReason.UPSTREAM_FAILED) == (given.large_model, given.decision.reason)
    assert done.answer is given.answer
    assert ["escalation_broke", "escalation_failed"] == [line["event"] for line in logged]
    assert (1 if where == "restore" else 0) == len(says.asked)


@pytest.mark.parametrize("where", ["start", "text", "restore"])
async def test_redaction_failure_of_a_stream_raises_upstream_failed(where):
    """A stream whose redaction fails raises UpstreamFailed, so the local model can write the text."""
    writing = broken_escalation(ScriptedLargeModel("some text"), where).stream_text(item(finished("generate"), "hi"))
    with pytest.raises(UpstreamFailed, match=r"ended with an unexpected error, which the log has$"):
        await anext(writing)


@pytest.mark.parametrize("asked", [HYBRID, SHADOW])
async def test_local_error_is_raised_if_the_large_model_cannot_be_asked(asked):
    """If redaction fails, the error of the local model is raised, of whatever type."""
    for error in (EngineNotReady("loading"), LookupError("a bug")):

        async def local(error=error) -> FinishedAnswer:
            raise error

        with pytest.raises(type(error)):
            await broken_escalation(ScriptedLargeModel(), "text").answer(item(UNSURE, "hi"), asked, local)


async def test_cancelled_call_in_shadow_ends_both_models():
    """In shadow the local and the large model have both ended when a cancelled call ends."""
    begun, ended = asyncio.Event(), []

    class SilentLargeModel(ScriptedLargeModel):
        async def ask(self, question, seconds):
            try:
                begun.set()
                await asyncio.Event().wait()
                yield END
            finally:
                ended.append("large")

    async def local() -> list[FinishedAnswer]:
        try:
            await asyncio.Event().wait()
        finally:
            await turns()  # as an engine that is told first
            ended.append("local")
        return [UNSURE]

    escalation = ModelRouter(SilentLargeModel(), HybridTasks(), RedactingCapture(Redactor().start))
    call = asyncio.create_task(escalation.answer(item(UNSURE, "hi"), SHADOW, local))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ["large", "local"] == sorted(ended)
    assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_label_of_the_large_model_has_probabilities():
    """The probabilities are in the order of the task's labels and sum to 1; the question has both a typed and a chat
    form."""
    labels = UNSURE.bundle.manifest.task.labels
    typed = (ModelAnswer("till", tuple(zip(labels, (0.1, 0.2, 0.7005), strict=True))),)
    says = ScriptedLargeModel([typed])
    given = await answer(says, UNSURE, HYBRID)
    assert (labels[2], 1.0) == (
        given.large_model.value,
        pytest.approx(sum(number for _, number in given.large_model.probabilities)),
    )
    [asked] = says.asked
    assert (labels, "hi") == (asked.questions[0].options, asked.text)


async def test_unusable_probabilities_are_not_requested_again():
    """The local answer is returned with the reason after one question, because the same question would get the same
    answer."""
    labels = UNSURE.bundle.manifest.task.labels
    typed = (ModelAnswer("till", tuple(zip(labels, (0.1, 0.2, 0.3), strict=True))),)
    says = ScriptedLargeModel([typed])
    given = await answer(says, UNSURE, HYBRID)
    assert (None, RouteReason.UPSTREAM_FAILED, 1) == (given.large_model, given.decision.reason, len(says.asked))


async def test_input_is_not_sent_without_the_redaction_model():
    """If the redaction model does not answer, the large model is not asked and the local answer is returned with the
    reason."""

    def held() -> None:
        raise RedactionHeld("the redaction model does not answer")

    says = ScriptedLargeModel("unused")
    router = ModelRouter(says, HybridTasks(), RedactingCapture(held))
    (given,) = await router.answer(item(UNSURE, "hi"), HYBRID, lambda: local(UNSURE))
    assert ([], "local") == (says.asked, given.decision.route)
    assert RouteReason.UPSTREAM_FAILED in given.decision.degraded


async def local(done: FinishedAnswer) -> list[FinishedAnswer]:
    """Return the local model's answer."""
    return [done]


async def test_values_found_by_the_redaction_model_are_restored():
    """A name that only the redaction model finds is not sent, and is restored in the answer."""
    text = "write to Anna"
    findings = ModelFindings({text: (FoundValue(9, 13, "NAME"),)})
    says = ScriptedLargeModel("Dear [NAME_1], and [NAME_2]")
    router = ModelRouter(says, HybridTasks(), RedactingCapture(lambda: Redactor().start(findings=findings)))
    pieces = [piece async for piece in router.stream_text(item(finished("generate"), text))]
    assert "write to [NAME_1]" == says.asked[0].turns[-1][1]
    assert "Dear Anna, and [NAME_2]" == pieces[-1].value


async def test_made_up_names_are_replaced_by_the_real_ones():
    """The large model reads a made-up name; the caller gets the real one, also if the name came in two pieces."""
    text = "write to Anna"
    findings = ModelFindings({text: (FoundValue(9, 13, "GIVEN_NAME"),)})
    says = ScriptedLargeModel(["Dear Mar", "ia, come soon"])
    router = ModelRouter(
        says, HybridTasks(), RedactingCapture(lambda: Redactor().start(findings=findings, draw=lambda _: 0))
    )
    pieces = [piece async for piece in router.stream_text(item(finished("generate"), text))]
    assert "write to Maria" == says.asked[0].turns[-1][1]
    assert "Dear Anna, come soon" == pieces[-1].value
