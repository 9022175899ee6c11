"""Takes questions for the large model, enforces the caps, and knows at any time whether a question can be asked.

A question must pass three conditions, whose state watchers are told in advance: the large model is online, fewer than
`calls_max` questions are under way, and both caps have room for the most expensive answer. Otherwise it is refused at
once. While the large model is offline, only `run` probes it.

A background question leaves one slot and a share of the caps to questions with a waiting caller.

Prices are reserved on the disk by a separate thread: a slow disk delays only the questions whose price it writes, not
answers under way or the status for watchers. The default executor of the loop is not used, because a hanging name
lookup there would block the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import structlog

from edge_agent.config import EscalationConfig
from edge_agent.errors import EdgeAgentError, UpstreamBusy, UpstreamFailed, UpstreamUnreachable
from edge_agent.uplink import connectivity
from edge_agent.uplink.connectivity import Backoff, RetryThrottle
from edge_agent.uplink.escalation.decision_protocols import TypedAnswer
from edge_agent.uplink.escalation.large_model_client import (
    AnswerEnd,
    AnswerEvent,
    ConnectionLost,
    EscalationQuestion,
    LargeModelBusy,
    LargeModelClient,
    QuestionRefused,
)
from edge_agent.uplink.escalation.spend_ledger import NO_ROOM, CostReservation, SpendLedger

log = structlog.get_logger("edge_agent.uplink")

SAMPLES_MAX, SAMPLE_AGE_SECONDS_MAX = 64, 300.0
"""Answers, and their maximum age, for the usual time: after that, a server that was slow is tried again."""
USUAL_TOKENS = (1000, 200)
"""Input and output tokens of a usual question without thinking, to tell whether the caps have room for one more."""
TICK_SECONDS = 1.0
CUT_OFF_FACTOR = 2.0
"""An answer that was cut off counts with this multiple of the time it was waited for."""
DEADLINE_SLACK_SECONDS = 0.05
_ANSWER_LATE = "the large model took longer than the time limit"
_DISK_SLOW = "the disk took longer than the time limit to reserve the price"
SOFT_FAILURES_MAX = 3
"""Incomplete answers in a row after which the large model counts as offline; a failed connection counts at once."""


@dataclass(frozen=True)
class PricedAnswer:
    """The end of an answer, and its price in millionths of the currency."""

    end: AnswerEnd
    cost_micros: int


PricedEvent = str | tuple[TypedAnswer, ...] | PricedAnswer
"""A piece of text, or the answers to typed questions; finally the end with its price."""


@dataclass(frozen=True)
class TeacherStatus:
    """The status that watchers get."""

    online: bool
    affordable: bool
    """Both caps have room for one more question, not counting reservations."""
    free: bool
    """One more question is accepted now: there is a slot, and room in the caps, counting reservations."""
    spare: bool
    """One more background question is accepted now."""
    usual_ms: float
    problem: EdgeAgentError | None


@dataclass
class _PendingQuestion:
    """One question under way."""

    question: EscalationQuestion
    start: float
    seconds: float
    """Time limit of the answer."""
    cost: int
    """Its price as known so far, in millionths of the currency."""

    def seconds_left(self) -> float:
        """Return the rest of the time limit."""
        return self.start + self.seconds - time.monotonic()


class EscalationBroker:
    """The broker of the module docstring. One event loop owns it."""

    def __init__(self, config: EscalationConfig, model: LargeModelClient, ledger: SpendLedger) -> None:
        """Begin; whether the large model is online is unknown until `run` has probed it."""
        self._config, self._model, self.ledger = config, model, ledger
        self._usual_tokens = USUAL_TOKENS[0], USUAL_TOKENS[1] + config.thinking_tokens_max
        self._ledger_thread = ThreadPoolExecutor(1, thread_name_prefix="spend-ledger")
        self._hard_backoff = Backoff(config.retry_seconds_first, config.retry_seconds_max, failures_max=1)
        self._soft_backoff = Backoff(config.retry_seconds_first, config.retry_seconds_max, SOFT_FAILURES_MAX)
        self._link = connectivity.initial_connectivity(time.monotonic())
        self._problem: EdgeAgentError | None = None
        self._under_way = 0
        self._throttle = RetryThrottle()
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)
        self._watchers: set[asyncio.Event] = set()

    def status(self) -> TeacherStatus:
        """Return the current status."""
        oldest = time.monotonic() - SAMPLE_AGE_SECONDS_MAX
        durations = [duration for at, duration in self._samples if at > oldest]
        is_busy = isinstance(self._problem, LargeModelBusy)  # online, but it takes no questions for a while
        return TeacherStatus(
            online=is_busy or self._online,
            affordable=self.ledger.affords_once_settled(*self._usual_tokens),
            free=not is_busy and self._has_slot and self.ledger.affords(*self._usual_tokens),
            spare=self._has_spare_slot(self._usual_tokens),
            usual_ms=1000 * statistics.median(durations) if durations else 0.0,
            problem=self._problem,
        )

    @contextlib.contextmanager
    def watching(self) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever the status may have changed."""
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            yield changed
        finally:
            self._watchers.discard(changed)

    async def run(self) -> None:
        """Probe the large model whenever its pause is over, until cancelled."""
        while True:
            self._link = connectivity.after_time_passed(self._link, time.monotonic())
            if self._link.state == "probing":
                try:
                    await self._model.check_reachable()
                except EdgeAgentError as error:
                    self._record_failure(error, self._hard_backoff)
                else:
                    self._record_contact()
            self._notify_watchers()  # a new day has new caps
            pause = self._link.retry_at - time.monotonic() if self._link.state == "offline" else TICK_SECONDS
            await asyncio.sleep(min(max(pause, 0.0), TICK_SECONDS))

    async def ask(self, question: EscalationQuestion, seconds: float) -> AsyncGenerator[PricedEvent, None]:
        """Ask, with a time limit; yield the pieces of the answer and its end.

        Raises:
            UpstreamBusy, UpstreamUnreachable, UpstreamFailed, UpstreamRefused, UpstreamMissing: the question was not
                asked, or its answer is incomplete.
            DiskFull, ExchangeDirUnusable: the price could not be reserved, so the question was not asked.
        """
        self._admit(question)
        share = self._config.later_cost_share if question.background else 1.0
        size = question.input_tokens_max, question.output_tokens_max
        pending = _PendingQuestion(question, time.monotonic(), min(seconds, self._config.seconds_max), cost=0)
        self._under_way += 1
        self._notify_watchers()
        future = self._ledger_thread.submit(self.ledger.reserve, *size, share)
        try:
            reservation = await asyncio.shield(asyncio.wrap_future(future))
            if pending.seconds_left() <= 0:
                raise UpstreamBusy(_DISK_SLOW)
            self._require_reachable()  # again, because the disk may have been slow
            pending.cost = reservation.micros
            async with contextlib.aclosing(self._answer(pending)) as events:
                async for event in events:
                    yield event
        finally:
            self._under_way -= 1
            self._notify_watchers()
            # A cancelled caller does not wait; the price is settled all the same.
            await asyncio.shield(asyncio.wrap_future(self._ledger_thread.submit(self._settle, future, pending.cost)))
            self._notify_watchers()

    def _settle(self, future: Future[CostReservation], micros: int) -> None:
        """Replace the reservation by the price, if there is one; runs in the ledger's thread."""
        with contextlib.suppress(EdgeAgentError):  # the reservation then counts as spent
            self.ledger.settle(future.result(), micros)

    @property
    def _online(self) -> bool:
        return self._link.state == "online"

    @property
    def _has_slot(self) -> bool:
        return self._under_way < self._config.calls_max

    def _has_spare_slot(self, tokens: tuple[int, int]) -> bool:
        """Return whether one more question with these tokens leaves a slot and enough of the caps."""
        has_slot = self._online and self._under_way + 1 < self._config.calls_max
        return has_slot and self.ledger.affords(*tokens, self._config.later_cost_share)

    def _admit(self, question: EscalationQuestion) -> None:
        if question.background and not self._has_spare_slot((question.input_tokens_max, question.output_tokens_max)):
            raise UpstreamBusy("the remaining room is reserved for callers who wait for an answer")
        self._require_reachable()
        if not self._has_slot:
            raise UpstreamBusy(f"{self._under_way} questions are under way; the limit is {self._config.calls_max}")
        if not self.ledger.affords(question.input_tokens_max, question.output_tokens_max):
            raise UpstreamBusy(NO_ROOM)

    def _require_reachable(self) -> None:
        """Raise the problem that prevents all questions, if there is one."""
        if isinstance(self._problem, LargeModelBusy):
            raise self._problem
        if not self._online:
            raise self._problem or UpstreamUnreachable("the large model was not reached yet")

    async def _answer(self, pending: _PendingQuestion) -> AsyncGenerator[PricedEvent, None]:
        cut_off = True
        try:
            async with contextlib.aclosing(self._answer_with_retry(pending)) as events:
                # A time limit for each read: one around the loop would also cancel the consumer between reads.
                while event := await asyncio.wait_for(anext(events, None), pending.seconds_left()):
                    cut_off = not isinstance(event, PricedAnswer)
                    yield event
        except TimeoutError:
            raise UpstreamUnreachable(_ANSWER_LATE) from None
        except LargeModelBusy as error:
            pending.cost, cut_off = 0, False
            self._record_failure(error, self._hard_backoff, connectivity.retry_pause_seconds(error.retry_after, 0.0))
            raise
        except QuestionRefused as error:
            pending.cost, cut_off = 0, False
            if self._online:  # it stays online for other questions; the problem is shown until the next answer
                self._problem = error
            log.warning("large_model_refused", reason=error.reason, message=error.message)
            self._notify_watchers()
            raise
        except UpstreamFailed as error:
            cut_off = False
            self._record_failure(error, self._soft_backoff)
            raise
        except EdgeAgentError as error:
            cut_off = False
            if not isinstance(error, ConnectionLost):  # no answer can have been charged
                pending.cost = 0
            self._record_failure(error, self._hard_backoff)
            raise
        finally:
            if cut_off:  # a failure says nothing about the time of an answer
                self._record_cut_off(pending)

    def _record_cut_off(self, pending: _PendingQuestion) -> None:
        """Count an answer that was cut off as taking longer than the time it was waited for.

        Otherwise callers with the same time limit would keep asking in vain.
        """
        now = time.monotonic()
        seconds = CUT_OFF_FACTOR * (now - pending.start)
        self._samples.append((now, max(seconds, self.status().usual_ms / 1000)))
        if pending.seconds_left() < DEADLINE_SLACK_SECONDS:  # by the clock here, or the caller's deadline just before
            self._record_failure(UpstreamUnreachable(_ANSWER_LATE), self._soft_backoff)

    async def _answer_with_retry(self, pending: _PendingQuestion) -> AsyncGenerator[PricedEvent, None]:
        """Ask, and retry once if the server was busy, the throttle allows it, and the pause ends in time.

        No other question is asked during the pause, which the server requested from everybody.
        """
        try:
            async with self._model.answering(pending.question) as events:
                async for event in self._price_events(pending, events):
                    yield event
                return
        except LargeModelBusy as error:
            pause = connectivity.retry_pause_seconds(error.retry_after, random.random())  # noqa: S311 - no secret
            if not self._throttle.can_retry() or pause + self.status().usual_ms / 1000 >= pending.seconds_left():
                raise
            self._throttle = self._throttle.after_retry()
            self._record_failure(error, self._hard_backoff, pause)
            await asyncio.sleep(pause)
        async with self._model.answering(pending.question) as events:
            async for event in self._price_events(pending, events):
                yield event

    async def _price_events(
        self, pending: _PendingQuestion, events: AsyncIterator[AnswerEvent]
    ) -> AsyncIterator[PricedEvent]:
        async for event in events:
            if isinstance(event, AnswerEnd):
                pending.cost = self.ledger.prices.of(event.input_tokens, event.output_tokens)
                now = time.monotonic()
                self._samples.append((now, now - pending.start))
                self._throttle = self._throttle.after_success()
                self._record_contact()
                yield PricedAnswer(event, pending.cost)
            else:
                yield event

    def _record_contact(self) -> None:
        if self._link.state != "online":
            log.info("large_model_online", url=self._config.url, model=self._config.model)
        self._link, self._problem = connectivity.after_success(self._link, time.monotonic()), None
        self._notify_watchers()

    def _record_failure(self, error: EdgeAgentError, backoff: Backoff, pause: float = 0.0) -> None:
        now = time.monotonic()
        link = connectivity.after_failure(self._link, now, backoff, random.random())  # noqa: S311 - no secret
        self._link = replace(link, retry_at=max(link.retry_at, now + pause))
        self._problem = error
        log.warning("large_model_failed", reason=error.reason, message=error.message, state=link.state)
        self._notify_watchers()

    def _notify_watchers(self) -> None:
        for changed in self._watchers:
            changed.set()
