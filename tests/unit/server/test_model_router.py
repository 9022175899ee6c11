"""One input between the local model and the large one: redaction, mending, time, and what fails."""

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


class Says:
    """A way to a large model that says, to each question, the next of these; an error is raised."""

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


class Captures:
    """Redacts as it is told, and stores inputs if it is told."""

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
    """Answer an input whose local answer is `done`, or the error that it fails with."""
    sample = done if isinstance(done, FinishedAnswer) else finished("classify", scores=(0.2, 0.6, 0.2))

    async def local() -> list[FinishedAnswer]:
        if isinstance(done, Exception):
            raise done
        return [done]

    escalation = ModelRouter(says, HybridTasks(), Captures(Redactor().start))
    (given,) = await escalation.answer(item(sample, text, seconds), asked, local)
    return given


UNSURE = finished("classify", scores=(0.2, 0.6, 0.2))


async def test_personal_data_comes_back_into_a_record():
    """What was replaced on the way out is put back into the record's values, quotes and all."""
    done = finished("extract", confidence=0.1)
    says = Says('{"product": ["[EMAIL_1]"], "price": ["[EMAIL_1] twice"]}')
    given = await answer(says, done, HYBRID, "write to anna@example.org")
    assert "anna" not in says.asked[0].turns[-1][1]
    expected = {"product": ["anna@example.org"], "price": ["anna@example.org twice"]}
    assert expected == json.loads(given.large_model.value)


async def test_a_placeholder_in_pieces_comes_back_whole():
    """In a stream a placeholder that was cut in two is put back, and nothing else is held for long."""
    says = Says(["Dear [EM", "AIL_1], see [1", "] and [", "x"])
    escalation = ModelRouter(says, HybridTasks(), Captures(Redactor().start))
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
async def test_what_fails_leaves_the_local_answer(answers, reason):
    """After a second bad answer, or an error, the local answer stands with the reason."""
    says = Says(*answers)
    given = await answer(says, UNSURE, HYBRID)
    assert ("local", reason, None) == (given.decision.route, given.decision.reason, given.large_model)
    assert [] == says.answers


STRANGER = finished(
    "classify",
    calibration=AT_75 | {"gate": {"score": "label_mass", "held_up_max": 0.25, "scores": [0.5, 1.0, 1.5]}},
    scores=(0.0, 1.0, 0.0),
    label_mass=0.01,
)


async def test_a_stranger_goes_to_the_large_model():
    """In hybrid an answer that the gate holds up is escalated, however high its confidence; where that fails the local
    answer stands, marked."""
    asked = await answer(Says('{"label": "stock"}'), STRANGER, HYBRID)
    assert ("stock", RouteReason.OUT_OF_DISTRIBUTION, 0.25) == (
        asked.large_model.value,
        asked.decision.reason,
        asked.decision.p_value,
    )
    failed = await answer(Says(UpstreamFailed("no")), STRANGER, HYBRID)
    assert ("local", True) == (failed.decision.route, failed.decision.below_threshold)
    assert {"OUT_OF_DISTRIBUTION", "UPSTREAM_FAILED"} == set(failed.decision.degraded)


async def test_in_shadow_the_gate_is_remembered():
    """The large model's answer is given and not degraded; what the gate found of the input is kept with it."""
    given = await answer(Says('{"label": "stock"}'), STRANGER, SHADOW)
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


async def test_who_has_no_time_is_not_sent():
    """With nothing left but the margin, nobody is asked."""
    says = Says('{"label": "stock"}')
    given = await answer(says, UNSURE, HYBRID, seconds=0.05)
    assert (RouteReason.UPSTREAM_FAILED, []) == (given.decision.reason, says.asked)


async def test_in_shadow_either_may_fail():
    """The one that is there is given; that the other failed is said. When both fail, the local error is."""
    lost = await answer(Says('{"label": "stock"}'), EngineNotReady("loading"), SHADOW)
    assert ("stock", NO_LOCAL_ANSWER, ("ENGINE_NOT_READY",)) == (
        lost.large_model.value,
        lost.answer,
        lost.decision.degraded,
    )
    alone = await answer(Says(UpstreamFailed("no")), UNSURE, SHADOW)
    assert (None, "local") == (alone.large_model, alone.decision.route)
    with pytest.raises(EngineNotReady):
        await answer(Says(UpstreamFailed("no")), EngineNotReady("loading"), SHADOW)


SURE = finished("classify", scores=(0.01, 0.98, 0.01))


@pytest.mark.parametrize(
    ("share", "kept", "done", "expected"),
    [(1.0, True, SURE, True), (0.5, True, SURE, False), (1.0, False, SURE, False), (1.0, True, UNSURE, False)],
)
async def test_a_sure_answer_is_drawn_to_be_checked(share, kept, done, expected):
    """Where it can be kept; the caller has it at once, and nobody is asked yet."""
    says = Says('{"label": "stock"}')
    escalation = ModelRouter(says, HybridTasks(), Captures(Redactor().start, defers=kept), share, lambda: 0.7)

    async def local() -> list[FinishedAnswer]:
        return [done]

    asked = escalation.context(done.bundle.manifest, "as_mode", asyncio.get_running_loop().time() + 5)
    (given,) = await escalation.answer(item(done, "hi"), asked, local)
    assert (expected, kept) == (given.audited, asked.deferrable)
    assert bool(says.asked) is (done is UNSURE)


async def test_what_could_not_be_asked_is_put_off():
    """The local answer says so, and that the large model has failed; it is kept to be asked."""
    given = await answer(Says(UpstreamFailed("no")), UNSURE, replace(HYBRID, deferrable=True))
    decision = given.decision
    assert ("deferred", RouteReason.UPSTREAM_FAILED, True) == (decision.route, decision.reason, decision.later)


class Broken:
    """A redactor of which one thing raises an exception that is no error of ours."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __call__(self) -> "Broken":
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
    return ModelRouter(says, HybridTasks(), Captures(Broken(where)))


@pytest.mark.parametrize("asked", [HYBRID, SHADOW])
@pytest.mark.parametrize("where", ["start", "text", "restore"])
async def test_a_redactor_that_breaks_costs_no_local_answer(asked, where):
    """The local answer is given with the reason, the log has the exception, and nothing unredacted has left."""
    done, says = finished("extract", confidence=0.1), Says('{"product": ["x"], "price": []}')

    async def local() -> list[FinishedAnswer]:
        return [done]

    with structlog.testing.capture_logs() as logged:
        (given,) = await broken_escalation(says, where).answer(item(done, "hi"), asked, local)
    assert (None, RouteReason.UPSTREAM_FAILED) == (given.large_model, given.decision.reason)
    assert done.answer is given.answer
    assert ["escalation_broke", "escalation_failed"] == [line["event"] for line in logged]
    assert (1 if where == "restore" else 0) == len(says.asked)


@pytest.mark.parametrize("where", ["start", "text", "restore"])
async def test_a_text_whose_redaction_breaks_fails_as_the_large_model_does(where):
    """So that the local model can write it, or the stream ends as a broken one."""
    writing = broken_escalation(Says("some text"), where).stream_text(item(finished("generate"), "hi"))
    with pytest.raises(UpstreamFailed, match=r"ended with an unexpected error, which the log has$"):
        await anext(writing)


@pytest.mark.parametrize("asked", [HYBRID, SHADOW])
async def test_when_no_answer_can_be_asked_for_the_local_error_is_raised(asked):
    """Whatever kind of error it is, and whatever became of the large model."""
    for error in (EngineNotReady("loading"), LookupError("a bug")):

        async def local(error=error) -> FinishedAnswer:
            raise error

        with pytest.raises(type(error)):
            await broken_escalation(Says(), "text").answer(item(UNSURE, "hi"), asked, local)


async def test_who_goes_away_leaves_nothing_running():
    """In shadow the local model and the large one have both ended when the cancelled call ends."""
    begun, ended = asyncio.Event(), []

    class Silent(Says):
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

    escalation = ModelRouter(Silent(), HybridTasks(), Captures(Redactor().start))
    call = asyncio.create_task(escalation.answer(item(UNSURE, "hi"), SHADOW, local))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ["large", "local"] == sorted(ended)
    assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_probabilities_of_the_large_model_come_with_its_label():
    """In the order of the task's labels, with the sum 1; the question was asked in both forms."""
    labels = UNSURE.bundle.manifest.task.labels
    typed = (ModelAnswer("till", tuple(zip(labels, (0.1, 0.2, 0.7005), strict=True))),)
    says = Says([typed])
    given = await answer(says, UNSURE, HYBRID)
    assert (labels[2], 1.0) == (
        given.large_model.value,
        pytest.approx(sum(number for _, number in given.large_model.probabilities)),
    )
    [asked] = says.asked
    assert (labels, "hi") == (asked.questions[0].options, asked.text)


async def test_unusable_probabilities_are_no_answer_and_not_asked_for_again():
    """The local answer stands, with the reason; the same question would get the same answer."""
    labels = UNSURE.bundle.manifest.task.labels
    typed = (ModelAnswer("till", tuple(zip(labels, (0.1, 0.2, 0.3), strict=True))),)
    says = Says([typed])
    given = await answer(says, UNSURE, HYBRID)
    assert (None, RouteReason.UPSTREAM_FAILED, 1) == (given.large_model, given.decision.reason, len(says.asked))


async def test_an_input_that_the_redaction_model_has_not_read_is_not_sent():
    """The large model is not asked; the local answer stands, with the reason."""

    def held() -> None:
        raise RedactionHeld("the redaction model does not answer")

    says = Says("unused")
    router = ModelRouter(says, HybridTasks(), Captures(held))
    (given,) = await router.answer(item(UNSURE, "hi"), HYBRID, lambda: local(UNSURE))
    assert ([], "local") == (says.asked, given.decision.route)
    assert RouteReason.UPSTREAM_FAILED in given.decision.degraded


async def local(done: FinishedAnswer) -> list[FinishedAnswer]:
    """Answer as the local model."""
    return [done]


async def test_what_the_redaction_model_finds_comes_back():
    """A name that only the model finds does not leave, and stands in the answer that comes back."""
    text = "write to Anna"
    findings = ModelFindings({text: (FoundValue(9, 13, "NAME"),)})
    says = Says("Dear [NAME_1], and [NAME_2]")
    router = ModelRouter(says, HybridTasks(), Captures(lambda: Redactor().start(findings=findings)))
    pieces = [piece async for piece in router.stream_text(item(finished("generate"), text))]
    assert "write to [NAME_1]" == says.asked[0].turns[-1][1]
    assert "Dear Anna, and [NAME_2]" == pieces[-1].value


async def test_made_up_names_come_back_as_the_real_ones():
    """The large model reads about Maria; the caller reads about Anna, also where the name came in two pieces."""
    text = "write to Anna"
    findings = ModelFindings({text: (FoundValue(9, 13, "GIVEN_NAME"),)})
    says = Says(["Dear Mar", "ia, come soon"])
    router = ModelRouter(says, HybridTasks(), Captures(lambda: Redactor().start(findings=findings, draw=lambda _: 0)))
    pieces = [piece async for piece in router.stream_text(item(finished("generate"), text))]
    assert "write to Maria" == says.asked[0].turns[-1][1]
    assert "Dear Anna, come soon" == pieces[-1].value
