"""How much memory the daemon and its engines may take together: what its unit is given as MemoryMax=.

    engines     engine.memory_bytes_max, or what the machine has
    reserve     engine.memory_reserve_bytes, which engines leave free below any limit: they see this one too
    daemon      its own: the program, answers that wait to be written, and the largest messages of all calls at once

It is an upper bound, which keeps a fault here from harming the rest of the machine; engines count for themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.config import Config

PROGRAM_BYTES = 192 * 2**20
"""About 100 MB are resident after a day; the rest is for what is being installed or sealed."""


@dataclass(frozen=True)
class MemoryPlan:
    """What each part may take, in bytes."""

    engines: int
    """0 = what the machine has."""
    reserve: int
    daemon: int
    machine: int

    @property
    def memory_max(self) -> int:
        """The limit of all processes of the unit together; what the rest of the machine needs stays out of it."""
        most = max(self.machine - self.reserve, self.machine // 2)
        return min(most, self.engines + self.reserve + self.daemon) if self.engines else most


def plan_memory(config: Config, machine_bytes: int) -> MemoryPlan:
    """Share out a machine with that much memory."""
    messages = config.service.calls_max * config.service.message_bytes_max
    return MemoryPlan(
        engines=config.engine.memory_bytes_max,
        reserve=config.engine.memory_reserve_bytes,
        daemon=PROGRAM_BYTES + config.examples.queue_bytes_max + messages,
        machine=machine_bytes,
    )
