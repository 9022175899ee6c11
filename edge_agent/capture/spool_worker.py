"""What the writer's thread owns: the spool, the recorder, the outbox; and what it does with them between groups."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from edge_agent.capture.record_builder import HumanFeedback, RecordBuilder
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.capture.review_streams import AuditShares, ReviewStreams
from edge_agent.capture.spool import PredictionRecord, Spool
from edge_agent.capture.teacher_questions import TeacherQuestion, TeacherQuestionQueue
from edge_agent.config import Config
from edge_agent.durable.atomic_files import Ballast
from edge_agent.errors import DiskFull, EdgeAgentError, ExchangeError
from edge_agent.formats.manifest import Manifest
from edge_agent.formats.status_object import SiteUpdates, TaskStatus
from edge_agent.monitoring.answer_observation import verdict
from edge_agent.monitoring.bundle_figures import AlarmState
from edge_agent.monitoring.monitoring_store import Charge, HumanLabel, MonitoringStore, TeacherLabel

if TYPE_CHECKING:
    from edge_agent.capture.outbox import Outbox

log = structlog.get_logger("edge_agent.capture")

EXPIRE_SECONDS, RECEIPTS_SECONDS, SEAL_SECONDS, SHRINK_SECONDS = 10.0, 5.0, 5.0, 60.0
CLOCK_SECONDS, STATUS_SECONDS = 600.0, 900.0
ROWS_AT_ONCE = 5000
LOCAL_SITE = "local"
"""Name in the records of a site that has none: nothing leaves it."""


@dataclass(frozen=True)
class SpoolWorkerDependencies:
    """What the room is handed: the tasks and updates as they are now, the agent's version, both clocks in seconds."""

    tasks: Callable[[], Iterable[TaskStatus]]
    version: str
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    updates: Callable[[], SiteUpdates] = SiteUpdates
    revision: Callable[[], int] = lambda: 0
    """Another number when the centre should hear of a change at once."""
    drawn: Callable[[], float] = random.SystemRandom().random
    """Gives a number from 0 to below 1, for the random audit."""
    alarmed: Callable[[tuple[AlarmState, ...]], None] = lambda _: None
    """Told which alarms of the field stand, when that has changed and at the start; on the thread of the house."""


def build_redactor(config: Config) -> Redactor:
    """Compile the rules of a site.

    Raises:
        ConfigInvalid: a pattern of the site is invalid, or the pipeline of names cannot be loaded.
    """
    patterns, pipeline = config.examples.site_rules, config.examples.presidio_pipeline
    if not patterns and not pipeline:
        return Redactor()
    # Only a site with detectors of its own loads what runs them.
    from edge_agent.capture.redact.site_detectors import name_detector, site_rules  # noqa: PLC0415

    return Redactor(site_rules(patterns), name_detector(Path(pipeline)) if pipeline else None)


class SpoolWorker:
    """One open spool and its outbox. One thread uses it."""

    def __init__(self, config: Config, redactor: Redactor, around: SpoolWorkerDependencies) -> None:
        """Open what is on the disk, and finish what a crash interrupted.

        Raises:
            SiteError: the spool, the key or the outbox cannot be used.
        """
        self._config, self._around = config, around
        self.recorder = RecordBuilder(config.examples, config.site.id or LOCAL_SITE, redactor)
        self._ballast = Ballast(config.state_dir / "spool.ballast")
        shares = AuditShares(config.examples.review_share, config.examples.review_shares)
        self.spool = Spool(
            config.state_dir / "spool.db", around.monotonic, lambda db: ReviewStreams(db, shares, around.drawn)
        )
        self.book = MonitoringStore(self.spool.db, config.examples.new_inputs_level)
        self.questions = TeacherQuestionQueue(self.spool, config.escalation)
        self.outbox: Outbox | None = None
        self.problems: dict[str, EdgeAgentError] = {}
        self._done: dict[str, float] = {}
        self._short = False
        self._told = 0
        self._alarms: tuple[AlarmState, ...] | None = None
        self._counted = -1
        self.commits = 0
        """Groups of answers that were committed by this process."""
        if config.site.id and config.site.recipients:
            # Only a site whose examples leave loads what seals and signs.
            from edge_agent.capture.outbox import ExchangeFolders, Outbox, load_site_key  # noqa: PLC0415

            try:
                places = ExchangeFolders(config.outbox, config.receipts)
                key = load_site_key(config.state_dir / "site.key")
                self.outbox = Outbox(self.spool, places, (config.examples, config.site), key)
                self._check(thoroughly=True)
            except EdgeAgentError:
                self.spool.close()
                raise
        self._ballast.lay()

    def now(self) -> float:
        """Return seconds since 1970, by a clock that may be wrong."""
        return self._around.now()

    def add(self, kept: list[PredictionRecord]) -> None:
        """Keep predictions, and give up what does not fit; inside the spool's transaction."""
        new = self.spool.add(kept)
        self.book.count(each.observed for each in new if each.observed)
        self.questions.put(new)
        self.commits += 1
        if not self.spool.sacrifice(self._bytes_max(), ROWS_AT_ONCE):
            self.spool.counters["over_limit"] += 1

    def judge(self, said: HumanFeedback, prediction: dict[str, Any], manifest: Manifest | None) -> None:
        """Keep feedback, and count it; inside the spool's transaction. Raises PredictionUnknown, InvalidRequest."""
        at = self.now()
        judged = self.recorder.feedback(said, prediction, manifest, at)
        number = self.spool.judge(judged)
        self._counted = -1
        if number:
            feedback = json.loads(judged.record)
            wrong = verdict(prediction, feedback)
            drawn = number == 1 and self.spool.streams.judged(said.prediction_id, wrong)
            audited = self.questions.audited(said.prediction_id)
            self.book.judged(prediction, HumanLabel(feedback, number == 1, audited, drawn), at)
            if drawn:
                self.spool.counters["audit_reviewed"] += 1
                self._weigh(at)

    def paid(self, paid: list[Charge]) -> None:
        """Count what questions to the large model have cost."""
        with self.spool.transaction():
            self.book.paid(paid)

    def erase(self, prediction_id: str) -> tuple[bool, bool]:
        """Forget a prediction, as `Spool.erase`; inside the spool's transaction."""
        self.book.forget(prediction_id)
        return self.spool.erase(prediction_id, self.recorder.tombstone(prediction_id, self.now()))

    def next_question(self, tasks: tuple[str, ...]) -> TeacherQuestion | None:
        """Return the question of one of these tasks whose turn it is, marked as asked on the disk; None = none waits.

        Looks before it writes: who has nothing to ask looks often.
        """
        found = self.questions.next(tasks)
        if found:
            with self.spool.transaction():
                self.questions.mark(found)
        return found

    def opine(self, asked: TeacherQuestion, said: str, model: str, manifest: Manifest) -> bool:
        """Keep what the large model said to a question, and count it; inside the spool's transaction.

        Returns whether it is kept: not when the input was to be forgotten in the meantime.
        """
        at = self.now()
        record = self.recorder.opinion(asked, said, model, manifest, at)
        if not self.questions.answer(asked, record):
            return False
        self._counted = -1
        drawn = self.spool.streams.has_drawn(asked.prediction_id)
        before = self.spool.first_word(asked.prediction_id) if drawn else None
        thought = TeacherLabel(json.loads(record)["value"], asked.why, json.loads(before) if before else None)
        self.book.opinion(json.loads(asked.record), thought, at)
        return True

    def keep(self) -> None:
        """Do what is due: windows, receipts, sealing, status."""
        if self._short:
            self._give_up_a_tenth()
        if self._counted != self.commits:
            self._counted = self.commits
            self.tell()
        self._when_due("expire", EXPIRE_SECONDS, self._expire)
        self._when_due("clock", CLOCK_SECONDS, self.spool.save_clock)
        if self.outbox:
            self._when_due("receipts", RECEIPTS_SECONDS, self.read_receipts)
            self._when_due("seal", SEAL_SECONDS, self._seal_if_due)
            self._when_due("status", STATUS_SECONDS if self._told == self._around.revision() else 0, self.write_status)
        self._when_due("shrink", SHRINK_SECONDS, self.spool.shrink)

    def tell(self) -> None:
        """Tell the daemon, and the centre, which alarms stand, if that has changed."""
        standing = self.book.standing()
        if standing != self._alarms:
            first, before, self._alarms = self._alarms is None, set(self._alarms or ()), standing
            for alarm in sorted(set(standing) - before, key=lambda each: (each.task, each.alarm)):
                log.warning("field_alarm", task=alarm.task, reason=alarm.alarm, digest=alarm.digest, why=alarm.said)
            self._around.alarmed(standing)
            if not first:
                self._done.pop("status", None)

    def seal_all(self) -> int:
        """Seal everything that waits; return how many segments were made.

        Raises:
            SiteError: the outbox or its disk is full, or failed.
        """
        count = 0
        while self.outbox and self.outbox.seal(self.now()):
            count += 1
        self.write_status()
        return count

    def read_receipts(self) -> int:
        """Take receipts over; return how many segments were deleted.

        Raises:
            ExchangeError: the receipts are not the centre's, or none; nothing was deleted.
        """
        if self.outbox is None:
            return 0
        try:
            count = self.outbox.read_receipts()
        except ExchangeError as error:
            self.problems["receipts"] = error
            raise
        self.problems.pop("receipts", None)
        if count:
            log.info("segments_received", segments=count)
            self.write_status()
        return count

    def write_status(self) -> None:
        """Write the status object for the centre."""
        if self.outbox:
            around = self._around
            self._told = around.revision()
            self.outbox.write_status(around.tasks(), around.updates(), around.version, self.now())
            self._done["status"] = self._around.monotonic()

    def make_room(self) -> None:
        """On a full disk: give the ballast back now; the next housekeeping gives up a tenth of the spool."""
        self._ballast.drop()
        self._short = True

    def close(self) -> None:
        """Close the spool."""
        self.spool.close()

    def _bytes_max(self) -> int:
        free = shutil.disk_usage(self._config.state_dir).free
        examples = self._config.examples
        return max(0, min(examples.spool_bytes_max, self.spool.used_bytes + free - examples.disk_reserve_bytes))

    def _give_up_a_tenth(self) -> None:
        with self.spool.transaction():
            self.spool.sacrifice(self.spool.used_bytes * 9 // 10, ROWS_AT_ONCE)
        self.spool.shrink()
        self._ballast.lay()
        self._short = False

    def _weigh(self, at: float) -> None:
        """Weigh what became of the audit's rows, in the order in which they were drawn; inside the transaction."""
        for (task, digest), outcomes in self.spool.streams.settle().items():
            self.book.audited(task, digest, outcomes, at)

    def _expire(self) -> None:
        # Looks before it writes: a quiet site must not wear its flash out.
        while self.spool.can_expire(self._config.examples.window_seconds):
            with self.spool.transaction():
                self.spool.expire(self._config.examples.window_seconds, ROWS_AT_ONCE)
        if self.questions.can_expire():
            with self.spool.transaction():
                self.questions.expire()
        if self.spool.streams.can_settle():
            self._counted = -1
            with self.spool.transaction():
                self._weigh(self.now())

    def _seal_if_due(self) -> None:
        assert self.outbox is not None
        self._check(thoroughly=False)
        try:
            while self.outbox.due() and self.outbox.seal(self.now()):
                self.write_status()
        except DiskFull as error:
            self.problems["outbox"] = error
            raise
        self.problems.pop("outbox", None)

    def _check(self, *, thoroughly: bool) -> None:
        assert self.outbox is not None
        lost = self.outbox.check(thoroughly=thoroughly)
        if lost:
            log.error("segments_lost", sequences=lost)

    def _when_due(self, name: str, seconds: float, work: Callable[[], object]) -> None:
        now = self._around.monotonic()
        if now - self._done.get(name, -seconds) >= seconds:
            self._done[name] = now
            work()
