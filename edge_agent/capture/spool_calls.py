"""Calls that await the spool's thread, and the two concerns that consist of several: deferred questions, and erasure.

No call waits for a stalled disk: it is refused at once when the disk has stood for STALLED_SECONDS_MAX.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from edge_agent.capture.capture_values import CapturedAnswer, answer_texts
from edge_agent.errors import PredictionUnknown, SpoolStalled

if TYPE_CHECKING:
    from edge_agent.capture.person_erasure import AnswerErasure, PersonErasure, ScanPlace, ValueSearch
    from edge_agent.capture.redaction_queue import RedactionQueue
    from edge_agent.capture.spool_worker import SpoolWorker
    from edge_agent.capture.spool_writer import SpoolWriter
    from edge_agent.capture.teacher_questions import TeacherQuestion
    from edge_agent.capture.text_redaction import TextRedaction
    from edge_agent.config import EscalationConfig
    from edge_agent.formats.manifest import Manifest

Result = TypeVar("Result")
STALLED_SECONDS_MAX = 10.0
"""After which a call that needs the disk is refused at once."""
WAIT_SECONDS_MAX = 30.0
"""For one call; sealing everything may take longer."""


class SpoolCalls:
    """Awaits work on the spool's thread; its result comes when it is on the disk."""

    def __init__(self, writer: SpoolWriter, *, is_enabled: bool) -> None:
        """Call the spool of a `writer`; without `is_enabled` the site has none, and every call is refused."""
        self.writer, self._enabled = writer, is_enabled

    @property
    def is_writable(self) -> bool:
        """Whether feedback can be acknowledged now."""
        return self._enabled and self.writer.problem is None and not self.is_stalled

    @property
    def is_stalled(self) -> bool:
        """Whether the disk has stalled for so long that calls which need it are refused."""
        return self.writer.stalled_seconds >= STALLED_SECONDS_MAX

    async def run(
        self,
        work: Callable[[SpoolWorker], Result],
        *,
        alone: bool = False,
        seconds_max: float | None = WAIT_SECONDS_MAX,
    ) -> Result:
        """Run work in the transaction of the next group, or `alone`, outside of one.

        Raises:
            PredictionUnknown: this site keeps nothing.
            SpoolStalled: the disk has stood for too long, or did not finish within `seconds_max`.
        """
        if not self._enabled:
            raise PredictionUnknown(
                "this site keeps no answers",
                remedy="Set 'collect' under 'examples' in agent.yaml for the tasks that may be collected.",
            )
        if self.is_stalled:
            raise _waited(self.writer.stalled_seconds)
        doing: asyncio.Future[Result] = asyncio.wrap_future(self.writer.submit(work, alone=alone))
        try:
            async with asyncio.timeout(seconds_max):
                return await doing
        except TimeoutError:
            assert seconds_max is not None, "only a limit ends the wait"
            raise _waited(seconds_max) from None


class DeferredQuestions:
    """The stored inputs that the large model is asked about later, and its labels of them."""

    def __init__(
        self, config: EscalationConfig, calls: SpoolCalls, text_redaction: TextRedaction, collected: frozenset[str]
    ) -> None:
        """Defer questions about the `collected` tasks, if the site asks a large model at all."""
        self._calls, self._text_redaction, self._collected = calls, text_redaction, collected
        # One place is always left to callers, so one alone is none for what nobody waits for.
        self._later = bool(config.url and config.later_questions_max and config.calls_max > 1)

    def can_defer(self, task: str) -> bool:
        """Return whether the large model can be asked later about an input of this task."""
        return self._later and self._calls.is_writable and task in self._collected

    @property
    def waiting(self) -> int:
        """Approximate number of questions for the large model that wait."""
        return self._calls.writer.questions_waiting

    async def next(self, tasks: tuple[str, ...]) -> TeacherQuestion | None:
        """Take the next question of these tasks, marked as asked; None = no question waits. Raises SiteError."""
        return await self._calls.run(lambda worker: worker.next_question(tasks), alone=True)

    async def store_label(
        self,
        asked: TeacherQuestion,
        said: str,
        model: str,
        manifest: Manifest,
        scores: Sequence[tuple[str, float]] = (),
    ) -> None:
        """Store the large model's label, with its probabilities if it gave some; durable when this returns.

        Raises:
            SiteError: the disk failed.
            RedactionHeld: the redaction model does not answer.
        """
        findings = await self._text_redaction.find(asked.task, answer_texts(manifest.task.kind, said))
        await self._calls.run(lambda worker: worker.store_teacher_label(asked, said, model, manifest, findings, scores))

    async def release(self, asked: TeacherQuestion, *, again: bool) -> None:
        """Drop a question; with `again`, requeue it: certainly no large model worked on it. Raises SiteError."""

        def work(worker: SpoolWorker) -> None:
            (worker.questions.put_back if again else worker.questions.give_up)(asked)

        await self._calls.run(work)


class ExampleErasure:
    """Erases answers, and what concerns a person, from the spool and from what waits for the redaction model."""

    def __init__(self, calls: SpoolCalls, redaction: RedactionQueue | None) -> None:
        """Erase through `calls`, and from `redaction` if a model redacts."""
        self._calls, self._redaction = calls, redaction

    async def erase_answer(self, prediction_id: str, *, all_questions: bool = False) -> AnswerErasure:
        """Erase a prediction, or all answers to questions about its text; durable when this returns."""
        held = 0
        if self._redaction is not None:
            held = self._redaction.erase(lambda answered: answered.prediction_id == prediction_id)

        def work(worker: SpoolWorker) -> AnswerErasure:
            with worker.spool.transaction():
                done = worker.erasure.erase_answer(prediction_id, all_questions=all_questions)
            # What was deleted is still in the database's log until then.
            worker.spool.shrink()
            return done

        done = await self._calls.run(work, alone=True, seconds_max=None)
        return replace(done, was_kept=done.was_kept or held > 0)

    async def erase_values(self, values: Sequence[str], *, dry_run: bool) -> PersonErasure:
        """Find what concerns some values, and erase it unless `dry_run`; durable when this returns.

        Raises InvalidRequest for values that cannot be searched for.
        """
        # Only an erasure loads what searches.
        from edge_agent.capture.person_erasure import FoundRecords, ScanPlace, describe  # noqa: PLC0415

        def begin(worker: SpoolWorker) -> tuple[ValueSearch, frozenset[str]]:
            search = worker.erasure.search(values)
            return search, search.find_digests(worker.spool)

        search, by_digest = await self._calls.run(begin, alone=True, seconds_max=None)
        held = 0
        if self._redaction is not None:
            held = self._redaction.erase(lambda answered: search.is_in_text(_spoken(answered)), dry_run=dry_run)
        by_text: frozenset[str] = frozenset()
        place: ScanPlace | None = ScanPlace()
        while place is not None:
            found, place = await self._calls.run(functools.partial(_scan, search, place), alone=True, seconds_max=None)
            by_text |= found
        records = FoundRecords(by_digest, by_text)

        def end(worker: SpoolWorker) -> PersonErasure:
            if dry_run:
                return describe(worker.spool, records)
            with worker.spool.transaction():
                done = worker.erasure.erase_found(records)
            # What was deleted is still in the database's log until then.
            worker.spool.shrink()
            return done

        done = await self._calls.run(end, alone=True, seconds_max=None)
        return done.with_held(held, dry_run=dry_run)


def _spoken(answered: CapturedAnswer) -> str:
    """Return all texts of an answer that waits for the redaction model."""
    return "\n".join((answered.text, answered.local_answer or "", answered.teacher_answer or ""))


def _scan(search: ValueSearch, place: ScanPlace, worker: SpoolWorker) -> tuple[frozenset[str], ScanPlace | None]:
    return search.scan(worker.spool, place)


def _waited(seconds: float) -> SpoolStalled:
    return SpoolStalled(
        f"the disk has not finished its work on the examples for {seconds:.0f} s", retry_seconds=5.0, seconds=seconds
    )
