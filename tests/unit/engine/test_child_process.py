"""When a silent child is pinged, and when it is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from edge_agent.config import EngineConfig
from edge_agent.engine.child_process import ChildProcess, ChildWatch, CpuActivity
from edge_agent.engine.engine import LivenessProbe
from edge_agent.engine.protocol import ChildMessage, Ping
from tests.support.eventually import turns
from tests.support.simulated_time import simulated, stand_still

CONFIG = EngineConfig(heartbeat_seconds_max=8.0, load_seconds_max=40.0)
BY_LOOK = 2.0  # a quarter of the heartbeat


class FakeChild:
    """A child that records when it was pinged and killed. It dies when it is killed, unless it `lingers`."""

    pid = 42

    def __init__(self, spent: Callable[[float], float] = lambda _: 1.0, *, lingers: bool = False) -> None:
        self._spent, self._lingers = spent, lingers
        self.last_heartbeat = asyncio.get_running_loop().time()
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.pinged_at: list[float] = []
        self.killed_at: list[float] = []

    @property
    def processor_seconds(self) -> float:
        return self._spent(asyncio.get_running_loop().time())

    def send(self, message: ChildMessage) -> None:
        assert isinstance(message, Ping)
        self.pinged_at.append(asyncio.get_running_loop().time())

    def begin_work(self) -> None:
        self.last_heartbeat = asyncio.get_running_loop().time()

    def kill(self) -> None:
        self.killed_at.append(asyncio.get_running_loop().time())
        if not self._lingers:
            self.ended.set_result(-9)

    async def watched(self, *, loads: bool, looks: int = 100) -> ChildWatch:
        """Watch the child from now on until it has ended, or for this number of checks."""
        watch = ChildWatch("echo", CONFIG)
        for _ in range(looks):
            if not self.ended.done():
                await watch.check_silence(cast(ChildProcess, self), self.ended, [self.ended], loads=loads)
        return watch


@pytest.mark.parametrize(
    ("loads", "pinged_at", "killed_at"), [(False, [6.0, 8.0], [10.0]), (True, [6.0, 8.0, 10.0], [12.0])]
)
def test_silent_child_is_pinged_then_killed(loads, pinged_at, killed_at):
    """A silent child is pinged at each check after half of the heartbeat time and killed after all of it. A loading
    child that uses no CPU is killed one check later, because its CPU time is measured from the first check on."""

    async def work() -> tuple[list[float], list[float], bool]:
        child = FakeChild()
        watch = await child.watched(loads=loads)
        return child.pinged_at, child.killed_at, watch.killed

    assert (pinged_at, killed_at, True) == simulated(work())


def test_computing_while_loading_extends_the_heartbeat():
    """A child that uses CPU while it loads is killed after it has been silent for the heartbeat time plus
    `load_seconds_max`."""

    async def work() -> list[float]:
        child = FakeChild(spent=lambda now: now)
        await child.watched(loads=True)
        return child.killed_at

    assert [CONFIG.heartbeat_seconds_max + CONFIG.load_seconds_max + BY_LOOK] == simulated(work())


def test_busy_loop_outside_loading_is_killed():
    """A child that does not load and uses CPU in an endless loop is killed after the heartbeat time."""

    async def work() -> list[float]:
        child = FakeChild(spent=lambda now: now)
        await child.watched(loads=False)
        return child.killed_at

    assert [CONFIG.heartbeat_seconds_max + BY_LOOK] == simulated(work())


def test_child_that_stops_computing_while_loading_is_killed():
    """A loading child is killed when it has used no CPU for the heartbeat time, regardless of how much it used
    before."""

    async def work() -> list[float]:
        child = FakeChild(spent=lambda now: min(now, 20.0))
        await child.watched(loads=True)
        return child.killed_at

    assert [20.0 + CONFIG.heartbeat_seconds_max + BY_LOOK] == simulated(work())


def test_child_with_recent_heartbeat_is_not_pinged():
    """A child that sends messages regularly is neither pinged nor killed."""

    async def work() -> tuple[list[float], list[float], bool]:
        child, watch = FakeChild(), ChildWatch("echo", CONFIG)
        for _ in range(100):
            child.last_heartbeat = asyncio.get_running_loop().time()
            await watch.check_silence(cast(ChildProcess, child), child.ended, [child.ended], loads=False)
        return child.pinged_at, child.killed_at, watch.killed

    assert ([], [], False) == simulated(work())


def test_daemon_pause_does_not_count_as_child_silence():
    """After 100 s in which the daemon itself did not run, the child is pinged, not killed; its silence is measured from
    the end of the pause."""

    async def work() -> tuple[list[float], list[float]]:
        child = FakeChild()
        looks = asyncio.create_task(child.watched(loads=False))
        await turns()
        stand_still(100.0)
        await looks
        return child.pinged_at, child.killed_at

    assert ([106.0, 108.0], [110.0]) == simulated(work())


def test_check_returns_when_an_awaited_future_is_done():
    """`check_silence` returns as soon as a future it waits for is done, and does not ping or kill the child, although
    it was silent for long."""

    async def work() -> tuple[float, list[float], list[float]]:
        child, watch, answer = FakeChild(), ChildWatch("echo", CONFIG), asyncio.get_running_loop().create_future()
        child.last_heartbeat = -1000.0
        asyncio.get_running_loop().call_later(0.5, answer.set_result, None)
        await watch.check_silence(cast(ChildProcess, child), child.ended, [answer, child.ended], loads=False)
        return asyncio.get_running_loop().time(), child.pinged_at, child.killed_at

    assert (0.5, [], []) == simulated(work())


def test_cancelled_check_still_reports_the_kill():
    """If the check is cancelled after it killed a child that has not ended yet, `killed` is true, so the death is
    blamed on the child."""

    async def work() -> tuple[int, bool]:
        child = FakeChild(lingers=True)
        watch = ChildWatch("echo", CONFIG)
        child.last_heartbeat = -1000.0
        look = watch.check_silence(cast(ChildProcess, child), child.ended, [child.ended], loads=False)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(look, 60.0)
        return len(child.killed_at), watch.killed

    assert (1, True) == simulated(work())


def test_heartbeat_is_due_after_the_pause():
    """A heartbeat is due when the last one is 15 s old, and stays due until the next one."""
    pulse = LivenessProbe(30)
    pulse.record_work(100.0)
    assert [False, True, True] == [pulse.is_due(now, 15) for now in (114.9, 115.0, 116.0)]
    pulse.record_work(117.0)
    assert not pulse.is_due(118.0, 15)


@pytest.mark.parametrize(("now", "stuck"), [(115.0, False), (145.0, False), (145.1, True)])
def test_engine_is_stuck_when_heartbeat_is_overdue(now: float, stuck: bool):
    """An engine is stuck when its heartbeat has been overdue for the allowed time, which starts when the heartbeat
    became due, not at the last heartbeat."""
    pulse = LivenessProbe(30)
    pulse.record_work(100.0)
    pulse.is_due(115.0, 15)
    assert stuck is pulse.is_stuck(now)


def test_late_heartbeat_ends_the_stuck_state():
    """An engine that computes again is no longer stuck."""
    pulse = LivenessProbe(30)
    pulse.is_due(100.0, 15)
    assert pulse.is_stuck(200.0)
    pulse.record_work(201.0)
    assert not pulse.is_stuck(202.0)


def test_unprobed_engine_is_never_stuck():
    """An engine whose heartbeat was never asked for is never stuck, however long it has done nothing."""
    pulse = LivenessProbe(30)
    pulse.record_work(100.0)
    assert not pulse.is_stuck(1e9)


def test_growing_cpu_time_stays_recent():
    """Each check that finds more CPU time used restarts the allowed time."""
    effort = CpuActivity(30)
    assert all(effort.is_recent(cpu_seconds=now / 10, now=now) for now in (100.0, 200.0, 300.0))


def test_constant_cpu_time_expires_after_first_check():
    """If the CPU time does not change, activity stops counting as recent once the allowed time since the first check
    has passed."""
    effort = CpuActivity(30)
    assert [True, True, False] == [effort.is_recent(cpu_seconds=4.2, now=now) for now in (100.0, 130.0, 130.1)]
