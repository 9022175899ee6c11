"""The supervisor of background tasks: failures, their consequences, and their status."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog

from edge_agent.supervision import (
    PAUSE_SECONDS_MAX,
    STEADY_SECONDS,
    Component,
    DeathPolicy,
    Supervisor,
    log_task_failure,
)
from tests.support.eventually import eventually, turns
from tests.support.injected_faults import InjectedFault, InjectedFaults

UNITS = Path(__file__).parents[2] / "systemd"


async def for_ever() -> None:
    await asyncio.Event().wait()


def owning(faults: InjectedFaults, *components: Component, gave_up: list[str] | None = None) -> Supervisor:
    """Return a running supervisor of these components."""
    supervisor = Supervisor(
        lambda: (gave_up if gave_up is not None else []).append("gave up"),
        sleep=faults.sleep,
        monotonic=faults.monotonic,
        wrap=faults.around,
    )
    for component in components:
        supervisor.add(component)
    supervisor.start()
    return supervisor


def component(name: str = "a", policy: DeathPolicy = DeathPolicy.RESTART, **more) -> Component:
    return Component(name, more.pop("run", for_ever), policy, "a test", **more)


async def test_failed_component_is_restarted_with_growing_pauses():
    """The pause doubles with each failure in a row up to a limit; after a steady run it is the first one again."""
    faults = InjectedFaults()
    supervisor = owning(faults, component())
    for deaths in range(1, 10):
        await eventually(lambda: faults.starts.get("a") == deaths)  # noqa: B023 - awaited in the same turn
        faults.strike("a")
        await eventually(lambda: len(faults.pauses) == deaths)  # noqa: B023 - likewise
        faults.release()
    assert [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, PAUSE_SECONDS_MAX, PAUSE_SECONDS_MAX, PAUSE_SECONDS_MAX] == faults.pauses
    await eventually(lambda: faults.starts["a"] == 10)
    faults.running_seconds += STEADY_SECONDS
    faults.strike("a")
    await eventually(lambda: len(faults.pauses) == 10)
    assert (1.0, 10) == (faults.pauses[-1], supervisor.deaths["a"])
    await supervisor.stop()


async def test_failure_is_logged_and_reported_until_the_component_runs_steadily():
    """Status names it during the pause and for a while afterwards."""
    faults = InjectedFaults()
    supervisor = owning(faults, component(), component("b"))
    await eventually(lambda: faults.starts.get("a") == 1)
    assert ({"a": True, "b": True}, []) == (supervisor.up, supervisor.problems)
    with structlog.testing.capture_logs() as logged:
        faults.strike("a")
        await eventually(lambda: len(faults.pauses) == 1)
    (event,) = logged
    assert ("component_died", "a", "restart", 1) == (
        *(event[key] for key in ("event", "component", "policy", "deaths")),
    )
    assert isinstance(event["exc_info"], InjectedFault)
    assert event["exc_info"].__traceback__ is not None
    (said,) = supervisor.problems
    assert said.startswith("Component a stopped with InjectedFault 0 s ago: it is started again after a pause.")
    assert {"a": False, "b": True} == supervisor.up
    faults.release()
    await eventually(lambda: faults.starts["a"] == 2)
    assert "0 s ago: it runs again" in supervisor.problems[0]
    faults.running_seconds += STEADY_SECONDS
    assert ({"a": True, "b": True}, []) == (supervisor.up, supervisor.problems)
    await supervisor.stop()


async def test_component_that_returns_has_failed():
    """A component runs for ever unless it may return."""
    faults = InjectedFaults()
    faults.returning = {"a", "b"}
    supervisor = owning(faults, component(), component("b", may_return=True))
    await eventually(lambda: len(faults.pauses) == 1)
    assert ["Component a returned 0 s ago"] == [said.partition(":")[0] for said in supervisor.problems]
    assert ["a"] == [each.name for each in supervisor.components]
    await supervisor.stop()


async def test_failure_of_a_vital_component_stops_the_daemon():
    """The owner is told once which component it was; the others run until the owner stops."""
    faults, gave_up = InjectedFaults(), []
    supervisor = owning(faults, component(), component("vital", DeathPolicy.STOP), gave_up=gave_up)
    await eventually(lambda: len(faults.starts) == 2)
    faults.strike("vital")
    await eventually(lambda: supervisor.failed_component == "vital")
    assert (["gave up"], []) == (gave_up, faults.pauses)
    assert "the daemon ends for it" in supervisor.problems[0]
    assert supervisor.up["a"]
    await supervisor.stop()


async def test_orderly_stop_is_awaited():
    """Components stop in reverse order; one with a stop of its own is not cancelled, and an error while stopping
    affects no other."""
    ended, leave = [], asyncio.Event()

    async def until_told() -> None:
        await leave.wait()
        ended.append("told")

    async def cancelled() -> None:
        try:
            await for_ever()
        finally:
            await turns()  # meanwhile others may run
            ended.append("cancelled")

    async def end() -> None:
        leave.set()

    async def broken() -> None:
        raise InjectedFault

    faults = InjectedFaults()
    parts = (component(run=cancelled), component("b", end=broken), component("c", run=until_told, end=end))
    supervisor = owning(faults, *parts)
    await eventually(lambda: len(faults.starts) == 3)
    await supervisor.stop()
    assert (["told", "cancelled"], 0) == (ended, supervisor.deaths.total())


async def test_one_component_can_be_stopped_later():
    """The first stop ends all others, the second that one."""
    began: list[str] = []
    ended: list[str] = []

    def runs_until_cancelled(name: str):
        async def run() -> None:
            began.append(name)
            try:
                await for_ever()
            finally:
                ended.append(name)

        return component(name, run=run)

    supervisor = owning(InjectedFaults(), *map(runs_until_cancelled, ("a", "link", "c")))
    await eventually(lambda: len(began) == 3)
    await supervisor.stop(except_for="link")
    assert ["c", "a"] == ended
    await supervisor.stop()
    assert ["c", "a", "link"] == ended


async def test_supervisor_can_stop_during_a_pause():
    """A failed component is not waited for, and its stop is still called."""
    asked = []

    async def end() -> None:
        asked.append("end")

    faults = InjectedFaults()
    faults.at_start = {"a"}
    supervisor = owning(faults, component(end=end))
    await eventually(lambda: len(faults.pauses) == 1)
    await supervisor.stop()
    assert ["end"] == asked


async def test_cancellation_from_within_is_a_failure():
    """A component whose awaited work was cancelled elsewhere counts as failed."""

    async def waits_for_what_is_cancelled() -> None:
        waiting = asyncio.get_running_loop().create_future()
        waiting.cancel()
        await waiting

    faults = InjectedFaults()
    supervisor = owning(faults, component(run=waits_for_what_is_cancelled))
    await eventually(lambda: len(faults.pauses) == 1)
    assert 1 == supervisor.deaths["a"]
    await supervisor.stop()


async def test_supervised_task_can_be_cancelled_by_its_owner():
    """A component of a running owner is gone with its task."""
    faults = InjectedFaults()
    supervisor = owning(faults)
    task = supervisor.supervise(component("engine", may_return=True))
    await eventually(lambda: len(faults.starts) == 1)
    faults.strike("engine")
    await eventually(lambda: len(faults.pauses) == 1)
    faults.release()
    await eventually(lambda: faults.starts["engine"] == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert () == supervisor.components


async def test_paused_component_can_be_dropped():
    """A running component is not dropped, a paused one is dropped at once, and another of the same name is not
    affected."""
    faults = InjectedFaults()
    supervisor = owning(faults)
    first, second = (supervisor.supervise(component("engine", may_return=True)) for _ in range(2))
    await eventually(lambda: faults.starts.get("engine") == 2)
    assert not supervisor.drop_paused(first)
    faults.strike("engine")  # the one that began last
    await eventually(lambda: len(faults.pauses) == 1)
    assert (False, True) == (supervisor.drop_paused(first), supervisor.drop_paused(second))
    await asyncio.wait([second])
    assert (True, False, False) == (second.cancelled(), first.done(), supervisor.drop_paused(second))
    assert ["engine"] == [each.name for each in supervisor.components]
    await supervisor.stop()
    assert (True, ()) == (first.done(), supervisor.components)


async def test_failure_of_a_single_task_is_logged():
    """The failure is logged even if nobody awaits the task; a cancelled task is not."""

    async def fails() -> None:
        raise InjectedFault

    with structlog.testing.capture_logs() as logged:
        for work in (fails, for_ever):
            task = asyncio.create_task(work())
            log_task_failure(task, work.__name__)
            await turns()  # meanwhile it begins
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert [("task_died", "fails")] == [(event["event"], event["what"]) for event in logged]


@pytest.mark.parametrize("unit", ["edge-agent", "edge-uplink", "edge-agent-web"])
def test_systemd_restarts_a_failed_daemon(unit):
    """The unit restarts on every exit status but 0."""
    text = (UNITS / f"{unit}.service").read_text()
    assert "\nRestart=on-failure\n" in text
    assert "SuccessExitStatus" not in text
    assert "RestartPreventExitStatus" not in text
