"""What runs on the spool's thread: owns the database (`Spool`) and the outbox, and does the housekeeping.

`SpoolWriter` creates a `SpoolWorker` on its thread and calls it there only. Methods that change the database run inside
the spool's transaction unless they say otherwise.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from edge_agent.capture.capture_values import HumanFeedback
from edge_agent.capture.person_erasure import SpoolErasure, ValueDigester, load_digest_key
from edge_agent.capture.personal_data_retention import Erasure, PersonalLimits, PrivacyCount
from edge_agent.capture.record_builder import RecordBuilder
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.capture.redaction_audit import AuditLimits, RedactionAudit
from edge_agent.capture.review_and_audit import AuditShares, ReviewStreams
from edge_agent.capture.spool import PredictionRecord, Spool
from edge_agent.capture.teacher_questions import TeacherQuestion, TeacherQuestionQueue
from edge_agent.durable.atomic_files import Ballast
from edge_agent.errors import DiskFull, EdgeAgentError, ExchangeError
from edge_agent.formats.status_object import RedactionReport
from edge_agent.monitoring.answer_observations import is_local_answer_wrong
from edge_agent.monitoring.monitoring_store import Charge, HumanLabel, MonitoringStore, TeacherLabel

if TYPE_CHECKING:
    from edge_agent.capture.capture_values import (
        ReviewCursor,
        ReviewFilter,
        SpooledPrediction,
        SpoolWorkerDependencies,
    )
    from edge_agent.capture.outbox_and_receipts import Outbox
    from edge_agent.capture.redact.model_findings import ModelFindings
    from edge_agent.config import Config
    from edge_agent.formats.manifest import Manifest
    from edge_agent.monitoring.answer_observations import AlarmState

log = structlog.get_logger("edge_agent.capture")

EXPIRE_SECONDS, RECEIPTS_SECONDS, SEAL_SECONDS, SHRINK_SECONDS = 10.0, 5.0, 5.0, 60.0
CLOCK_SECONDS, STATUS_SECONDS = 600.0, 900.0
ROWS_AT_ONCE = 5000
LOCAL_SITE = "local"
"""Site name in the records of an unnamed site, which sends nothing."""


@dataclass(frozen=True)
class HeldExamples:
    """The predictions of a task that are in the spool."""

    task: str
    kept: int
    waiting: int
    """Those that may leave the site and wait to be sealed."""
    sealed: int
    """Those that are in a segment."""


@dataclass(frozen=True)
class PrivacyReport:
    """Figures about personal data, without texts or values."""

    counts: tuple[PrivacyCount, ...]
    held: tuple[HeldExamples, ...]
    erasures: tuple[Erasure, ...]
    digests: int
    digests_max: int
    digest_days: float
    retention_days: dict[str, float]
    """By task."""


class SpoolWorker:
    """The open spool of one site, and its outbox."""

    def __init__(self, config: Config, redactor: Redactor, dependencies: SpoolWorkerDependencies) -> None:
        """Open the spool and the outbox, and finish what a crash interrupted.

        Raises:
            SiteError: the spool, the key or the outbox cannot be used.
        """
        self._config, self._dependencies = config, dependencies
        digester = ValueDigester(load_digest_key(config.state_dir / "value.key"))
        site = config.site.id or LOCAL_SITE
        self.recorder = RecordBuilder(config.examples, site, redactor, config.redaction, digester, dependencies.draw)
        self._ballast = Ballast(config.state_dir / "spool.ballast")
        examples = config.examples
        shares = AuditShares(examples.review_share, examples.review_shares)
        digest_seconds = examples.value_digest_days * 86_400
        personal_limits = PersonalLimits(examples.value_digests_max, digest_seconds, examples.retention_days)
        self.spool = self._ballast.run(
            lambda: Spool(
                config.state_dir / "spool.db",
                dependencies.monotonic,
                lambda db: ReviewStreams(db, shares, dependencies.draw),
                personal_limits,
                dependencies.now,
            )
        )
        redaction = config.redaction
        audit_limits = AuditLimits(redaction.audit_examples_max, redaction.audit_days, examples.retention_days)
        with self.spool.transaction():
            self.redaction_audit = RedactionAudit(
                self.spool.db, audit_limits, lambda: self.spool.personal.calendar(self.spool.clock)
            )
        self.monitoring = MonitoringStore(self.spool.db, examples.new_inputs_level)
        self.questions = TeacherQuestionQueue(self.spool, config.escalation)
        tombstone = self.recorder.build_tombstone
        self.erasure = SpoolErasure(
            self.spool, self.monitoring, self.redaction_audit, tombstone, digester, dependencies.now
        )
        self.outbox: Outbox | None = None
        self.problems: dict[str, EdgeAgentError] = {}
        self._last_run: dict[str, float] = {}
        self._disk_full = False
        self._reported_revision = 0
        self._alarms: tuple[AlarmState, ...] | None = None
        self._alarms_at_commit = -1
        self.commits = 0
        """Number of groups of answers that this process has committed."""
        if config.site.id and config.site.recipients:
            # Loaded only at a site whose examples leave, to seal and sign.
            from edge_agent.capture.outbox_and_receipts import ExchangeFolders, Outbox, load_site_key  # noqa: PLC0415

            try:
                folders = ExchangeFolders(config.outbox, config.receipts)
                key = load_site_key(config.state_dir / "site.key")
                self.outbox = Outbox(self.spool, folders, (config.examples, config.site), key)
                self._check_segments(thoroughly=True)
            except EdgeAgentError:
                self.spool.close()
                raise
        self._ballast.lay()

    def now(self) -> float:
        """Return seconds since 1970 by the wall clock, which may be wrong."""
        return self._dependencies.now()

    def store_predictions(self, predictions: list[PredictionRecord]) -> None:
        """Store and count predictions, and evict down to the size limit; inside the spool's transaction."""
        new_predictions = self.spool.add_predictions(predictions)
        self.monitoring.count_answers(each.observation for each in new_predictions if each.observation)
        self.questions.add_questions(new_predictions)
        for each in new_predictions:
            if each.drawn_text and self.redaction_audit.add(each.prediction_id, each.task, each.drawn_text):
                self.spool.counters["redaction_audit_drawn"] += 1
        self.commits += 1
        if not self.spool.evict(self._bytes_max(), ROWS_AT_ONCE):
            self.spool.counters["over_limit"] += 1

    def store_feedback(
        self,
        feedback: HumanFeedback,
        prediction: dict[str, Any],
        manifest: Manifest | None,
        findings: ModelFindings | None = None,
    ) -> None:
        """Store feedback and count it; inside the spool's transaction. Raises PredictionUnknown, InvalidRequest."""
        at = self.now()
        feedback_record = self.recorder.build_feedback(feedback, prediction, manifest, at, findings)
        number = self.spool.add_feedback(feedback_record)
        self._alarms_at_commit = -1
        if number:
            judgement = json.loads(feedback_record.record)
            wrong = is_local_answer_wrong(prediction, judgement)
            in_audit = number == 1 and self.spool.streams.record_verdict(feedback.prediction_id, wrong)
            audit_label = self.questions.audit_label(feedback.prediction_id)
            label = HumanLabel(judgement, number == 1, audit_label, in_audit)
            self.monitoring.count_human_label(prediction, label, at)
            if in_audit:
                self.spool.counters["audit_reviewed"] += 1
                self._test_audit(at)

    def review_page(
        self, review_filter: ReviewFilter, after: ReviewCursor, count: int
    ) -> list[tuple[ReviewCursor, SpooledPrediction]]:
        """Return predictions after a cursor of the review queue, those of an active alarm first."""
        return self.spool.review_page(review_filter, after, count, self.monitoring.shifted_inputs())

    def store_charges(self, charges: list[Charge]) -> None:
        """Store the cost of questions to the large model, in a transaction of its own."""
        with self.spool.transaction():
            self.monitoring.count_charges(charges)

    def privacy_report(self) -> PrivacyReport:
        """Return counts of captured, replaced, sent, erased and kept data, without texts or values."""
        query = (
            "SELECT task, count(*), sum(consent = 2 AND segment IS NULL), coalesce(sum(segment > 0), 0)"
            " FROM predictions GROUP BY task ORDER BY task"
        )
        examples, personal = self._config.examples, self.spool.personal
        return PrivacyReport(
            tuple(personal.counts()),
            tuple(HeldExamples(*row) for row in self.spool.db.rows(query)),
            tuple(personal.erasures()),
            personal.count_digests(),
            examples.value_digests_max,
            examples.value_digest_days,
            dict(examples.retention_days),
        )

    def next_question(self, tasks: tuple[str, ...]) -> TeacherQuestion | None:
        """Return the next question of these tasks, marked as asked on the disk; None = no question waits.

        It reads before it writes, because it is called often on an idle site.
        """
        question = self.questions.next_question(tasks)
        if question:
            with self.spool.transaction():
                self.questions.mark_asked(question)
        return question

    def store_teacher_label(
        self,
        question: TeacherQuestion,
        answer: str,
        model: str,
        manifest: Manifest,
        findings: ModelFindings | None = None,
        scores: Sequence[tuple[str, float]] = (),
    ) -> bool:
        """Store the large model's label of a question and count it; inside the spool's transaction.

        Returns False if the input was erased in the meantime.
        """
        at = self.now()
        record = self.recorder.build_teacher_label(question, answer, model, manifest, at, findings, scores)
        if not self.questions.store_label(question, record):
            return False
        self._alarms_at_commit = -1
        in_audit = self.spool.streams.is_audited(question.prediction_id)
        judgement = self.spool.first_feedback(question.prediction_id) if in_audit else None
        label = TeacherLabel(json.loads(record)["value"], question.why, json.loads(judgement) if judgement else None)
        self.monitoring.count_teacher_label(json.loads(question.record), label, at)
        return True

    def do_housekeeping(self) -> None:
        """Do what is due: expire, read receipts, seal, write the status."""
        if self._disk_full:
            self._evict_a_tenth()
        if self._alarms_at_commit != self.commits:
            self._alarms_at_commit = self.commits
            self.report_alarms()
        self._run_if_due("expire", EXPIRE_SECONDS, self._expire)
        self._run_if_due("clock", CLOCK_SECONDS, self.spool.save_clock)
        if self.outbox:
            self._run_if_due("receipts", RECEIPTS_SECONDS, self.read_receipts)
            self._run_if_due("seal", SEAL_SECONDS, self._seal_if_due)
            self._run_if_due(
                "status",
                STATUS_SECONDS if self._reported_revision == self._dependencies.revision() else 0,
                self.write_status,
            )
        self._run_if_due("shrink", SHRINK_SECONDS, self.spool.shrink)

    def report_alarms(self) -> None:
        """Report the active alarms to the daemon and the central team, if they changed."""
        alarms = self.monitoring.active_alarms()
        if alarms != self._alarms:
            is_first, previous, self._alarms = self._alarms is None, set(self._alarms or ()), alarms
            for alarm in sorted(set(alarms) - previous, key=lambda each: (each.task, each.alarm)):
                log.warning("field_alarm", task=alarm.task, reason=alarm.alarm, digest=alarm.digest, why=alarm.message)
            self._dependencies.replace_alarms(alarms)
            if not is_first:
                self._last_run.pop("status", None)

    def seal_all(self) -> int:
        """Seal all waiting records; return the number of new segments.

        Raises:
            SiteError: the outbox or its disk is full, or failed.
        """
        count = 0
        while self.outbox and self.outbox.seal_segment(self.now()):
            count += 1
        self.write_status()
        return count

    def read_receipts(self) -> int:
        """Apply the receipts in the folder; return the number of deleted segments.

        Raises:
            ExchangeError: the receipts are invalid or not signed by the central team; nothing was deleted.
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
        """Write the status object for the central team."""
        if self.outbox:
            site = self._dependencies
            self._reported_revision = site.revision()
            self.outbox.write_status(site.tasks(), site.updates(), site.version, self.now(), self._redaction_report())
            self._last_run["status"] = self._dependencies.monotonic()

    def _redaction_report(self) -> RedactionReport | None:
        if not self._config.redaction.task:
            return None
        model, bound = self._dependencies.redactor()
        return self.redaction_audit.figures(model, bound).report(bound)

    def free_disk_space(self) -> None:
        """On a full disk: free the ballast now; the next housekeeping evicts a tenth of the spool."""
        self._ballast.drop()
        self._disk_full = True

    def close(self) -> None:
        """Close the spool."""
        self.spool.close()

    def _bytes_max(self) -> int:
        # Plus the free pages that `shrink` will return: otherwise each commit would evict again for the one before.
        free = shutil.disk_usage(self._config.state_dir).free + self.spool.db.reclaimable_bytes()
        examples = self._config.examples
        return max(0, min(examples.spool_bytes_max, self.spool.used_bytes + free - examples.disk_reserve_bytes))

    def _evict_a_tenth(self) -> None:
        with self.spool.transaction():
            self.spool.evict(self.spool.used_bytes * 9 // 10, ROWS_AT_ONCE)
        self.spool.shrink()
        self._ballast.lay()
        self._disk_full = False

    def _test_audit(self, at: float) -> None:
        """Test the settled audit rows, in the order in which they were drawn; inside the transaction."""
        for (task, digest), outcomes in self.spool.streams.take_settled().items():
            self.monitoring.count_audit(task, digest, outcomes, at)

    def _expire(self) -> None:
        # It reads before it writes, so that a quiet site does not wear out its flash.
        while self.spool.can_expire(self._config.examples.window_seconds):
            with self.spool.transaction():
                self.spool.expire(self._config.examples.window_seconds, ROWS_AT_ONCE)
        while due := self.spool.personal.due(self.spool.clock):
            with self.spool.transaction():
                for prediction_id in due:
                    self.monitoring.delete_input(prediction_id)
                    self.redaction_audit.erase(prediction_id)
                self.spool.retire(due)
        if self.spool.personal.can_trim(self.spool.clock):
            with self.spool.transaction():
                self.spool.counters["value_digests_dropped"] += self.spool.personal.trim(self.spool.clock)
        if self.redaction_audit.can_expire():
            with self.spool.transaction():
                self.spool.counters["redaction_audit_expired"] += self.redaction_audit.expire()
        if self.questions.can_expire():
            with self.spool.transaction():
                self.questions.expire()
        if self.spool.streams.can_settle():
            self._alarms_at_commit = -1
            with self.spool.transaction():
                self._test_audit(self.now())

    def _seal_if_due(self) -> None:
        assert self.outbox is not None
        self._check_segments(thoroughly=False)
        try:
            while self.outbox.is_due() and self.outbox.seal_segment(self.now()):
                self.write_status()
        except DiskFull as error:
            self.problems["outbox"] = error
            raise
        self.problems.pop("outbox", None)

    def _check_segments(self, *, thoroughly: bool) -> None:
        assert self.outbox is not None
        lost = self.outbox.find_lost_segments(thoroughly=thoroughly)
        if lost:
            log.error("segments_lost", sequences=lost)

    def _run_if_due(self, name: str, seconds: float, work: Callable[[], object]) -> None:
        now = self._dependencies.monotonic()
        if now - self._last_run.get(name, -seconds) >= seconds:
            self._last_run[name] = now
            work()
