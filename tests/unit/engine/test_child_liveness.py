"""When a silent child is pinged, and when it is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from edge_agent.config import EngineConfig
from edge_agent.engine.child_liveness import ChildWatch, CpuActivity
from edge_agent.engine.child_process import ChildProcess
from edge_agent.engine.engine import LivenessProbe
from edge_agent.engine.protocol import ChildMessage, Ping
from tests.support.eventually import turns
from tests.support.simulated_time import simulated, stand_still

CONFIG = EngineConfig(heartbeat_seconds_max=8.0, load_seconds_max=40.0)
BY_LOOK = 2.0  # a quarter of the heartbeat


class FakeChild:
    """Notes what is done to it, and when. It dies when it is killed, unless it `lingers`."""

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
        """Watch it from now on until it is gone, or for so many looks."""
        watch = ChildWatch("echo", CONFIG)
        for _ in range(looks):
            if not self.ended.done():
                await watch.check_silence(cast(ChildProcess, self), self.ended, [self.ended], loads=loads)
        return watch


@pytest.mark.parametrize(
    ("loads", "pinged_at", "killed_at"), [(False, [6.0, 8.0], [10.0]), (True, [6.0, 8.0, 10.0], [12.0])]
)
def test_a_silent_child_is_asked_and_then_killed(loads, pinged_at, killed_at):
    """It is asked at each look after half of the heartbeat, and killed after all of it. One that loads, and does not
    compute, has one look more: what it has computed is known from the first look on.
    """

    async def work() -> tuple[list[float], list[float], bool]:
        child = FakeChild()
        watch = await child.watched(loads=loads)
        return child.pinged_at, child.killed_at, watch.killed

    assert (pinged_at, killed_at, True) == simulated(work())


def test_a_child_that_computes_while_it_loads_has_the_time_of_a_load_more():
    """It is killed when it has been silent for the heartbeat and the time that loading may take."""

    async def work() -> list[float]:
        child = FakeChild(spent=lambda now: now)
        await child.watched(loads=True)
        return child.killed_at

    assert [CONFIG.heartbeat_seconds_max + CONFIG.load_seconds_max + BY_LOOK] == simulated(work())


def test_computing_is_no_sign_of_life_where_nothing_loads():
    """A child that is to answer and turns in a loop of its own is killed after the heartbeat."""

    async def work() -> list[float]:
        child = FakeChild(spent=lambda now: now)
        await child.watched(loads=False)
        return child.killed_at

    assert [CONFIG.heartbeat_seconds_max + BY_LOOK] == simulated(work())


def test_a_child_that_stops_computing_while_it_loads_is_killed():
    """Silent without computing for as long as the heartbeat, however much it computed before."""

    async def work() -> list[float]:
        child = FakeChild(spent=lambda now: min(now, 20.0))
        await child.watched(loads=True)
        return child.killed_at

    assert [20.0 + CONFIG.heartbeat_seconds_max + BY_LOOK] == simulated(work())


def test_a_child_that_is_heard_is_left_alone():
    """Neither asked nor killed, for as long as it says something now and then."""

    async def work() -> tuple[list[float], list[float], bool]:
        child, watch = FakeChild(), ChildWatch("echo", CONFIG)
        for _ in range(100):
            child.last_heartbeat = asyncio.get_running_loop().time()
            await watch.check_silence(cast(ChildProcess, child), child.ended, [child.ended], loads=False)
        return child.pinged_at, child.killed_at, watch.killed

    assert ([], [], False) == simulated(work())


def test_a_pause_of_the_daemon_is_no_silence_of_a_child():
    """After a time in which the daemon did not run a child is asked and not killed; its silence begins again there."""

    async def work() -> tuple[list[float], list[float]]:
        child = FakeChild()
        looks = asyncio.create_task(child.watched(loads=False))
        await turns()
        stand_still(100.0)
        await looks
        return child.pinged_at, child.killed_at

    assert ([106.0, 108.0], [110.0]) == simulated(work())


def test_a_look_ends_with_what_it_waits_for():
    """At once, and without a word to the child, however long that was silent."""

    async def work() -> tuple[float, list[float], list[float]]:
        child, watch, answer = FakeChild(), ChildWatch("echo", CONFIG), asyncio.get_running_loop().create_future()
        child.last_heartbeat = -1000.0
        asyncio.get_running_loop().call_later(0.5, answer.set_result, None)
        await watch.check_silence(cast(ChildProcess, child), child.ended, [answer, child.ended], loads=False)
        return asyncio.get_running_loop().time(), child.pinged_at, child.killed_at

    assert (0.5, [], []) == simulated(work())


def test_a_look_that_is_cancelled_while_a_killed_child_ends_says_that_it_was_killed():
    """The death is the child's own fault then too."""

    async def work() -> tuple[int, bool]:
        child = FakeChild(lingers=True)
        watch = ChildWatch("echo", CONFIG)
        child.last_heartbeat = -1000.0
        look = watch.check_silence(cast(ChildProcess, child), child.ended, [child.ended], loads=False)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(look, 60.0)
        return len(child.killed_at), watch.killed

    assert (1, True) == simulated(work())


def test_a_sign_is_owed_after_a_pause():
    """Nothing is owed until the last sign is that old; then it is, until one comes."""
    pulse = LivenessProbe(30)
    pulse.record_work(100.0)
    assert [False, True, True] == [pulse.is_due(now, 15) for now in (114.9, 115.0, 116.0)]
    pulse.record_work(117.0)
    assert not pulse.is_due(118.0, 15)


@pytest.mark.parametrize(("now", "stuck"), [(115.0, False), (145.0, False), (145.1, True)])
def test_it_is_stuck_when_it_owes_one_for_too_long(now: float, stuck: bool):
    """Patience counts from when the sign was owed, not from the last one."""
    pulse = LivenessProbe(30)
    pulse.record_work(100.0)
    pulse.is_due(115.0, 15)
    assert stuck is pulse.is_stuck(now)


def test_a_late_sign_mends_it():
    """An engine that computes again is not stuck."""
    pulse = LivenessProbe(30)
    pulse.is_due(100.0, 15)
    assert pulse.is_stuck(200.0)
    pulse.record_work(201.0)
    assert not pulse.is_stuck(202.0)


def test_without_the_question_nothing_is_owed():
    """An engine that nobody looks at is never stuck."""
    pulse = LivenessProbe(30)
    pulse.record_work(100.0)
    assert not pulse.is_stuck(1e9)


def test_what_computes_goes_on_however_long_it_takes():
    """Each look that finds more time spent begins the patience anew."""
    effort = CpuActivity(30)
    assert all(effort.is_recent(cpu_seconds=now / 10, now=now) for now in (100.0, 200.0, 300.0))


def test_what_spends_nothing_has_its_patience_from_the_first_look():
    """The same time spent at each look: after that long it does not go on."""
    effort = CpuActivity(30)
    assert [True, True, False] == [effort.is_recent(cpu_seconds=4.2, now=now) for now in (100.0, 130.0, 130.1)]
