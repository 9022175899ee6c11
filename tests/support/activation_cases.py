"""A state directory with its activation, and engines that only record their calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_agent.errors import MemoryShort, ModelLoadFailed
from edge_agent.formats.manifest import Manifest
from edge_agent.store.bundle_store import Store, StoreLimits
from edge_agent.update.activation import Activation, ActivationDependencies
from tests.support.bundles import digest_of, echo_bundle

DRAIN_SECONDS = 7.0


class RecordingEngines:
    """Engines that record each attach and detach, and the active bundle at that moment."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.attached: set[str] = set()
        self.broken: set[str] = set()
        self.short: set[str] = set()
        self.shared = False
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.notes: list[tuple[str, str, str]] = []
        self.keeps: list[bool] = []
        self.reports = 0
        self.drains: list[float] = []
        self.tasks: dict[str, str] = {}
        self.paths: Mapping[str, Path] = {}
        self.on_attach: Callable[[], object] = lambda: None
        self.on_detach: Callable[[], object] = lambda: None

    async def attach(
        self, digest: str, manifest: Manifest, manifest_bytes: bytes, paths: Mapping[str, Path], keep: bool
    ) -> None:
        self.tasks[digest] = manifest.task.name
        self.note("attach", digest)
        self.keeps.append(keep)
        self.paths = paths
        self.on_attach()
        await self.may_load.wait()
        if digest in self.broken:
            raise ModelLoadFailed("it does not load")
        if digest in self.short:
            raise MemoryShort("the model needs 2 MB; 1 MB is available", available_bytes=10**6)
        self.attached.add(digest)

    async def detach(self, digest: str, drain_seconds: float) -> None:
        self.note("detach", digest)
        self.drains.append(drain_seconds)
        self.attached.discard(digest)
        self.on_detach()

    def note(self, what: str, digest: str) -> None:
        active = self.store.active().get(self.tasks[digest])
        self.notes.append((what, digest, active.digest if active else ""))

    def engines(self) -> ActivationDependencies:
        return ActivationDependencies(self.attach, self.detach, self.attached.__contains__, self.report, self.replaces)

    def replaces(self, digest: str, manifest: Manifest) -> bool:
        """Every bundle has an engine of its own, unless a test says otherwise."""
        return digest in self.attached and not self.shared

    async def report(self) -> None:
        """Count the health reports."""
        self.reports += 1


class Site:
    """One state directory, its activation, and bundles to install."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.start()

    def start(self, allow_unsigned: bool = True, swap: str = "overlap") -> None:
        """Start the daemon's part of it."""
        self.store = Store.open(self.tmp_path / "state", StoreLimits(disk_reserve_bytes=0))
        self.engines = RecordingEngines(self.store)
        self.activation = Activation(
            self.store,
            self.engines.engines(),
            allow_unsigned=allow_unsigned,
            drain_seconds=DRAIN_SECONDS,
            swap=swap,
        )

    async def restart(self) -> None:
        """Stop, and start again."""
        await self.stop()
        self.start()

    async def stop(self) -> None:
        """Stop."""
        await self.activation.stop()
        self.store.close()

    async def install(self, version: str, name: str = "pos", activate: bool = True) -> str:
        """Install a bundle; return its digest."""
        path = echo_bundle(self.tmp_path / f"{name}-{version}", name, version=version, weights=b"w")
        bundle, _ = await self.activation.install(path, activate=activate)
        return bundle.digest

    def broken(self, version: str) -> str:
        """Return the digest of a bundle that will not load."""
        digest = digest_of(echo_bundle(self.tmp_path / f"pos-{version}", "pos", version=version, weights=b"w"))
        self.engines.broken.add(digest)
        return digest

    def short(self, version: str) -> None:
        """Make the available memory too small for a bundle."""
        self.engines.short.add(
            digest_of(echo_bundle(self.tmp_path / f"pos-{version}", "pos", version=version, weights=b"w"))
        )

    def lose_blobs(self) -> None:
        """Delete every stored file behind the store's back."""
        for blob in (self.tmp_path / "state" / "blobs").rglob("*"):
            if blob.is_file():
                blob.unlink()

    def active(self) -> str:
        """Return the digest of the active bundle; memory and disk must agree."""
        assert {task: b.digest for task, b in self.activation.serving.items()} == {
            task: b.digest for task, b in self.store.active().items()
        }
        return self.activation.bundle_of("pos").digest

    async def loaded(self) -> None:
        """Wait until everything that loads in the background has ended."""
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
