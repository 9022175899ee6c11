"""The loop that brings each task to the bundle that the plan wants.

`Updater` checks the repository and then each task, one check at a time, started by the clock or by an operator with a
USB drive; self-tests come last. `TaskUpdates` takes the steps of one task. Neither decides: update_state_machine.py
does, and the row of a step is in the journal before the step begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from edge_agent.config import Config
from edge_agent.errors import (
    BundleError,
    EdgeAgentError,
    MediaFailed,
    ModelFailed,
    SiteError,
    UnknownTask,
    UpdateError,
    UpdateIncomplete,
)
from edge_agent.formats.plan import (
    DesiredState,
    FleetPlan,
    MachineCapabilities,
    TaskPlan,
    desired_states,
    is_within_window,
)
from edge_agent.store.bundle_store import Store
from edge_agent.store.state_database import InstalledBundle, UpdateProgress
from edge_agent.update import update_state_machine
from edge_agent.update.activation import Activation
from edge_agent.update.blocked_update_messages import CopyProgress, DownloadBlocker, VerifiedRepository
from edge_agent.update.probation import BundleActivity, ProbationMonitor
from edge_agent.update.selftest import LoadForTest, SelfTestRunner, ServingBundle
from edge_agent.update.update_state_machine import StepOutcome, StepResult, TaskFacts, UpdateAction, classify_error

if TYPE_CHECKING:  # it loads the TUF libraries, which only a site with a root of trust needs
    from edge_agent.update.ingest import BundleIngest

log = structlog.get_logger("edge_agent.update")

REPAIRABLE = frozenset({"HASH_MISMATCH", "FILE_MISSING", "BUNDLE_UNREADABLE", "SCHEMA_UNKNOWN", "REQUIREMENT_UNMET"})
"""Reasons of a BundleError that another copy of the files, or a newer agent, may repair."""


@dataclass(frozen=True)
class UpdaterDependencies:
    """What updates need of the engines and the machine."""

    load_for_test: LoadForTest
    serving: ServingBundle
    activity: Callable[[str], BundleActivity]
    """(digest): the engines' counts for a bundle since it was loaded."""
    machine: MachineCapabilities
    changed: Callable[[], None] = lambda: None
    """Called when a row of the journal has changed."""
    planned: Callable[[Mapping[str, TaskPlan]], None] = lambda _: None
    """Called on the store's thread with the part of the plan for the tasks of this site."""
    download_blocker: Callable[[], DownloadBlocker | None] = lambda: None
    """Why the uplink brings no files; None = it does."""
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class UpdateOverview:
    """The state of updates."""

    channel: str
    plan_version: int = 0
    problem: EdgeAgentError | None = None
    """Why the repository that came last was not accepted."""
    rows: Mapping[str, UpdateProgress] = field(default_factory=dict)
    """The journal, by task."""
    published: frozenset[str] | None = None
    """Digests of the bundles that the accepted repository signs; None = none was accepted since the daemon started."""
    expires: float = 0.0
    """When the accepted metadata expires, in seconds since 1970; 0 = none was accepted since the daemon started."""

    def is_revoked(self, bundle: InstalledBundle) -> bool:
        """Tell whether a bundle was signed when it was installed, and no longer is."""
        return bundle.signed and self.published is not None and bundle.digest not in self.published


class Updater:
    """See the module."""

    def __init__(
        self,
        config: Config,
        store: Store,
        activation: Activation,
        dependencies: UpdaterDependencies,
        ingest: BundleIngest | None,
    ) -> None:
        """Update the tasks of a store; without `ingest` nothing new begins."""
        self._config, self._store, self._activation = config, store, activation
        self._dependencies, self._ingest = dependencies, ingest
        self._tasks = TaskUpdates(config, store, activation, dependencies, ingest)
        self._checking = asyncio.Lock()
        self._wake = asyncio.Event()
        self._stopping = False
        self._overview = UpdateOverview(config.update.channel)

    @property
    def overview(self) -> UpdateOverview:
        """The state of updates as of now."""
        return replace(self._overview, rows=self._tasks.rows)

    @property
    def copy_progress(self) -> CopyProgress:
        """How far the copy of a bundle into the store has come. Read by any thread."""
        return self._ingest.copied if self._ingest else CopyProgress()

    async def run(self) -> None:
        """Check again and again, until `stop`."""
        while not self._stopping:
            self._wake.clear()
            await self.check()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.update.check_seconds):
                    await self._wake.wait()

    def wake(self) -> None:
        """Begin the next check now, because an operator has changed the active bundle."""
        self._wake.set()

    def held_row(self, task: str) -> UpdateProgress | None:
        """Return the row of a task that an operator's choice holds, even one made since the last check; None = none."""
        row = self._tasks.with_choice(task)
        return row if row is not None and row.state == "held" else None

    async def stop(self) -> None:
        """Abandon a self-test, finish a switch, and write the progress of each task."""
        self._stopping = True
        self._wake.set()
        self._tasks.stop()
        async with self._checking:
            with contextlib.suppress(SiteError):  # then the next start continues as after a power cut
                await self._tasks.suspend()

    async def check(self, folder: Path | None = None) -> EdgeAgentError | None:
        """Check the uplink's folder, or a folder that a person brought, and take the steps that are due.

        Returns why the repository there is not accepted, or None.
        """
        async with self._checking:
            if folder is not None:  # another copy should not wait for the pause after the last failure
                self._tasks.skip_pauses()
            try:
                return await self._check(folder or self._config.incoming)
            except SiteError as error:  # the journal's own disk: nothing begins while it cannot be written
                log.error("updates_stopped", reason=error.reason, message=error.message)
                self._overview = replace(self._overview, problem=error)
                return error

    async def allow(self, task: str) -> bool:
        """Lift an operator's hold, so that the plan's bundle may answer the task again, and take the steps due then.

        Returns whether the task was held.

        Raises:
            UnknownTask: the plan does not name it.
            SiteError: the journal cannot be written.
        """
        async with self._checking:
            await self._tasks.read_journal()
            was_held = await self._tasks.allow(task)
        await self.check()
        return was_held

    async def _check(self, folder: Path) -> EdgeAgentError | None:
        verified, problem = await self._verify(folder)
        await self._tasks.read_journal()
        self._overview = replace(self._overview, problem=problem)
        fleet = FleetPlan()
        if verified:
            version, published, expires = verified.plan_version, frozenset(verified.bundles), verified.expires
            self._overview = replace(self._overview, plan_version=version, published=published, expires=expires)
        if verified and verified.plan:
            fleet = verified.plan.for_site(self._config.site.id, self._config.update.channel)
            await self._store.thread.run(self._dependencies.planned, fleet.tasks)
        now = max(self._dependencies.now(), verified.issued_at if verified else 0.0)
        desired = desired_states(fleet, self._config.site.id, self._dependencies.machine, now)
        context = UpdateContext(folder, verified, self._overview.plan_version)
        to_test = await self._prepare(desired, context)
        if self._ingest is not None:
            candidates = self._tasks.unfinished_candidates(besides=to_test)
            await self._store.thread.run(
                self._ingest.request_downloads, verified, candidates, fleet.bytes_per_second_max
            )
        for task in to_test:  # last, as each test takes up to minutes
            if not self._stopping:
                await self._tasks.test_and_switch(task, desired[task], context)
        return problem

    async def _prepare(self, desired: Mapping[str, DesiredState], context: UpdateContext) -> list[str]:
        """Take the steps of all tasks that need no test; return the tasks whose test is due."""
        to_test = []
        for task in sorted(self._tasks.rows.keys() | desired.keys()):
            if context.verified and task not in desired and self._tasks.rows[task].state != "probation":
                await self._tasks.forget(task)
            elif not self._stopping and await self._tasks.prepare(task, desired.get(task), context):
                to_test.append(task)
        return to_test

    async def _verify(self, folder: Path) -> tuple[VerifiedRepository | None, EdgeAgentError | None]:
        if self._ingest is None:
            return None, None
        try:
            verified = await self._store.thread.run(self._ingest.refresh, folder)
        except (UpdateError, SiteError) as error:
            if isinstance(error, UpdateIncomplete) and await self._store.thread.run(self._ingest.awaits_first, folder):
                return None, None  # no update has arrived yet, which is no problem
            previous = self._overview.problem
            if previous is None or previous.message != error.message:
                log.warning("update_not_accepted", reason=error.reason, message=error.message)
            return None, error
        return verified, verified.problem


@dataclass(frozen=True)
class UpdateContext:
    """The result of one check of the repository; without `verified` it was refused, or there is no root of trust."""

    folder: Path
    verified: VerifiedRepository | None
    plan_version: int


class TaskUpdates:
    """The journal of updates, and the steps that bring one task from its bundle to the next."""

    def __init__(
        self,
        config: Config,
        store: Store,
        activation: Activation,
        dependencies: UpdaterDependencies,
        ingest: BundleIngest | None,
    ) -> None:
        """Take steps in a store."""
        self._config, self._incoming = config, config.incoming
        self._store, self._activation = store, activation
        self._dependencies, self._ingest, self._now = dependencies, ingest, dependencies.now
        limit = config.update.selftest_seconds_max
        self._selftests = SelfTestRunner(store, activation, dependencies.load_for_test, dependencies.serving, limit)
        self._probations = ProbationMonitor(dependencies.activity, dependencies.monotonic)
        self._retry_at: dict[str, float] = {}
        self._needed_bytes: dict[str, int] = {}
        """By task: the bytes that the store's disk must have free for a bundle for which it was too full."""
        self.rows: Mapping[str, UpdateProgress] = {}
        """The journal by task, as it is on the disk."""

    def stop(self) -> None:
        """Abandon a self-test that is running."""
        self._selftests.stop()

    async def suspend(self) -> None:
        """Write the progress of each task, so that the next start continues there. Raises SiteError."""
        for row in self.rows.values():
            await self._record(update_state_machine.suspend(self._probations.with_counts(row), self._now()))

    def skip_pauses(self) -> None:
        """Let every task try again at once."""
        self._retry_at.clear()

    def unfinished_candidates(self, besides: Collection[str]) -> list[str]:
        """Return the digests of the bundles that must still be fetched or stored, without those of tasks `besides`."""
        rows = [row for task, row in self.rows.items() if task not in besides]
        return [row.candidate for row in rows if update_state_machine.wants_files(row)]

    async def read_journal(self) -> None:
        """Read the rows from the disk."""
        self.rows = await self._store.thread.run(self._store.journal.rows)

    async def forget(self, task: str) -> None:
        """Delete the row of a task that the plan no longer names."""
        await self._store.thread.run(self._store.journal.forget, task)
        self.rows = {name: row for name, row in self.rows.items() if name != task}

    async def allow(self, task: str) -> bool:
        """Lift `held`; return whether the task was. Raises UnknownTask, SiteError."""
        row = self.with_choice(task)
        if row is None:
            known_tasks = ", ".join(sorted(self.rows)) or "none"
            message = f"no plan names a task {task[:64]!r}; tasks of the plan: {known_tasks}"
            raise UnknownTask(message, remedy="'edge-agent status' lists the tasks of the plan.", task=task[:64])
        await self._record(update_state_machine.allow(row, self._answering(task), self._now()))
        return row.state == "held"

    def with_choice(self, task: str) -> UpdateProgress | None:
        """Return the row of a task with an operator's choice since the last check; None = it has no row."""
        row, active = self.rows.get(task), self._answering(task)
        if row is None or (not active and task in self._activation.problems):  # unreadable, which is no choice
            return row
        return update_state_machine.with_choice(row, active, self._now())

    def _answering(self, task: str) -> str:
        """Return the digest of the bundle that answers; empty = none."""
        active = self._activation.serving.get(task)
        return active.digest if active else ""

    async def prepare(self, task: str, desired: DesiredState | None, context: UpdateContext) -> bool:
        """Take the steps of a task that are due before a self-test; return whether that is due. Raises SiteError."""
        row, action = await self._decide(task, desired, context)
        if action is UpdateAction.ADMIT and await self._admit(row, context.folder):
            row, action = await self._decide(task, desired, context)
        if action is UpdateAction.ROLL_BACK:
            await self._roll_back(row)
        return action is UpdateAction.TEST

    async def _decide(
        self, task: str, desired: DesiredState | None, context: UpdateContext
    ) -> update_state_machine.Decision:
        """Decide, and write the row; if a test is due, write it as staged, as tests of other tasks may come first."""
        previous = self.rows.get(task)
        facts = await self._facts(task, previous, desired, context)
        row, action = update_state_machine.decide(task, previous, facts, self._now())
        journal_row = update_state_machine.suspend(row, self._now())
        await self._record(
            self._probations.with_counts(journal_row) if self._probations.is_save_due(journal_row) else journal_row
        )
        return row, action

    async def _facts(
        self, task: str, row: UpdateProgress | None, desired: DesiredState | None, context: UpdateContext
    ) -> TaskFacts:
        active = self._answering(task)
        facts = TaskFacts(
            active=active,
            desired=desired,
            plan_version=context.plan_version,
            may_retry=self._dependencies.monotonic() >= self._retry_at.get(task, 0.0),
            probation_outcome=self._probations.evaluate(row) if row else None,
            importing=context.folder != self._incoming,
            unreadable=not active and task in self._activation.problems,
        )
        if desired is None or desired.bundle is None:
            return facts
        installed = any(bundle.digest == desired.bundle for bundle in self._activation.inventory.bundles)
        local = time.localtime(self._now())
        facts = facts if installed else await self._with_missing_files(facts, desired.bundle, context)
        short_bytes = self._shortage(row) if facts.short_bytes is None else facts.short_bytes
        return replace(
            facts,
            installed=installed,
            short_bytes=short_bytes,
            disk=facts.disk or str(self._config.state_dir),
            may_retry=facts.may_retry or (row is not None and row.state == "staged" and short_bytes == 0),
            window_open=is_within_window(desired.plan.window, 60 * local.tm_hour + local.tm_min),
        )

    async def _with_missing_files(self, facts: TaskFacts, digest: str, context: UpdateContext) -> TaskFacts:
        """Add the missing files of a bundle, and why they do not arrive."""
        assert self._ingest is not None, "without a repository no bundle is wanted"
        assert context.verified is not None, "only an accepted plan names a bundle"
        describe, blocker = self._ingest.describe_missing, self._dependencies.download_blocker()
        try:
            missing = await self._store.thread.run(describe, context.folder, context.verified, digest)
        except MediaFailed as error:
            return replace(facts, missing=error.message, drive_failed=True, download=blocker)
        if missing is None:
            return replace(facts, download=blocker)
        if facts.importing:
            return replace(facts, missing=f"in {context.folder} {missing.faults}", download=blocker)
        facts = replace(facts, missing=missing.amount, download=blocker)
        if blocker is None or not blocker.disk_full:
            return facts
        return replace(facts, disk=str(self._incoming), short_bytes=self._ingest.download_shortage(missing.bytes))

    def _shortage(self, row: UpdateProgress | None) -> int | None:
        """Return the bytes to free for a bundle for which the store's disk was too full; None = unknown."""
        if row is None or row.reason != "DISK_FULL" or row.task not in self._needed_bytes:
            return None
        return max(0, self._needed_bytes[row.task] - shutil.disk_usage(self._config.state_dir).free)

    async def _admit(self, row: UpdateProgress, folder: Path) -> bool:
        """Copy the candidate into the store; return whether that succeeded."""
        assert self._ingest is not None, "without a repository no bundle is wanted"
        try:
            await self._activation.admit(row.task, self._ingest.admit, folder, row.candidate)
        except (BundleError, UpdateError, SiteError) as error:
            repairable = not isinstance(error, BundleError) or error.reason in REPAIRABLE
            outcome = StepOutcome(StepResult.BLOCKED if repairable else StepResult.FAILED, error.reason, error.message)
            if "needed" in error.metadata:
                self._needed_bytes[row.task] = int(error.metadata["needed"]) + int(error.metadata["reserve"])
            facts = TaskFacts(
                active="",
                importing=folder != self._incoming,
                download=self._dependencies.download_blocker(),
                disk=str(self._config.state_dir),
                short_bytes=self._shortage(replace(row, reason=error.reason)) or None,
            )
            failed_row = update_state_machine.after_failed_admission(row, outcome, self._now(), facts)
            await self._record_failure(failed_row)
            return False
        self._needed_bytes.pop(row.task, None)
        self._retry_at.pop(row.task, None)
        log.info("update_admitted", task=row.task, version=row.version, digest=row.candidate)
        return True

    async def test_and_switch(self, task: str, desired: DesiredState, context: UpdateContext) -> None:
        """Test the candidate, if that is still due, and activate it. Raises SiteError if the journal is not written."""
        row, action = await self._decide(task, desired, context)
        if action is not UpdateAction.TEST:
            return
        await self._record(row)
        try:
            bundle = await self._store.thread.run(self._store.find, row.task, row.candidate)
        except EdgeAgentError as error:  # removed or damaged since it was stored
            await self._record_failure(update_state_machine.after_test(row, classify_error(error), self._now()))
            return
        outcome = await self._selftests.run(bundle, desired.plan)
        # If there is memory for only one of them, the test follows when the old one has stopped.
        is_test_later = outcome.reason == "MEMORY_SHORT" and self._activation.pauses(bundle)
        row = update_state_machine.after_test(
            row, StepOutcome(StepResult.PASSED) if is_test_later else outcome, self._now()
        )
        if row.state != "switching":
            await self._record_failure(row)
            return
        await self._record(row)
        await self._switch(row, desired.plan, bundle if is_test_later else None)

    async def _switch(self, row: UpdateProgress, plan: TaskPlan, untested: InstalledBundle | None) -> None:
        """Activate the candidate; `untested` is tested when the incumbent has stopped."""
        outcome = StepOutcome(StepResult.PASSED)

        async def test() -> None:
            nonlocal outcome
            assert untested is not None, "passed only with a bundle to test"
            outcome = await self._selftests.run(untested, plan)
            if outcome.end is not StepResult.PASSED:
                raise ModelFailed(outcome.message)

        probation_row = update_state_machine.after_switch(row, outcome, self._now())
        rules = plan.probation
        watch = self._probations.initial_record(rules, row.incumbent)
        message = f"watched for {rules.calls} calls or {rules.hours} h, whichever comes first"
        probation_row = replace(probation_row, watch=watch, message=message)
        try:
            if await self._activation.switch(probation_row, row.candidate, row.incumbent, test if untested else None):
                self._publish_row(probation_row)
        except EdgeAgentError as error:
            outcome = classify_error(error) if outcome.end is StepResult.PASSED else outcome
            await self._record_failure(update_state_machine.after_switch(row, outcome, self._now()))

    async def _roll_back(self, row: UpdateProgress) -> None:
        rolled_back_row = update_state_machine.after_rollback(row, self._now())
        try:
            if await self._activation.switch(rolled_back_row, row.incumbent, row.candidate):
                self._publish_row(rolled_back_row)
        except EdgeAgentError as error:
            await self._record_failure(update_state_machine.after_failed_rollback(row, classify_error(error)))

    async def _record(self, row: UpdateProgress) -> None:
        """Write a row, if it differs from the one on the disk."""
        if row != self.rows.get(row.task):
            await self._store.thread.run(self._store.journal.record, row)
            self._publish_row(row)

    async def _record_failure(self, row: UpdateProgress) -> None:
        """Write that a step failed or was blocked, and delay the next try."""
        await self._record(row)
        self._retry_at[row.task] = self._dependencies.monotonic() + update_state_machine.pause_seconds(row.attempts)

    def _publish_row(self, row: UpdateProgress) -> None:
        """Show a row that is on the disk."""
        previous = self.rows.get(row.task)
        self._probations.begin(row)
        self.rows = {**self.rows, row.task: row}
        if previous is None or (previous.state, previous.reason) != (row.state, row.reason):
            log.info("update", task=row.task, version=row.version, state=row.state, reason=row.reason, why=row.message)
            self._dependencies.changed()
