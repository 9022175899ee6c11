"""Plans for tests: by default one channel, one task, one bundle.

plan(task(BUNDLE, waves=[("2026-11-02T00:00:00Z", 10)]))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_agent.formats.plan import BundleOffer, FleetPlan, RolloutPlan, RolloutWave, TaskPlan
from edge_agent.formats.signed_document import format_timestamp
from tests.support.examples import NOW

TASK = "pos-intent"
OLD, NEW = "0d" * 32, "1e" * 32


def task(bundle: str = NEW, *, version: str = "2.0.0", waves: Sequence[tuple[str, int]] = (), **more: Any) -> TaskPlan:
    """Return the plan of a task: one bundle for any machine."""
    offers = more.pop("offers", (BundleOffer(bundle=bundle, version=version),))
    return TaskPlan(
        offers=offers, waves=tuple(RolloutWave(start=start, percent=share) for start, share in waves), **more
    )


def plan(*tasks: TaskPlan, version: int = 1, channel: str = "stable", **more: Any) -> RolloutPlan:
    """Return a plan that says one thing to one channel."""
    channels = {channel: FleetPlan(tasks={TASK: each})} if (each := next(iter(tasks), None)) else {}
    return RolloutPlan(version=version, issued_at=format_timestamp(NOW), **{"channels": channels, **more})
