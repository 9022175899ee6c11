"""Asks the redaction model: about a text for which somebody waits, and about answers that are to be kept.

A text that leaves the site now, a correction and a trial are redacted at once. A model that does not answer in time is
an error where the site holds what rules alone would let pass.

A call only puts its answer into the queue, which takes microseconds. A few workers ask the model about the texts of one
answer each and hand it to the spool with the findings. While the model cannot run, the policy of the task decides:
`hold` keeps the answer in memory until the model is back, and nothing of it is written or sent; `rules` lets it pass
with what the rules find. The queue is bounded: an answer that does not fit is dropped and counted, and so is one whose
text makes the model fail again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from edge_agent.backoff import backoff_seconds
from edge_agent.capture.capture_values import CapturedAnswer, texts_to_read
from edge_agent.config import Config
from edge_agent.errors import ConfigInvalid, RedactionHeld
from edge_agent.formatting import counted

if TYPE_CHECKING:
    from edge_agent.capture.redact.model_findings import ModelFindings
    from edge_agent.capture.redact.redactor import RedactionSession, Redactor, ReplacedValue
    from edge_agent.config import ExamplesConfig, RedactionConfig
    from edge_agent.formats.calibration import MissedBound


@dataclass(frozen=True)
class TriedRedaction:
    """What redaction makes of a text."""

    redacted: str
    replaced: tuple[ReplacedValue, ...]
    model: str
    """The bundle that read the text; empty = rules alone did."""
    held_because: str
    """Why the model did not read it; empty = it did, or there is none."""


class TextRedaction:
    """The rules of one site, and its redaction model if the configuration names one."""

    def __init__(self, config: Config, reader: RedactionDependencies | None, queue: RedactionQueue | None) -> None:
        """Ask the model through `reader`; `queue` counts what passes without it. Both are None without a model."""
        self._config, self._reader, self._queue = config, reader, queue

    @functools.cached_property
    def rules(self) -> Redactor:
        """The compiled rules. Raises ConfigInvalid."""
        # A site that neither collects nor escalates does without: the patterns take a tenth of a second to compile.
        return build_redactor(self._config)

    async def start(self, task: str, text: str, seconds: float) -> RedactionSession:
        """Start to redact one input that leaves the site now.

        Raises:
            RedactionHeld: the model has not read it within that time, and rules alone do not suffice for this task.
        """
        findings = await self.find(task, [text], min(seconds, self._config.redaction.seconds_max))
        draw = secrets.randbelow if task in self._config.redaction.surrogates else None
        return self.rules.start(findings=findings, draw=draw)

    async def find(self, task: str, texts: Sequence[str], seconds: float | None = None) -> ModelFindings | None:
        """Return what the redaction model finds in texts of a task; None = rules alone redact them.

        Raises:
            RedactionHeld: it does not answer, and rules alone do not suffice.
        """
        if self._queue is None or self._reader is None:
            return None
        try:
            return await self._reader.find(texts, seconds or self._config.redaction.seconds_max)
        except RedactionHeld:
            if self._config.redaction.holds(task):
                raise
            self._queue.counts["passed_by_rules"] += 1
            return None

    async def show(self, text: str) -> TriedRedaction:
        """Redact a text as an example, and show what was found by what; nothing of it is kept."""
        held_because, findings = "", None
        if self._reader is not None and self._queue is not None:
            try:
                findings = await self._reader.find([text], self._config.redaction.seconds_max)
            except RedactionHeld as error:
                held_because = error.message
        redacted, replaced = self.rules.start(findings=findings).trace(text)
        return TriedRedaction(redacted, tuple(replaced), findings.model if findings else "", held_because)


def build_redactor(config: Config) -> Redactor:
    """Compile the rules of a site: the built-in ones, and what its configuration adds to them.

    Raises:
        ConfigInvalid: a pattern of the site is invalid, a region of telephone numbers is unknown, or the pipeline of
            names cannot be loaded.
    """
    from edge_agent.capture.redact.redactor import Redactor, compile_site_rules, name_detector  # noqa: PLC0415
    from edge_agent.capture.redact.telephone_numbers_and_dates import is_known_region  # noqa: PLC0415

    patterns, pipeline = config.examples.site_rules, config.examples.presidio_pipeline
    regions = config.examples.phone_regions
    for region in regions:
        if not is_known_region(region):
            raise ConfigInvalid(
                f"examples.phone_regions: there is no telephone numbering plan of {region}",
                remedy="Use the code of a country of ISO 3166-1, such as GB, DE or US.",
            )
    return Redactor(compile_site_rules(patterns), name_detector(Path(pipeline)) if pipeline else None, regions)


log = structlog.get_logger("edge_agent.capture")

WORKERS = 2
TRIES_MAX = 5
"""How often the model may fail on one answer, while it answers others, before that answer is dropped."""
PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX = 0.5, 15.0
FINISH_SECONDS_MAX = 5.0
ALARM_SECONDS = 30.0
"""An answer that has waited so long is reported to the operator."""


@dataclass(frozen=True)
class RedactionDependencies:
    """What asks the redaction model of the site."""

    find: Callable[[Iterable[str], float], Awaitable[ModelFindings]]
    """Returns what is personal in each text, within so many seconds. Raises RedactionHeld; `permanent` in its metadata
    is "True" where the model fails on these texts alone."""
    model: Callable[[], str]
    """Returns the bundle that answers, task@version; empty = none does."""
    bound: Callable[[], MissedBound | None] = lambda: None
    """Returns what that bundle promises of what it misses; None = nothing."""


class RedactionQueue:
    """See the module. One event loop owns it."""

    def __init__(
        self,
        reader: RedactionDependencies,
        config: RedactionConfig,
        limits: ExamplesConfig,
        store: Callable[[CapturedAnswer], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Hand answers that may be redacted to `store`; the bounds are those of the writer's queue."""
        self._reader, self._config, self._limits, self._store = reader, config, limits, store
        self._sleep, self._monotonic = sleep, monotonic
        self._queue: deque[tuple[CapturedAnswer, float]] = deque()
        self._bytes = self._working = 0
        self._started: dict[int, float] = {}
        self._read: dict[int, CapturedAnswer] = {}
        self._erased: set[int] = set()
        """Workers whose answer is to be dropped."""
        self._arrived, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._failures = 0
        self.held_because = ""
        """Why the model does not answer now; empty = it does, as far as is known."""
        self.counts: Counter[str] = Counter()
        """Since the start: read_by_model, passed_by_rules, dropped_unredacted, erased_unredacted."""

    @property
    def task(self) -> str:
        """The task whose bundle reads."""
        return self._config.task

    @property
    def model(self) -> str:
        """The bundle that reads, task@version; empty = none does now."""
        return self._reader.model()

    @property
    def bound(self) -> MissedBound | None:
        """What the bundle that reads promises of what it misses; None = nothing."""
        return self._reader.bound()

    @property
    def problem(self) -> str:
        """What an operator should know, as a sentence; empty = nothing."""
        if not self.model:
            why = self.held_because or f"no bundle of the task '{self.task}' answers"
        elif self.waiting_seconds >= ALARM_SECONDS:
            why = (
                self.held_because
                or f"it is slower than answers come; the oldest has waited {self.waiting_seconds:.0f} s"
            )
        else:
            return ""
        said = f"The redaction model does not read what should be captured or sent: {why}."
        return f"{said} Waiting: {counted(self.waiting, 'answer')}."

    @property
    def waiting(self) -> int:
        """Number of answers that wait for the model."""
        return len(self._queue) + self._working

    @property
    def held(self) -> list[CapturedAnswer]:
        """The answers that wait for the model, also those that it reads now and that were not erased."""
        reading = [answered for number, answered in self._read.items() if number not in self._erased]
        return [*reading, *(answered for answered, _ in self._queue)]

    @property
    def waiting_seconds(self) -> float:
        """How long the oldest of them has waited, in seconds; 0 = none waits."""
        began = [*self._started.values(), *([self._queue[0][1]] if self._queue else [])]
        return self._monotonic() - min(began) if began else 0.0

    def put(self, answered: CapturedAnswer) -> None:
        """Queue an answer. Never waits, never fails."""
        size, is_long = answered.size, len(answered.text) > self._limits.input_characters_max
        # The audit has twice the room, so that load does not bias it.
        room = 2 if answered.later == "audit" else 1
        full = self.waiting >= room * self._limits.queue_examples_max
        if full or self._bytes + size > room * self._limits.queue_bytes_max or is_long:
            self.counts["dropped_unredacted"] += 1
            return
        self._queue.append((answered, self._monotonic()))
        self._bytes += size
        self._idle.clear()
        self._arrived.set()

    def erase(self, concerns: Callable[[CapturedAnswer], bool], *, dry_run: bool = False) -> int:
        """Drop the answers that wait and concern somebody, also those that the model reads now; return how many."""
        reading = [number for number, answered in self._read.items() if concerns(answered)]
        gone = [waiting for waiting in self._queue if concerns(waiting[0])]
        if not dry_run:
            self._erased.update(reading)
            self._bytes -= sum(answered.size for answered, _ in gone)
            self._queue = deque(waiting for waiting in self._queue if not any(waiting is each for each in gone))
            self.counts["erased_unredacted"] += len(gone) + len(reading)
        return len(gone) + len(reading)

    async def run(self) -> None:
        """Read answers until cancelled; what waits then keeps waiting."""
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._work(number))

    async def finish(self, seconds_max: float = FINISH_SECONDS_MAX) -> None:
        """At the end of the daemon, after `run`: store what the model reads within that time, and drop the rest."""
        if not self.held_because:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds_max), asyncio.TaskGroup() as group:
                    workers = [group.create_task(self._work(number)) for number in range(WORKERS)]
                    await self._idle.wait()
                    for worker in workers:
                        worker.cancel()
        if self._queue:
            log.error("examples_not_redacted", answers=len(self._queue))
        self.counts["dropped_unredacted"] += len(self._queue)
        self._queue.clear()

    async def _work(self, number: int) -> None:
        while True:
            while self._queue:
                answered, since = self._queue.popleft()
                with self._counted(number, answered, since):
                    await self._pass(number, answered)
            if not self.waiting:
                self._idle.set()
            self._arrived.clear()
            await self._arrived.wait()

    @contextlib.contextmanager
    def _counted(self, number: int, answered: CapturedAnswer, since: float) -> Iterator[None]:
        """Count an answer as waiting while a worker has it; cancelled, the worker puts it back."""
        self._working += 1
        self._started[number], self._read[number] = since, answered
        try:
            yield
        except asyncio.CancelledError:
            if number not in self._erased:
                self._queue.appendleft((answered, since))
                self._bytes += answered.size
            raise
        finally:
            self._working -= 1
            self._erased.discard(number)
            del self._started[number], self._read[number]
            self._bytes -= answered.size

    async def _pass(self, number: int, answered: CapturedAnswer) -> None:
        """Ask the model about an answer until it is stored, dropped, erased, or passed by the rules."""
        failed, held = 0, self._config.holds(answered.manifest.task.name)
        while number not in self._erased:
            try:
                findings = await self._reader.find(texts_to_read(answered), self._config.seconds_max)
            except RedactionHeld as error:
                if number in self._erased:
                    return
                failed += error.metadata.get("permanent") == "True"
                if not held:
                    self.counts["passed_by_rules"] += 1
                    self._store(replace(answered, findings=None, rules_suffice=True))
                    return
                if failed >= TRIES_MAX:
                    log.error("example_dropped", task=answered.manifest.task.name, message=error.message)
                    self.counts["dropped_unredacted"] += 1
                    return
                await self._pause(error)
            else:
                self._answered()
                self.counts["read_by_model"] += 1
                if number in self._erased:
                    return
                self._store(replace(answered, findings=findings))
                return

    def _answered(self) -> None:
        if self.held_because:
            log.info("redaction_resumed", count=self.waiting)
        self.held_because, self._failures = "", 0

    async def _pause(self, error: RedactionHeld) -> None:
        if not self.held_because:
            log.warning("redaction_held", message=error.message, count=self.waiting)
        self.held_because = error.message
        self._failures += 1
        await self._sleep(backoff_seconds(self._failures, PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX))
