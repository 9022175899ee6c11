"""The engines as other components see them: what activation and updates ask of them, and of this machine."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from edge_agent.engine.pool import TuningCache, TuningSettings
from edge_agent.engine.sandbox import LoadableBundle, SandboxedBundle, open_sandbox
from edge_agent.errors import EdgeAgentError
from edge_agent.formats.plan import MachineCapabilities
from edge_agent.update.activation import Activation, ActivationDependencies
from edge_agent.update.probation import BundleActivity
from edge_agent.update.selftest import BundleUnderTest
from edge_agent.update.updater import UpdaterDependencies

if TYPE_CHECKING:
    from edge_agent.engine.pool import EnginePool
    from edge_agent.formats.plan import TaskPlan
    from edge_agent.store.bundle_store import TuningFile
    from edge_agent.store.state_database import InstalledBundle
    from edge_agent.update.blocked_update_messages import DownloadBlocker


_BYTES_IN_KIB = 1024


def read_machine(devices: frozenset[str] = frozenset({"cpu"}), root: Path = Path("/")) -> MachineCapabilities:
    """Read it from proc(5), which is mounted at `root`; `devices` are those that the engines may use."""
    memory = re.search(r"^MemTotal: +(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    # x86 writes flags, Arm Features; every core has the same ones.
    features = re.search(r"^(?:flags|Features)\s*: (.*)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    return MachineCapabilities(
        memory_bytes=int(memory[1]) * _BYTES_IN_KIB if memory else 0,
        devices=devices,
        cpu_features=frozenset(features[1].split()) if features else frozenset(),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


log = structlog.get_logger("edge_agent.server")


def open_tuning_cache(file: TuningFile) -> TuningCache:
    """Return the settings that suit this machine, stored in a file; a write that fails is only logged."""
    tuned = TuningCache(file.read())

    def keep(settings: TuningSettings) -> None:
        try:
            file.write(settings)
        except EdgeAgentError as error:
            log.warning("settings_not_kept", message=error.message)

    tuned.on_change = keep
    return tuned


def activation_engines(engines: EnginePool, report: Callable[[], Awaitable[None]]) -> ActivationDependencies:
    """Return what activation needs of the engines; `report` tells health after every change."""
    return ActivationDependencies(engines.attach, engines.detach, engines.ready, report, engines.replaces)


def update_engines(
    engines: EnginePool,
    activation: Activation,
    changed: Callable[[], None],
    planned: Callable[[Mapping[str, TaskPlan]], None],
    download_blocker: Callable[[], DownloadBlocker | None],
) -> UpdaterDependencies:
    """Return what updates need of the engines and the machine."""

    @contextlib.asynccontextmanager
    async def tried(
        bundle: InstalledBundle, paths: Mapping[str, Path], seconds_max: float
    ) -> AsyncIterator[BundleUnderTest]:
        loadable = LoadableBundle(bundle.manifest, bundle.manifest_bytes, paths)
        async with open_sandbox(engines, bundle.digest, loadable, seconds_max) as asked:
            yield _subject(asked)

    def serving(bundle: InstalledBundle) -> BundleUnderTest | None:
        ready = engines.ready(bundle.digest) and bundle.manifest.runtime != "upstream"
        return _subject(SandboxedBundle(engines, bundle.digest, bundle.manifest)) if ready else None

    def seen(digest: str) -> BundleActivity:
        tally = engines.stats(digest)
        problem = engines.failure(digest) if engines.holds(digest) else _not_loaded(activation, digest)
        return BundleActivity(tally.calls, tally.failures, tally.crashes, tally.timed, tally.median_ms, problem)

    return UpdaterDependencies(
        tried, serving, seen, read_machine(engines.factory.devices), changed, planned, download_blocker
    )


def _subject(asked: SandboxedBundle) -> BundleUnderTest:
    return BundleUnderTest(asked.answer, asked.resident_bytes, asked.estimated_bytes, asked.crashes)


def _not_loaded(activation: Activation, digest: str) -> str:
    """Return why a bundle that should answer was not even loaded."""
    tasks = (task for task, bundle in activation.serving.items() if bundle.digest == digest)
    return next((activation.problems[task].message for task in tasks if task in activation.problems), "")
