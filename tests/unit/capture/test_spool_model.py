"""A site and its central team under random events, compared with a model of what was promised.

Under any order of restarts, lost segments, receipts, full spools, erasures and clock jumps, no acknowledged correction
is lost, nothing erased returns, and the central team can name every gap.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent.errors import PredictionUnknown
from edge_agent.formats import segment, status_object
from tests.support.site_cases import SiteCase, answered, judgement, read_outbox

WINDOW_SECONDS = 100.0


class SiteAndCentralTeam(RuleBasedStateMachine):
    """One site, and a central team that collects at times."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.site = SiteCase(self.folder, window_seconds=WINDOW_SECONDS, routine_share=0.5)
        self.made = 0
        self.attempts = 0
        self.known: set[int] = set()
        self.judged: dict[str, int] = {}
        self.erased: set[int] = set()
        self.central: dict[str, object] = {}
        self.received: set[int] = set()

    def teardown(self) -> None:
        if hasattr(self, "site"):
            self.site.worker.close()
            shutil.rmtree(self.folder)

    @rule(sure=st.booleans(), count=st.integers(1, 5))
    def answer(self, sure: bool, count: int) -> None:
        numbers = range(self.made, self.made + count)
        self.site.keep(*(answered(n, sure=sure, confidence=0.9 if sure else 0.5) for n in numbers))
        self.made += count
        self.known.update(numbers)

    @rule(data=st.data())
    @precondition(lambda self: self.known)
    def correct(self, data) -> None:
        number = data.draw(st.sampled_from(sorted(self.known)))
        self.attempts += 1
        name = f"{self.attempts}"
        try:
            self.site.judge(judgement(number, feedback_id=f"f-{name}", request_id=f"r-{name}"))
        except PredictionUnknown:
            self.known.discard(number)
            return
        assert number not in self.erased
        self.judged[f"feedback:f-{name}"] = number

    @rule()
    def seal(self) -> None:
        self.site.worker.seal_all()

    @rule()
    def restart(self) -> None:
        self.site.reopen()

    @rule(years=st.integers(-5, 10))
    def jump(self, years: int) -> None:
        self.site.clock.wall += years * 365 * 86_400

    @rule(seconds=st.floats(0, WINDOW_SECONDS * 1.5))
    def wait(self, seconds: float) -> None:
        self.site.clock.running += seconds
        self.site.worker.do_housekeeping()

    @rule()
    def run_out_of_room(self) -> None:
        with self.site.worker.spool.transaction():
            self.site.worker.spool.evict(0, 10_000)

    @rule(data=st.data())
    @precondition(lambda self: self.made)
    def erase(self, data) -> None:
        number = data.draw(st.integers(0, self.made - 1))
        spool = self.site.worker.spool
        with spool.transaction():
            spool.erase(f"p-{number}", self.site.worker.recorder.build_tombstone(f"p-{number}", 0.0))
        self.erased.add(number)
        self.judged = {name: judged for name, judged in self.judged.items() if judged != number}

    @rule(data=st.data())
    @precondition(lambda self: self.site.files())
    def harm(self, data) -> None:
        """Take a file out of the outbox before the central team has seen it."""
        name = data.draw(st.sampled_from(self.site.files()))
        if segment.parse_name(name.split(".")[0])[1] not in self.received:
            (self.site.config.outbox / "segments" / name).unlink()
            self.site.worker.outbox.find_lost_segments(thoroughly=True)

    @rule()
    def collect(self) -> None:
        """The central team reads everything, and signs for what it has without a gap from the start."""
        found = read_outbox(self.site.config.outbox, self.site.worker.spool.incarnation)
        for sequence in sorted(found):
            for record in found[sequence]:
                self.central.setdefault(record.record_id, record)
            self.received.add(sequence)
        for sequence in sorted(found):
            self.site.receipt(sequence, sequence)
            self.site.worker.read_receipts()

    @invariant()
    def no_correction_is_lost(self) -> None:
        """Each acknowledged correction is at the central team, or in the spool together with its prediction."""
        if not hasattr(self, "site"):
            return
        rows = self.site.worker.spool.db.rows("SELECT 'feedback:' || feedback_id, prediction_id FROM feedback")
        kept = {row[0] for row in self.site.worker.spool.db.rows("SELECT prediction_id FROM predictions")}
        at_home = {name for name, prediction_id in rows if prediction_id in kept}
        assert set(self.judged) - set(self.central) <= at_home

    @invariant()
    def bytes_are_counted_right(self) -> None:
        """What the spool believes to hold is what it holds."""
        if not hasattr(self, "site"):
            return
        spool = self.site.worker.spool
        ((predictions,),) = spool.db.rows("SELECT coalesce(sum(size), 0) FROM predictions")
        ((feedback,),) = spool.db.rows("SELECT coalesce(sum(size), 0) FROM feedback")
        assert predictions + feedback == spool.used_bytes

    @invariant()
    def what_was_erased_is_not_here(self) -> None:
        """Neither it nor what was said of it."""
        if hasattr(self, "site"):
            rows = self.site.worker.spool.db.rows(
                "SELECT prediction_id FROM predictions UNION SELECT prediction_id FROM feedback"
            )
            assert not {f"p-{number}" for number in self.erased} & {row[0] for row in rows}

    @rule()
    def everything_ends_at_the_central_team(self) -> None:
        """Sealed and collected, every correction is there with its input, every gap is named, every erasure arrived."""
        self.seal()
        said = status_object.verify((self.site.config.outbox / "status.json").read_bytes(), None).body
        self.collect()
        assert set(self.judged) <= set(self.central)
        assert {f"prediction:p-{number}" for number in self.judged.values()} <= set(self.central)
        epoch = self.site.worker.spool.incarnation
        missing = set(range(1, said.highest[epoch] + 1)) - self.received
        assert missing <= set(said.missing.get(epoch, ()))
        seen = {number for number in self.erased if f"prediction:p-{number}" in self.central}
        assert {f"tombstone:p-{number}" for number in seen} <= set(self.central)


TestSiteAndCentralTeam = SiteAndCentralTeam.TestCase
TestSiteAndCentralTeam.__doc__ = "Random events, the promises after each."
TestSiteAndCentralTeam.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
