"""The loop that brings each task to the bundle that the plan wants: sees what there is, asks machine.py, does it.

It decides nothing. Before a step begins its row is in the journal; what trust, engines and files say is handed in as
callables. One look at a time, whoever asks for it: the clock, or an operator with a stick.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from edge_agent.config import Config
from edge_agent.errors import BundleError, EdgeAgentError, ModelFailed, SiteError, UpdateError
from edge_agent.formats.download_requests import DownloadRequest
from edge_agent.formats.plan import (
    DesiredState,
    FleetPlan,
    MachineCapabilities,
    TaskPlan,
    desired_states,
    is_within_window,
)
from edge_agent.formatting import format_bytes
from edge_agent.store.state_database import InstalledBundle
from edge_agent.store.store import Store
from edge_agent.store.update_records import UpdateProgress
from edge_agent.update import update_state_machine
from edge_agent.update.activation import Activation
from edge_agent.update.probation import BundleActivity, ProbationMonitor
from edge_agent.update.selftest import SelfTestRunner, Serving, Trying
from edge_agent.update.update_state_machine import StepOutcome, StepResult, TaskFacts, UpdateAction, classify_error
from edge_agent.update.verified import CopyProgress, VerifiedRepository

if TYPE_CHECKING:  # a site without a root of trust does not load what verifies
    from edge_agent.update.ingest import BundleIngest

log = structlog.get_logger("edge_agent.update")

MENDABLE = frozenset({"HASH_MISMATCH", "FILE_MISSING", "BUNDLE_UNREADABLE", "SCHEMA_UNKNOWN", "REQUIREMENT_UNMET"})
"""Of what is wrong with files that came: what another copy, or another agent, may mend."""


@dataclass(frozen=True)
class UpdaterDependencies:
    """What the engine room and the machine offer."""

    trying: Trying
    """Load a bundle in a child of its own, for so many seconds at most; raises ModelError or MemoryShort."""
    serving: Serving
    """The bundle where it serves; None = it does not."""
    seen: Callable[[str], BundleActivity]
    """What is seen of the bundle with that digest."""
    machine: MachineCapabilities
    changed: Callable[[], None] = lambda: None
    """Told when a row of the journal has changed."""
    planned: Callable[[Mapping[str, TaskPlan]], None] = lambda _: None
    """Told what the plan says of the tasks of this site; on the store's thread."""
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class UpdateOverview:
    """Where updates stand."""

    channel: str
    plan_version: int = 0
    problem: EdgeAgentError | None = None
    """Why what came last was not believed."""
    rows: Mapping[str, UpdateProgress] = field(default_factory=dict)
    revoked: frozenset[str] = frozenset()
    """Tasks answered by a bundle that was signed, and is not any more."""
    expires: float = 0.0
    """When what was believed last expires, in seconds since 1970; 0 = nothing was since the daemon started."""


class Updater:
    """See the module."""

    def __init__(
        self,
        config: Config,
        store: Store,
        activation: Activation,
        around: UpdaterDependencies,
        source: BundleIngest | None,
    ) -> None:
        """Update the tasks of a store; without a source nothing new begins."""
        self._config, self._store, self._activation = config, store, activation
        self._around, self._source = around, source
        limit = config.update.selftest_seconds_max
        self._examiner = SelfTestRunner(store, activation, around.trying, around.serving, limit)
        self._watcher = ProbationMonitor(around.seen, around.monotonic)
        self._looking = asyncio.Lock()
        self._wake = asyncio.Event()
        self._stopping = False
        self._retry_at: dict[str, float] = {}
        self._verified = VerifiedRepository()
        self.overview = UpdateOverview(config.update.channel)

    def copied(self) -> CopyProgress:
        """Tell how far the copy of a bundle into the store has come."""
        return self._source.copied if self._source else CopyProgress()

    async def run(self) -> None:
        """Look again and again, until `stop`."""
        while not self._stopping:
            await self.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.update.check_seconds):
                    await self._wake.wait()

    async def stop(self) -> None:
        """Give up a self-test, let a switch come to its end, and write down how far each task has come."""
        self._stopping = True
        self._wake.set()
        self._examiner.stop()
        async with self._looking:
            with contextlib.suppress(SiteError):  # then the next start takes it for a power cut
                for row in self._rows.values():
                    await self._record(update_state_machine.suspend(self._watcher.noted(row), self._around.now()))

    async def look(self, folder: Path | None = None) -> EdgeAgentError | None:
        """Look at what came in, or at a folder that somebody brought, and take the steps that are due.

        Returns why what lies there is not believed, or None.
        """
        async with self._looking:
            if folder is not None:  # who brings another copy does not wait for the pause after the last one
                self._retry_at.clear()
            try:
                return await self._look(folder or self._config.incoming)
            except SiteError as error:  # the journal's own disk: nothing begins while it cannot be written
                log.error("updates_stopped", reason=error.reason, message=error.message)
                self._show(problem=error)
                return error

    @property
    def _rows(self) -> Mapping[str, UpdateProgress]:
        return self.overview.rows

    async def _look(self, folder: Path) -> EdgeAgentError | None:
        verified, problem = await self._refreshed(folder)
        rows = await self._activation.on_store(self._store.journal.rows)
        plan_version = verified.plan_version if verified else self.overview.plan_version
        self._show(
            plan_version=plan_version,
            problem=problem,
            rows=rows,
            revoked=self._revoked(verified),
            expires=self._verified.expires,
        )
        plan = verified.plan if verified else None
        fleet = plan.for_site(self._config.site.id, self._config.update.channel) if plan else FleetPlan()
        if plan:
            await self._activation.on_store(self._around.planned, fleet.tasks)
        desired = self._desired(fleet, verified)
        for task in sorted(rows.keys() | desired.keys()):
            if verified and task not in desired and rows[task].state != "probation":
                await self._forget(task)
            elif not self._stopping:
                await self._step(task, desired.get(task), folder)
        await self._ask(fleet, verified)
        return problem

    async def _refreshed(self, folder: Path) -> tuple[VerifiedRepository | None, EdgeAgentError | None]:
        if self._source is None:
            return None, None
        try:
            self._verified = await self._activation.on_store(self._source.refresh, folder)
        except (UpdateError, SiteError) as error:
            if self.overview.problem is None or self.overview.problem.message != error.message:
                log.warning("update_not_believed", reason=error.reason, message=error.message)
            return None, error
        return self._verified, self._verified.problem

    def _revoked(self, verified: VerifiedRepository | None) -> frozenset[str]:
        if verified is None:
            return self.overview.revoked
        serving = self._activation.serving.items()
        return frozenset(task for task, each in serving if each.signed and each.digest not in verified.bundles)

    def _desired(self, fleet: FleetPlan, verified: VerifiedRepository | None) -> Mapping[str, DesiredState]:
        now = max(self._around.now(), verified.issued_at if verified else 0.0)
        return desired_states(fleet, self._config.site.id, self._around.machine, now)

    async def _ask(self, fleet: FleetPlan, verified: VerifiedRepository | None) -> None:
        if self._source is not None:
            wanted = [row.candidate for row in self._rows.values() if row.state in ("fetching", "staged")]
            await self._activation.on_store(self._source.ask, verified, wanted, fleet.bytes_per_second_max)

    # --- one task ------------------------------------------------------------------------------------------------

    async def _step(self, task: str, wish: DesiredState | None, folder: Path) -> None:
        row, action = await self._decided(task, wish, folder)
        if action is UpdateAction.ADMIT and await self._admitted(row, folder):
            row, action = await self._decided(task, wish, folder)
        if action is UpdateAction.TEST and wish is not None:
            await self._test_and_switch(row, wish.plan)
        elif action is UpdateAction.BACK:
            await self._go_back(row)

    async def _decided(self, task: str, wish: DesiredState | None, folder: Path) -> update_state_machine.Decision:
        before = self._rows.get(task)
        facts = await self._facts(task, before, wish, folder)
        row, action = update_state_machine.decide(task, before, facts, self._around.now())
        await self._record(self._watcher.noted(row) if self._watcher.due(row) else row)
        return row, action

    async def _facts(self, task: str, row: UpdateProgress | None, wish: DesiredState | None, folder: Path) -> TaskFacts:
        active = self._activation.serving.get(task)
        facts = TaskFacts(
            active=active.digest if active else "",
            wish=wish,
            plan_version=self.overview.plan_version,
            rested=self._around.monotonic() >= self._retry_at.get(task, 0.0),
            judged=self._watcher.evaluate(row) if row else None,
        )
        if wish is None or wish.bundle is None:
            return facts
        installed = self._installed(wish.bundle)
        local = time.localtime(self._around.now())
        return replace(
            facts,
            installed=installed,
            missing="" if installed else await self._missing(folder, wish.bundle),
            window_open=is_within_window(wish.plan.window, 60 * local.tm_hour + local.tm_min),
        )

    def _installed(self, digest: str) -> bool:
        return any(bundle.digest == digest for bundle in self._activation.inventory.bundles)

    async def _missing(self, folder: Path, digest: str) -> str:
        assert self._source is not None, "without a source nothing is wanted"
        wants = await self._activation.on_store(self._source.missing, folder, self._verified, digest)
        return _lacking(wants, "still to come" if folder == self._config.incoming else f"missing in {folder}")

    async def _admitted(self, row: UpdateProgress, folder: Path) -> bool:
        assert self._source is not None, "without a source nothing is admitted"
        try:
            await self._activation.admit(row.task, self._source.admit, folder, row.candidate)
        except (BundleError, UpdateError, SiteError) as error:
            mendable = not isinstance(error, BundleError) or error.reason in MENDABLE
            outcome = StepOutcome(StepResult.HINDERED if mendable else StepResult.FAILED, error.reason, error.message)
            await self._stopped(update_state_machine.after_test(row, outcome, self._around.now()))
            return False
        log.info("update_admitted", task=row.task, version=row.version, digest=row.candidate)
        return True

    async def _test_and_switch(self, row: UpdateProgress, plan: TaskPlan) -> None:
        try:
            bundle = await self._activation.on_store(self._store.find, row.task, row.candidate)
        except EdgeAgentError as error:  # removed or damaged since it came
            await self._stopped(update_state_machine.after_test(row, classify_error(error), self._around.now()))
            return
        outcome = await self._examiner.test(bundle, plan)
        # Where there is room for one of them only, the test comes when the old one has stopped.
        later = outcome.reason == "MEMORY_SHORT" and self._activation.pauses(bundle)
        row = update_state_machine.after_test(
            row, StepOutcome(StepResult.PASSED) if later else outcome, self._around.now()
        )
        if row.state != "switching":
            await self._stopped(row)
            return
        await self._record(row)
        await self._switch(row, plan, bundle if later else None)

    async def _switch(self, row: UpdateProgress, plan: TaskPlan, untested: InstalledBundle | None) -> None:
        outcome = StepOutcome(StepResult.PASSED)

        async def test() -> None:
            nonlocal outcome
            assert untested is not None, "handed over only with a bundle to test"
            outcome = await self._examiner.test(untested, plan)
            if outcome.end is not StepResult.PASSED:
                raise ModelFailed(outcome.message)

        after = update_state_machine.after_switch(row, outcome, self._around.now())
        after = replace(after, watch=self._watcher.begun(plan.probation, row.incumbent), message=_watched(plan))
        first = test if untested else None
        try:
            if await self._activation.switch(after, row.candidate, row.incumbent, first):
                self._note(after)
        except EdgeAgentError as error:
            outcome = classify_error(error) if outcome.end is StepResult.PASSED else outcome
            await self._stopped(update_state_machine.after_switch(row, outcome, self._around.now()))

    async def _go_back(self, row: UpdateProgress) -> None:
        back = update_state_machine.rolled_back(row, self._around.now())
        try:
            if await self._activation.switch(back, row.incumbent, row.candidate):
                self._note(back)
        except EdgeAgentError as error:
            await self._stopped(update_state_machine.not_rolled_back(row, classify_error(error)))

    # --- the journal ---------------------------------------------------------------------------------------------

    async def _record(self, row: UpdateProgress) -> None:
        """Write a row down, if it is another than the one there."""
        if row != self._rows.get(row.task):
            await self._activation.on_store(self._store.journal.record, row)
            self._note(row)

    async def _stopped(self, row: UpdateProgress) -> None:
        """Write down that a step did not come to its end, and let some time pass before the next try."""
        await self._record(row)
        self._retry_at[row.task] = self._around.monotonic() + update_state_machine.pause_seconds(row.attempts)

    async def _forget(self, task: str) -> None:
        await self._activation.on_store(self._store.journal.forget, task)
        self._show(rows={name: row for name, row in self._rows.items() if name != task})

    def _note(self, row: UpdateProgress) -> None:
        """Show a row that is on the disk."""
        before = self._rows.get(row.task)
        self._watcher.begin(row)
        self._show(rows={**self._rows, row.task: row})
        if before is None or before.state != row.state:
            log.info("update", task=row.task, version=row.version, state=row.state, reason=row.reason, why=row.message)
            self._around.changed()

    def _show(self, **changes: Any) -> None:
        self.overview = replace(self.overview, **changes)


def _lacking(wants: Sequence[DownloadRequest], where: str) -> str:
    """Return what of a bundle is missing, in words; empty = nothing."""
    size = format_bytes(sum(want.size_bytes for want in wants))
    return f"{len(wants)} file{'s' if len(wants) > 1 else ''} ({size}) {where}" if wants else ""


def _watched(plan: TaskPlan) -> str:
    return f"watched for {plan.probation.calls} calls or {plan.probation.hours} h, whichever comes first"
