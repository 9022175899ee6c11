"""Routes inputs between the local model and the large one, as `routing/policy.py` decides.

An input of a decide task has an answer for each question, and each answer has its own route; one call asks the large
model all questions that need it. Every other input has one answer.

The caller's deadline always holds. The large model gets the time until then, less MARGIN_SECONDS; without its answer
the local one is returned. An input is redacted before it leaves. The large model's answer is checked; if it cannot be
used, the model is asked once more. Then redacted values are restored in it, in memory.

Stored inputs, deferred or drawn for the audit, are sent to the large model later: one question at a time, and none
while the uplink has no spare capacity. A question is marked as asked on the disk before it leaves, so a daemon that is
killed then does not send it again. The answer is checked like any other and becomes a teacher label. Redacted values
are not restored in it, because its readers did not send the input.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from edge_agent.backoff import backoff_seconds
from edge_agent.errors import EdgeAgentError, RedactionHeld, SiteError, UpstreamBusy, UpstreamFailed
from edge_agent.formats.example_records import parse_stored, task_of_key
from edge_agent.routing import policy
from edge_agent.routing.large_model_questions import (
    LargeModelQuestion,
    LargeModelReply,
    ModelAnswer,
    build_question,
    parse_reply,
    parse_typed_reply,
)
from edge_agent.routing.policy import EscalationContext, LowConfidencePolicy, RouteDecision, RouteReason
from edge_agent.server import finished_answers
from edge_agent.server.finished_answers import FinishedAnswer, LargeModelAnswer
from edge_agent.server.uplink_client import LargeModelEvent, LargeModelFinish, UplinkClient

if TYPE_CHECKING:
    from edge_agent.capture.example_capture import ExampleCapture
    from edge_agent.capture.redact.redactor import RedactionSession
    from edge_agent.capture.teacher_questions import TeacherQuestion
    from edge_agent.config import EscalationConfig
    from edge_agent.formats.manifest import Manifest, TaskSpec
    from edge_agent.formats.plan import Mode
    from edge_agent.formats.questions import QuestionSpec
    from edge_agent.server.task_modes import TaskModes
    from edge_agent.store.state_database import InstalledBundle
    from edge_agent.update.activation import Activation


log = structlog.get_logger("edge_agent.server")

MARGIN_SECONDS = 0.1
"""The part of the caller's time that is reserved for writing and reading the local answer."""
BEGINS_SHARE = 0.5
"""If the large model's text has not begun after this share of the caller's time, a local model, if any, writes it."""
TRIES_MAX = 2
"""How often the large model is asked, if its answer cannot be used."""


class RoutedInput(NamedTuple):
    """One input of a bundle; its deadline is on the event loop's clock, in seconds."""

    text: str
    bundle: InstalledBundle
    deadline: float
    questions: tuple[QuestionSpec, ...] = ()
    """Those about it: one for a classify task, none for a record or a text."""


Compute = Callable[[], Awaitable[list[FinishedAnswer]]]
"""Asks the local model; returns an answer for each question, or the only one."""
Replies = dict[str, LargeModelAnswer | RouteReason]
"""The large model's answer, or why there is none, by the name of the question; "" if the task has no questions."""


class ModelRouter:
    """See the module. One event loop owns it."""

    def __init__(
        self,
        uplink: UplinkClient,
        task_modes: TaskModes,
        capture: ExampleCapture,
        audit_share: float = 0.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Ask the large model through `uplink`.

        Args:
            uplink: the way to the large model.
            task_modes: the mode of each task.
            capture: redacts inputs, and stores those that the large model is asked about later.
            audit_share: of the confident answers, the share that the large model is asked about later, 0 to 1.
            draw: returns a random number from 0 to below 1; not for secrets.
        """
        self._uplink, self._task_modes, self._capture = uplink, task_modes, capture
        self._audit_share, self._draw = audit_share, draw

    def mode(self, manifest: Manifest) -> Mode:
        """Return the mode of a task; a task without a model of its own is always in bootstrap."""
        return "bootstrap" if manifest.runtime == "upstream" else self._task_modes.mode_of(manifest.task.name)

    def context(self, manifest: Manifest, low_confidence: LowConfidencePolicy, deadline: float) -> EscalationContext:
        """Return what the policy needs to route an input of a caller with that deadline, on the event loop's clock."""
        mode = self.mode(manifest)
        if mode == "local" and low_confidence != "escalate":
            return EscalationContext(mode, low_confidence)  # the large model is not asked, now or later
        task, seconds_left = manifest.task.name, deadline - MARGIN_SECONDS - asyncio.get_running_loop().time()
        blocker = policy.escalation_blocker(self._uplink.availability(task), seconds_left)
        return EscalationContext(mode, low_confidence, blocker, self._capture.questions.can_defer(task))

    async def answer(self, item: RoutedInput, context: EscalationContext, compute: Compute) -> list[FinishedAnswer]:
        """Answer an input of a task whose local answers have a confidence; `compute` asks the local model.

        Returns an answer for each question, in their order, or the only one.

        Raises:
            EdgeAgentError: the local model failed, and the large one has not answered.
        """
        if context.mode == "bootstrap":
            return await self._answer_remotely(item, context)
        if policy.decide_before_local_answer(context) is not None:
            return await self._answer_with_both(item, context, compute)
        computed = [_with_decision(each, context) for each in await compute()]
        escalated = [each for each in computed if each.decision.route == "upstream"]
        replies = await self._ask(item, escalated) if escalated else {}
        answers = []
        for finished in computed:
            reply = replies.get(_question_name(finished))
            if reply is None:  # the large model was not asked
                # Drawn for every returned answer, so that load and connection do not bias the sample.
                is_drawn = policy.is_drawn_for_audit(finished.decision, context, self._audit_share, self._draw())
                answers.append(finished._replace(audited=is_drawn))
            elif isinstance(reply, RouteReason):
                answers.append(_with_decision(finished, policy.with_blocker(context, reply)))
            else:
                answers.append(finished._replace(large_model=reply))
        return answers

    async def stream_text(self, item: RoutedInput) -> AsyncGenerator[str | LargeModelAnswer, None]:
        """Let the large model write a text; yield its pieces, and at last the whole answer.

        Raises:
            EdgeAgentError: there is no text, or no whole one.
        """
        async with contextlib.aclosing(self._pieces(item)) as pieces:
            with _contain_failures(item):
                async for piece in pieces:
                    yield piece

    async def _pieces(self, item: RoutedInput) -> AsyncGenerator[str | LargeModelAnswer, None]:
        started_at, task = time.monotonic(), item.bundle.manifest.task.name
        redaction = await self._capture.text_redaction.start(task, item.text, _seconds_left(item))
        question = build_question(item.bundle.manifest, redaction.text(item.text))
        seconds, pending, parts = _seconds_left(item), "", list[str]()
        limit = None if self.mode(item.bundle.manifest) == "bootstrap" else BEGINS_SHARE * seconds
        async with contextlib.aclosing(_require_start(self._uplink.ask(question, seconds), limit)) as events:
            async for event in events:
                if isinstance(event, tuple):  # typed answers, for which nobody asked
                    continue
                # A placeholder may come in pieces: text that may still become one waits.
                text, pending = (
                    (pending, "") if isinstance(event, LargeModelFinish) else redaction.split(pending + event)
                )
                if text:
                    parts.append(redaction.restore(text))
                    yield parts[-1]
                if isinstance(event, LargeModelFinish):
                    took_ms = 1000 * (time.monotonic() - started_at)
                    yield LargeModelAnswer("".join(parts), event.model, took_ms, event.complete)

    async def _answer_remotely(self, item: RoutedInput, context: EscalationContext) -> list[FinishedAnswer]:
        """Return the large model's answers, for a task without a local model, or abstain."""
        decision = policy.decide_before_local_answer(context)
        assert decision is not None, "bootstrap is decided before a model is asked"
        blanks = _blank_answers(item, decision)
        if decision.route != "upstream":
            return blanks
        replies, answers = await self._ask(item, blanks), []
        for blank in blanks:
            reply = replies[_question_name(blank)]
            if isinstance(reply, RouteReason):
                blocked_decision = policy.decide_before_local_answer(policy.with_blocker(context, reply))
                answers.append(blank._replace(decision=blocked_decision or decision))
            else:
                answers.append(blank._replace(large_model=reply))
        return answers

    async def _answer_with_both(
        self, item: RoutedInput, context: EscalationContext, compute: Compute
    ) -> list[FinishedAnswer]:
        """Ask both models for comparison, and return the large model's answers.

        Raises:
            EdgeAgentError: the local model failed, and the large one has not answered every question.
        """
        blanks = _blank_answers(item, RouteDecision("upstream", RouteReason.MODE_SHADOW))
        try:
            async with asyncio.TaskGroup() as group:
                computation = group.create_task(_answer_or_error(compute))
                replies = await self._ask(item, blanks)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        computed = computation.result()
        if isinstance(computed, EdgeAgentError):
            decision, answers = RouteDecision("upstream", RouteReason.MODE_SHADOW, degraded=(computed.reason,)), []
            for blank in blanks:
                reply = replies[_question_name(blank)]
                if isinstance(reply, RouteReason):
                    raise computed
                answers.append(blank._replace(decision=decision, large_model=reply))
            return answers
        return [_shadow_answer(each, replies[_question_name(each)], context) for each in computed]

    async def _ask(self, item: RoutedInput, answers: Sequence[FinishedAnswer]) -> Replies:
        """Ask the large model, in one call, about the questions of these answers.

        A failure costs only the large model's answer: there may be a local one.
        """
        manifest, started_at, names = item.bundle.manifest, time.monotonic(), [_question_name(each) for each in answers]
        try:
            with _contain_failures(item):
                redaction = await self._capture.text_redaction.start(manifest.task.name, item.text, _seconds_left(item))
                questions = [each.question for each in answers if each.question is not None]
                question = build_question(manifest, redaction.text(item.text), questions)
                conversation = LargeModelConversation(self._uplink, manifest.task, question)
                reply, finish = await conversation.answer(lambda: _seconds_left(item))
                replies = reply.answers or {names[0]: reply}
                took_ms, by_name = 1000 * (time.monotonic() - started_at), dict[str, LargeModelAnswer]()
                for name, each in replies.items():
                    value = _restore(each.value, manifest, redaction)
                    by_name[name] = LargeModelAnswer(value, finish.model, took_ms, probabilities=each.probabilities)
                return {name: by_name.get(name, RouteReason.UPSTREAM_FAILED) for name in names}
        except UpstreamBusy:
            return dict.fromkeys(names, RouteReason.UPSTREAM_BUSY)
        except EdgeAgentError as error:
            log.info("escalation_failed", task=manifest.task.name, reason=error.reason, message=error.message)
            return dict.fromkeys(names, RouteReason.UPSTREAM_FAILED)


class LargeModelConversation:
    """A question to the large model and its answers: it is asked again if an answer cannot be used."""

    def __init__(self, uplink: UplinkClient, task: TaskSpec, question: LargeModelQuestion) -> None:
        """Prepare to ask `question` about an input of a task."""
        self._uplink, self._task, self._question = uplink, task, question
        self.answers = 0
        """How many answers have come, usable or not."""

    async def answer(self, seconds: Callable[[], float]) -> tuple[LargeModelReply, LargeModelFinish]:
        """Return the reply; `seconds` returns the limit of each try when it begins.

        After the last try, a reply that answers only some of the questions is returned. Typed questions are not asked
        again, because the same question gets the same answer.

        Raises:
            EdgeAgentError: there is no answer, or none that fits the questions or the schema.
        """
        problem = ""
        for attempt in range(1, TRIES_MAX + 1):
            text, typed, finish = await self._whole_answer(seconds())
            self.answers += 1
            questions = self._question.questions
            if typed is None:
                reply = parse_reply(self._task, text, questions)
            else:
                reply = parse_typed_reply(self._task, questions, typed)
            is_last, problem = typed is not None or attempt == TRIES_MAX, reply.problem
            if not problem or (is_last and reply.answers):
                return reply, finish
            if is_last:
                break
            self._question = self._question.follow_up(text, problem)
        raise UpstreamFailed(f"the large model's answer cannot be used: {problem}")

    async def _whole_answer(self, seconds: float) -> tuple[str, tuple[ModelAnswer, ...] | None, LargeModelFinish]:
        parts: list[str] = []
        typed: tuple[ModelAnswer, ...] | None = None
        async with contextlib.aclosing(self._uplink.ask(self._question, seconds)) as events:
            async for event in events:
                if isinstance(event, LargeModelFinish):
                    return "".join(parts), typed, event
                if isinstance(event, str):
                    parts.append(event)
                elif self._question.questions:
                    typed = event
        raise UpstreamFailed("the large model gave no whole answer")


def _question_name(finished: FinishedAnswer) -> str:
    """Return the name of an answer's question; empty where there are no questions."""
    return finished.question.name if finished.question else ""


def _blank_answers(item: RoutedInput, decision: RouteDecision) -> list[FinishedAnswer]:
    """Return an answer without content for each question of an input, or the only one."""
    blank = functools.partial(finished_answers.without_local_answer, item.text, item.bundle, decision, None)
    return [blank(question) for question in item.questions or (None,)]


def _shadow_answer(
    finished: FinishedAnswer, reply: LargeModelAnswer | RouteReason, context: EscalationContext
) -> FinishedAnswer:
    """Return the large model's answer with the local one for comparison; if it is missing, the local one."""
    if isinstance(reply, RouteReason):
        return _with_decision(finished, policy.with_blocker(context, reply))
    graded = finished_answers.decide_on_local_answer(finished, policy.with_blocker(context))
    shadow = replace(graded, route="upstream", reason=RouteReason.MODE_SHADOW, degraded=(), later=False)
    return finished._replace(decision=shadow, large_model=reply)


def _with_decision(finished: FinishedAnswer, context: EscalationContext) -> FinishedAnswer:
    return finished._replace(decision=finished_answers.decide_on_local_answer(finished, context))


@contextlib.contextmanager
def _contain_failures(item: RoutedInput) -> Iterator[None]:
    """Turn an unexpected exception, such as one of a site's own redaction rule, into a failure of the large model.

    Raises:
        UpstreamFailed: instead of it; the log has the exception.
    """
    try:
        yield
    except EdgeAgentError:
        raise
    except Exception as error:
        log.exception("escalation_broke", task=item.bundle.manifest.task.name, error=type(error).__name__)
        raise UpstreamFailed("asking the large model ended with an unexpected error, which the log has") from None


async def _answer_or_error(compute: Compute) -> list[FinishedAnswer] | EdgeAgentError:
    """Return the error of the local model: it must not cancel the question to the large one."""
    try:
        return await compute()
    except EdgeAgentError as error:
        return error


def _seconds_left(item: RoutedInput) -> float:
    seconds = item.deadline - MARGIN_SECONDS - asyncio.get_running_loop().time()
    if seconds <= 0:
        raise UpstreamFailed("no time is left for the large model")
    return seconds


async def _require_start(
    answer: AsyncGenerator[LargeModelEvent, None], seconds: float | None
) -> AsyncGenerator[LargeModelEvent, None]:
    """Yield an answer that begins within `seconds`; None = no limit. Raises UpstreamFailed."""
    async with contextlib.aclosing(answer) as events:
        try:
            async with asyncio.timeout(seconds):
                first = await anext(events)
        except TimeoutError:
            raise UpstreamFailed("the large model had not begun when half of the caller's time was over") from None
        yield first
        async for event in events:
            yield event


def _restore(value: str, manifest: Manifest, redaction: RedactionSession) -> str:
    """Restore redacted values in a record or a text; a label has none."""
    kind = manifest.task.kind
    if kind == "extract":
        return json.dumps(_restore_values(json.loads(value), redaction), ensure_ascii=False)
    return redaction.restore(value) if kind == "generate" else value


def _restore_values(value: Any, redaction: RedactionSession) -> Any:
    if isinstance(value, str):
        return redaction.restore(value)
    if isinstance(value, list):
        return [_restore_values(each, redaction) for each in value]
    if isinstance(value, dict):
        return {key: _restore_values(each, redaction) for key, each in value.items()}
    return value


LOOK_SECONDS = 1.0
PAUSE_SECONDS_MAX = 300.0
"""The longest pause after refusals; it doubles from LOOK_SECONDS."""


class DeferredEscalations:
    """See the module. One event loop owns it."""

    def __init__(
        self,
        uplink: UplinkClient,
        capture: ExampleCapture,
        activation: Activation,
        router: ModelRouter,
        config: EscalationConfig,
    ) -> None:
        """Ask through `uplink` about inputs of the tasks whose inputs may leave the site."""
        self._uplink, self._capture, self._activation, self._router = uplink, capture, activation, router
        self._tasks, self._seconds_max = config.tasks, float(config.seconds_max)
        self._refusals_in_a_row = 0

    async def run(self) -> None:
        """Ask whenever a question waits, until cancelled."""
        while True:
            try:
                may_continue = await self.ask_one()
            except EdgeAgentError as error:  # the disk
                log.warning("questions_not_asked", reason=error.reason, message=error.message)
                may_continue = False
            if not may_continue:
                await asyncio.sleep(backoff_seconds(self._refusals_in_a_row + 1, LOOK_SECONDS, PAUSE_SECONDS_MAX))

    async def ask_one(self) -> bool:
        """Ask a question if one waits that may be asked; tell whether the next may follow at once.

        Raises:
            SiteError: the disk failed.
        """
        if not self._uplink.spare or not self._capture.questions.waiting:
            return False
        manifests = {task: manifest for task in self._tasks if (manifest := self._askable(task))}
        question = await self._capture.questions.next(tuple(manifests)) if manifests else None
        if question is None:
            return False
        return await self._ask(question, manifests[task_of_key(question.task)])

    def _askable(self, task: str) -> Manifest | None:
        """Return the manifest of a task, if the large model may be asked about it now."""
        bundle = self._activation.serving.get(task)
        if bundle is None or task not in self._capture.collected:
            return None
        return None if self._router.mode(bundle.manifest) == "local" else bundle.manifest

    async def _ask(self, question: TeacherQuestion, manifest: Manifest) -> bool:
        conversation = None
        try:
            conversation = LargeModelConversation(self._uplink, manifest.task, _build_question(question, manifest))
            reply, finish = await conversation.answer(lambda: self._seconds_max)
        except EdgeAgentError as error:
            await self._release_unanswered(question, error, answers=conversation.answers if conversation else 0)
            return False
        self._refusals_in_a_row = 0
        model = finish.model or self._uplink.model
        reply = next(iter(reply.answers.values()), reply)  # of a decide task: the answer to the only question asked
        try:
            await self._capture.questions.store_label(question, reply.value, model, manifest, reply.probabilities)
        except RedactionHeld as error:
            await self._release_unanswered(question, error, answers=conversation.answers)
        return True

    async def _release_unanswered(self, question: TeacherQuestion, error: EdgeAgentError, answers: int) -> None:
        # A first try that was refused has cost nothing; a refused second one follows work on the first.
        again = isinstance(error, (UpstreamBusy, SiteError)) and not answers
        if again:
            self._refusals_in_a_row += 1
        else:
            log.info("question_unanswered", task=question.task, reason=error.reason, message=error.message)
        await self._capture.questions.release(question, again=again)


def _build_question(teacher_question: TeacherQuestion, manifest: Manifest) -> LargeModelQuestion:
    """Build the question about a stored input, with the labels or the schema of today.

    Raises:
        RecordInvalid: the record is damaged.
        UpstreamFailed: the task has changed its kind, or no longer has the question.
    """
    prediction = parse_stored(teacher_question.record)
    if prediction["kind"] != manifest.task.kind:
        raise UpstreamFailed(f"task {teacher_question.task!r} has another kind than when the input came")
    name = prediction.get("question")
    questions = [each for each in manifest.task.questions_asked if name in (None, each.name)]
    if name is not None and not questions:
        raise UpstreamFailed(f"task {teacher_question.task!r} no longer has the question {name!r}")
    return replace(build_question(manifest, prediction["input"], questions), waited_for=False)
