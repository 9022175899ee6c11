"""Exceptions thrown into a Supervisor's tasks at their awaits: the seam is the supervisor's `around`.

faults = InjectedFaults()
supervisor = Supervisor(wrap=faults.around, sleep=faults.sleep, monotonic=faults.monotonic)
faults.strike("updates")           # now, wherever it waits
faults.at_start.add("updates")     # at its first step, when it is started next
faults.release()                   # ends the pauses before starts
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any

from edge_agent.supervision import Component, Run


class InjectedFault(Exception):
    """An exception that no component expects."""


class InjectedFaults:
    """See the module. One event loop owns it."""

    def __init__(self) -> None:
        self.at_start: set[str] = set()
        self.returning: set[str] = set()
        """Components that return at their first step."""
        self.pauses: list[float] = []
        """Before starts, in seconds."""
        self.running_seconds = 0.0
        """The supervisor's clock."""
        self.starts: dict[str, int] = {}
        self._struck: set[str] = set()
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._gate = asyncio.Event()

    def around(self, component: Component) -> Run:
        """Return the component with an injection point."""

        async def run() -> None:
            name, task = component.name, asyncio.current_task()
            assert task is not None
            self._tasks[name] = task
            self.starts[name] = self.starts.get(name, 0) + 1
            if name in self.returning:
                self.returning.discard(name)
                return
            await _Steps(component.run(), name, task, self)

        return run

    def strike(self, name: str) -> None:
        """Throw into a component at its current await."""
        self._struck.add(name)
        self._tasks[name].cancel()

    def due(self, name: str, *, first: bool) -> bool:
        """Return, once, whether a component is due for a fault."""
        for struck in (self._struck, self.at_start if first else set()):
            if name in struck:
                struck.discard(name)
                return True
        return False

    async def sleep(self, seconds: float) -> None:
        """Pause until `release`."""
        self.pauses.append(seconds)
        await self._gate.wait()

    def release(self) -> None:
        """End every pause."""
        self._gate.set()
        self._gate = asyncio.Event()

    def monotonic(self) -> float:
        """Return the supervisor's clock."""
        return self.running_seconds


class _Steps:
    """Awaits something step by step."""

    def __init__(self, awaited: Awaitable[None], name: str, task: asyncio.Task[Any], faults: InjectedFaults) -> None:
        self._awaited, self._name, self._task, self._faults = awaited, name, task, faults

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._awaited.__await__()
        thrown: BaseException | None = None
        first = True
        while True:
            if self._faults.due(self._name, first=first):
                if thrown is not None:
                    self._task.uncancel()  # it was never meant
                thrown = InjectedFault(f"thrown into {self._name}")
            first = False
            try:
                waits_for = steps.send(None) if thrown is None else steps.throw(thrown)
            except StopIteration:
                return
            try:
                yield waits_for
                thrown = None
            except BaseException as error:  # noqa: BLE001 - passed on to what is awaited
                thrown = error
