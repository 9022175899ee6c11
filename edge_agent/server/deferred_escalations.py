"""Asks the large model, when it can be asked, about what was put off and what is to be checked: nobody waits for it.

One question at a time, and none while the uplink has no room to spare. Before one leaves, it is on the disk that it was
asked: whichever daemon is killed then, it is not sent again. The answer is checked like any other, and becomes an
opinion. Nothing is put back into it: who reads it is not who sent the input.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from edge_agent.backoff import backoff_seconds
from edge_agent.capture.example_capture import ExampleCapture
from edge_agent.capture.teacher_questions import TeacherQuestion
from edge_agent.errors import EdgeAgentError, SiteError, UpstreamBusy, UpstreamFailed
from edge_agent.formats.example_records import parse_stored
from edge_agent.formats.manifest import Manifest
from edge_agent.formats.plan import Mode
from edge_agent.routing import large_model_questions
from edge_agent.server.model_router import LargeModelConversation
from edge_agent.server.uplink_client import UplinkClient

log = structlog.get_logger("edge_agent.server")

LOOK_SECONDS = 1.0
PAUSE_SECONDS_MAX = 300.0
"""After an answer that the large model has no time; from LOOK_SECONDS on it doubles with each."""


@dataclass(frozen=True)
class DeferredEscalationDependencies:
    """What is asked, and of whom."""

    link: UplinkClient
    collection: ExampleCapture
    tasks: tuple[str, ...]
    """Whose inputs may leave."""
    manifest: Callable[[str], Manifest | None]
    """Of the bundle that answers a task now; None = none does."""
    mode: Callable[[Manifest], Mode]
    seconds_max: float
    """For one answer."""


class DeferredEscalations:
    """See the module. One event loop owns it."""

    def __init__(self, around: DeferredEscalationDependencies) -> None:
        """Ask about that."""
        self._around = around
        self._refused_in_a_row = 0

    async def run(self) -> None:
        """Ask whenever there is something to ask, until cancelled."""
        while True:
            try:
                asked = await self.ask_one()
            except EdgeAgentError as error:  # the disk
                log.warning("questions_not_asked", reason=error.reason, message=error.message)
                asked = False
            if not asked:
                await asyncio.sleep(backoff_seconds(self._refused_in_a_row + 1, LOOK_SECONDS, PAUSE_SECONDS_MAX))

    async def ask_one(self) -> bool:
        """Ask one question, if one waits that may be asked; return whether the next may follow at once.

        Raises:
            SiteError: the disk failed.
        """
        around = self._around
        if not around.link.spare or not around.collection.questions_waiting:
            return False
        asking = {task: manifest for task in around.tasks if (manifest := self._askable(task))}
        waiting = await around.collection.next_question(tuple(asking)) if asking else None
        if waiting is None:
            return False
        return await self._ask(waiting, asking[waiting.task])

    def _askable(self, task: str) -> Manifest | None:
        """Return the manifest of a task that may be asked about now."""
        manifest = self._around.manifest(task)
        if manifest is None or self._around.collection.consent(task) == "off":
            return None
        return None if self._around.mode(manifest) == "local" else manifest

    async def _ask(self, waiting: TeacherQuestion, manifest: Manifest) -> bool:
        asking = None
        try:
            asking = LargeModelConversation(self._around.link, manifest.task, _wanted(waiting, manifest))
            value, finish = await asking.said(lambda: self._around.seconds_max)
        except EdgeAgentError as error:
            await self._unanswered(waiting, error, heard=asking.heard if asking else 0)
            return False
        self._refused_in_a_row = 0
        model = finish.model or self._around.link.said.model
        await self._around.collection.store_teacher_label(waiting, value, model, manifest)
        return True

    async def _unanswered(self, waiting: TeacherQuestion, error: EdgeAgentError, heard: int) -> None:
        # Refused before anybody worked on it; but it was worked on when it is the second try that is refused.
        again = isinstance(error, (UpstreamBusy, SiteError)) and not heard
        if again:
            self._refused_in_a_row += 1
        else:
            log.info("question_unanswered", task=waiting.task, reason=error.reason, message=error.message)
        await self._around.collection.release_question(waiting, again=again)


def _wanted(waiting: TeacherQuestion, manifest: Manifest) -> large_model_questions.LargeModelQuestion:
    """Ask about a stored input, by the labels or the schema of today.

    Raises:
        RecordInvalid: the record is damaged.
        UpstreamFailed: the task is not what it was.
    """
    prediction = parse_stored(waiting.record)
    if prediction["kind"] != manifest.task.kind:
        raise UpstreamFailed(f"task {waiting.task!r} is of another kind than when the input came")
    return replace(large_model_questions.build_question(manifest, prediction["input"]), waited_for=False)
