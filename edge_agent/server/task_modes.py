"""In which mode each task is, and which alarms of production monitoring put a task into shadow.

The operator or the plan sets the mode of a task; where neither did, agent.yaml does. An alarm puts a task into shadow
where the signed plan allows that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import structlog

from edge_agent.config import Config
from edge_agent.formats.plan import Mode, TaskPlan
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.formats.status_object import Alarm, RaisedAlarm
from edge_agent.monitoring.bundle_figures import AlarmState
from edge_agent.store.demotions import Demotion
from edge_agent.store.store import Store
from edge_agent.update.activation import Activation

log = structlog.get_logger("edge_agent.server")

ALARM_CHARACTERS_MAX = 500
ModeBy = Literal["alarm", "operator", "plan", "configuration"]
DEMOTABLE: tuple[Mode, ...] = ("hybrid", "local")


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

    def demote(self, standing: Sequence[AlarmState], can_ask: Callable[[str], bool]) -> bool:
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


class MonitoringAlarms:
    """The alarms that stand. They are heard on the thread that writes examples, and looked at on any."""

    def __init__(self, activation: Activation, modes: TaskModes, can_ask: Callable[[str], bool]) -> None:
        """Know nothing yet; `can_ask` tells whether a task may ask the large model at all."""
        self._activation, self._modes, self._can_ask = activation, modes, can_ask
        self._standing: tuple[AlarmState, ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()

    def heard(self, standing: tuple[AlarmState, ...]) -> None:
        """Take over which alarms stand."""
        self._standing = standing
        self.look_again()

    def plan(self, wanted: Mapping[str, TaskPlan]) -> None:
        """Take over what the plan says of the tasks; called on the store's thread."""
        self._modes.plan(wanted)
        self.look_again()

    def look_again(self) -> None:
        """Consider the alarms anew; called on any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._changed.set)

    def of(self, task: str) -> list[tuple[AlarmState, bool]]:
        """Return the alarms about the bundle that answers a task, and whether each put it into shadow."""
        bundle = self._activation.serving.get(task)
        demotion = self._modes.demotion(task)
        return [
            (alarm, demotion is not None and demotion.alarm == alarm.alarm)
            for alarm in self._standing
            if bundle is not None and (alarm.task, alarm.digest) == (task, bundle.digest)
        ]

    def raised(self, task: str) -> tuple[RaisedAlarm, ...]:
        """Return them as the centre reads them."""
        return tuple(
            RaisedAlarm(
                alarm=alarm.alarm,
                since=format_timestamp(alarm.since),
                message=alarm.said[:ALARM_CHARACTERS_MAX],
                demoted=demoted,
            )
            for alarm, demoted in self.of(task)
        )

    async def run(self, changed: Callable[[], None]) -> None:
        """Demote what may be demoted, whenever alarms, bundles or the plan have changed; `changed` is told of it."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            if await self._activation.on_store(self._modes.demote, self._standing, self._can_ask):
                changed()
            await self._changed.wait()
