"""The mode of each task, the alarms that put it into shadow, and the tasks in the site's status document.

The operator or the plan sets the mode of a task; if neither did, agent.yaml does. An alarm puts a task into shadow if
the signed plan allows that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import structlog

from edge_agent.formats.example_records import task_of_key
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.formats.status_object import TASK_ALARMS_MAX, RaisedAlarm, SiteUpdates, TaskStatus, UpdateStatus
from edge_agent.store.state_database import Demotion

if TYPE_CHECKING:
    from edge_agent.capture.example_capture import ExampleCapture
    from edge_agent.config import Config
    from edge_agent.durable.disk_thread import DiskThread
    from edge_agent.engine.pool import EnginePool
    from edge_agent.formats.plan import Mode, TaskPlan
    from edge_agent.monitoring.answer_observations import AlarmState
    from edge_agent.server.uplink_client import UplinkClient
    from edge_agent.store.bundle_store import Store
    from edge_agent.store.state_database import UpdateProgress
    from edge_agent.update.activation import Activation
    from edge_agent.update.updater import UpdateOverview


log = structlog.get_logger("edge_agent.server")

ALARM_CHARACTERS_MAX = 500
ModeBy = Literal["alarm", "operator", "plan", "configuration"]
DEMOTABLE: tuple[Mode, ...] = ("hybrid", "local")


class TaskModes:
    """The mode of each task. Methods that write are called on the store's thread."""

    def __init__(self, config: Config, store: Store, activation: Activation) -> None:
        """Read the modes and demotions in the store; agent.yaml has the modes that are not there."""
        self._configured, self._table, self._demotions = config.escalation.modes, store.modes, store.demotions
        self._activation = activation
        self._stored_modes, self._stored_demotions = self._table.read(), self._demotions.read()

    def mode_of(self, task: str) -> Mode:
        """Return the mode of a task."""
        if self._stored_demotions and self.demotion(task):
            return "shadow"
        modes = self._stored_modes
        return modes.by_operator.get(task) or modes.planned.get(task) or self._configured.get(task, "local")

    def mode_by(self, task: str) -> ModeBy:
        """Return what put a task into its mode."""
        if self.demotion(task):
            return "alarm"
        if task in self._stored_modes.by_operator:
            return "operator"
        return "plan" if task in self._stored_modes.planned else "configuration"

    def demotion(self, task: str) -> Demotion | None:
        """Return the demotion of a task that is in force, if there is one."""
        demotion = self._stored_demotions.get(task)
        is_in_force = demotion and demotion.holds(self._active_digest(task), self._stored_modes.planned.get(task, ""))
        return demotion if is_in_force else None

    def apply_plan(self, task_plans: Mapping[str, TaskPlan]) -> None:
        """Store the plan's modes of all tasks, and which alarms may put them into shadow."""
        self._table.set_planned({task: plan.mode for task, plan in task_plans.items() if plan.mode})
        self._demotions.permit({task: plan.demote_on for task, plan in task_plans.items() if plan.demote_on})
        self._read()

    def set_by_operator(self, task: str, mode: Mode | None) -> None:
        """Store the operator's mode of a task; None removes it."""
        self._table.set_by_operator(task, mode)
        self._demotions.take_back(task)
        self._read()

    def demote(self, alarms: Sequence[AlarmState], uplink: UplinkClient) -> bool:
        """Put each task into shadow that an alarm may put there; tell whether there was one.

        This applies only to tasks that the local model answers now, and that may ask the large one.
        """
        any_demoted = False
        for task in {task_of_key(alarm.task) for alarm in alarms}:
            digest, previous = self._active_digest(task), self._stored_demotions.get(task, Demotion())
            current = [each.alarm for each in alarms if (task_of_key(each.task), each.digest) == (task, digest)]
            due_alarm = previous.due(digest, current)
            if due_alarm and self.mode_of(task) in DEMOTABLE and uplink.can_ask(task):
                any_demoted = True
                demotion = replace(
                    previous,
                    digest=digest,
                    alarm=due_alarm,
                    seen=frozenset(current),
                    at=time.time(),
                    against=self._stored_modes.planned.get(task, ""),
                )
                self._demotions.demote(task, demotion)
                log.warning("task_demoted", task=task, digest=digest, reason=due_alarm)
        self._read()
        return any_demoted

    def _active_digest(self, task: str) -> str:
        """Return the digest of the bundle that answers a task; empty without one."""
        bundle = self._activation.serving.get(task)
        return bundle.digest if bundle else ""

    def _read(self) -> None:
        self._stored_modes, self._stored_demotions = self._table.read(), self._demotions.read()


class MonitoringAlarms:
    """The raised alarms. They are set on the spool's thread, and read on any."""

    def __init__(self, activation: Activation, modes: TaskModes, store_thread: DiskThread) -> None:
        """Begin without alarms; what they demote is stored on `store_thread`."""
        self._activation, self._modes, self._store_thread = activation, modes, store_thread
        self._alarms: tuple[AlarmState, ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()

    def replace_alarms(self, alarms: tuple[AlarmState, ...]) -> None:
        """Take the alarms that are raised now."""
        self._alarms = alarms
        self.reconsider()

    def apply_plan(self, task_plans: Mapping[str, TaskPlan]) -> None:
        """Store the plan's settings of the tasks; called on the store's thread."""
        self._modes.apply_plan(task_plans)
        self.reconsider()

    def reconsider(self) -> None:
        """Check again which tasks an alarm puts into shadow; called on any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._changed.set)

    def alarms_of(self, task: str) -> list[tuple[AlarmState, bool]]:
        """Return the alarms about the bundle that answers a task, and whether each put it into shadow."""
        bundle = self._activation.serving.get(task)
        demotion = self._modes.demotion(task)
        return [
            (alarm, demotion is not None and demotion.alarm == alarm.alarm)
            for alarm in self._alarms
            if bundle is not None and (task_of_key(alarm.task), alarm.digest) == (task, bundle.digest)
        ]

    def report(self, task: str) -> tuple[RaisedAlarm, ...]:
        """Return the alarms of a task in the form of the site's status document."""
        return tuple(
            RaisedAlarm(
                alarm=alarm.alarm,
                since=format_timestamp(alarm.since),
                message=alarm.message[:ALARM_CHARACTERS_MAX],
                demoted=demoted,
            )
            for alarm, demoted in self.alarms_of(task)[:TASK_ALARMS_MAX]
        )

    async def run(self, uplink: UplinkClient, on_change: Callable[[], None]) -> None:
        """Demote tasks whenever alarms, bundles or the plan change, until cancelled; call `on_change` after each."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            if await self._store_thread.run(self._modes.demote, self._alarms, uplink):
                on_change()
            await self._changed.wait()


MESSAGE_CHARACTERS_MAX = 1000


def task_statuses(
    engines: EnginePool,
    activation: Activation,
    overview: UpdateOverview,
    capture: ExampleCapture,
    alarms: MonitoringAlarms,
) -> list[TaskStatus]:
    """Describe the tasks that are answered."""
    return [
        TaskStatus(
            task=task,
            kind=bundle.manifest.task.kind,
            version=bundle.manifest.version,
            digest=bundle.digest,
            ready=engines.ready(bundle.digest),
            collect=capture.consent(task),
            previous=activation.inventory.rollbacks.get(task),
            update=update_status(overview.rows[task]) if task in overview.rows else None,
            revoked=overview.is_revoked(bundle),
            alarms=alarms.report(task),
        )
        for task, bundle in list(activation.serving.items())
    ]


def site_updates(activation: Activation, overview: UpdateOverview) -> SiteUpdates:
    """Describe the state of the site's updates."""
    arriving = {task: update_status(row) for task, row in overview.rows.items() if task not in activation.serving}
    problem = overview.problem.message[:MESSAGE_CHARACTERS_MAX] if overview.problem else ""
    return SiteUpdates(
        arriving=arriving, channel=overview.channel, plan_version=overview.plan_version, update_problem=problem
    )


def update_status(row: UpdateProgress) -> UpdateStatus:
    """Return a row of the journal in the form of the status document."""
    return UpdateStatus(
        candidate=row.candidate,
        version=row.version,
        state=row.state,
        since=format_timestamp(row.since),
        plan_version=row.plan_version,
        reason=row.reason,
        message=row.message[:MESSAGE_CHARACTERS_MAX],
        attempts=row.attempts,
    )
