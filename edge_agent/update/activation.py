"""The active bundle of each task, and the change from one bundle to another.

A new bundle is ready in its engine before the pointer in state.db moves; only then is the old one drained and detached.
A bundle that does not load is never activated, and the task keeps its bundle. With `swap: pause` the old bundle stops
before the new one loads, if each would need an engine of its own: this halves the memory, but leaves a gap in which
health reports NOT_SERVING. A task has one change at a time; changes of other tasks do not wait for it. The engines are
passed as callables, so this module is independent of processes.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog

from edge_agent.errors import (
    EdgeAgentError,
    MemoryShort,
    ModelLoadFailed,
    NothingToRollBack,
    RequestCancelled,
    UnknownTask,
    from_wire,
)
from edge_agent.formats.manifest import Manifest
from edge_agent.store.bundle_store import Store
from edge_agent.store.state_database import InstalledBundle, UnreadableBundle, UpdateProgress

log = structlog.get_logger("edge_agent.update")
KNOWN_SHOWN_MAX = 20
PAUSE_REMEDY = (
    "The version that answers keeps its memory until the new one is ready. Set 'swap: pause' under 'engine' in "
    "agent.yaml: then it stops before the new one loads, and the task does not answer in between. Or free some memory."
)

SWITCH_DRAIN_SECONDS = 60.0
"""The drain time of a switch by the plan: no operator waits for it, so running calls get more time to finish."""

STOP_SECONDS_MAX = 10.0
"""How long a stop waits for the store's thread: a stalled disk must not keep the daemon from ending."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class ActivationDependencies:
    """What activation needs of the engines."""

    attach: Callable[[str, Manifest, bytes, Mapping[str, Path], bool], Awaitable[None]]
    """(digest, manifest, its bytes, path by role, keep on failure); raises ModelLoadFailed or EngineCrashed"""
    detach: Callable[[str, float], Awaitable[None]]
    """(digest, drain seconds)"""
    ready: Callable[[str], bool]
    """(digest)"""
    report: Callable[[], Awaitable[None]]
    """Update health with the present tasks; awaited after every change, so that its caller finds health up to date."""
    replaces: Callable[[str, Manifest], bool]
    """(digest of the active bundle, manifest of the new one): whether detaching frees an engine that attaching needs"""


@dataclass(frozen=True)
class BundleInventory:
    """The installed bundles as of the last change, read without the disk."""

    bundles: tuple[InstalledBundle, ...] = ()
    """By task, newest first."""
    previous: frozenset[str] = frozenset()
    """Digests of the bundles to which `rollback` returns."""
    rollbacks: Mapping[str, str] = field(default_factory=dict)
    """The same by task."""
    store_bytes: int = 0
    unreadable: tuple[UnreadableBundle, ...] = ()
    """Installed, but unusable for this agent: kept for the version that installed them."""


BeforeLoad = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class BundleSwap:
    """How a bundle replaces another."""

    progress: UpdateProgress | None
    """Written to the journal with the pointer."""
    drain_seconds: float
    """Time for running calls of the old bundle to finish."""
    before_load: BeforeLoad | None = None
    """With `swap: pause`, awaited after the old bundle has stopped and before the new one loads."""
    caller_left: asyncio.Event | None = None
    """Set when the caller has left: a bundle that is not ready yet is given up."""


class Activation:
    """Owns the store and the table of serving bundles.

    The store is used on its thread, one call after the other. A change runs to its end even if its caller leaves: after
    half a change, pointer and table would differ.
    """

    def __init__(
        self,
        store: Store,
        engines: ActivationDependencies,
        *,
        allow_unsigned: bool,
        drain_seconds: float,
        swap: str = "overlap",
    ) -> None:
        """Serve nothing yet; `resume` serves what was active."""
        self._swap = swap
        self._store = store
        self._engines = engines
        self._allow_unsigned = allow_unsigned
        self._drain_seconds = drain_seconds
        self.serving: dict[str, InstalledBundle] = {}
        """The bundle that answers each task; only this class changes it."""
        self._changes = TaskChanges(self._update_inventory)
        self._loading: set[asyncio.Task[None]] = set()
        self.problems: dict[str, EdgeAgentError] = {}
        """By task: why its last load failed, or why its bundle cannot be read."""
        self.inventory = BundleInventory()

    def bundle_of(self, task: str) -> InstalledBundle:
        """Return the bundle that answers a task. Raises UnknownTask, listing the known ones; StoreDamaged."""
        bundle = self.serving.get(task)
        if bundle is None:
            if task in self.problems:
                raise self.problems[task]
            known_tasks = sorted(self.serving)[:KNOWN_SHOWN_MAX]
            tasks = f"known tasks: {', '.join(known_tasks)}" if known_tasks else "no task is installed"
            raise UnknownTask(
                f"no task is called {task[:64]!r}; {tasks}",
                remedy="Check the name; 'edge-agent install BUNDLE' adds a task.",
                task=task[:64],
                known=",".join(known_tasks),
            )
        return bundle

    async def resume(self) -> None:
        """Serve the bundles that were active when the daemon stopped.

        Models load in the background; one that fails is a problem of its own task only.
        """
        self.serving = dict(await self._store.thread.run(self._store.active))
        self.inventory = await self._store.thread.run(self._take_inventory)
        active = {digest for digest, _ in (await self._store.thread.run(self._store.pointers)).values()}
        for unreadable in self.inventory.unreadable:
            log.error("bundle_unreadable", bundle=str(unreadable.name), message=unreadable.error.message)
            if unreadable.name.digest in active:
                self.problems[unreadable.name.task] = unreadable.error
        for bundle in self.serving.values():
            self._load_in_background(bundle)

    async def install(
        self, path: Path, *, activate: bool, caller_left: asyncio.Event | None = None
    ) -> tuple[InstalledBundle, bool]:
        """Verify a bundle and copy it into the store. Returns it and whether it is new.

        Raises:
            BundleError, SiteError, ModelError: refused, or it does not load. Nothing new is left in the store, and the
                task keeps its bundle.
            RequestCancelled: `caller_left` was set before the bundle was ready; likewise.
        """

        async def change(task: str) -> tuple[InstalledBundle, bool]:
            bundle, new = await self._store.thread.run(self._store.install, path, self._allow_unsigned, task)
            log.info("bundle_verified", task=bundle.manifest.task.name, digest=bundle.digest, new=new)
            if activate:
                try:
                    await self._activate(bundle, BundleSwap(None, self._drain_seconds, caller_left=caller_left))
                except EdgeAgentError as error:
                    if new:
                        await self._store.thread.run(self._store.remove, bundle.digest)
                    # The engine's message names only files.
                    message = f"bundle {bundle.manifest.task.name} {bundle.manifest.version}: {error.message}"
                    raise from_wire(error.reason, message, error.remedy, error.metadata) from None
            for name in self.problems.keys() & self.serving.keys():  # a shared file may be repaired now
                self._load_in_background(self.serving[name])
            return bundle, new

        async def install_in_turn() -> tuple[InstalledBundle, bool]:
            task = await self._store.thread.run(self._store.task_of, path)
            return await self._changes.in_turn(task, functools.partial(change, task))

        return await self._changes.to_the_end(install_in_turn())

    async def activate(self, task: str, version: str, caller_left: asyncio.Event | None = None) -> InstalledBundle:
        """Let an installed bundle answer. Raises UnknownBundle, AmbiguousBundle, ModelError, RequestCancelled."""

        async def change() -> InstalledBundle:
            bundle = await self._store.thread.run(self._store.find, task, version)
            await self._activate(bundle, BundleSwap(None, self._drain_seconds, caller_left=caller_left))
            return bundle

        return await self._changes.run(task, change)

    async def rollback(self, task: str, caller_left: asyncio.Event | None = None) -> InstalledBundle:
        """Activate the previous bundle. Raises UnknownTask, NothingToRollBack, ModelError, RequestCancelled."""

        async def change() -> InstalledBundle:
            previous = await self._store.thread.run(self._store.previous, task)
            if previous is None:
                active = self.bundle_of(task)
                raise NothingToRollBack(f"task {task!r} has no bundle before {active.manifest.version}", task=task)
            await self._activate(previous, BundleSwap(None, self._drain_seconds, caller_left=caller_left))
            return previous

        return await self._changes.run(task, change)

    async def switch(
        self, progress: UpdateProgress, digest: str, expected: str, before_load: BeforeLoad | None = None
    ) -> bool:
        """Let an installed bundle answer, and write `progress` to the journal in the same transaction.

        Args:
            progress: the row of the task when the bundle answers.
            digest: that of the bundle.
            expected: digest of the bundle that answers now; empty = none.
            before_load: awaited before the new bundle loads, if the active one had to make room (`pauses`).

        Returns False, and changes nothing, if another bundle answers.

        Raises:
            UnknownBundle, StoreDamaged, ModelError, MemoryShort: or what `before_load` raises. The task keeps its
                bundle.
        """

        async def change() -> bool:
            active = self.serving.get(progress.task)
            if expected != (active.digest if active else ""):
                return False
            bundle = await self._store.thread.run(self._store.find, progress.task, digest)
            await self._activate(
                bundle, BundleSwap(progress, max(self._drain_seconds, SWITCH_DRAIN_SECONDS), before_load)
            )
            return True

        return await self._changes.run(progress.task, change)

    async def admit(self, task: str, take: Callable[..., InstalledBundle], *args: object) -> InstalledBundle:
        """Call a function on the store's thread that puts a bundle of a task into the store. It does not answer yet."""
        return await self._changes.run(task, lambda: self._store.thread.run(take, *args))

    def pauses(self, bundle: InstalledBundle) -> bool:
        """Tell whether the active bundle stops before a bundle loads, to make room for it."""
        active = self.serving.get(bundle.manifest.task.name)
        return self._swap == "pause" and active is not None and self._engines.replaces(active.digest, bundle.manifest)

    async def remove(self, task: str, version: str) -> int:
        """Remove one bundle, or with an empty `version` the whole task; return the bytes freed.

        Raises:
            UnknownBundle, AmbiguousBundle: nothing of the task matches.
            BundleInUse: the bundle answers or is kept for rollback.
        """

        async def change() -> int:
            if version:
                name = await self._store.thread.run(self._store.resolve, task, version)
                return await self._store.thread.run(self._store.remove, name.digest)
            # The disk first: if it fails, the task stays. A loaded model no longer needs its files.
            freed = await self._store.thread.run(self._store.remove_task, task)
            removed = self.serving.pop(task, None)
            self.problems.pop(task, None)
            if removed is not None:
                await self._engines.detach(removed.digest, self._drain_seconds)
            return freed

        return await self._changes.run(task, change)

    async def stop(self) -> bool:
        """Finish running changes, and stop the loading that `resume` began.

        Returns whether the disk has finished all work within STOP_SECONDS_MAX.
        """
        await self._changes.wait()
        for loading in self._loading:
            loading.cancel()
        await asyncio.gather(*self._loading, return_exceptions=True)
        return await asyncio.to_thread(self._store.thread.stop, STOP_SECONDS_MAX)

    async def _update_inventory(self) -> None:
        """Update the inventory and health after a change, made or refused."""
        self.inventory = await self._store.thread.run(self._take_inventory)
        await self._engines.report()

    def _take_inventory(self) -> BundleInventory:
        rollbacks = {task: previous for task, (_, previous) in self._store.pointers().items() if previous}
        return BundleInventory(
            bundles=tuple(self._store.bundles()),
            previous=frozenset(rollbacks.values()),
            rollbacks=rollbacks,
            store_bytes=self._store.usage()[0],
            unreadable=tuple(self._store.unreadable()),
        )

    async def _activate(self, bundle: InstalledBundle, swap: BundleSwap) -> None:
        incumbent = self.serving.get(bundle.manifest.task.name)
        if incumbent is None or incumbent.digest == bundle.digest:
            await self._make_active(bundle, swap, same=incumbent is not None)
        elif self.pauses(bundle):
            await self._pause_and_load(incumbent, bundle, swap)
        else:
            await self._overlap(incumbent, bundle, swap)

    async def _overlap(self, incumbent: InstalledBundle, bundle: InstalledBundle, swap: BundleSwap) -> None:
        """Load a bundle while the old one answers."""
        pausing_helps = self._engines.replaces(incumbent.digest, bundle.manifest)
        try:
            await self._make_active(bundle, swap, same=False)
        except MemoryShort as error:
            error.remedy = PAUSE_REMEDY if pausing_helps else error.remedy
            raise
        await self._detach(incumbent, swap)

    async def _pause_and_load(self, incumbent: InstalledBundle, bundle: InstalledBundle, swap: BundleSwap) -> None:
        """Stop the old bundle, which frees its memory, and report that; load it again if the new one fails."""
        log.warning("task_pauses", task=incumbent.manifest.task.name, version=incumbent.manifest.version)
        await self._detach(incumbent, swap)
        await self._engines.report()
        try:
            if swap.before_load is not None:
                await swap.before_load()
            await self._make_active(bundle, swap, same=False)
        except EdgeAgentError:
            await self._load(incumbent)
            raise

    async def _detach(self, incumbent: InstalledBundle, swap: BundleSwap) -> None:
        # First let calls that have just looked up the bundle pass their inputs to its engine.
        await asyncio.sleep(0)
        await self._engines.detach(incumbent.digest, swap.drain_seconds)

    async def _make_active(self, bundle: InstalledBundle, swap: BundleSwap, *, same: bool) -> None:
        """Make a bundle ready, and only then move the pointer. `same`: it is the active one already."""
        if not (same and self._engines.ready(bundle.digest)):
            await run_unless_left(swap.caller_left, self._attach(bundle, keep=same))
        try:
            await self._store.thread.run(self._store.set_active, bundle.digest, swap.progress)
        except EdgeAgentError:
            if not same:
                await self._engines.detach(bundle.digest, 0)
            raise
        task = bundle.manifest.task.name
        self.serving[task] = bundle
        self.problems.pop(task, None)
        manifest = bundle.manifest
        log.info("bundle_activated", task=task, version=manifest.version, digest=bundle.digest, gate=manifest.gate_name)

    def _load_in_background(self, bundle: InstalledBundle) -> None:
        loading = asyncio.create_task(self._load(bundle))
        self._loading.add(loading)
        loading.add_done_callback(lambda finished: self._record_load_error(bundle, finished))

    def _record_load_error(self, bundle: InstalledBundle, loading: asyncio.Task[None]) -> None:
        """Record an unexpected error as the problem of the task; `_load` has recorded all others."""
        self._loading.discard(loading)
        if not loading.cancelled() and (error := loading.exception()) is not None:
            task = bundle.manifest.task.name
            self.problems[task] = ModelLoadFailed("an unexpected error in edge-agent, whose log has the details")
            log.error("task_not_ready", task=task, exc_info=error)

    async def _load(self, bundle: InstalledBundle) -> None:
        task = bundle.manifest.task.name
        try:
            paths = await self._store.thread.run(self._store.paths, bundle)
            if self.serving.get(task) is bundle:  # the operator may have been faster
                await self._engines.attach(bundle.digest, bundle.manifest, bundle.manifest_bytes, paths, True)
                self.problems.pop(task, None)
        except EdgeAgentError as error:
            self.problems[task] = error
            log.error("task_not_ready", task=task, reason=error.reason, message=error.message)

    async def _attach(self, bundle: InstalledBundle, *, keep: bool) -> None:
        paths = await self._store.thread.run(self._store.paths, bundle)
        await self._engines.attach(bundle.digest, bundle.manifest, bundle.manifest_bytes, paths, keep)


class TaskChanges:
    """The running changes: those of one task run one after the other, and no task waits for another.

    A change that has begun runs to its end, even if its caller is cancelled.
    """

    def __init__(self, on_change: Callable[[], Awaitable[None]]) -> None:
        """Begin with none; `on_change` is awaited at the end of each change, before the task's next one."""
        self._on_change = on_change
        self._running: set[asyncio.Task[Any]] = set()
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    async def run(self, task: str, change: Callable[[], Awaitable[Result]]) -> Result:
        """Make a change after earlier changes of the same task have ended."""
        return await self.to_the_end(self.in_turn(task, change))

    async def to_the_end(self, change: Coroutine[Any, Any, Result]) -> Result:
        """Run a change to its end, even if the caller is cancelled."""
        running = asyncio.create_task(change)
        self._running.add(running)
        running.add_done_callback(self._finish_change)
        return await asyncio.shield(running)

    async def in_turn(self, task: str, change: Callable[[], Awaitable[Result]]) -> Result:
        """Make a change while no other change of the task runs."""
        lock = self._locks.setdefault(task, asyncio.Lock())
        self._users[task] = self._users.get(task, 0) + 1
        try:
            async with lock:
                try:
                    return await change()
                finally:
                    await self._on_change()
        finally:
            self._users[task] -= 1
            if not self._users[task]:
                del self._users[task], self._locks[task]

    async def wait(self) -> None:
        """Wait for the end of running changes."""
        await asyncio.gather(*self._running, return_exceptions=True)

    def _finish_change(self, change: asyncio.Task[Any]) -> None:
        self._running.discard(change)
        if not change.cancelled() and (error := change.exception()) is not None:
            unexpected = None if isinstance(error, EdgeAgentError) else error  # logged with its traceback
            log.warning("change_refused", error=type(error).__name__, message=str(error), exc_info=unexpected)


async def run_unless_left(caller_left: asyncio.Event | None, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of `work`. When `caller_left` is set, cancel it and raise RequestCancelled."""
    if caller_left is None:
        return await work
    work_task, leave_task = asyncio.create_task(work), asyncio.create_task(caller_left.wait())
    try:
        await asyncio.wait([work_task, leave_task], return_when=asyncio.FIRST_COMPLETED)
    finally:
        work_task.cancel()
        leave_task.cancel()
        await asyncio.wait([work_task, leave_task])
    if work_task.cancelled():
        raise RequestCancelled("the caller left before the bundle was ready")
    return work_task.result()
