"""The tasks as updates and the centre see them: what the engine room knows of a bundle, in the words of others.

Part of the composition root, like daemon.py.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import structlog

from edge_agent.config import Config
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.sandbox import LoadableBundle, SandboxedBundle, open_sandbox
from edge_agent.engine.tuning_cache import TuningCache, TuningSettings
from edge_agent.errors import EdgeAgentError
from edge_agent.formats.example_records import Consent
from edge_agent.formats.plan import Mode, TaskPlan
from edge_agent.formats.signed_document import timestamp
from edge_agent.formats.site_status import Alarm, RaisedAlarm, SiteUpdates, TaskStatus, UpdateStatus
from edge_agent.monitoring.figures import Standing
from edge_agent.store.state_database import InstalledBundle
from edge_agent.store.store import Store
from edge_agent.store.task_modes import Demotion
from edge_agent.store.tuning_file import TuningFile
from edge_agent.store.update_records import UpdateProgress
from edge_agent.update import hardware
from edge_agent.update.activation import Activation
from edge_agent.update.probation import Seen
from edge_agent.update.selftest import Subject
from edge_agent.update.updater import Around, Overview

log = structlog.get_logger("edge_agent.tasks")

MESSAGE_CHARACTERS_MAX = 1000
ModeBy = Literal["alarm", "operator", "plan", "configuration"]
DEMOTABLE: tuple[Mode, ...] = ("hybrid", "local")


def remembering(file: TuningFile) -> TuningCache:
    """Return what engines remember of this machine, kept in a file; a disk that takes none of it is only said."""
    tuned = TuningCache(file.read())

    def save(settings: TuningSettings) -> None:
        try:
            file.write(settings)
        except EdgeAgentError as error:
            log.warning("settings_not_kept", message=error.message)

    tuned.on_change = save
    return tuned


def around(
    engines: EnginePool,
    activation: Activation,
    changed: Callable[[], None],
    planned: Callable[[Mapping[str, TaskPlan]], None],
) -> Around:
    """Return what updates need of the engine room and the machine."""

    @asynccontextmanager
    async def tried(bundle: InstalledBundle, paths: Mapping[str, Path], seconds_max: float) -> AsyncIterator[Subject]:
        loadable = LoadableBundle(bundle.manifest, bundle.manifest_bytes, paths)
        async with open_sandbox(engines, bundle.digest, loadable, seconds_max) as asked:
            yield _subject(asked)

    def serving(bundle: InstalledBundle) -> Subject | None:
        ready = engines.ready(bundle.digest) and bundle.manifest.runtime != "upstream"
        return _subject(SandboxedBundle(engines, bundle.digest, bundle.manifest)) if ready else None

    def seen(digest: str) -> Seen:
        tally = engines.stats(digest)
        problem = engines.failure(digest) if engines.holds(digest) else _not_loaded(activation, digest)
        return Seen(tally.calls, tally.failures, tally.crashes, tally.timed, tally.median_ms, problem)

    return Around(tried, serving, seen, hardware.machine(engines.devices), changed, planned)


class TaskModes:
    """In which mode each task is: what the operator or the plan said last, and agent.yaml where they said nothing."""

    def __init__(self, config: Config, store: Store, serving: Callable[[str], str]) -> None:
        """Read what is remembered; from then on what writes is called on the store's thread.

        Args:
            config: the modes of agent.yaml.
            store: where it is remembered.
            serving: the digest of the bundle that answers a task; empty = none does.
        """
        self._configured, self._table, self._demotions = config.escalation.modes, store.modes, store.demotions
        self._serving = serving
        self._known, self._demoted = self._table.read(), self._demotions.read()

    def of(self, task: str) -> Mode:
        """Return the mode of a task."""
        if self._demoted and self.demotion(task):
            return "shadow"
        return self._known.of(task, self._configured.get(task, "local"))

    def by(self, task: str) -> ModeBy:
        """Return who put a task into its mode."""
        if self.demotion(task):
            return "alarm"
        return "operator" if task in self._known.said else "plan" if task in self._known.planned else "configuration"

    def demotion(self, task: str) -> Demotion | None:
        """Return the demotion that is in force; None = none is."""
        found = self._demoted.get(task)
        holds = found and found.holds(self._serving(task), self._known.planned.get(task, ""))
        return found if holds else None

    def plan(self, wanted: Mapping[str, TaskPlan]) -> None:
        """Remember what the plan says of all tasks: their modes, and which alarms may put them into shadow."""
        self._table.plan({task: said.mode for task, said in wanted.items() if said.mode})
        self._demotions.permit({task: said.demote_on for task, said in wanted.items() if said.demote_on})
        self._read()

    def say(self, task: str, mode: Mode | None) -> None:
        """Remember what the operator says of a task; None = nothing any more."""
        self._table.say(task, mode)
        self._demotions.take_back(task)
        self._read()

    def demote(self, standing: Sequence[Standing], can_ask: Callable[[str], bool]) -> bool:
        """Put into shadow what an alarm may put there; tell whether there was anything.

        Only where the model here gives answers now, and the large one may be asked.
        """
        found = False
        for task in {alarm.task for alarm in standing}:
            digest, before = self._serving(task), self._demoted.get(task, Demotion())
            alarms = [each.alarm for each in standing if (each.task, each.digest) == (task, digest)]
            due = before.due(digest, alarms)
            if due and self.of(task) in DEMOTABLE and can_ask(task):
                found = True
                self._demotions.demote(task, replace(before, **self._demotion(task, digest, due, alarms)))
                log.warning("task_demoted", task=task, digest=digest, reason=due)
        self._read()
        return found

    def _demotion(self, task: str, digest: str, due: Alarm, alarms: Sequence[Alarm]) -> dict[str, Any]:
        against = self._known.planned.get(task, "")
        return {"digest": digest, "alarm": due, "seen": frozenset(alarms), "at": time.time(), "against": against}

    def _read(self) -> None:
        self._known, self._demoted = self._table.read(), self._demotions.read()


def task_statuses(
    engines: EnginePool,
    activation: Activation,
    overview: Overview,
    consent: Callable[[str], Consent],
    raised: Callable[[str], tuple[RaisedAlarm, ...]],
) -> list[TaskStatus]:
    """Describe for the centre the tasks that are answered."""
    return [
        TaskStatus(
            task=task,
            kind=bundle.manifest.task.kind,
            version=bundle.manifest.version,
            digest=bundle.digest,
            ready=engines.ready(bundle.digest),
            collect=consent(task),
            previous=activation.inventory.rollbacks.get(task),
            update=update_status(overview.rows[task]) if task in overview.rows else None,
            revoked=task in overview.revoked,
            alarms=raised(task),
        )
        for task, bundle in list(activation.serving.items())
    ]


def site_updates(activation: Activation, overview: Overview) -> SiteUpdates:
    """Describe for the centre where the site stands with updates."""
    arriving = {task: update_status(row) for task, row in overview.rows.items() if task not in activation.serving}
    problem = overview.problem.message[:MESSAGE_CHARACTERS_MAX] if overview.problem else ""
    return SiteUpdates(
        arriving=arriving, channel=overview.channel, plan_version=overview.plan_version, update_problem=problem
    )


def update_status(row: UpdateProgress) -> UpdateStatus:
    """Write a row of the journal as the centre reads it."""
    return UpdateStatus(
        candidate=row.candidate,
        version=row.version,
        state=row.state,
        since=timestamp(row.since),
        plan_version=row.plan_version,
        reason=row.reason,
        message=row.message[:MESSAGE_CHARACTERS_MAX],
        attempts=row.attempts,
    )


def _subject(asked: SandboxedBundle) -> Subject:
    return Subject(asked.answer, asked.resident_bytes, asked.estimated_bytes, asked.crashes)


def _not_loaded(activation: Activation, digest: str) -> str:
    """Return why a bundle that should answer was not even loaded."""
    tasks = (task for task, bundle in activation.serving.items() if bundle.digest == digest)
    return next((activation.problems[task].message for task in tasks if task in activation.problems), "")
