"""What watches an engine's child, when it dies of a mistake of ours."""

from __future__ import annotations

import asyncio
import resource
import signal

import pytest
import structlog

from edge_agent.config import EngineConfig
from edge_agent.engine.engine import Engine
from edge_agent.engine.process import ChildProcess
from edge_agent.engine.protocol import Attach, Load
from edge_agent.engine.quarantine import Quarantine
from edge_agent.errors import EngineCrashed
from edge_agent.formats.manifest import Manifest, Task, encode
from edge_agent.supervision import Supervisor
from tests.eventually import eventually
from tests.injected_faults import InjectedFault, InjectedFaults

BUNDLE = Manifest(task=Task(name="talk", kind="generate"), version="1.0.0", runtime="echo")


async def test_a_child_that_nobody_watches_any_more_is_started_again():
    """Who waits for a bundle is told, the child is ended, status names the engine; after a pause it is ready again."""
    faults = InjectedFaults()
    owner = Supervisor(sleep=faults.sleep, monotonic=faults.monotonic, around=faults.around)
    load = Load(runtime="echo", context_tokens=64, sequences_max=2)
    engine = Engine("echo", load, EngineConfig(), Quarantine(60.0), lambda: None, owner=owner)
    attach = Attach(digest="talk", manifest=encode(BUNDLE), paths={})
    faults.at_start.add("engine echo")
    with structlog.testing.capture_logs() as logged, pytest.raises(EngineCrashed, match="an unexpected error"):
        await engine.attach(attach)
    assert [InjectedFault] == [type(each["exc_info"]) for each in logged if each["event"] == "component_died"]
    assert "Component engine echo stopped with InjectedFault" in owner.problems[0]
    faults.release()
    await eventually(lambda: engine.ready("talk"))
    first = engine.pid
    faults.strike("engine echo")
    await eventually(lambda: not engine.ready("talk"))
    faults.release()
    await eventually(lambda: engine.ready("talk"))
    assert engine.pid not in (0, first)
    await engine.stop()
    assert (0, ()) == (engine.pid, owner.components)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_end_of_a_child_is_seen_without_a_descriptor_to_spare():
    """Where the kernel gives no pidfd, a thread waits for the child; whoever waits for its end is told."""
    ended = asyncio.get_running_loop().create_future()
    child = await ChildProcess.spawn(lambda _: None, ended.set_result)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        await asyncio.to_thread(int)  # meanwhile the wait begins
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    child.kill()
    assert -signal.SIGKILL == await ended
    await child.ended()
