"""What the spool's worker needs of the daemon: values and callables, which load nothing of the spool."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_agent.formats.redaction_section import MissedBound
    from edge_agent.formats.status_object import SiteUpdates, TaskStatus
    from edge_agent.monitoring.bundle_figures import AlarmState


def _no_updates() -> SiteUpdates:
    # Only the spool's worker loads the status document.
    from edge_agent.formats.status_object import SiteUpdates  # noqa: PLC0415

    return SiteUpdates()


@dataclass(frozen=True)
class SpoolWorkerDependencies:
    """What a worker needs of the daemon: its tasks and updates, its version, both clocks in seconds."""

    tasks: Callable[[], Iterable[TaskStatus]]
    version: str
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    updates: Callable[[], SiteUpdates] = _no_updates
    revision: Callable[[], int] = lambda: 0
    """Changes when the central site should learn of a change at once."""
    redactor: Callable[[], tuple[str, MissedBound | None]] = lambda: ("", None)
    """Returns the bundle that redacts, task@version, empty = none does; and what it promises."""
    drawn: Callable[[], float] = random.SystemRandom().random
    """Returns a random number, 0 to below 1, for the random audit."""
    alarmed: Callable[[tuple[AlarmState, ...]], None] = lambda _: None
    """Called on this thread with the active alarms, at the start and after each change."""
