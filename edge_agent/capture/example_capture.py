"""The examples of one site, for the rest of the daemon: keep answers, look at them, judge them, forget them.

`keep` is called on the way of every answer and only queues. Everything else is a future of the writer's thread, done
when it is on the disk. Nobody waits for a disk that stands: status says so at once, and all others are refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edge_agent.capture.record_builder import CapturedAnswer, HumanFeedback
from edge_agent.capture.redact.redactor import RedactionSession
from edge_agent.capture.review_streams import ReviewCursor, ReviewFilter
from edge_agent.capture.spool import SpooledPrediction
from edge_agent.capture.spool_worker import SpoolWorker, SpoolWorkerDependencies, build_redactor
from edge_agent.capture.spool_writer import CaptureLimits, SpoolWriter
from edge_agent.capture.teacher_questions import TeacherQuestion
from edge_agent.config import Config
from edge_agent.errors import EdgeAgentError, PredictionUnknown, RecordInvalid, SpoolStalled, StoreDamaged
from edge_agent.formats.example_records import Consent, ReviewStream, parse_stored
from edge_agent.formats.manifest import Manifest
from edge_agent.monitoring.bundle_figures import BundleSeries, BundleSummary, DailySpend

Result = TypeVar("Result")
HOUSEKEEPING_SECONDS = 1.0
STATUS_SECONDS_MAX = 2.0
"""For the figures of examples; status goes without them then."""
STALLED_SECONDS_MAX = 10.0
"""After which a call that needs the disk is refused at once."""
WAIT_SECONDS_MAX = 30.0
"""For one call; sealing everything may take longer."""
QUEUE_START = ReviewCursor()
"""Before the first place of the review queue."""


@dataclass(frozen=True)
class ReviewItem:
    """A kept prediction: its record, and the records of the feedback on it."""

    record: dict[str, Any]
    reviewed: bool
    feedback: tuple[dict[str, Any], ...] = ()
    place: ReviewCursor = QUEUE_START
    """In the review queue."""
    stream: ReviewStream = "uncertain"
    probability: float | None = None
    """With which the audit drew it; None = it did not."""


@dataclass(frozen=True)
class CaptureStatus:
    """What an operator sees."""

    counters: dict[str, int]
    """Totals since the spool was made."""
    retained: dict[str, int]
    """Examples that are here, by class."""
    spool_bytes: int
    outbox_bytes: int
    outbox_segments: int
    epoch: str
    outbox_dir: str
    problems: tuple[str, ...]
    unsealed_seconds: float = 0.0
    """Age of the oldest answer that waits to be sealed, in seconds of running; 0 = none waits."""
    outbox_seconds: float = 0.0
    """Age of the oldest segment that waits for its receipt, by a clock that may be wrong; 0 = none waits."""
    questions: dict[str, int] = field(default_factory=dict)
    """Questions for the large model that wait, by why."""
    question_seconds: float = 0.0
    """Age of the oldest of them, in seconds of running; 0 = none waits."""
    review_waiting: dict[str, int] = field(default_factory=dict)
    """Answers that wait for a review, by stream."""
    field: tuple[BundleSummary, ...] = ()
    """How bundles do in the field, in short."""
    stalled_seconds: float = 0.0
    """How long the disk has not finished the work at hand; then there are no figures, and this is not 0."""


class ExampleCapture:
    """See the module."""

    def __init__(
        self,
        config: Config,
        around: SpoolWorkerDependencies,
        house: type[SpoolWorker] = SpoolWorker,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Compile the rules; `start` opens the spool as a `house`; `monotonic` tells how long the disk stands.

        Raises:
            ConfigInvalid: a rule of the site is none.
        """
        self._config = config
        examples = config.examples
        self._enabled = any(consent != "off" for consent in examples.collect.values())
        redactor = self._redactor = build_redactor(config)
        limits = CaptureLimits(
            examples.queue_examples_max,
            examples.queue_bytes_max,
            examples.commit_examples_max,
            examples.commit_seconds,
            examples.input_characters_max,
        )
        self._enabled = self._enabled or (config.state_dir / "spool.db").exists()
        # A site that is updated says how that went, whether it collects anything or not.
        site = config.site
        self._enabled = self._enabled or bool(config.update.root_file and site.id and site.recipients)
        self._writer = SpoolWriter(lambda: house(config, redactor, around), limits, monotonic)
        # One place is always left to callers, so one alone is none for what nobody waits for.
        escalation = config.escalation
        self._later = bool(escalation.url and escalation.later_questions_max and escalation.calls_max > 1)

    def start(self) -> None:
        """Open the spool and begin to write; a site that collects nothing, and never did, gets none."""
        if self._enabled:
            self._writer.start()

    def stop(self) -> bool:
        """Write what waits, and close; tell whether the disk took it in time."""
        return self._writer.stop() if self._enabled else True

    @property
    def enabled(self) -> bool:
        """Whether anything is kept here, or ever was."""
        return self._enabled

    @property
    def writes(self) -> bool:
        """Whether feedback can be acknowledged now, as far as is known."""
        return self._enabled and self._writer.problem is None and not self.stalled

    @property
    def stalled(self) -> bool:
        """Whether the disk has stood for so long that calls which need it are refused."""
        return self._writer.stalled_seconds >= STALLED_SECONDS_MAX

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Keep house again and again, until cancelled."""
        while True:
            await asyncio.wrap_future(self._writer.housekeeping())
            await sleep(HOUSEKEEPING_SECONDS)

    def consent(self, task: str) -> Consent:
        """Return what the site allows for a task."""
        return self._config.examples.collect.get(task, "off")

    def defers(self, task: str) -> bool:
        """Tell whether an input of a task can be kept, so that the large model is asked about it later."""
        return self._later and self.writes and self.consent(task) != "off"

    @property
    def questions_waiting(self) -> int:
        """Questions for the large model that wait, about."""
        return self._writer.questions_waiting

    async def next_question(self, tasks: tuple[str, ...]) -> TeacherQuestion | None:
        """Take a question of one of these tasks, marked on the disk as asked; None = none waits. Raises SiteError."""
        return await self._do(lambda house: house.next_question(tasks), alone=True)

    async def opine(self, asked: TeacherQuestion, said: str, model: str, manifest: Manifest) -> None:
        """Keep what the large model said to a question; durable when this returns. Raises SiteError."""
        await self._do(lambda house: house.opine(asked, said, model, manifest))

    async def unanswered(self, asked: TeacherQuestion, *, again: bool) -> None:
        """Give a question up, or let it wait `again` where it is certain that nobody worked on it. Raises SiteError."""

        def work(house: SpoolWorker) -> None:
            (house.questions.put_back if again else house.questions.give_up)(asked)

        await self._do(work)

    def redaction(self) -> RedactionSession:
        """Begin with the texts of one input that leaves now: the same rules as for what is kept."""
        return self._redactor.start()

    def keep(self, answered: CapturedAnswer) -> None:
        """Keep an answer of a task that is collected. Never waits, and never fails."""
        self._writer.keep(answered)

    def paid(self, task: str, micros: int) -> None:
        """Count a question about a task, and its price. Never waits, and never fails."""
        if self._enabled:
            self._writer.bills.add(task, micros)

    async def find(self, prediction_id: str) -> ReviewItem:
        """Return a kept prediction. Raises PredictionUnknown, StoreDamaged."""
        return parse_review_item(await self._do(lambda house: house.spool.find(prediction_id)))

    async def review(self, wanted: ReviewFilter, after: ReviewCursor, count: int) -> list[ReviewItem]:
        """Return kept predictions, the streams in turns, behind a place. Raises StoreDamaged."""
        rows = await self._do(lambda house: house.spool.review(wanted, after, count))
        return [parse_review_item(found, place) for place, found in rows]

    async def judge(self, said: HumanFeedback, prediction: dict[str, Any], manifest: Manifest | None) -> None:
        """Keep feedback; durable when this returns. Raises PredictionUnknown, InvalidRequest."""

        def work(house: SpoolWorker) -> None:
            house.judge(said, prediction, manifest)

        await self._do(work)

    async def erase(self, prediction_id: str) -> tuple[bool, bool]:
        """Forget a prediction; return whether it was here, and whether the centre is told to forget it."""

        def work(house: SpoolWorker) -> tuple[bool, bool]:
            with house.spool.transaction():
                done = house.erase(prediction_id)
            # What was deleted is still in the database's log until then.
            house.spool.shrink()
            return done

        return await self._do(work, alone=True, seconds_max=None)

    async def seal(self) -> int:
        """Seal everything that waits now; return how many segments were made. Raises SiteError."""
        return await self._do(SpoolWorker.seal_all, alone=True, seconds_max=None)

    async def read_receipts(self) -> int:
        """Take receipts over now; return how many segments were deleted. Raises ExchangeError."""
        return await self._do(SpoolWorker.read_receipts, alone=True, seconds_max=None)

    async def status(self) -> CaptureStatus | None:
        """Return counters and sizes, or soon why there are none; None where nothing is collected."""
        if not self._enabled:
            return None
        if self._writer.problem:
            return _broken(self._writer.problem)
        if self._writer.stalled_seconds >= STATUS_SECONDS_MAX:
            return self._stalled()
        try:
            # Outside the writer's transaction: who looks once a second must not write once a second.
            look = self._do(lambda house: _status(house, self._config), alone=True, seconds_max=STATUS_SECONDS_MAX)
            return await look
        except SpoolStalled:
            return self._stalled()
        except EdgeAgentError as error:
            return _broken(error)

    def _stalled(self) -> CaptureStatus:
        """Say what is known without the disk."""
        writer, seconds = self._writer, max(self._writer.stalled_seconds, STATUS_SECONDS_MAX)
        said = (
            f"There are no figures of examples: the disk of {self._config.state_dir} has worked on one write for"
            f" {seconds:.0f} s. {writer.waiting} answers wait in memory, {writer.dropped} did not fit there and are"
            " lost. Check the disk; what waits is written when it answers."
        )
        return CaptureStatus({}, {}, 0, 0, 0, "", "", (said,), stalled_seconds=seconds)

    async def field(self, task: str = "") -> tuple[tuple[BundleSeries, ...], tuple[DailySpend, ...]]:
        """Return how the bundles of a task, or of all, do in the field, and what was spent; nothing without a spool."""
        if not self._enabled:
            return (), ()
        return await self._do(lambda house: (house.book.report(task), house.book.money(task)), alone=True)

    async def _do(
        self,
        work: Callable[[SpoolWorker], Result],
        *,
        alone: bool = False,
        seconds_max: float | None = WAIT_SECONDS_MAX,
    ) -> Result:
        if not self._enabled:
            raise PredictionUnknown(
                "this site keeps no answers",
                remedy="Set 'collect' under 'examples' in agent.yaml for the tasks that may be collected.",
            )
        if self.stalled:
            raise _waited(self._writer.stalled_seconds)
        doing: asyncio.Future[Result] = asyncio.wrap_future(self._writer.submit(work, alone=alone))
        try:
            async with asyncio.timeout(seconds_max):
                return await doing
        except TimeoutError:
            assert seconds_max is not None, "only a limit ends the wait"
            raise _waited(seconds_max) from None


def parse_review_item(found: SpooledPrediction, place: ReviewCursor = QUEUE_START) -> ReviewItem:
    """Read what the spool keeps of a prediction. Raises StoreDamaged."""
    try:
        said = tuple(map(parse_stored, found.feedback))
        return ReviewItem(parse_stored(found.record), found.reviewed, said, place, found.stream, found.probability)
    except RecordInvalid:
        remedy = "Check the disk; the answers that are not damaged can be asked for by their prediction_id."
        raise StoreDamaged("an answer in spool.db is damaged", remedy=remedy) from None


def _waited(seconds: float) -> SpoolStalled:
    return SpoolStalled(
        f"the disk has not finished its work on the examples for {seconds:.0f} s", retry_seconds=5.0, seconds=seconds
    )


def _status(house: SpoolWorker, config: Config) -> CaptureStatus:
    outbox, waits = house.outbox, house.questions.waits()
    return CaptureStatus(
        counters=dict(house.spool.counters),
        retained=house.spool.retained(),
        spool_bytes=house.spool.used_bytes,
        outbox_bytes=outbox.used_bytes() if outbox else 0,
        outbox_segments=len(outbox.ledger.sealed()) if outbox else 0,
        epoch=house.spool.epoch,
        outbox_dir=str(config.outbox.absolute()) if outbox else "",
        problems=tuple(f"{error.message}. {error.remedy}" for error in house.problems.values()),
        unsealed_seconds=outbox.ledger.oldest_seconds() if outbox else 0.0,
        outbox_seconds=outbox.oldest_seconds(house.now()) if outbox else 0.0,
        field=house.book.headlines(),
        questions=waits.counts,
        question_seconds=waits.oldest_seconds,
        review_waiting=house.spool.streams.waiting(),
    )


def _broken(error: EdgeAgentError) -> CaptureStatus:
    said = f"No examples are kept: {error.message}. {error.remedy}"
    return CaptureStatus({}, {}, 0, 0, 0, "", "", (said,))
