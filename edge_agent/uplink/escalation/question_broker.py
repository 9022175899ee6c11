"""Takes questions for the large model, keeps the caps, and knows at any time whether it is worth asking.

A question passes three gates, all known beforehand and told to whoever watches: the large model is online, fewer
questions than `calls_max` are under way, and both caps leave room for the dearest answer. What cannot be asked is
refused at once. While the large model is offline, only `run` tries whether it is there again.

A question that nobody waits for leaves one place and a share of the caps to those that somebody does.

Prices are set aside on the disk by a thread of its own: a slow disk delays the questions that wait for it, and neither
the answers that are coming in nor what whoever watches is told. Not by the loop's own threads, which look names up: one
that hangs must not hold up the books.
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
"""Answers that the usual time is taken from: a server that was slow gets another chance when these are forgotten."""
USUAL_TOKENS = (1000, 200)
"""Of a question and its answer without thinking, for telling whether the caps leave room for one more."""
TICK_SECONDS = 1.0
CUT_OFF_FACTOR = 2.0
"""What was cut off is taken to last so many times as long as it was waited for."""
OVER_SECONDS = 0.05
_LATE = "the large model took longer than there was time"
_SLOW = "the disk took longer than there was time to set the price aside"
SOFT_FAILURES_MAX = 3
"""Broken answers in a row after which the large model counts as offline; who cannot be reached does at once."""


@dataclass(frozen=True)
class PricedAnswer:
    """The end of an answer, and its price in millionths."""

    ended: AnswerEnd
    cost_micros: int


PricedEvent = str | tuple[TypedAnswer, ...] | PricedAnswer
"""A piece of text, or the answers to typed questions; at last the end with its price."""


@dataclass(frozen=True)
class TeacherStatus:
    """What whoever asks knows before."""

    online: bool
    affordable: bool
    """What was paid leaves room for one more question in both caps."""
    free: bool
    """One more may be asked at once: there is a place, and room in the caps beside what is set aside for the others."""
    spare: bool
    """Also for a question that nobody waits for."""
    usual_ms: float
    problem: EdgeAgentError | None


@dataclass
class _PendingQuestion:
    """One question under way."""

    asked: EscalationQuestion
    start: float
    seconds: float
    """The most that its answer may take."""
    cost: int
    """What it takes to be paid, in millionths, as things stand."""

    def seconds_left(self) -> float:
        """Return what is left of them."""
        return self.start + self.seconds - time.monotonic()


class EscalationBroker:
    """See the module. One event loop owns it."""

    def __init__(self, config: EscalationConfig, model: LargeModelClient, ledger: SpendLedger) -> None:
        """Begin; whether anybody is there is not known before `run` has tried."""
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
        """Say whether it is worth asking."""
        since = time.monotonic() - REMEMBERED_SECONDS
        seconds = [took for at, took in self._took if at > since]
        patience = isinstance(self._problem, LargeModelBusy)  # it is there, and takes nothing for a while
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
        """Yield an event that is set whenever the standing may be another."""
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            yield changed
        finally:
            self._watchers.discard(changed)

    async def run(self) -> None:
        """Look for the large model whenever its pause is over, until cancelled."""
        while True:
            self._link = connectivity.after_time_passed(self._link, time.monotonic())
            if self._link.state == "probing":
                await self._probe()
            self._tell()  # another day has other caps
            left = self._link.retry_at - time.monotonic() if self._link.state == "offline" else TICK_SECONDS
            await asyncio.sleep(min(max(left, 0.0), TICK_SECONDS))

    async def ask(self, question: EscalationQuestion, seconds: float) -> AsyncGenerator[PricedEvent, None]:
        """Ask, for that long at most; yield the pieces of the answer and its end.

        Raises:
            UpstreamBusy, UpstreamUnreachable, UpstreamFailed, UpstreamRefused, UpstreamMissing: it was not asked, or
                gave no whole answer.
            DiskFull, ExchangeDirUnusable: its price could not be set aside, so it was not asked.
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
            self._reach()  # the disk may have taken its time
            under_way.cost = reserved.micros
            async with contextlib.aclosing(self._answer(under_way)) as events:
                async for event in events:
                    yield event
        finally:
            self._under_way -= 1
            self._tell()
            # Whoever is cancelled here does not wait; the books are kept all the same.
            await asyncio.shield(asyncio.wrap_future(self._books.submit(self._settle, reserving, under_way.cost)))
            self._tell()

    def _settle(self, reserving: Future[CostReservation], micros: int) -> None:
        """Put the price in the place of what was set aside, if anything was; in the thread that did."""
        with contextlib.suppress(EdgeAgentError):  # then what was set aside stays spent
            self.ledger.settle(reserving.result(), micros)

    @property
    def _online(self) -> bool:
        return self._link.state == "online"

    @property
    def _has_place(self) -> bool:
        return self._under_way < self._config.calls_max

    def _spare(self, tokens: tuple[int, int]) -> bool:
        """Tell whether a place and enough of the caps stay when one more of that size is asked."""
        room = self._online and self._under_way + 1 < self._config.calls_max
        return room and self.ledger.affords(*tokens, self._config.later_cost_share)

    def _admit(self, question: EscalationQuestion) -> None:
        if question.background and not self._spare((question.input_tokens_max, question.output_tokens_max)):
            raise UpstreamBusy("what there is room for is kept for those who wait for an answer")
        self._reach()
        if not self._has_place:
            raise UpstreamBusy(f"{self._under_way} questions are under way; the limit is {self._config.calls_max}")
        if not self.ledger.affords(question.input_tokens_max, question.output_tokens_max):
            raise UpstreamBusy(NO_ROOM)

    def _reach(self) -> None:
        """Raise what keeps the large model from being asked at all."""
        if isinstance(self._problem, LargeModelBusy):
            raise self._problem
        if not self._online:
            raise self._problem or UpstreamUnreachable("the large model was not reached yet")

    async def _answer(self, under_way: _PendingQuestion) -> AsyncGenerator[PricedEvent, None]:
        cut_off = True
        try:
            async with contextlib.aclosing(self._tried(under_way)) as events:
                # The limit is that of each read: one around the whole would cancel what the reader awaits between.
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
            if not isinstance(error, ConnectionLost):  # it never came to an answer
                under_way.cost = 0
            self._learn(error, self._hard)
            raise
        finally:
            if cut_off:  # what failed at once says nothing of how long an answer takes
                self._cut_off(under_way)

    def _cut_off(self, under_way: _PendingQuestion) -> None:
        """Learn from an answer that nobody waited for: it takes longer.

        Were it taken to last as long as it was waited for, whoever waits so long would be sent again and again.
        """
        now = time.monotonic()
        seconds = CUT_OFF_FACTOR * (now - under_way.start)
        self._took.append((now, max(seconds, self.standing().usual_ms / 1000)))
        if under_way.seconds_left() < OVER_SECONDS:  # by the clock here, or the caller's deadline a moment before
            self._learn(UpstreamUnreachable(_LATE), self._soft)

    async def _tried(self, under_way: _PendingQuestion) -> AsyncGenerator[PricedEvent, None]:
        """Ask, and once more when the server was too busy, the throttle has room, and its pause ends in time.

        Meanwhile nobody else asks: it has said to all when it wants to be asked again.
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
        """Show a problem of one question until the next answer; the large model stays online for others."""
        if self._online:
            self._problem = refused
        log.warning("large_model_refused", reason=refused.reason, message=refused.message)
        self._tell()

    def _tell(self) -> None:
        for changed in self._watchers:
            changed.set()
