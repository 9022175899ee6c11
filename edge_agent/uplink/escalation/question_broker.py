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

REMEMBERED, REMEMBERED_SECONDS = 64, 300.0
"""Answers, and their maximum age, for the usual time: after that, a server that was slow is tried again."""
USUAL_TOKENS = (1000, 200)
"""Input and output tokens of a usual question without thinking, to tell whether the caps have room for one more."""
TICK_SECONDS = 1.0
CUT_OFF_FACTOR = 2.0
"""An answer that was cut off counts with this multiple of the time it was waited for."""
OVER_SECONDS = 0.05
_LATE = "the large model took longer than the time limit"
_SLOW = "the disk took longer than the time limit to reserve the price"
SOFT_FAILURES_MAX = 3
"""Incomplete answers in a row after which the large model counts as offline; a failed connection counts at once."""


@dataclass(frozen=True)
class PricedAnswer:
    """The end of an answer, and its price in millionths of the currency."""

    ended: AnswerEnd
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

    asked: EscalationQuestion
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
        self._books = ThreadPoolExecutor(1, thread_name_prefix="spend-ledger")
        self._hard = Backoff(config.retry_seconds_first, config.retry_seconds_max, failures_max=1)
        self._soft = Backoff(config.retry_seconds_first, config.retry_seconds_max, SOFT_FAILURES_MAX)
        self._link = connectivity.initial_connectivity(time.monotonic())
        self._problem: EdgeAgentError | None = None
        self._under_way = 0
        self._throttle = RetryThrottle()
        self._took: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self._watchers: set[asyncio.Event] = set()

    def standing(self) -> TeacherStatus:
        """Return the current status."""
        since = time.monotonic() - REMEMBERED_SECONDS
        seconds = [took for at, took in self._took if at > since]
        patience = isinstance(self._problem, LargeModelBusy)  # online, but it takes no questions for a while
        return TeacherStatus(
            online=patience or self._online,
            affordable=self.ledger.affords_once_settled(*self._usual_tokens),
            free=not patience and self._has_place and self.ledger.affords(*self._usual_tokens),
            spare=self._spare(self._usual_tokens),
            usual_ms=1000 * statistics.median(seconds) if seconds else 0.0,
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
                await self._probe()
            self._tell()  # a new day has new caps
            left = self._link.retry_at - time.monotonic() if self._link.state == "offline" else TICK_SECONDS
            await asyncio.sleep(min(max(left, 0.0), TICK_SECONDS))

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
        under_way = _PendingQuestion(question, time.monotonic(), min(seconds, self._config.seconds_max), cost=0)
        self._under_way += 1
        self._tell()
        reserving = self._books.submit(self.ledger.reserve, *size, share)
        try:
            reserved = await asyncio.shield(asyncio.wrap_future(reserving))
            if under_way.seconds_left() <= 0:
                raise UpstreamBusy(_SLOW)
            self._reach()  # again, because the disk may have been slow
            under_way.cost = reserved.micros
            async with contextlib.aclosing(self._answer(under_way)) as events:
                async for event in events:
                    yield event
        finally:
            self._under_way -= 1
            self._tell()
            # A cancelled caller does not wait; the price is settled all the same.
            await asyncio.shield(asyncio.wrap_future(self._books.submit(self._settle, reserving, under_way.cost)))
            self._tell()

    def _settle(self, reserving: Future[CostReservation], micros: int) -> None:
        """Replace the reservation by the price, if there is one; runs in the ledger's thread."""
        with contextlib.suppress(EdgeAgentError):  # the reservation then counts as spent
            self.ledger.settle(reserving.result(), micros)

    @property
    def _online(self) -> bool:
        return self._link.state == "online"

    @property
    def _has_place(self) -> bool:
        return self._under_way < self._config.calls_max

    def _spare(self, tokens: tuple[int, int]) -> bool:
        """Return whether one more question with these tokens leaves a slot and enough of the caps."""
        room = self._online and self._under_way + 1 < self._config.calls_max
        return room and self.ledger.affords(*tokens, self._config.later_cost_share)

    def _admit(self, question: EscalationQuestion) -> None:
        if question.background and not self._spare((question.input_tokens_max, question.output_tokens_max)):
            raise UpstreamBusy("the remaining room is reserved for callers who wait for an answer")
        self._reach()
        if not self._has_place:
            raise UpstreamBusy(f"{self._under_way} questions are under way; the limit is {self._config.calls_max}")
        if not self.ledger.affords(question.input_tokens_max, question.output_tokens_max):
            raise UpstreamBusy(NO_ROOM)

    def _reach(self) -> None:
        """Raise the problem that prevents all questions, if there is one."""
        if isinstance(self._problem, LargeModelBusy):
            raise self._problem
        if not self._online:
            raise self._problem or UpstreamUnreachable("the large model was not reached yet")

    async def _answer(self, under_way: _PendingQuestion) -> AsyncGenerator[PricedEvent, None]:
        cut_off = True
        try:
            async with contextlib.aclosing(self._tried(under_way)) as events:
                # A time limit for each read: one around the loop would also cancel the consumer between reads.
                while event := await asyncio.wait_for(anext(events, None), under_way.seconds_left()):
                    cut_off = not isinstance(event, PricedAnswer)
                    yield event
        except TimeoutError:
            raise UpstreamUnreachable(_LATE) from None
        except LargeModelBusy as error:
            under_way.cost, cut_off = 0, False
            self._learn(error, self._hard, connectivity.retry_pause_seconds(error.retry_after, 0.0))
            raise
        except QuestionRefused as error:
            under_way.cost, cut_off = 0, False
            self._show(error)
            raise
        except UpstreamFailed as error:
            cut_off = False
            self._learn(error, self._soft)
            raise
        except EdgeAgentError as error:
            cut_off = False
            if not isinstance(error, ConnectionLost):  # no answer can have been charged
                under_way.cost = 0
            self._learn(error, self._hard)
            raise
        finally:
            if cut_off:  # a failure says nothing about the time of an answer
                self._cut_off(under_way)

    def _cut_off(self, under_way: _PendingQuestion) -> None:
        """Count an answer that was cut off as taking longer than the time it was waited for.

        Otherwise callers with the same time limit would keep asking in vain.
        """
        now = time.monotonic()
        seconds = CUT_OFF_FACTOR * (now - under_way.start)
        self._took.append((now, max(seconds, self.standing().usual_ms / 1000)))
        if under_way.seconds_left() < OVER_SECONDS:  # by the clock here, or the caller's deadline just before
            self._learn(UpstreamUnreachable(_LATE), self._soft)

    async def _tried(self, under_way: _PendingQuestion) -> AsyncGenerator[PricedEvent, None]:
        """Ask, and retry once if the server was busy, the throttle allows it, and the pause ends in time.

        No other question is asked during the pause, which the server requested from everybody.
        """
        try:
            async with self._model.answering(under_way.asked) as events:
                async for event in self._priced(under_way, events):
                    yield event
                return
        except LargeModelBusy as error:
            pause = connectivity.retry_pause_seconds(error.retry_after, random.random())  # noqa: S311 - no secret
            if not self._throttle.can_retry() or pause + self.standing().usual_ms / 1000 >= under_way.seconds_left():
                raise
            self._throttle = self._throttle.after_retry()
            self._learn(error, self._hard, pause)
            await asyncio.sleep(pause)
        async with self._model.answering(under_way.asked) as events:
            async for event in self._priced(under_way, events):
                yield event

    async def _priced(
        self, under_way: _PendingQuestion, events: AsyncIterator[AnswerEvent]
    ) -> AsyncIterator[PricedEvent]:
        async for event in events:
            if isinstance(event, AnswerEnd):
                under_way.cost = self.ledger.prices.of(event.input_tokens, event.output_tokens)
                now = time.monotonic()
                self._took.append((now, now - under_way.start))
                self._throttle = self._throttle.after_success()
                self._reached()
                yield PricedAnswer(event, under_way.cost)
            else:
                yield event

    async def _probe(self) -> None:
        try:
            await self._model.reachable()
        except EdgeAgentError as error:
            self._learn(error, self._hard)
        else:
            self._reached()

    def _reached(self) -> None:
        if self._link.state != "online":
            log.info("large_model_online", url=self._config.url, model=self._config.model)
        self._link, self._problem = connectivity.after_success(self._link, time.monotonic()), None
        self._tell()

    def _learn(self, error: EdgeAgentError, backoff: Backoff, pause: float = 0.0) -> None:
        now = time.monotonic()
        link = connectivity.after_failure(self._link, now, backoff, random.random())  # noqa: S311 - no secret
        self._link = replace(link, retry_at=max(link.retry_at, now + pause))
        self._problem = error
        log.warning("large_model_failed", reason=error.reason, message=error.message, state=link.state)
        self._tell()

    def _show(self, refused: QuestionRefused) -> None:
        """Report a problem of one question until the next answer; the large model stays online for others."""
        if self._online:
            self._problem = refused
        log.warning("large_model_refused", reason=refused.reason, message=refused.message)
        self._tell()

    def _tell(self) -> None:
        for changed in self._watchers:
            changed.set()
