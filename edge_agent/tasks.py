"""The tasks as updates and the centre see them: what the engine room knows of a bundle, in the words of others.

Part of the composition root, like daemon.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from edge_agent.config import Config
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.trial import Asked, Loadable, trying
from edge_agent.formats.document import timestamp
from edge_agent.formats.example import Consent
from edge_agent.formats.plan import Mode
from edge_agent.formats.status import SiteUpdates, TaskStatus, UpdateStatus
from edge_agent.store.journal import Progress
from edge_agent.store.state import InstalledBundle
from edge_agent.store.store import Store
from edge_agent.update import hardware
from edge_agent.update.activation import Activation
from edge_agent.update.probation import Seen
from edge_agent.update.selftest import Subject
from edge_agent.update.updater import Around, Overview

MESSAGE_CHARACTERS_MAX = 1000


def around(
    engines: EnginePool,
    activation: Activation,
    changed: Callable[[], None],
    planned: Callable[[Mapping[str, Mode]], None],
) -> Around:
    """Return what updates need of the engine room and the machine."""

    @asynccontextmanager
    async def tried(bundle: InstalledBundle, paths: Mapping[str, Path], seconds_max: float) -> AsyncIterator[Subject]:
        loadable = Loadable(bundle.manifest, bundle.manifest_bytes, paths)
        async with trying(engines, bundle.digest, loadable, seconds_max) as asked:
            yield _subject(asked)

    def serving(bundle: InstalledBundle) -> Subject | None:
        ready = engines.ready(bundle.digest) and bundle.manifest.runtime != "upstream"
        return _subject(Asked(engines, bundle.digest, bundle.manifest)) if ready else None

    def seen(digest: str) -> Seen:
        tally = engines.tally(digest)
        problem = engines.failure(digest) if engines.holds(digest) else _not_loaded(activation, digest)
        return Seen(tally.calls, tally.failures, tally.crashes, tally.timed, tally.median_ms, problem)

    return Around(tried, serving, seen, hardware.machine(engines.devices), changed, planned)


class TaskModes:
    """In which mode each task is: what the operator or the plan said last, and agent.yaml where they said nothing."""

    def __init__(self, config: Config, store: Store) -> None:
        """Read what is remembered; from then on `plan` and `say` are called on the store's thread."""
        self._configured, self._table = config.escalation.modes, store.modes
        self._known = self._table.read()

    def of(self, task: str) -> Mode:
        """Return the mode of a task."""
        return self._known.of(task, self._configured.get(task, "local"))

    def plan(self, wanted: Mapping[str, Mode]) -> None:
        """Remember what the plan says of all tasks."""
        self._table.plan(wanted)
        self._known = self._table.read()

    def say(self, task: str, mode: Mode | None) -> None:
        """Remember what the operator says of a task; None = nothing any more."""
        self._table.say(task, mode)
        self._known = self._table.read()


def task_statuses(
    engines: EnginePool, activation: Activation, overview: Overview, consent: Callable[[str], Consent]
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


def update_status(row: Progress) -> UpdateStatus:
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


def _subject(asked: Asked) -> Subject:
    return Subject(asked.answer, asked.resident_bytes, asked.estimated_bytes, asked.crashes)


def _not_loaded(activation: Activation, digest: str) -> str:
    """Return why a bundle that should answer was not even loaded."""
    tasks = (task for task, bundle in activation.serving.items() if bundle.digest == digest)
    return next((activation.problems[task].message for task in tasks if task in activation.problems), "")
