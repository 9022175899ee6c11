"""Calls the redaction model for texts that somebody waits for, and for answers that are to be kept.

`TextRedaction` redacts a text that leaves the site now, a correction or a trial at once. If the model does not answer
in time, that is an error where the policy of the task is `hold`.

`RedactionQueue` takes the answers to keep, in microseconds. A few workers pass the texts of one answer each to the
model, and the answer with the findings to the spool. While the model cannot run, the policy of the task decides: `hold`
keeps the answer in memory until the model is back, and nothing of it is written or sent; `rules` redacts it by rules
alone. The queue is bounded: an answer that does not fit is dropped and counted, as is one on whose text the model keeps
failing.
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
    from edge_agent.formats.calibration_and_gate import MissedBound


@dataclass(frozen=True)
class TriedRedaction:
    """The redaction of a text for display."""

    redacted: str
    replaced: tuple[ReplacedValue, ...]
    model: str
    """The bundle that read the text, task@version; empty = redacted by rules alone."""
    held_because: str
    """Why the model did not read it; empty = it did, or the site has none."""


class TextRedaction:
    """The rules of one site, and its redaction model if the configuration names one."""

    def __init__(self, config: Config, reader: RedactionDependencies | None, queue: RedactionQueue | None) -> None:
        """Call the model through `reader`; `queue` counts texts passed without it. Both are None without a model."""
        self._config, self._reader, self._queue = config, reader, queue

    @functools.cached_property
    def rules(self) -> Redactor:
        """The compiled rules. Raises ConfigInvalid."""
        # Compiled on first use, which takes a tenth of a second: a site that neither captures nor escalates skips it.
        return build_redactor(self._config)

    async def start(self, task: str, text: str, seconds: float) -> RedactionSession:
        """Start to redact one input that leaves the site now; wait for the model at most `seconds`.

        Raises:
            RedactionHeld: the model did not answer in time, and rules alone do not suffice for this task.
        """
        findings = await self.find(task, [text], min(seconds, self._config.redaction.seconds_max))
        draw = secrets.randbelow if task in self._config.redaction.surrogates else None
        return self.rules.start(findings=findings, draw=draw)

    async def find(self, task: str, texts: Sequence[str], seconds: float | None = None) -> ModelFindings | None:
        """Return what the redaction model finds in texts of a task; None = rules alone redact them.

        Raises:
            RedactionHeld: the model does not answer, and rules alone do not suffice for this task.
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
        """Redact a text as a trial, with what rules and model found; nothing is kept."""
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
        ConfigInvalid: a pattern of the site is invalid, a region of telephone numbers is unknown, or the pipeline
            that finds names cannot be loaded.
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
"""Failures of the model on the texts of one answer after which the answer is dropped."""
PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX = 0.5, 15.0
FINISH_SECONDS_MAX = 5.0
ALARM_SECONDS = 30.0
"""A longer wait of an answer is reported to the operator."""


@dataclass(frozen=True)
class RedactionDependencies:
    """Access to the redaction model of the site."""

    find: Callable[[Iterable[str], float], Awaitable[ModelFindings]]
    """Returns the personal values of each text, within a number of seconds. Raises RedactionHeld; `permanent` in its
    metadata is "True" if the model fails because of these texts."""
    model: Callable[[], str]
    """Returns the bundle of the model, task@version; empty = none is served."""
    bound: Callable[[], MissedBound | None] = lambda: None
    """Returns the bundle's bound on missed values; None = it has none."""


class RedactionQueue:
    """Answers that wait for the redaction model (see the module docstring). One event loop owns it."""

    def __init__(
        self,
        reader: RedactionDependencies,
        config: RedactionConfig,
        limits: ExamplesConfig,
        store: Callable[[CapturedAnswer], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Pass answers to `store` once the model has read them; the bounds are those of the writer's queue."""
        self._reader, self._config, self._limits, self._store = reader, config, limits, store
        self._sleep, self._monotonic = sleep, monotonic
        self._queue: deque[tuple[CapturedAnswer, float]] = deque()
        self._bytes = self._working = 0
        self._started: dict[int, float] = {}
        self._being_read: dict[int, CapturedAnswer] = {}
        self._erased_workers: set[int] = set()
        """Workers whose answer is to be dropped."""
        self._arrived, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._failures = 0
        self.held_because = ""
        """Why the model did not answer last time; empty = it did."""
        self.counts: Counter[str] = Counter()
        """Since the start: read_by_model, passed_by_rules, dropped_unredacted, erased_unredacted."""

    @property
    def task(self) -> str:
        """The task of the redaction model."""
        return self._config.task

    @property
    def model(self) -> str:
        """The bundle of the redaction model, task@version; empty = none is served now."""
        return self._reader.model()

    @property
    def bound(self) -> MissedBound | None:
        """The bundle's bound on missed values; None = it has none."""
        return self._reader.bound()

    @property
    def problem(self) -> str:
        """What an operator should know, as a sentence; empty = no problem."""
        if not self.model:
            reason = self.held_because or f"no bundle of the task '{self.task}' answers"
        elif self.waiting_seconds >= ALARM_SECONDS:
            reason = (
                self.held_because
                or f"it is slower than answers come; the oldest has waited {self.waiting_seconds:.0f} s"
            )
        else:
            return ""
        message = f"The redaction model does not read what should be captured or sent: {reason}."
        return f"{message} Waiting: {counted(self.waiting, 'answer')}."

    @property
    def waiting(self) -> int:
        """Number of answers that wait for the model."""
        return len(self._queue) + self._working

    @property
    def held(self) -> list[CapturedAnswer]:
        """The answers that wait for the model, including those being read and not erased."""
        reading = [answer for number, answer in self._being_read.items() if number not in self._erased_workers]
        return [*reading, *(answer for answer, _ in self._queue)]

    @property
    def waiting_seconds(self) -> float:
        """How long the oldest answer has waited, in seconds; 0 = none waits."""
        start_times = [*self._started.values(), *([self._queue[0][1]] if self._queue else [])]
        return self._monotonic() - min(start_times) if start_times else 0.0

    def put(self, answer: CapturedAnswer) -> None:
        """Queue an answer. Never waits, never fails."""
        size, is_long = answer.size, len(answer.text) > self._limits.input_characters_max
        # The audit has twice the room, so that load does not bias it.
        room = 2 if answer.later == "audit" else 1
        full = self.waiting >= room * self._limits.queue_examples_max
        if full or self._bytes + size > room * self._limits.queue_bytes_max or is_long:
            self.counts["dropped_unredacted"] += 1
            return
        self._queue.append((answer, self._monotonic()))
        self._bytes += size
        self._idle.clear()
        self._arrived.set()

    def erase(self, concerns: Callable[[CapturedAnswer], bool], *, dry_run: bool = False) -> int:
        """Drop the waiting answers that `concerns` matches, including those being read; return how many."""
        reading = [number for number, answer in self._being_read.items() if concerns(answer)]
        queued = [item for item in self._queue if concerns(item[0])]
        if not dry_run:
            self._erased_workers.update(reading)
            self._bytes -= sum(answer.size for answer, _ in queued)
            self._queue = deque(item for item in self._queue if not any(item is each for each in queued))
            self.counts["erased_unredacted"] += len(queued) + len(reading)
        return len(queued) + len(reading)

    async def run(self) -> None:
        """Work on the queue until cancelled; the answers still in it then stay there."""
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._work(number))

    async def finish(self, seconds_max: float = FINISH_SECONDS_MAX) -> None:
        """When the daemon stops, after `run`: store the answers that the model reads in time, and drop the rest."""
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
                answer, since = self._queue.popleft()
                with self._tracking(number, answer, since):
                    await self._process(number, answer)
            if not self.waiting:
                self._idle.set()
            self._arrived.clear()
            await self._arrived.wait()

    @contextlib.contextmanager
    def _tracking(self, number: int, answer: CapturedAnswer, since: float) -> Iterator[None]:
        """Count an answer as waiting while a worker has it; a cancelled worker puts it back."""
        self._working += 1
        self._started[number], self._being_read[number] = since, answer
        try:
            yield
        except asyncio.CancelledError:
            if number not in self._erased_workers:
                self._queue.appendleft((answer, since))
                self._bytes += answer.size
            raise
        finally:
            self._working -= 1
            self._erased_workers.discard(number)
            del self._started[number], self._being_read[number]
            self._bytes -= answer.size

    async def _process(self, number: int, answer: CapturedAnswer) -> None:
        """Call the model for an answer until the answer is stored, dropped or erased."""
        failures, must_hold = 0, self._config.holds(answer.manifest.task.name)
        while number not in self._erased_workers:
            try:
                findings = await self._reader.find(texts_to_read(answer), self._config.seconds_max)
            except RedactionHeld as error:
                if number in self._erased_workers:
                    return
                failures += error.metadata.get("permanent") == "True"
                if not must_hold:
                    self.counts["passed_by_rules"] += 1
                    self._store(replace(answer, findings=None, rules_suffice=True))
                    return
                if failures >= TRIES_MAX:
                    log.error("example_dropped", task=answer.manifest.task.name, message=error.message)
                    self.counts["dropped_unredacted"] += 1
                    return
                await self._pause(error)
            else:
                if self.held_because:
                    log.info("redaction_resumed", count=self.waiting)
                self.held_because, self._failures = "", 0
                self.counts["read_by_model"] += 1
                if number in self._erased_workers:
                    return
                self._store(replace(answer, findings=findings))
                return

    async def _pause(self, error: RedactionHeld) -> None:
        if not self.held_because:
            log.warning("redaction_held", message=error.message, count=self.waiting)
        self.held_because = error.message
        self._failures += 1
        await self._sleep(backoff_seconds(self._failures, PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX))
