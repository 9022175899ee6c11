"""The daemon's interface to data capture: queue answers, list them for review, store feedback, erase.

It runs on the event loop and owns a `SpoolWriter`, whose thread does the work. `queue_answer` is part of every answer
and only queues. Every other call awaits that thread and returns when the result is on the disk. No call waits for a
stalled disk: `status` reports it at once, and the other calls are refused.

A site that collects nothing loads neither the spool nor the rules of redaction.

Its status has counters, sizes and problems, also while the disk does not answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from edge_agent.capture.capture_values import (
    CapturedAnswer,
    HumanFeedback,
    ReviewCursor,
    ReviewFilter,
    ReviewItem,
    answer_texts,
    parse_review_item,
)
from edge_agent.capture.redaction_queue import RedactionDependencies, RedactionQueue
from edge_agent.capture.spool_calls import DeferredQuestions, ExampleErasure, SpoolCalls
from edge_agent.capture.spool_writer import CaptureLimits, SpoolWriter
from edge_agent.capture.text_redaction import TextRedaction
from edge_agent.config import Config
from edge_agent.errors import EdgeAgentError, SpoolStalled

if TYPE_CHECKING:
    from edge_agent.capture.capture_values import SpoolWorkerDependencies
    from edge_agent.capture.redaction_audit import AuditedText, AuditFigures, MarkedSpan
    from edge_agent.capture.spool_worker import PrivacyReport, SpoolWorker
    from edge_agent.formats.example_records import Consent
    from edge_agent.formats.manifest import Manifest
    from edge_agent.monitoring.answer_observations import BundleSeries, BundleSummary, DailySpend

HOUSEKEEPING_SECONDS = 1.0


class ExampleCapture:
    """Captures the examples of one site."""

    def __init__(
        self,
        config: Config,
        around: SpoolWorkerDependencies,
        worker: type[SpoolWorker] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        reader: RedactionDependencies | None = None,
    ) -> None:
        """Note what the site collects; `start` opens the spool with a `worker`; `monotonic` measures stalls.

        `reader` asks the redaction model that the configuration names, if it names one.

        Raises:
            ConfigInvalid: a rule of the site is invalid.
        """
        self._config = config
        examples = config.examples
        self.collected = frozenset(task for task, consent in examples.collect.items() if consent != "off")
        """The tasks whose answers are captured."""
        self._enabled = bool(self.collected) or _has_spool(config)
        limits = CaptureLimits(
            examples.queue_examples_max,
            examples.queue_bytes_max,
            examples.commit_examples_max,
            examples.commit_seconds,
            examples.input_characters_max,
        )
        self._writer = SpoolWriter(lambda: self._open_worker(worker, around), limits, monotonic)
        self.redaction: RedactionQueue | None = None
        """Answers that wait for the redaction model; None = rules alone redact."""
        if config.redaction.task:
            assert reader is not None, "a configured redaction model is asked through a reader"
            self.redaction = RedactionQueue(reader, config.redaction, examples, self._writer.queue_answer)
        self.text_redaction = TextRedaction(config, reader if config.redaction.task else None, self.redaction)
        """Redacts texts that somebody waits for."""
        if self._enabled or _redacts(config):
            _ = self.text_redaction.rules
        self.calls = SpoolCalls(self._writer, is_enabled=self._enabled)
        self.questions = DeferredQuestions(config.escalation, self.calls, self.text_redaction, self.collected)
        self.erasure = ExampleErasure(self.calls, self.redaction)

    def _open_worker(self, worker: type[SpoolWorker] | None, around: SpoolWorkerDependencies) -> SpoolWorker:
        # Only a site that collects loads the spool.
        from edge_agent.capture.spool_worker import SpoolWorker  # noqa: PLC0415

        return (worker or SpoolWorker)(self._config, self.text_redaction.rules, around)

    def start(self) -> None:
        """Open the spool and begin to write; a site that never collected anything gets no spool."""
        if self._enabled:
            self._writer.start()

    def stop(self) -> bool:
        """Write what waits and close; return whether the disk finished in time."""
        return self._writer.stop() if self._enabled else True

    @property
    def is_enabled(self) -> bool:
        """Whether this site collects examples, or ever did."""
        return self._enabled

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Run the housekeeping periodically, until cancelled."""
        while True:
            await asyncio.wrap_future(self._writer.run_housekeeping())
            await sleep(HOUSEKEEPING_SECONDS)

    def consent(self, task: str) -> Consent:
        """Return what the site allows for a task."""
        return self._config.examples.collect.get(task, "off")

    async def finish_redaction(self) -> None:
        """At the end, before `stop`: let the redaction model read what waits, for a few seconds."""
        if self.redaction is not None:
            await self.redaction.finish()

    def queue_answer(self, answered: CapturedAnswer) -> None:
        """Queue an answer of a collected task. Never waits, never fails."""
        (self.redaction.put if self.redaction is not None else self._writer.queue_answer)(answered)

    def add_charge(self, task: str, micros: int) -> None:
        """Count a paid question about a task. Never waits, never fails."""
        if self._enabled:
            self._writer.charges.add(task, micros)

    async def find_prediction(self, prediction_id: str) -> ReviewItem:
        """Return a kept prediction. Raises PredictionUnknown, StoreDamaged."""
        return parse_review_item(await self.calls.run(lambda worker: worker.spool.find_prediction(prediction_id)))

    async def review_page(self, wanted: ReviewFilter, after: ReviewCursor, count: int) -> list[ReviewItem]:
        """Return kept predictions after a cursor, the streams in turns. Raises StoreDamaged."""
        rows = await self.calls.run(lambda worker: worker.review_page(wanted, after, count))
        return [parse_review_item(found, place) for place, found in rows]

    async def store_feedback(self, said: HumanFeedback, prediction: dict[str, Any], manifest: Manifest | None) -> None:
        """Store feedback; durable when this returns. Raises PredictionUnknown, InvalidRequest, RedactionHeld."""
        texts = [said.reason, *answer_texts(prediction["kind"], said.value)]
        findings = await self.text_redaction.find(prediction["task"], texts)

        def work(worker: SpoolWorker) -> None:
            worker.store_feedback(said, prediction, manifest, findings)

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
        if not self._enabled:
            return None
        if self._writer.problem:
            return broken_status(self._writer.problem)
        if self._writer.stalled_seconds >= STATUS_SECONDS_MAX:
            return stalled_status(self._config, self._writer)
        try:
            # Outside the writer's transaction: a status poll each second must not cause a write each second.
            look = self.calls.run(self._look, alone=True, seconds_max=STATUS_SECONDS_MAX)
            return await look
        except SpoolStalled:
            return stalled_status(self._config, self._writer)
        except EdgeAgentError as error:
            return broken_status(error)

    def _look(self, worker: SpoolWorker) -> CaptureStatus:
        status = read_status(worker, self._config)
        if self.redaction is None:
            return status
        return replace(
            status, redaction_audit=worker.redaction_audit.figures(self.redaction.model, self.redaction.bound)
        )

    async def redaction_audit(self, after: int, count: int, *, judged: bool) -> list[AuditedText]:
        """Return texts that the audit of redaction has drawn, with their originals. Raises StoreDamaged."""
        return await self.calls.run(lambda worker: worker.redaction_audit.page(after, count, judged=judged), alone=True)

    async def judge_redaction(self, prediction_id: str, missed: Sequence[MarkedSpan], wrong: Sequence[int]) -> None:
        """Store what a person found in a drawn text; durable when this returns.

        Raises PredictionUnknown, InvalidRequest.
        """
        await self.calls.run(lambda worker: worker.redaction_audit.judge(prediction_id, missed, wrong))

    async def monitoring_report(self, task: str = "") -> tuple[tuple[BundleSeries, ...], tuple[DailySpend, ...]]:
        """Return the production monitoring of a task's bundles, or of all tasks, and what was spent."""
        if not self._enabled:
            return (), ()
        return await self.calls.run(
            lambda worker: (worker.monitoring.report(task), worker.monitoring.daily_spend(task)), alone=True
        )


def _has_spool(config: Config) -> bool:
    """Return whether the site ever collected anything, or reports its updates, which it does through the spool."""
    site = config.site
    reports = bool(config.update.root_file and site.id and site.recipients)
    return reports or (config.state_dir / "spool.db").exists()


def _redacts(config: Config) -> bool:
    """Return whether texts may leave the site, or it adds to the built-in rules, which is checked at the start."""
    examples = config.examples
    own = examples.site_rules or examples.presidio_pipeline or examples.phone_regions
    return bool(own or config.escalation.url or config.redaction.task)


STATUS_SECONDS_MAX = 2.0
"""For the figures of examples; status goes without them then."""


@dataclass(frozen=True)
class CaptureStatus:
    """What an operator sees."""

    counters: dict[str, int]
    """Totals since the spool was created."""
    retained: dict[str, int]
    """Examples in the spool, by class."""
    spool_bytes: int
    outbox_bytes: int
    outbox_segments: int
    epoch: str
    outbox_dir: str
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
    """How long the disk has worked on one write, in seconds; 0 = it keeps up. Else all other figures are empty."""
    is_off: bool = False
    """Nothing can be kept: the spool cannot be used."""


def read_status(worker: SpoolWorker, config: Config) -> CaptureStatus:
    """Look at the spool and the outbox; call it on the thread of the spool."""
    outbox, waits = worker.outbox, worker.questions.queued()
    return CaptureStatus(
        counters=dict(worker.spool.counters),
        retained=worker.spool.count_retained(),
        spool_bytes=worker.spool.used_bytes,
        outbox_bytes=outbox.used_bytes() if outbox else 0,
        outbox_segments=len(outbox.ledger.sealed_segments()) if outbox else 0,
        epoch=worker.spool.incarnation,
        outbox_dir=str(config.outbox.absolute()) if outbox else "",
        problems=tuple(f"{error.message}. {error.remedy}" for error in worker.problems.values()),
        unsealed_seconds=outbox.ledger.oldest_seconds() if outbox else 0.0,
        outbox_seconds=outbox.oldest_seconds(worker.now()) if outbox else 0.0,
        field=worker.monitoring.summaries(),
        questions=waits.counts,
        question_seconds=waits.oldest_seconds,
        review_waiting=worker.spool.streams.count_waiting(),
        loss_seconds=worker.spool.loss_seconds(),
    )


def stalled_status(config: Config, writer: SpoolWriter) -> CaptureStatus:
    """Return the status without a look at the disk, which does not answer."""
    seconds = max(writer.stalled_seconds, STATUS_SECONDS_MAX)
    said = (
        f"There are no figures of examples: the disk of {config.state_dir} has worked on one write for"
        f" {seconds:.0f} s. {writer.queued_answers} answers wait in memory,"
        f" {writer.dropped_answers} did not fit there and are lost."
        " Check the disk; what waits is written when it answers."
    )
    return CaptureStatus({}, {}, 0, 0, 0, "", "", (said,), stalled_seconds=seconds)


def broken_status(error: EdgeAgentError) -> CaptureStatus:
    """Return the status where the spool cannot be used."""
    said = f"No examples are kept: {error.message}. {error.remedy}"
    return CaptureStatus({}, {}, 0, 0, 0, "", "", (said,), is_off=True)
