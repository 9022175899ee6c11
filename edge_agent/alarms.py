"""What follows from an alarm of the field: it is shown, and puts a task into shadow where the signed plan allows that.

Part of the composition root, like daemon.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from edge_agent.formats.plan import TaskPlan
from edge_agent.formats.signed_document import timestamp
from edge_agent.formats.site_status import RaisedAlarm
from edge_agent.monitoring.figures import Standing
from edge_agent.tasks import TaskModes
from edge_agent.update.activation import Activation

MESSAGE_CHARACTERS_MAX = 500


class FieldAlarms:
    """The alarms that stand. They are heard on the thread that writes examples, and looked at on any."""

    def __init__(self, activation: Activation, modes: TaskModes, can_ask: Callable[[str], bool]) -> None:
        """Know nothing yet; `can_ask` tells whether a task may ask the large model at all."""
        self._activation, self._modes, self._can_ask = activation, modes, can_ask
        self._standing: tuple[Standing, ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()

    def heard(self, standing: tuple[Standing, ...]) -> None:
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

    def of(self, task: str) -> list[tuple[Standing, bool]]:
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
                since=timestamp(alarm.since),
                message=alarm.said[:MESSAGE_CHARACTERS_MAX],
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
