"""The task that supervises an engine's child, when it dies of an unexpected exception."""

from __future__ import annotations

import asyncio

import structlog

from edge_agent.config import EngineConfig
from edge_agent.engine.engine import SupervisedEngine
from edge_agent.engine.protocol import AttachRequest, LoadRequest
from edge_agent.engine.restart_policy import Quarantine
from edge_agent.formats.manifest import Manifest, TaskSpec, encode
from edge_agent.supervision import Supervisor
from tests.support.eventually import eventually
from tests.support.injected_faults import InjectedFault, InjectedFaults
from tests.support.lone_engine import lone_engine

BUNDLE = Manifest(task=TaskSpec(name="talk", kind="generate"), version="1.0.0", runtime="echo")


async def test_engine_restarts_after_its_supervision_died():
    """If the supervision of an engine dies, status names the engine, and a waiting attach is answered by the next child
    after a pause."""
    faults = InjectedFaults()
    owner = Supervisor(sleep=faults.sleep, monotonic=faults.monotonic, wrap=faults.around)
    load = LoadRequest(runtime="echo", context_tokens=64, sequences_max=2)
    engine = SupervisedEngine("echo", load, EngineConfig(), Quarantine(60.0), lone_engine(owner=owner))
    attach = AttachRequest(digest="talk", manifest=encode(BUNDLE), paths={})
    faults.at_start.add("engine echo")
    with structlog.testing.capture_logs() as logged:
        attaching = asyncio.create_task(engine.attach(attach))
        await eventually(lambda: len(faults.pauses) == 1)
    assert [InjectedFault] == [type(each["exc_info"]) for each in logged if each["event"] == "component_died"]
    assert "Component engine echo stopped with InjectedFault" in owner.problems[0]
    assert (False, False) == (engine.ready("talk"), attaching.done())
    faults.release()
    await attaching
    first = engine.child.pid
    faults.strike("engine echo")
    await eventually(lambda: not engine.ready("talk"))
    faults.release()
    await eventually(lambda: engine.ready("talk"))
    assert engine.child.pid not in (0, first)
    await engine.child.stop()
    assert (0, ()) == (engine.child.pid, owner.components)
    assert asyncio.all_tasks() == {asyncio.current_task()}
