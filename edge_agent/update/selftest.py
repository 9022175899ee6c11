"""The self-test: whether a bundle computes the same as where it was made, within its limits on time and memory.

The bundle is loaded in a child process of its own and answers its golden cases. Cases whose answer a rounding error can
change are not counted; of the others nearly all must agree. Latency is compared with the active bundle, on the same
inputs and in the same minute; on a busy machine a bad measurement is repeated before it counts. Memory is compared with
the engine's estimate, and must not grow from one pass to the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from edge_agent.errors import DeadlineExpired, EdgeAgentError, SiteError
from edge_agent.formats.golden_cases import (
    DIFFERENT_PERCENT_MAX,
    GoldenAnswer,
    GoldenCase,
    differences,
    is_binding,
    parse,
)
from edge_agent.formats.plan import TaskPlan
from edge_agent.store.bundle_store import Store
from edge_agent.store.state_database import InstalledBundle
from edge_agent.update.activation import Activation
from edge_agent.update.update_state_machine import StepOutcome, StepResult, classify_error

CASES_MAX = 200
TIMED_CASES_MAX = 12
REPEATS = 3
ROUNDS_MAX = 3
LATENCY_SLACK_MS = 3.0
MEGABYTE = 1_000_000
GROWTH_BYTES_MAX = 32 * MEGABYTE
GROWTH_PERCENT_MAX = 10
EXCESS_BYTES_MAX = 64 * MEGABYTE
EXCESS_PERCENT_MAX = 150
SHOWN_MAX = 3
NOT_COMPARED = "it loads; it has no golden answers to compare with"


@dataclass(frozen=True)
class BundleUnderTest:
    """A loaded bundle that can be measured."""

    answer: Callable[[str, float], Awaitable[tuple[GoldenAnswer, float]]]
    """(text, seconds it may take): its answer, and the milliseconds in the engine; raises EdgeAgentError."""
    resident_bytes: Callable[[], int]
    estimated_bytes: Callable[[], int]
    """The engine's estimate before loading; 0 = unknown."""
    crashes: Callable[[], int]
    """How often its child process died without being stopped."""


@dataclass(frozen=True)
class SelfTest:
    """The inputs of a self-test, and its limits."""

    cases: Sequence[GoldenCase]
    vector: bool
    """The answers are vectors, compared by their direction."""
    latency_percent_max: int
    """Median latency in percent of what the incumbent takes."""
    answer_seconds_max: float
    memory_bytes_wanted: int = 0
    """Memory that its manifest requires; 0 = not given."""


LoadForTest = Callable[[InstalledBundle, Mapping[str, Path], float], AbstractAsyncContextManager[BundleUnderTest]]
"""(bundle, its files by role, seconds it may take): load it in a child of its own; raises ModelError or MemoryShort."""
ServingBundle = Callable[[InstalledBundle], BundleUnderTest | None]
"""Return the bundle where it serves; None = it does not."""


class SelfTestRunner:
    """Loads one bundle at a time in a child of its own, tests it, and releases it within the time limit."""

    def __init__(
        self,
        store: Store,
        activation: Activation,
        load_for_test: LoadForTest,
        serving: ServingBundle,
        seconds_max: float,
    ) -> None:
        """Test bundles of a store, for `seconds_max` each; `serving` gives the active one to compare with."""
        self._store, self._activation = store, activation
        self._load_for_test, self._serving = load_for_test, serving
        self._seconds_max = seconds_max
        self._stopping = False
        self._running: asyncio.Task[StepOutcome] | None = None

    def stop(self) -> None:
        """Abandon a running test: it is repeated when the daemon is back."""
        self._stopping = True
        if self._running is not None:
            self._running.cancel()

    async def run(self, bundle: InstalledBundle, plan: TaskPlan) -> StepOutcome:
        """Test a bundle under the plan's limits. Every failure is returned as an outcome."""
        self._running = asyncio.create_task(self._run(bundle, plan))
        try:
            return await self._running
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            return StepOutcome(StepResult.BLOCKED, "STOPPING", "the daemon was stopped during the self-test")
        finally:
            self._running = None

    async def _run(self, bundle: InstalledBundle, plan: TaskPlan) -> StepOutcome:
        try:
            async with asyncio.timeout(self._seconds_max):
                paths = await self._store.thread.run(self._store.paths, bundle)
                golden_path = paths.get("golden")
                test = SelfTest(
                    cases=await asyncio.to_thread(_read_cases, golden_path) if golden_path else (),
                    vector=bundle.manifest.task.kind == "embed",
                    latency_percent_max=plan.probation.latency_percent_max,
                    answer_seconds_max=self._seconds_max,
                    memory_bytes_wanted=bundle.manifest.requires.memory_bytes,
                )
                incumbent = self._activation.serving.get(bundle.manifest.task.name)
                async with self._load_for_test(bundle, paths, self._seconds_max) as candidate:
                    return await run_selftest(test, candidate, self._serving(incumbent) if incumbent else None)
        except TimeoutError:
            message = f"the self-test did not end within {self._seconds_max:g} s"
            return StepOutcome(StepResult.FAILED, "SELF_TEST_TOO_LONG", message)
        except EdgeAgentError as error:
            return classify_error(error)


def _read_cases(path: Path) -> Sequence[GoldenCase]:
    return parse(path.read_bytes())[:CASES_MAX]


async def run_selftest(test: SelfTest, candidate: BundleUnderTest, incumbent: BundleUnderTest | None) -> StepOutcome:
    """Test a bundle against its golden cases and the incumbent, if that serves. Every failure is an outcome."""
    compared = sum(map(is_binding, test.cases))
    try:
        different = await _golden_differences(test, candidate)
        if 100 * len(different) > DIFFERENT_PERCENT_MAX * compared:
            message = f"{len(different)} of {compared} golden inputs are answered differently"
            return StepOutcome(StepResult.FAILED, "GOLDEN_DIFFERS", f"{message}: {'; '.join(different[:SHOWN_MAX])}")
        first_bytes = candidate.resident_bytes()
        slower = await _latency_excess(test, candidate, incumbent)
    except DeadlineExpired:
        return StepOutcome(
            StepResult.FAILED, "SELF_TEST_TOO_LONG", f"a golden input took {test.answer_seconds_max:g} s and more"
        )
    except SiteError as error:
        return classify_error(error)
    except EdgeAgentError as error:  # in a child of its own, only the bundle can be the cause
        return StepOutcome(StepResult.FAILED, error.reason, error.message)
    if crashes := candidate.crashes():  # on inputs that succeeded when they were tried again
        return StepOutcome(StepResult.FAILED, "CRASHES", f"its process died {crashes} times in the self-test")
    if excess := _excess_memory(test, candidate, first_bytes):
        return StepOutcome(StepResult.FAILED, "MEMORY_GROWS", excess)
    if slower:
        return StepOutcome(StepResult.FAILED, "SLOWER", slower)
    agreement = (
        f"{compared - len(different)} of {compared} golden inputs are answered alike" if compared else NOT_COMPARED
    )
    uncompared = sum(case.answer is not None for case in test.cases) - compared
    note = f"; {uncompared} more were not compared, as rounding may turn their answers" if uncompared else ""
    return StepOutcome(StepResult.PASSED, message=agreement + note)


async def _golden_differences(test: SelfTest, candidate: BundleUnderTest) -> list[str]:
    """Return a sentence for each case whose answer differs from that of the machine that made the bundle."""
    sentences = []
    for case in test.cases:
        answer, _ = await candidate.answer(case.input, test.answer_seconds_max)
        messages = differences(case, answer, vector=test.vector) if is_binding(case) else []
        sentences += [f"{case.input[:60]!r}: {message}" for message in messages[:1]]
    return sentences


async def _latency_excess(test: SelfTest, candidate: BundleUnderTest, incumbent: BundleUnderTest | None) -> str:
    """Return a sentence with the figures if it is slower than allowed in every round; otherwise nothing."""
    texts = [case.input for case in test.cases[:TIMED_CASES_MAX]]
    excess = ""
    for _ in range(ROUNDS_MAX if texts else 0):
        new_ms = await _median_ms(test, texts, candidate)
        try:
            old_ms = await _median_ms(test, texts, incumbent) if incumbent else 0.0
        except EdgeAgentError:  # it does not accept these inputs, or has been stopped to make room
            old_ms = 0.0
        if not old_ms or new_ms <= old_ms * test.latency_percent_max / 100 + LATENCY_SLACK_MS:
            return ""
        allowed = f"{test.latency_percent_max}% of that is allowed"
        excess = f"it takes {new_ms:.1f} ms where the previous bundle takes {old_ms:.1f} ms; {allowed}"
    return excess


async def _median_ms(test: SelfTest, texts: Sequence[str], subject: BundleUnderTest) -> float:
    """Return the median over the texts, of the shortest time for each: longer ones were disturbed."""
    times: list[list[float]] = [[] for _ in texts]
    for _ in range(REPEATS):
        for text, durations in zip(texts, times, strict=True):
            durations.append((await subject.answer(text, test.answer_seconds_max))[1])
    return median(map(min, times))


def _excess_memory(test: SelfTest, candidate: BundleUnderTest, first_bytes: int) -> str:
    """Return a sentence with the figures if it takes more memory than it may; otherwise nothing."""
    resident_bytes = candidate.resident_bytes()
    growth_bytes = resident_bytes - first_bytes
    if growth_bytes > GROWTH_BYTES_MAX + first_bytes * GROWTH_PERCENT_MAX // 100:
        calls = REPEATS * len(test.cases[:TIMED_CASES_MAX])
        growth = f"its memory grew by {growth_bytes / MEGABYTE:.0f} MB in {calls} calls"
        return f"{growth}, to {resident_bytes / MEGABYTE:.0f} MB"
    expected = max(candidate.estimated_bytes(), test.memory_bytes_wanted)
    if expected and resident_bytes > expected * EXCESS_PERCENT_MAX // 100 + EXCESS_BYTES_MAX:
        return f"it takes {resident_bytes / MEGABYTE:.0f} MB of memory; {expected / MEGABYTE:.0f} MB were expected"
    return ""
