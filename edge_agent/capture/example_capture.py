"""The daemon's interface to data capture: queue answers, list them for review, store feedback, erase.

It runs on the event loop and owns a `SpoolWriter`, whose thread does the work. `queue_answer` is part of every answer
and only queues. Every other call awaits that thread and returns when the result is on the disk. No call waits for a
stalled disk: `status` reports the stall at once, and the other calls are refused when it has lasted
STALLED_SECONDS_MAX. The status has problems even while the disk does not answer.

A site that collects nothing loads neither the spool nor the rules of redaction.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from edge_agent.capture.capture_values import (
    CapturedAnswer,
    HumanFeedback,
    ReviewCursor,
    ReviewFilter,
    ReviewItem,
    answer_texts,
    parse_review_item,
)
from edge_agent.capture.spool_writer import CaptureLimits, SpoolWriter
from edge_agent.capture.text_redaction import RedactionDependencies, RedactionQueue, TextRedaction
from edge_agent.config import Config
from edge_agent.errors import EdgeAgentError, PredictionUnknown, SpoolStalled
from edge_agent.formatting import counted

if TYPE_CHECKING:
    from edge_agent.capture.capture_values import SpoolWorkerDependencies
    from edge_agent.capture.person_erasure import AnswerErasure, PersonErasure, ScanPlace, ValueSearch
    from edge_agent.capture.redaction_audit import AuditedText, AuditFigures, MarkedSpan
    from edge_agent.capture.spool_worker import PrivacyReport, SpoolWorker
    from edge_agent.capture.teacher_questions import TeacherQuestion
    from edge_agent.config import EscalationConfig
    from edge_agent.formats.example_records import Consent
    from edge_agent.formats.manifest import Manifest
    from edge_agent.monitoring.answer_observations import BundleSeries, BundleSummary, DailySpend


HOUSEKEEPING_SECONDS = 1.0


class ExampleCapture:
    """Captures the examples of one site."""

    def __init__(
        self,
        config: Config,
        dependencies: SpoolWorkerDependencies,
        worker: type[SpoolWorker] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        reader: RedactionDependencies | None = None,
    ) -> None:
        """Prepare; `start` opens the spool with a `worker`; `monotonic` measures stalls.

        `reader` asks the redaction model that the configuration names, if it names one.

        Raises:
            ConfigInvalid: a rule of the site is invalid.
        """
        self._config = config
        examples = config.examples
        self.collected = frozenset(task for task, consent in examples.collect.items() if consent != "off")
        """The tasks whose answers are captured."""
        self.is_enabled = bool(self.collected) or _has_spool(config)
        """Whether this site collects examples, or ever did."""
        limits = CaptureLimits(
            examples.queue_examples_max,
            examples.queue_bytes_max,
            examples.commit_examples_max,
            examples.commit_seconds,
            examples.input_characters_max,
        )
        self._writer = SpoolWriter(lambda: self._open_worker(worker, dependencies), limits, monotonic)
        self.redaction: RedactionQueue | None = None
        """Answers that wait for the redaction model; None = only the rules redact."""
        if config.redaction.task:
            assert reader is not None, "a configured redaction model is asked through a reader"
            self.redaction = RedactionQueue(reader, config.redaction, examples, self._writer.queue_answer)
        self.text_redaction = TextRedaction(config, reader if config.redaction.task else None, self.redaction)
        """Redacts texts while a caller waits."""
        if self.is_enabled or _needs_rules(config):
            _ = self.text_redaction.rules
        self.calls = SpoolCalls(self._writer, is_enabled=self.is_enabled)
        self.questions = DeferredQuestions(config.escalation, self.calls, self.text_redaction, self.collected)
        self.erasure = ExampleErasure(self.calls, self.redaction)

    def _open_worker(self, worker: type[SpoolWorker] | None, dependencies: SpoolWorkerDependencies) -> SpoolWorker:
        # Only a site that collects loads the spool.
        from edge_agent.capture.spool_worker import SpoolWorker  # noqa: PLC0415

        return (worker or SpoolWorker)(self._config, self.text_redaction.rules, dependencies)

    def start(self) -> None:
        """Open the spool and begin to write, unless this site never collected anything."""
        if self.is_enabled:
            self._writer.start()

    def stop(self) -> bool:
        """Write the queued answers and close; return whether the disk finished in time."""
        return self._writer.stop() if self.is_enabled else True

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Run the housekeeping periodically, until cancelled."""
        while True:
            await asyncio.wrap_future(self._writer.run_housekeeping())
            await sleep(HOUSEKEEPING_SECONDS)

    def consent(self, task: str) -> Consent:
        """Return the consent of the site for a task."""
        return self._config.examples.collect.get(task, "off")

    async def finish_redaction(self) -> None:
        """Before `stop`: let the redaction model read waiting answers, for a few seconds."""
        if self.redaction is not None:
            await self.redaction.finish()

    def queue_answer(self, answer: CapturedAnswer) -> None:
        """Queue an answer of a collected task. Never waits, never fails."""
        (self.redaction.put if self.redaction is not None else self._writer.queue_answer)(answer)

    def add_charge(self, task: str, micros: int) -> None:
        """Count a paid question about a task. Never waits, never fails."""
        if self.is_enabled:
            self._writer.charges.add(task, micros)

    async def find_prediction(self, prediction_id: str) -> ReviewItem:
        """Return a kept prediction. Raises PredictionUnknown, StoreDamaged."""
        return parse_review_item(await self.calls.run(lambda worker: worker.spool.find_prediction(prediction_id)))

    async def review_page(self, review_filter: ReviewFilter, after: ReviewCursor, count: int) -> list[ReviewItem]:
        """Return kept predictions after a cursor, the streams in turns. Raises StoreDamaged."""
        rows = await self.calls.run(lambda worker: worker.review_page(review_filter, after, count))
        return [parse_review_item(prediction, place) for place, prediction in rows]

    async def store_feedback(
        self, feedback: HumanFeedback, prediction: dict[str, Any], manifest: Manifest | None
    ) -> None:
        """Store feedback; durable when this returns. Raises PredictionUnknown, InvalidRequest, RedactionHeld."""
        texts = [feedback.reason, *answer_texts(prediction["kind"], feedback.value)]
        findings = await self.text_redaction.find(prediction["task"], texts)

        def work(worker: SpoolWorker) -> None:
            worker.store_feedback(feedback, prediction, manifest, findings)

        await self.calls.run(work)

    async def privacy_report(self) -> PrivacyReport:
        """Return figures about personal data, without any text or value. Raises StoreDamaged, PredictionUnknown."""
        return await self.calls.run(lambda worker: worker.privacy_report(), alone=True)

    async def seal_all(self) -> int:
        """Seal everything that waits; return the number of new segments. Raises SiteError."""
        return await self.calls.run(lambda worker: worker.seal_all(), alone=True, seconds_max=None)

    async def read_receipts(self) -> int:
        """Apply the receipts in the folder; return the number of deleted segments. Raises ExchangeError."""
        return await self.calls.run(lambda worker: worker.read_receipts(), alone=True, seconds_max=None)

    async def status(self) -> CaptureStatus | None:
        """Return counters and sizes, or within 2 s why there are none; None where nothing is collected."""
        if not self.is_enabled:
            return None
        if self._writer.problem:
            return broken_status(self._writer.problem)
        if self._writer.stalled_seconds >= STATUS_SECONDS_MAX:
            return stalled_status(self._config, self._writer)
        try:
            # Outside the writer's transaction: a poll of the status each second must not cause a write each second.
            return await self.calls.run(self._read_status, alone=True, seconds_max=STATUS_SECONDS_MAX)
        except SpoolStalled:
            return stalled_status(self._config, self._writer)
        except EdgeAgentError as error:
            return broken_status(error)

    def _read_status(self, worker: SpoolWorker) -> CaptureStatus:
        status = read_status(worker)
        if self.redaction is None:
            return status
        return replace(
            status, redaction_audit=worker.redaction_audit.figures(self.redaction.model, self.redaction.bound)
        )

    async def redaction_audit(self, after: int, count: int, *, judged: bool) -> list[AuditedText]:
        """Return texts that the audit of redaction has drawn, with their originals. Raises StoreDamaged."""
        return await self.calls.run(lambda worker: worker.redaction_audit.page(after, count, judged=judged), alone=True)

    async def judge_redaction(self, prediction_id: str, missed: Sequence[MarkedSpan], wrong: Sequence[int]) -> None:
        """Store a person's judgement of a drawn text; durable when this returns.

        Raises PredictionUnknown, InvalidRequest.
        """
        await self.calls.run(lambda worker: worker.redaction_audit.judge(prediction_id, missed, wrong))

    async def monitoring_report(self, task: str) -> tuple[tuple[BundleSeries, ...], tuple[DailySpend, ...]]:
        """Return the production monitoring of a task's bundles, or of all tasks, and the spend."""
        if not self.is_enabled:
            return (), ()
        return await self.calls.run(
            lambda worker: (worker.monitoring.report(task), worker.monitoring.daily_spend(task)), alone=True
        )


def _has_spool(config: Config) -> bool:
    """Return whether the site ever collected anything, or reports its updates, which it does through the spool."""
    site = config.site
    reports_updates = bool(config.update.root_file and site.id and site.recipients)
    return reports_updates or (config.state_dir / "spool.db").exists()


def _needs_rules(config: Config) -> bool:
    """Return whether texts may leave the site, or the site has rules of its own, which are checked at the start."""
    examples = config.examples
    own_rules = examples.site_rules or examples.presidio_pipeline or examples.phone_regions
    return bool(own_rules or config.escalation.url or config.redaction.task)


STATUS_SECONDS_MAX = 2.0
"""Time limit for the figures of examples; after it the status comes without them."""


@dataclass(frozen=True)
class CaptureStatus:
    """The status of capture for the operator."""

    counters: dict[str, int]
    """Totals since the spool was created."""
    retained: dict[str, int]
    """Examples in the spool, by class."""
    spool_bytes: int
    outbox_bytes: int
    outbox_segments: int
    epoch: str
    problems: tuple[str, ...]
    unsealed_seconds: float = 0.0
    """Age of the oldest answer that waits to be sealed, in seconds of running; 0 = no answer waits."""
    outbox_seconds: float = 0.0
    """Age of the oldest segment that waits for its receipt, by a clock that may be wrong; 0 = none waits."""
    questions: dict[str, int] = field(default_factory=dict)
    """Questions for the large model that wait, by reason."""
    question_seconds: float = 0.0
    """Age of the oldest of them, in seconds of running; 0 = no question waits."""
    review_waiting: dict[str, int] = field(default_factory=dict)
    """Answers that wait for a review, by stream."""
    loss_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of running since examples were lost or evicted the last time; no key = none were."""
    field: tuple[BundleSummary, ...] = ()
    """Production monitoring of each bundle, in short."""
    redaction_audit: AuditFigures | None = None
    """What people found in the audit of redaction; None = no redaction model is configured."""
    stalled_seconds: float = 0.0
    """How long the disk has worked on one write, in seconds; above 0 all other figures are empty."""
    is_off: bool = False
    """Nothing can be stored, because the spool cannot be used."""


def read_status(worker: SpoolWorker) -> CaptureStatus:
    """Read the status of spool and outbox; call it on the thread of the spool."""
    outbox, questions = worker.outbox, worker.questions.queued()
    return CaptureStatus(
        counters=dict(worker.spool.counters),
        retained=worker.spool.count_retained(),
        spool_bytes=worker.spool.used_bytes,
        outbox_bytes=outbox.used_bytes() if outbox else 0,
        outbox_segments=len(outbox.ledger.sealed_segments()) if outbox else 0,
        epoch=worker.spool.incarnation,
        problems=tuple(f"{error.message}. {error.remedy}" for error in worker.problems.values()),
        unsealed_seconds=outbox.ledger.oldest_seconds() if outbox else 0.0,
        outbox_seconds=outbox.oldest_seconds(worker.now()) if outbox else 0.0,
        field=worker.monitoring.summaries(),
        questions=questions.counts,
        question_seconds=questions.oldest_seconds,
        review_waiting=worker.spool.streams.count_waiting(),
        loss_seconds=worker.spool.loss_seconds(),
    )


def stalled_status(config: Config, writer: SpoolWriter) -> CaptureStatus:
    """Return the status without access to the disk, which does not answer."""
    seconds = max(writer.stalled_seconds, STATUS_SECONDS_MAX)
    message = (
        f"There are no figures of examples: the disk of {config.state_dir} has worked on one write for"
        f" {seconds:.0f} s. Waiting in memory: {counted(writer.queued_answers, 'answer')}; lost because the"
        f" queue was full: {writer.dropped_answers}. Check the disk; waiting answers are written when it answers."
    )
    return CaptureStatus({}, {}, 0, 0, 0, "", (message,), stalled_seconds=seconds)


def broken_status(error: EdgeAgentError) -> CaptureStatus:
    """Return the status if the spool cannot be used."""
    message = f"No examples are kept: {error.message}. {error.remedy}"
    return CaptureStatus({}, {}, 0, 0, 0, "", (message,), is_off=True)


Result = TypeVar("Result")
STALLED_SECONDS_MAX = 10.0
"""A stall of this length makes calls that need the disk fail at once."""
WAIT_SECONDS_MAX = 30.0
"""Time limit of one call; sealing everything may take longer."""


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
            SpoolStalled: the disk has stalled for too long, or did not finish within `seconds_max`.
        """
        if not self._enabled:
            raise PredictionUnknown(
                "this site keeps no answers",
                remedy="Set 'collect' under 'examples' in agent.yaml for the tasks that may be collected.",
            )
        if self.is_stalled:
            raise _stall_error(self.writer.stalled_seconds)
        future: asyncio.Future[Result] = asyncio.wrap_future(self.writer.submit(work, alone=alone))
        try:
            async with asyncio.timeout(seconds_max):
                return await future
        except TimeoutError:
            assert seconds_max is not None, "only a limit ends the wait"
            raise _stall_error(seconds_max) from None


class DeferredQuestions:
    """Stored inputs about which the large model is asked later, and its labels for them."""

    def __init__(
        self, config: EscalationConfig, calls: SpoolCalls, text_redaction: TextRedaction, collected: frozenset[str]
    ) -> None:
        """Defer questions about the `collected` tasks, if the site asks a large model at all."""
        self._calls, self._text_redaction, self._collected = calls, text_redaction, collected
        # One of the concurrent calls is reserved for waiting callers, so deferred questions need a second one.
        self._is_configured = bool(config.url and config.later_questions_max and config.calls_max > 1)

    def can_defer(self, task: str) -> bool:
        """Return whether the large model can be asked later about an input of this task."""
        return self._is_configured and self._calls.is_writable and task in self._collected

    @property
    def waiting(self) -> int:
        """Approximate number of questions for the large model that wait."""
        return self._calls.writer.questions_waiting

    async def next(self, tasks: tuple[str, ...]) -> TeacherQuestion | None:
        """Return the next question of these tasks and mark it as asked; None = no question waits. Raises SiteError."""
        return await self._calls.run(lambda worker: worker.next_question(tasks), alone=True)

    async def store_label(
        self,
        question: TeacherQuestion,
        answer: str,
        model: str,
        manifest: Manifest,
        scores: Sequence[tuple[str, float]] = (),
    ) -> None:
        """Store the large model's label, with its probabilities if it gave some; durable when this returns.

        Raises:
            SiteError: the disk failed.
            RedactionHeld: the redaction model does not answer.
        """
        findings = await self._text_redaction.find(manifest.task.name, answer_texts(manifest.task.kind, answer))
        await self._calls.run(
            lambda worker: worker.store_teacher_label(question, answer, model, manifest, findings, scores)
        )

    async def release(self, question: TeacherQuestion, *, again: bool) -> None:
        """Drop a question; with `again`, requeue it, because certainly no large model received it. Raises SiteError."""

        def work(worker: SpoolWorker) -> None:
            (worker.questions.put_back if again else worker.questions.give_up)(question)

        await self._calls.run(work)


class ExampleErasure:
    """Erases answers, and the records of a person, from the spool and from the queue for the redaction model."""

    def __init__(self, calls: SpoolCalls, redaction: RedactionQueue | None) -> None:
        """Erase through `calls`, and from `redaction` if a model redacts."""
        self._calls, self._redaction = calls, redaction

    async def erase_answer(self, prediction_id: str, *, all_questions: bool = False) -> AnswerErasure:
        """Erase a prediction, or all answers to questions about its text; durable when this returns."""
        was_waiting, same_text = self._erase_waiting(prediction_id, all_questions=all_questions)

        def work(worker: SpoolWorker) -> AnswerErasure:
            with worker.spool.transaction():
                erasure = worker.erasure.erase_answer(prediction_id, all_questions=all_questions)
            # Until then, deleted data is still in the database's log.
            worker.spool.shrink()
            return erasure

        erasure = await self._calls.run(work, alone=True, seconds_max=None)
        was_kept = erasure.was_kept or was_waiting
        return replace(erasure, was_kept=was_kept, same_text_ids=(*erasure.same_text_ids, *same_text))

    def _erase_waiting(self, prediction_id: str, *, all_questions: bool) -> tuple[bool, list[str]]:
        """Drop an answer from the redaction model's queue; return whether it was there, and answers with its text."""
        if self._redaction is None:
            return False, []
        waiting = {answer.prediction_id: answer for answer in self._redaction.held}
        target = waiting.pop(prediction_id, None)
        text = (target.manifest.task.name, target.text) if target and target.question else None
        same_text = [name for name, answer in waiting.items() if (answer.manifest.task.name, answer.text) == text]
        erased_ids = {prediction_id, *(same_text if all_questions else ())}
        self._redaction.erase(lambda answer: answer.prediction_id in erased_ids)
        return target is not None, same_text

    async def erase_values(self, values: Sequence[str], *, dry_run: bool) -> PersonErasure:
        """Find the records with some values, and erase them unless `dry_run`; durable when this returns.

        Raises InvalidRequest for values that cannot be searched for.
        """
        # Imported late: only an erasure searches.
        from edge_agent.capture.person_erasure import FoundRecords, ScanPlace, describe  # noqa: PLC0415

        search = await self._calls.run(lambda worker: worker.erasure.search(values), alone=True, seconds_max=None)
        waiting_count = 0
        if self._redaction is not None:
            waiting_count = self._redaction.erase(lambda answer: search.is_in_text(_texts_of(answer)), dry_run=dry_run)
        # After the answers that the model has read until now: their texts have placeholders, which a text search
        # misses.
        by_digest = await self._calls.run(
            lambda worker: search.find_digests(worker.spool), alone=True, seconds_max=None
        )
        by_text: frozenset[str] = frozenset()
        place: ScanPlace | None = ScanPlace()
        while place is not None:
            ids, place = await self._calls.run(functools.partial(_scan, search, place), alone=True, seconds_max=None)
            by_text |= ids
        records = FoundRecords(by_digest, by_text)

        def finish(worker: SpoolWorker) -> PersonErasure:
            if dry_run:
                return describe(worker.spool, records)
            with worker.spool.transaction():
                erasure = worker.erasure.erase_found(records)
            # Until then, deleted data is still in the database's log.
            worker.spool.shrink()
            return erasure

        erasure = await self._calls.run(finish, alone=True, seconds_max=None)
        return erasure.with_waiting(waiting_count, dry_run=dry_run)


def _texts_of(answer: CapturedAnswer) -> str:
    """Return all texts of an answer that waits for the redaction model."""
    return "\n".join((answer.text, answer.local_answer or "", answer.teacher_answer or ""))


def _scan(search: ValueSearch, place: ScanPlace, worker: SpoolWorker) -> tuple[frozenset[str], ScanPlace | None]:
    return search.scan(worker.spool, place)


def _stall_error(seconds: float) -> SpoolStalled:
    return SpoolStalled(
        f"the disk has not finished its work on the examples for {seconds:.0f} s", retry_seconds=5.0, seconds=seconds
    )
