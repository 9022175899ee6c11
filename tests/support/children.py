"""A child process without an engine around it: each memory request is granted, as the engine does."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.engine.child_process_watch import ChildProcess
from edge_agent.engine.memory_need import MemoryCap
from edge_agent.engine.protocol import FromChild, MemoryEstimate


async def spawned(
    on_message: Callable[[FromChild], object], on_exit: Callable[[int], object], available_bytes: int = 0
) -> ChildProcess:
    """Start a child that is limited by its estimates, with this available memory; 0 = not measured."""
    cap = MemoryCap()

    def heard(message: FromChild) -> None:
        if isinstance(message, MemoryEstimate):
            process.send(cap.grant(message, available_bytes))
        else:
            on_message(message)

    process = await ChildProcess.spawn(heard, lambda code: (on_exit(code), None)[1])
    cap.pid = process.pid
    return process
