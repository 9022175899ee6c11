"""The dependencies of an engine outside a pool."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.engine.child_supervisor import ChildSupervisor, EngineDependencies
from edge_agent.engine.protocol import LoadRequest
from edge_agent.supervision import Supervisor


def lone_engine(
    on_change: Callable[[], None] = lambda: None,
    before_load: Callable[[], None] = lambda: None,
    owner: Supervisor | None = None,
) -> EngineDependencies:
    """Dependencies of an engine that loads the first bundle it gets, and whose memory is not measured."""

    def prepare_load(child: ChildSupervisor) -> LoadRequest:
        before_load()
        return child.load

    return EngineDependencies(owner or Supervisor(), prepare_load, lambda _: 0, on_change)
