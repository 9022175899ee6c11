"""Asks the large model about stored inputs when it can be asked: those deferred, and those drawn for the audit.

One question at a time, and none while the uplink has no spare capacity. That a question was asked is on the disk before
it leaves, so a daemon that is killed then does not send it again. The answer is checked like any other and becomes a
teacher label. Redacted values are not restored in it: who reads it did not send the input.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from edge_agent.backoff import backoff_seconds
from edge_agent.errors import EdgeAgentError, RedactionHeld, SiteError, UpstreamBusy, UpstreamFailed
from edge_agent.formats.example_records import parse_stored
from edge_agent.routing import large_model_questions
from edge_agent.server.model_router import LargeModelConversation, ModelRouter

if TYPE_CHECKING:
    from edge_agent.capture.example_capture import ExampleCapture
    from edge_agent.capture.teacher_questions import TeacherQuestion
    from edge_agent.config import EscalationConfig
    from edge_agent.formats.manifest import Manifest
    from edge_agent.server.uplink_client import UplinkClient
    from edge_agent.update.activation import Activation

log = structlog.get_logger("edge_agent.server")

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
        self._refused_in_a_row = 0

    async def run(self) -> None:
        """Ask whenever a question waits, until cancelled."""
        while True:
            try:
                asked = await self.ask_one()
            except EdgeAgentError as error:  # the disk
                log.warning("questions_not_asked", reason=error.reason, message=error.message)
                asked = False
            if not asked:
                await asyncio.sleep(backoff_seconds(self._refused_in_a_row + 1, LOOK_SECONDS, PAUSE_SECONDS_MAX))

    async def ask_one(self) -> bool:
        """Ask a question if one waits that may be asked; tell whether the next may follow at once.

        Raises:
            SiteError: the disk failed.
        """
        if not self._uplink.spare or not self._capture.questions_waiting:
            return False
        asking = {task: manifest for task in self._tasks if (manifest := self._askable(task))}
        waiting = await self._capture.next_question(tuple(asking)) if asking else None
        if waiting is None:
            return False
        return await self._ask(waiting, asking[waiting.task])

    def _askable(self, task: str) -> Manifest | None:
        """Return the manifest of a task, if the large model may be asked about it now."""
        bundle = self._activation.serving.get(task)
        if bundle is None or task not in self._capture.collected:
            return None
        return None if self._router.mode(bundle.manifest) == "local" else bundle.manifest

    async def _ask(self, waiting: TeacherQuestion, manifest: Manifest) -> bool:
        conversation = None
        try:
            conversation = LargeModelConversation(self._uplink, manifest.task, _question(waiting, manifest))
            reply, finish = await conversation.answer(lambda: self._seconds_max)
        except EdgeAgentError as error:
            await self._unanswered(waiting, error, answers=conversation.answers if conversation else 0)
            return False
        self._refused_in_a_row = 0
        model = finish.model or self._uplink.model
        reply = next(iter(reply.answers.values()), reply)  # of a decide task: the answer to the only question asked
        try:
            await self._capture.store_teacher_label(waiting, reply.value, model, manifest, reply.probabilities)
        except RedactionHeld as error:
            await self._unanswered(waiting, error, answers=conversation.answers)
        return True

    async def _unanswered(self, waiting: TeacherQuestion, error: EdgeAgentError, answers: int) -> None:
        # Refused before any work on it; but a refused second try follows work on the first.
        again = isinstance(error, (UpstreamBusy, SiteError)) and not answers
        if again:
            self._refused_in_a_row += 1
        else:
            log.info("question_unanswered", task=waiting.task, reason=error.reason, message=error.message)
        await self._capture.release_question(waiting, again=again)


def _question(waiting: TeacherQuestion, manifest: Manifest) -> large_model_questions.LargeModelQuestion:
    """Build the question about a stored input, with the labels or the schema of today.

    Raises:
        RecordInvalid: the record is damaged.
        UpstreamFailed: the task has changed its kind, or no longer has the question.
    """
    prediction = parse_stored(waiting.record)
    if prediction["kind"] != manifest.task.kind:
        raise UpstreamFailed(f"task {waiting.task!r} has another kind than when the input came")
    name = prediction.get("question")
    asked = [each for each in manifest.task.questions_asked if name in (None, each.name)]
    if name is not None and not asked:
        raise UpstreamFailed(f"task {waiting.task!r} no longer has the question {name!r}")
    return replace(large_model_questions.build_question(manifest, prediction["input"], asked), waited_for=False)
