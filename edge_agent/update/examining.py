"""The self-test as a step: loads a bundle in a child of its own, examines it, and lets go of it in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from edge_agent.errors import EdgeAgentError
from edge_agent.formats.golden import Case, parse
from edge_agent.formats.plan import TaskPlan
from edge_agent.store.state_database import InstalledBundle
from edge_agent.store.store import Store
from edge_agent.update.activation import Activation
from edge_agent.update.machine import End, Outcome, outcome_of
from edge_agent.update.selftest import Exam, Subject, examine

CASES_MAX = 200

Trying = Callable[[InstalledBundle, Mapping[str, Path], float], AbstractAsyncContextManager[Subject]]
Serving = Callable[[InstalledBundle], Subject | None]


class Examiner:
    """Tests one bundle at a time."""

    def __init__(
        self, store: Store, activation: Activation, trying: Trying, serving: Serving, seconds_max: float
    ) -> None:
        """Test bundles of a store, for so long at most each; `serving` gives the one that answers now, to compare."""
        self._store, self._activation = store, activation
        self._trying, self._serving = trying, serving
        self._seconds_max = seconds_max
        self._stopping = False
        self._running: asyncio.Task[Outcome] | None = None

    def stop(self) -> None:
        """Give up what runs: it is tested again when the daemon is back."""
        self._stopping = True
        if self._running is not None:
            self._running.cancel()

    async def test(self, bundle: InstalledBundle, plan: TaskPlan) -> Outcome:
        """Test a bundle under what the plan allows. Whatever goes wrong is an outcome."""
        self._running = asyncio.create_task(self._in_time(bundle, plan))
        try:
            return await self._running
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            return Outcome(End.HINDERED, "STOPPING", "the daemon was stopped during the self-test")
        finally:
            self._running = None

    async def _in_time(self, bundle: InstalledBundle, plan: TaskPlan) -> Outcome:
        try:
            async with asyncio.timeout(self._seconds_max):
                return await self._tested(bundle, plan)
        except TimeoutError:
            return Outcome(
                End.FAILED, "SELF_TEST_TOO_LONG", f"the self-test did not end within {self._seconds_max:g} s"
            )
        except EdgeAgentError as error:
            return outcome_of(error)

    async def _tested(self, bundle: InstalledBundle, plan: TaskPlan) -> Outcome:
        paths = await self._activation.on_store(self._store.paths, bundle)
        cases = await asyncio.to_thread(_cases, paths)
        before = self._activation.serving.get(bundle.manifest.task.name)
        exam = Exam(
            cases=cases,
            vector=bundle.manifest.task.kind == "embed",
            latency_percent_max=plan.probation.latency_percent_max,
            answer_seconds_max=self._seconds_max,
            memory_bytes_wanted=bundle.manifest.requires.memory_bytes,
        )
        async with self._trying(bundle, paths, self._seconds_max) as candidate:
            return await examine(exam, candidate, self._serving(before) if before else None)


def _cases(paths: Mapping[str, Path]) -> Sequence[Case]:
    golden = paths.get("golden")
    return parse(golden.read_bytes())[:CASES_MAX] if golden else ()
