"""The engines as activation, updates and redaction use them, and the capabilities of this machine.

`open_sandbox` loads a bundle into a child of its own, which an update gives the inputs of the golden file; the child
ends afterwards. The redaction model of the site reads long texts in windows that overlap. It is the bundle that answers
the task under `redaction` in agent.yaml, in an engine of its own, behind the calls of client devices. Every failure
there is one error, RedactionHeld; its caller decides whether the text waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from edge_agent.capture.redact.model_findings import FoundValue, ModelFindings, join_windows, narrower_windows, windows
from edge_agent.capture.text_redaction import RedactionDependencies
from edge_agent.engine.child_process_watch import loop_time
from edge_agent.engine.pool import EnginePool, TuningCache, TuningSettings
from edge_agent.engine.protocol import JobRequest, TextChunk, golden_answer, golden_job
from edge_agent.errors import EdgeAgentError, EmptyInput, InputQuarantined, InputTooLong, ModelFailed, RedactionHeld
from edge_agent.formats.golden_cases import GoldenAnswer
from edge_agent.formats.manifest import Manifest
from edge_agent.formats.plan import MachineCapabilities
from edge_agent.update.activation import Activation, ActivationDependencies
from edge_agent.update.probation import BundleActivity
from edge_agent.update.selftest import BundleUnderTest
from edge_agent.update.updater import UpdaterDependencies

if TYPE_CHECKING:
    from edge_agent.config import RedactionConfig
    from edge_agent.durable.disk_thread import DiskThread
    from edge_agent.formats.calibration_and_gate import MissedBound
    from edge_agent.formats.plan import TaskPlan
    from edge_agent.store.bundle_store import TuningFile
    from edge_agent.store.state_database import InstalledBundle
    from edge_agent.update.blocked_update_messages import DownloadBlocker

PRIORITY = 10
"""Client devices come first."""
_ids = itertools.count()


class SandboxedBundle:
    """One bundle of a pool, which answers one text after the other."""

    def __init__(self, pool: EnginePool, digest: str, manifest: Manifest) -> None:
        """Use a bundle that is attached to `pool`."""
        self._pool, self._digest, self._manifest = pool, digest, manifest

    async def answer(self, text: str, seconds_max: float) -> tuple[GoldenAnswer, float]:
        """Return the answer to a text, and the milliseconds in the child, per token for a written answer.

        Raises:
            CallerError, CapacityError, ModelError: as the job ended.
        """
        job = golden_job(self._manifest, self._digest, text, f"trial-{next(_ids)}")
        started_at, pieces = loop_time(), []
        async with contextlib.aclosing(self._pool.events(job, started_at + seconds_max, PRIORITY)) as events:
            async for event in events:
                if isinstance(event, TextChunk):
                    pieces.append(event.text)
                else:
                    spent_ms = 1000.0 * (loop_time() - started_at) - event.queue_ms
                    answer = golden_answer(self._manifest, "".join(pieces), event.result)
                    return answer, spent_ms / (event.result.output_tokens or 1)
        raise AssertionError("a job ends with an answer or an error")

    def resident_bytes(self) -> int:
        """Return the memory of the child, in bytes."""
        return self._pool.resident_bytes(self._digest)

    def estimated_bytes(self) -> int:
        """Return the memory that the child was computed to need, in bytes; 0 = not known."""
        return self._pool.estimated_bytes(self._digest)

    def crashes(self) -> int:
        """Return how often the child has crashed."""
        return self._pool.stats(self._digest).crashes


@contextlib.asynccontextmanager
async def open_sandbox(
    pool: EnginePool,
    digest: str,
    manifest: Manifest,
    manifest_bytes: bytes,
    paths: Mapping[str, Path],
    seconds_max: float,
) -> AsyncIterator[SandboxedBundle]:
    """Load a bundle, whose `paths` are by role, in addition to those of `pool`, in a child that ends with the block.

    Raises:
        ModelLoadFailed, EngineCrashed: it does not load, or not within `seconds_max`.
        MemoryShort: there is not enough memory for it now.
    """
    async with pool.sandbox_pool(seconds_max) as sandbox:
        await sandbox.attach(digest, manifest, manifest_bytes, paths)
        yield SandboxedBundle(sandbox, digest, manifest)


def read_machine(devices: frozenset[str] = frozenset({"cpu"}), root: Path = Path("/")) -> MachineCapabilities:
    """Read the machine's capabilities from proc(5) below `root`; `devices` are those that the engines may use."""
    memory = re.search(r"^MemTotal: +(\d+) kB$", _read_text(root / "proc/meminfo"), re.MULTILINE)
    # x86 writes flags, Arm Features; every core has the same ones.
    features = re.search(r"^(?:flags|Features)\s*: (.*)$", _read_text(root / "proc/cpuinfo"), re.MULTILINE)
    return MachineCapabilities(
        memory_bytes=int(memory[1]) * 1024 if memory else 0,
        devices=devices,
        cpu_features=frozenset(features[1].split()) if features else frozenset(),
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


log = structlog.get_logger("edge_agent.server")


def open_tuning_cache(file: TuningFile, thread: DiskThread) -> TuningCache:
    """Return the settings that suit this machine, stored in a file by that thread; a failed write is only logged."""
    cache = TuningCache(file.read())

    def write(settings: TuningSettings) -> None:
        try:
            file.write(settings)
        except EdgeAgentError as error:
            log.warning("settings_not_kept", message=error.message)

    def store(settings: TuningSettings) -> None:
        with contextlib.suppress(RuntimeError):  # the store is closed: they are measured again
            thread.submit(write, {key: dict(each) for key, each in settings.items()})

    cache.on_change = store
    return cache


def activation_engines(engines: EnginePool, report: Callable[[], Awaitable[None]]) -> ActivationDependencies:
    """Return what activation needs of the engines; `report` updates health after every change."""
    return ActivationDependencies(engines.attach, engines.detach, engines.ready, report, engines.replaces)


def update_engines(
    engines: EnginePool,
    activation: Activation,
    on_change: Callable[[], None],
    on_plan: Callable[[Mapping[str, TaskPlan]], None],
    download_blocker: Callable[[], DownloadBlocker | None],
) -> UpdaterDependencies:
    """Return what updates need of the engines and the machine."""

    @contextlib.asynccontextmanager
    async def open_candidate(
        bundle: InstalledBundle, paths: Mapping[str, Path], seconds_max: float
    ) -> AsyncIterator[BundleUnderTest]:
        manifest, manifest_bytes = bundle.manifest, bundle.manifest_bytes
        async with open_sandbox(engines, bundle.digest, manifest, manifest_bytes, paths, seconds_max) as sandboxed:
            yield _bundle_under_test(sandboxed)

    def serving_bundle(bundle: InstalledBundle) -> BundleUnderTest | None:
        ready = engines.ready(bundle.digest) and bundle.manifest.runtime != "upstream"
        return _bundle_under_test(SandboxedBundle(engines, bundle.digest, bundle.manifest)) if ready else None

    def activity(digest: str) -> BundleActivity:
        stats = engines.stats(digest)
        problem = engines.failure(digest)
        if problem is None:  # a bundle that should answer may not even be loaded
            tasks = [task for task, bundle in activation.serving.items() if bundle.digest == digest]
            problem = next((activation.problems[task].message for task in tasks if task in activation.problems), "")
        return BundleActivity(stats.calls, stats.failures, stats.crashes, stats.timed, stats.median_ms, problem)

    machine = read_machine(engines.factory.devices)
    return UpdaterDependencies(open_candidate, serving_bundle, activity, machine, on_change, on_plan, download_blocker)


def _bundle_under_test(bundle: SandboxedBundle) -> BundleUnderTest:
    return BundleUnderTest(bundle.answer, bundle.resident_bytes, bundle.estimated_bytes, bundle.crashes)


CLIENT = "redaction"
WINDOWS_AT_ONCE = 4
KIND = "redact"


class ModelRedactor:
    """See the module. One event loop owns it."""

    def __init__(self, config: RedactionConfig, activation: Activation, engines: EnginePool) -> None:
        """Ask the bundle that answers `config.task` when a text comes."""
        self._task, self._activation, self._engines = config.task, activation, engines
        self._ids = itertools.count()

    @property
    def model(self) -> str:
        """The bundle that answers, task@version; empty = none does."""
        bundle = self._activation.serving.get(self._task)
        ready = bundle is not None and bundle.manifest.task.kind == KIND and self._engines.ready(bundle.digest)
        return _bundle_name(bundle) if bundle is not None and ready else ""

    def dependencies(self) -> RedactionDependencies:
        """Return what capture needs of this."""
        return RedactionDependencies(self.find, lambda: self.model, self.bound)

    def bound(self) -> MissedBound | None:
        """Return the bundle's bound on missed values; None = it has none, or no bundle answers."""
        bundle = self._activation.serving.get(self._task)
        return bundle.manifest.redaction_rule.bound if bundle is not None else None

    async def find(self, texts: Iterable[str], seconds: float) -> ModelFindings:
        """Return the personal values in each text, within `seconds`.

        Raises:
            RedactionHeld: the model does not answer; `permanent` in its metadata is "True" if it cannot read a text.
        """
        bundle = self._bundle()
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout(seconds):
                values_by_text = {text: await self._read(text, bundle, deadline) for text in dict.fromkeys(texts)}
        except TimeoutError:
            raise RedactionHeld(f"the redaction model did not read the text within {seconds:g} s") from None
        except (InputTooLong, InputQuarantined, ModelFailed) as error:
            message = f"the redaction model does not read the text: {error.message}"
            raise RedactionHeld(message, permanent=True, cause=error.reason) from None
        except EdgeAgentError as error:
            raise RedactionHeld(f"the redaction model does not answer: {error.message}", cause=error.reason) from None
        return ModelFindings(values_by_text, _bundle_name(bundle))

    def _bundle(self) -> InstalledBundle:
        bundle = self._activation.serving.get(self._task)
        if bundle is None:
            raise RedactionHeld(f"no bundle answers the task {self._task!r}, which redacts", cause="TASK_UNKNOWN")
        if (kind := bundle.manifest.task.kind) != KIND:
            message = f"the task {self._task!r} is to redact, but its bundle is of kind {kind}"
            raise RedactionHeld(message, cause="TASK_KIND_MISMATCH")
        return bundle

    async def _read(self, text: str, bundle: InstalledBundle, deadline: float) -> tuple[FoundValue, ...]:
        """Return the personal values of one text, a few windows at a time to leave room in the queue."""
        parts = [(start, text[start:end]) for start, end in windows(text) if text[start:end].strip()]
        text_values: list[FoundValue] = []
        for index in range(0, len(parts), WINDOWS_AT_ONCE):
            batch = parts[index : index + WINDOWS_AT_ONCE]
            reads = (self._read_window(part, bundle, deadline) for _, part in batch)
            results = await asyncio.gather(*reads, return_exceptions=True)
            for (start, _), values in zip(batch, results, strict=True):
                if isinstance(values, BaseException):
                    raise values
                text_values += [_shift(each, start) for each in values]
        return join_windows(text_values)

    async def _read_window(self, text: str, bundle: InstalledBundle, deadline: float) -> list[FoundValue]:
        """Return the values of one window; one with too many tokens is divided again."""
        job = JobRequest(job_id=f"redaction-{next(self._ids)}", digest=bundle.digest, text=text)
        try:
            answer = await self._engines.answer(job, deadline, PRIORITY, CLIENT)
        except EmptyInput:
            return []
        except InputTooLong:
            if not (narrower := narrower_windows(text)):
                raise
            parts = [(start, await self._read_window(text[start:end], bundle, deadline)) for start, end in narrower]
            return [_shift(each, start) for start, values in parts for each in values]
        return [FoundValue(each.start, each.end, each.label, each.score) for each in answer.result.entities]


def _shift(value: FoundValue, start: int) -> FoundValue:
    return value._replace(start=value.start + start, end=value.end + start)


def _bundle_name(bundle: InstalledBundle) -> str:
    return f"{bundle.manifest.task.name}@{bundle.manifest.version}"
