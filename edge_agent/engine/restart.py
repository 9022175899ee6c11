"""When a dead child is started again: pure. Pauses double; loads that fail in a row end the tries. Starts that fail do
not: a machine without descriptors, processes or memory says nothing of the model.

A pause bounds how often an engine starts, so the time that the child was ready counts towards it: one that dies after a
life longer than its pause is started again at once, and only one that keeps dying young is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.backoff import backoff_seconds
from edge_agent.config import EngineConfig


@dataclass
class RestartPolicy:
    """Counts failures of one engine."""

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
        """Return the seconds to wait before the next start of a child that was ready for so many seconds."""
        self.crashes += 1
        return max(0.0, self._pause(self.crashes) - ready_seconds)

    def pause_after_start_failure(self) -> float:
        """Return the seconds to wait where there was no child at all: the machine has to change, and it may."""
        self.start_failures += 1
        return self._pause(self.start_failures)

    def pause_after_load_failure(self) -> float | None:
        """Return the seconds to wait, or None when it has failed often enough."""
        self.load_failures += 1
        if self.load_failures >= self.config.load_failures_max:
            return None
        return self._pause(self.load_failures)

    def _pause(self, failures: int) -> float:
        return backoff_seconds(failures, self.config.restart_seconds_first, self.config.restart_seconds_max)
