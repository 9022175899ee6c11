"""Which bundle answers each task, and the steps from one to the next.

A new bundle is ready in its engine before the pointer in state.db moves; only then is the old one drained and detached.
A bundle that does not load is never activated: the task goes on with what it had. One change at a time. The engines are
handed in as three callables, so this room knows nothing of processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from edge_agent.errors import EdgeAgentError, NothingToRollBack, UnknownBundle, UnknownTask
from edge_agent.formats.manifest import Manifest
from edge_agent.store.state import InstalledBundle
from edge_agent.store.store import Store

log = structlog.get_logger("edge_agent.update")
KNOWN_SHOWN_MAX = 20

Result = TypeVar("Result")


@dataclass(frozen=True)
class Engines:
    """What activation needs of the engine room."""

    attach: Callable[[str, Manifest, bytes, Mapping[str, Path], bool], Awaitable[None]]
    """(digest, manifest, its bytes, path by role, keep on failure); raises ModelLoadFailed or EngineCrashed"""
    detach: Callable[[str, float], Awaitable[None]]
    """(digest, drain seconds)"""
    ready: Callable[[str], bool]
    """(digest)"""
    report: Callable[[], Awaitable[None]]
    """Tell health which tasks there are; awaited after every change, so that its caller finds health up to date."""


@dataclass(frozen=True)
class Inventory:
    """What is installed, as of the last change: read without touching the disk."""

    bundles: tuple[InstalledBundle, ...] = ()
    """By task, newest first."""
    previous: frozenset[str] = frozenset()
    """Digests that `rollback` goes back to."""
    store_bytes: int = 0


class Activation:
    """Owns the store and the table of serving bundles.

    The store is used on one thread, one call after the other. A change runs to its end even when its caller goes away:
    half a change would leave the pointer and the table apart.
    """

    def __init__(self, store: Store, engines: Engines, *, allow_unsigned: bool, drain_seconds: float) -> None:
        """Serve nothing yet; `resume` serves what was active."""
        self._store = store
        self._store_thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._engines = engines
        self._allow_unsigned = allow_unsigned
        self._drain_seconds = drain_seconds
        self._serving: dict[str, InstalledBundle] = {}
        self._lock = asyncio.Lock()
        self._changes: set[asyncio.Task[object]] = set()
        self._loading: set[asyncio.Task[None]] = set()
        self.inventory = Inventory()

    @property
    def serving(self) -> Mapping[str, InstalledBundle]:
        """The bundle that answers each task."""
        return self._serving

    def bundle_of(self, task: str) -> InstalledBundle:
        """Return the bundle that answers a task. Raises UnknownTask, listing the known ones."""
        bundle = self._serving.get(task)
        if bundle is None:
            known = sorted(self._serving)[:KNOWN_SHOWN_MAX]
            listed = f"known tasks: {', '.join(known)}" if known else "no task is installed"
            raise UnknownTask(
                f"no task is called {task[:64]!r}; {listed}",
                remedy="Check the name; 'edge-agent install BUNDLE' adds a task.",
                task=task[:64],
                known=",".join(known),
            )
        return bundle

    async def resume(self) -> None:
        """Serve what was active when the daemon stopped. Models load in the background; a broken one stays a problem
        of its own task."""
        self._serving = dict(await self._on_store(self._store.active))
        self.inventory = await self._on_store(self._take_inventory)
        for bundle in self._serving.values():
            loading = asyncio.create_task(self._load_at_start(bundle))
            self._loading.add(loading)
            loading.add_done_callback(self._loading.discard)

    async def install(self, path: Path, *, activate: bool) -> tuple[InstalledBundle, bool]:
        """Verify a bundle and copy it into the store. Returns it and whether it is new.

        Raises:
            BundleError, SiteError: refused; nothing is installed.
            ModelError: it is installed, but does not load, and the task goes on with what it had.
        """

        async def change() -> tuple[InstalledBundle, bool]:
            bundle, new = await self._on_store(self._store.install, path, self._allow_unsigned)
            log.info("bundle_installed", task=bundle.manifest.task.name, digest=bundle.digest, new=new)
            if activate:
                await self._activate(bundle)
            return bundle, new

        return await self._alone(change)

    async def activate(self, task: str, wanted: str) -> InstalledBundle:
        """Let an installed bundle answer. Raises UnknownBundle, AmbiguousBundle, ModelError."""

        async def change() -> InstalledBundle:
            bundle = await self._on_store(self._store.find, task, wanted)
            await self._activate(bundle)
            return bundle

        return await self._alone(change)

    async def rollback(self, task: str) -> InstalledBundle:
        """Let the bundle before answer again. Raises UnknownTask, NothingToRollBack, ModelError."""

        async def change() -> InstalledBundle:
            active = self.bundle_of(task)
            previous = await self._on_store(self._store.previous, task)
            if previous is None:
                raise NothingToRollBack(f"task {task!r} has no bundle before {active.manifest.version}", task=task)
            await self._activate(previous)
            return previous

        return await self._alone(change)

    async def remove(self, task: str, wanted: str) -> int:
        """Remove one bundle, or with an empty `wanted` the whole task; return the bytes freed.

        Raises:
            UnknownBundle, AmbiguousBundle: nothing of the task matches.
            BundleInUse: the bundle answers or is kept for rollback.
        """

        async def change() -> int:
            if wanted:
                bundle = await self._on_store(self._store.find, task, wanted)
                return await self._on_store(self._store.remove, bundle.digest)
            if not await self._on_store(self._store.bundles, task):
                raise UnknownBundle(f"nothing is installed for a task called {task[:64]!r}", task=task[:64])
            gone = self._serving.pop(task, None)
            if gone is not None:
                await self._engines.detach(gone.digest, self._drain_seconds)
            return await self._on_store(self._store.remove_task, task)

        return await self._alone(change)

    async def stop(self) -> None:
        """Let a change that is under way come to its end; stop the loading that `resume` began."""
        await asyncio.gather(*self._changes, return_exceptions=True)
        for loading in self._loading:
            loading.cancel()
        await asyncio.gather(*self._loading, return_exceptions=True)
        self._store_thread.shutdown()

    async def _on_store(self, function: Callable[..., Result], *args: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._store_thread, function, *args)

    async def _alone(self, change: Callable[[], Awaitable[Result]]) -> Result:
        task = asyncio.create_task(self._locked(change))
        self._changes.add(task)
        task.add_done_callback(self._changed)
        return await asyncio.shield(task)

    def _changed(self, task: asyncio.Task[Result]) -> None:
        self._changes.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("change_refused", error=type(error).__name__, message=str(error))

    async def _locked(self, change: Callable[[], Awaitable[Result]]) -> Result:
        async with self._lock:
            try:
                return await change()
            finally:
                self.inventory = await self._on_store(self._take_inventory)
                await self._engines.report()

    def _take_inventory(self) -> Inventory:
        bundles = tuple(self._store.bundles())
        before = map(self._store.previous, {bundle.manifest.task.name for bundle in bundles})
        digests = frozenset(bundle.digest for bundle in before if bundle is not None)
        return Inventory(bundles, digests, self._store.usage()[0])

    async def _activate(self, bundle: InstalledBundle) -> None:
        task = bundle.manifest.task.name
        before = self._serving.get(task)
        same = before is not None and before.digest == bundle.digest
        if not (same and self._engines.ready(bundle.digest)):
            await self._attach(bundle, keep=same)
        try:
            await self._on_store(self._store.set_active, bundle.digest)
        except EdgeAgentError:
            if not same:
                await self._engines.detach(bundle.digest, 0)
            raise
        self._serving[task] = bundle
        log.info("bundle_activated", task=task, version=bundle.manifest.version, digest=bundle.digest)
        if before is not None and not same:
            await self._engines.detach(before.digest, self._drain_seconds)

    async def _load_at_start(self, bundle: InstalledBundle) -> None:
        task = bundle.manifest.task.name
        try:
            paths = await self._on_store(self._store.paths, bundle)
            if self._serving.get(task) is bundle:  # the operator may have been faster
                await self._engines.attach(bundle.digest, bundle.manifest, bundle.manifest_bytes, paths, True)
        except EdgeAgentError as error:
            log.error("task_not_ready", task=task, reason=error.reason, message=error.message)

    async def _attach(self, bundle: InstalledBundle, *, keep: bool) -> None:
        paths = await self._on_store(self._store.paths, bundle)
        await self._engines.attach(bundle.digest, bundle.manifest, bundle.manifest_bytes, paths, keep)
