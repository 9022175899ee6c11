"""Supervision of a daemon's background components: no component ends unnoticed.

Each component has a name and a policy for its death. A component runs for ever, so both an exception and a return are a
death. RESTART starts it again after a pause that doubles. STOP ends the daemon in order, with an exit code after which
systemd starts it again (Restart=on-failure). Each death is logged with its traceback. Status, doctor and metrics show
it until the component has run for `STEADY_SECONDS` again.

A task that runs once is not registered; its creator awaits or keeps it. `log_task_failure` logs its exception even if
nobody awaits it any more.

systemd supervises the process itself, and is notified by one datagram each to $NOTIFY_SOCKET (sd_notify(3)); outside
systemd none is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import structlog

from edge_agent.backoff import backoff_seconds

log = structlog.get_logger("edge_agent.supervision")

PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX = 1.0, 60.0
"""Pause before a restart; it doubles with each death of a run shorter than STEADY_SECONDS."""
STEADY_SECONDS = 60.0
"""After a run of this length earlier deaths no longer count."""

Run = Callable[[], Awaitable[None]]


class DeathPolicy(Enum):
    """What the supervisor does when a component dies."""

    RESTART = "restart"
    STOP = "stop"


@dataclass(frozen=True)
class Component:
    """A background activity of the daemon, which runs until the daemon ends."""

    name: str
    run: Run
    policy: DeathPolicy
    why: str
    """Why that policy fits."""
    end: Run | None = None
    """Makes `run` return in order; None = it is cancelled."""
    may_return: bool = False
    """A return is not a death."""


RunWrapper = Callable[[Component], Run]
"""Returns a component's `run`, or a wrapper around it."""


def run_unwrapped(component: Component) -> Run:
    """Return a component's own `run`."""
    return component.run


@dataclass(eq=False)
class _ComponentState:
    """The state of a component."""

    component: Component
    task: asyncio.Task[None] | None = None
    deaths: int = 0
    """Deaths in a row."""
    last_death: str = ""
    """The verb phrase of the last death, such as "stopped with ValueError"."""
    died_at: float = 0.0
    started_at: float | None = None
    """None while it does not run."""


class Supervisor:
    """Starts, restarts and stops the components of a daemon; see the module. One event loop owns it."""

    def __init__(
        self,
        give_up: Callable[[], None] = lambda: None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        wrap: RunWrapper = run_unwrapped,
    ) -> None:
        """Start without components. `give_up` ends the daemon; `wrap` may wrap a component's `run`."""
        self._give_up, self._sleep, self._monotonic, self._wrap = give_up, sleep, monotonic, wrap
        # Two may have the same name: an engine that ends, and its successor.
        self._states: list[_ComponentState] = []
        self._stopping = False
        self.deaths: Counter[str] = Counter()
        """Deaths since the start, by component."""
        self.failed_component = ""
        """The component whose death ends the daemon; empty otherwise."""

    def add(self, component: Component) -> None:
        """Register a component; `start` starts it."""
        self._states.append(_ComponentState(component))

    def supervise(self, component: Component) -> asyncio.Task[None]:
        """Register and start a component; the caller may cancel the returned task."""
        state = _ComponentState(component)
        self._states.append(state)
        return self._begin(state)

    def start(self) -> None:
        """Start every component."""
        for state in list(self._states):
            self._begin(state)

    async def stop(self, *, except_for: str = "") -> None:
        """End every component, the last one first, and wait for each; `except_for` is left to a later stop."""
        self._stopping = True
        for state in reversed(list(self._states)):
            if state.task is not None and not state.task.done() and state.component.name != except_for:
                await self._end(state, state.task)

    def drop_paused(self, task: asyncio.Task[None]) -> bool:
        """Cancel a task from `supervise` if its component has died and waits for its restart; tell whether it did."""
        state = next((state for state in self._states if state.task is task), None)
        is_paused = state is not None and state.deaths > 0 and state.started_at is None
        return is_paused and task.cancel()

    @property
    def components(self) -> tuple[Component, ...]:
        """All components."""
        return tuple(state.component for state in self._states)

    @property
    def up(self) -> Mapping[str, bool]:
        """Whether each component is up: it runs and, if it has died, has run for STEADY_SECONDS."""
        return {state.component.name: not self._is_problem(state) for state in self._states}

    @property
    def problems(self) -> list[str]:
        """A sentence for each component that is not up."""
        return list(self.problems_by_name.values())

    @property
    def problems_by_name(self) -> dict[str, str]:
        """The same, by the name of the component."""
        return {state.component.name: self._sentence(state) for state in self._states if self._is_problem(state)}

    def _begin(self, state: _ComponentState) -> asyncio.Task[None]:
        state.task = asyncio.get_running_loop().create_task(self._keep_running(state), name=state.component.name)
        return state.task

    async def _end(self, state: _ComponentState, task: asyncio.Task[None]) -> None:
        will_return = False
        if state.component.end is not None:
            try:
                await state.component.end()
                will_return = state.started_at is not None
            except Exception:
                log.exception("component_not_ended", component=state.component.name)
        if not will_return:
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _keep_running(self, state: _ComponentState) -> None:
        try:
            while await self._run_until_death(state):
                await self._sleep(backoff_seconds(state.deaths, PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX))
        finally:
            if state.component.may_return:
                self._states.remove(state)

    async def _run_until_death(self, state: _ComponentState) -> bool:
        """Run a component until it dies; tell whether to restart it."""
        component, state.started_at = state.component, self._monotonic()
        try:
            error = await self._run_once(component)
            is_steady = self._monotonic() - state.started_at >= STEADY_SECONDS
        finally:
            state.started_at = None
        if error is None and (self._stopping or component.may_return):
            return False
        state.deaths = 1 if is_steady else state.deaths + 1
        self.deaths[component.name] += 1
        state.last_death = "returned" if error is None else f"stopped with {type(error).__name__}"
        state.died_at = self._monotonic()
        policy = component.policy.value
        log.error("component_died", component=component.name, policy=policy, deaths=state.deaths, exc_info=error)
        if component.policy is DeathPolicy.STOP and not self._stopping:
            self.failed_component = component.name
            self._give_up()
        return component.policy is DeathPolicy.RESTART and not self._stopping

    async def _run_once(self, component: Component) -> Exception | None:
        """Run a component until it dies; return its exception, if any. Raises CancelledError when cancelled."""
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        try:
            await self._wrap(component)()
        except asyncio.CancelledError as error:
            if task.cancelling():
                raise
            return RuntimeError(f"cancelled from within: {error!r}")  # a task that it awaited was cancelled
        except Exception as error:  # noqa: BLE001 - every cause of a death is logged, shown and acted on
            return error
        return None

    def _is_problem(self, state: _ComponentState) -> bool:
        if not state.deaths:
            return False
        return state.started_at is None or self._monotonic() - state.started_at < STEADY_SECONDS

    def _sentence(self, state: _ComponentState) -> str:
        component, seconds_ago = state.component, self._monotonic() - state.died_at
        condition = "it runs again"
        if state.started_at is None:
            is_fatal = component.policy is DeathPolicy.STOP
            condition = "the daemon ends for it" if is_fatal else "it is started again after a pause"
        times = "" if state.deaths == 1 else f", {state.deaths} times in a row"
        return (
            f"Component {component.name} {state.last_death} {seconds_ago:.0f} s ago{times}: {condition}."
            " The daemon's log has the details."
        )


def log_task_failure(task: asyncio.Task[Any], what: str) -> None:
    """Log the exception of a task that runs once and may outlive its waiters."""

    def log_exception(ended_task: asyncio.Task[Any]) -> None:
        if not ended_task.cancelled() and (error := ended_task.exception()) is not None:
            log.error("task_died", what=what, exc_info=error)

    task.add_done_callback(log_exception)


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set `stop` at the first SIGTERM or SIGINT; a second one ends the process at once. Call it on the event loop."""
    loop, signals = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)

    def stop_gently() -> None:
        stop.set()
        for signum in signals:
            loop.add_signal_handler(signum, os._exit, 1)

    for signum in signals:
        loop.add_signal_handler(signum, stop_gently)


PINGS = 4
"""Pings per WatchdogSec=."""


def is_managed_by_systemd(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether systemd runs this process as a service of Type=notify."""
    return bool(environ.get("NOTIFY_SOCKET"))


def notify_systemd(state: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send a state such as "READY=1"; tell whether it was sent."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), address)
        return True
    return False


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float:
    """Return the unit's WatchdogSec=; 0 = no watchdog for this process (sd_watchdog_enabled(3))."""
    is_for_us = environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
    micros = environ.get("WATCHDOG_USEC", "")
    return int(micros) / 1e6 if is_for_us and micros.isdecimal() else 0.0


async def ping_watchdog(works: Callable[[float], bool], environ: Mapping[str, str] = os.environ) -> None:
    """Ping systemd while `works(pause_seconds)` returns true, until cancelled; return at once without a watchdog."""
    pause = watchdog_seconds(environ) / PINGS
    while pause:
        if works(pause):
            notify_systemd("WATCHDOG=1", environ)
        await asyncio.sleep(pause)


def announce_stop(seconds: float, environ: Mapping[str, str] = os.environ) -> None:
    """Tell systemd that the daemon stops, and that this may take `seconds`."""
    notify_systemd("STOPPING=1", environ)
    notify_systemd(f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}", environ)
