"""When a dead child is started again: pure.

Pauses double. Loads that fail in a row end the tries. Starts that fail do not: a machine without descriptors, processes
or memory is no evidence against the model.

A pause bounds how often an engine starts, so the time that the child was ready counts towards it: a child that dies
after a life longer than its pause is started again at once, and only one that keeps dying young waits.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.backoff import backoff_seconds
from edge_agent.config import EngineConfig
from edge_agent.errors import EngineNotReady

START_REMEDY = (
    "It is tried again, with growing pauses. If it stays: raise LimitNOFILE= or TasksMax= of the service, free some "
    "memory, or end what takes so many processes."
)


@dataclass
class RestartPolicy:
    """Counts failures of one engine. Pauses are in seconds."""

    config: EngineConfig
    start_failures: int = 0
    load_failures: int = 0
    crashes: int = 0

    def loaded(self) -> None:
        """Note that the child became ready."""
        self.start_failures = self.load_failures = 0

    def answered(self) -> None:
        """Note a good answer: the next crash starts again at the shortest pause."""
        self.crashes = 0

    def pause_after_crash(self, ready_seconds: float = 0.0) -> float:
        """Return the pause before the next start of a child that was ready for so long."""
        self.crashes += 1
        return max(0.0, self._pause(self.crashes) - ready_seconds)

    def pause_after_start_failure(self) -> float:
        """Return the pause after a child could not be started: the machine has to change, and it may."""
        self.start_failures += 1
        return self._pause(self.start_failures)

    def pause_after_load_failure(self) -> float | None:
        """Return the pause, or None after `load_failures_max` failures in a row."""
        self.load_failures += 1
        if self.load_failures >= self.config.load_failures_max:
            return None
        return self._pause(self.load_failures)

    def _pause(self, failures: int) -> float:
        return backoff_seconds(failures, self.config.restart_seconds_first, self.config.restart_seconds_max)


def start_failure(why: str, pause_seconds: float) -> EngineNotReady:
    """Return the error for callers that wait for an engine whose process cannot be started on this machine."""
    message = f"the model's process cannot be run: {why}; it is tried again"
    return EngineNotReady(message, retry_seconds=max(pause_seconds, 1.0), remedy=START_REMEDY)
