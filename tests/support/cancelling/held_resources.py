"""The resources of a daemon in this process (tasks, locks, slots, descriptors, children, files), for comparison.

The daemon's own objects are found by walking from it, through attributes and collections: a new lock, counter or table
is looked at without being named here.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

from edge_agent.engine.job_dispatch import BundleStats, JobDispatcher
from edge_agent.engine.job_queue import FairRounds
from edge_agent.metrics.metric_catalogue import AnswerCounts
from edge_agent.refusal_log import LogDeduplicator
from edge_agent.server.admission_control import AdmissionControl, RateLimiter
from edge_agent.server.request_deduplication import RequestDeduplicator
from edge_agent.update.blocked_update_messages import VerifiedRepository

IN_PROGRESS = {
    AdmissionControl: ("calls",),
    JobDispatcher: ("in_flight",),
}
"""Counters of what is in progress, by the class that has them."""
REMEMBERS = (
    AnswerCounts,
    BundleStats,
    FairRounds,
    LogDeduplicator,
    RequestDeduplicator,
    RateLimiter,
    VerifiedRepository,
)
"""What remembers what has been, within limits of its own: that it grows is no leak."""
PASSING = ("spool.db", "state.db", "audit", "outbox", "wants.json", "trust")
"""Files of the state directory that come and go in ordinary work."""
_LOCK = type(threading.Lock())


@dataclass(frozen=True)
class HeldResources:
    """One snapshot of the resources."""

    tasks: Counter[str] = field(default_factory=Counter)
    """Unfinished tasks of the event loop, by coroutine."""
    descriptors: Counter[str] = field(default_factory=Counter)
    """Open ones, by what they are."""
    children: int = 0
    locked: frozenset[str] = frozenset()
    """Locks that somebody has, by the path to them."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What is in progress, and how long each table is, by the path to it."""
    files: frozenset[str] = frozenset()

    def beyond(self, before: HeldResources) -> list[str]:
        """Return the resources that are held now and were not before; empty = none."""
        said = [f"{count} more of task {name}" for name, count in (self.tasks - before.tasks).items()]
        said += [f"{count} fewer of task {name}" for name, count in (before.tasks - self.tasks).items()]
        said += [f"{count} more open: {what}" for what, count in (self.descriptors - before.descriptors).items()]
        if self.children != before.children:
            said.append(f"{self.children} children; before {before.children}")
        said += [f"{path} is locked" for path in sorted(self.locked)]
        for path, count in self.counts.items():
            if count > before.counts.get(path, 0):
                said.append(f"{path} has {count}; before {before.counts.get(path, 0)}")
        said += [f"a new file: {path}" for path in sorted(self.files - before.files)]
        said += [f"a file is gone: {path}" for path in sorted(before.files - self.files)]
        return said


def held(daemon: object, state_dir: Path) -> HeldResources:
    """Take a snapshot of a daemon that runs on this event loop."""
    locked, counts = set(), {}
    for path, found, remembers in _reachable(daemon):
        if isinstance(found, asyncio.Lock | _LOCK):
            if found.locked():
                locked.add(path)
        elif isinstance(found, dict | list | set | deque):
            if not remembers:
                counts[path] = len(found)
        else:
            for kind, names in IN_PROGRESS.items():
                if isinstance(found, kind):
                    counts.update({f"{path}.{name}": getattr(found, name) for name in names})
    return HeldResources(
        Counter(_name(task) for task in asyncio.all_tasks() if not task.done()),
        descriptors(),
        children(),
        frozenset(locked),
        counts,
        frozenset(_files(state_dir)),
    )


def _name(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", str(coroutine))


def descriptors() -> Counter[str]:
    """Count the open descriptors of this process by what they are: a file, a kind, or the socket that was called."""
    listening = _unix_sockets()
    found: Counter[str] = Counter()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            target = str(link.readlink())
            kind, _, which = target.partition(":")  # "socket:[4711]", a number; "anon_inode:[eventfd]", its kind
            if kind == "socket":
                target = f"socket {listening.get(which.strip('[]'), '')}".rstrip()
            elif not target.startswith("/") and kind != "anon_inode":
                target = kind
            found[target] += 1
    return found


def _unix_sockets() -> dict[str, str]:
    """Return the name of each Unix socket that has one, by its inode: what listens, and its ends of connections."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()[1:]]
    return {line[6]: Path(line[7]).name for line in lines if len(line) > 7}


def children() -> int:
    """Count the child processes of this process, dead ones that nobody has waited for included."""
    found = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):
            found += len((task / "children").read_text().split())
    return found


def _files(state_dir: Path) -> Iterator[str]:
    for folder, _, names in os.walk(state_dir):
        for name in names:
            path = str((Path(folder) / name).relative_to(state_dir))
            if not path.startswith(PASSING):
                yield path


def _reachable(root: object) -> Iterator[tuple[str, object, bool]]:
    """Yield each object of this project that is reachable from an object, once.

    Yields the path to it, itself, and whether it belongs to something that remembers.
    """
    seen: set[int] = set()
    todo: deque[tuple[str, Any, bool]] = deque([(type(root).__name__, root, False)])
    while todo:
        path, found, remembers = todo.popleft()
        if id(found) in seen:
            continue
        seen.add(id(found))
        parts = list(_parts(found))
        if parts or isinstance(found, dict | list | set | deque | asyncio.Lock | _LOCK):
            yield path, found, remembers
        remembers = remembers or isinstance(found, REMEMBERS)
        todo.extend((f"{path}{name}", part, remembers) for name, part in parts)


def _parts(found: Any) -> Iterator[tuple[str, Any]]:
    """Yield the objects that an object refers to."""
    if isinstance(found, Mapping):
        yield from ((f"[{key!s:.20}]", value) for key, value in list(found.items()))
    elif isinstance(found, list | tuple | set | frozenset | deque):
        yield from (("[]", value) for value in list(found))
    elif isinstance(found, partial):
        yield from ((".func", found.func), (".args", found.args))
    elif isinstance(found, MethodType):
        yield "", found.__self__
    elif isinstance(found, FunctionType):
        yield from _closure(found)
    elif type(found).__module__.startswith("edge_agent."):
        yield from ((f".{name}", value) for name, value in _attributes(found))


def _closure(found: FunctionType) -> Iterator[tuple[str, Any]]:
    if found.__module__.startswith("edge_agent.") and found.__closure__:
        for name, cell in zip(found.__code__.co_freevars, found.__closure__, strict=True):
            with suppress(ValueError):  # not set yet
                yield f"({name})", cell.cell_contents


def _attributes(found: Any) -> Iterator[tuple[str, Any]]:
    for name, value in getattr(found, "__dict__", {}).items():
        if not isinstance(getattr(type(found), name, None), cached_property):  # computed of the rest, at the first use
            yield name, value
    for kind in type(found).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if name != "__dict__" and hasattr(found, name):
                yield name, getattr(found, name)
