"""Minutes of everything at once: calls of every kind, feedback, an operator at work, and engines that are killed.

What is checked: every answer is the one that was given in quiet (the echo runtime always gives the same); no call lasts
longer than any may; what was acknowledged of feedback is there after a kill of the daemon; and the daemon grows neither
in memory nor in descriptors. Limits of growth, by the hour:

- 16 MB: a tenth of what it has, so that a leak that would matter within a day shows;
- 12 descriptors: one in five minutes, when an operator changes something every two seconds.

A slope is worth as much as its 95% interval, which has a limit too: the bars are judged on the full 20 minutes.
Neighbouring samples are alike, so a line through all of them would seem surer than it is: they are averaged into BLOCKS
means first, and the 95% interval is Student's over those.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.attacking.callers import KINDS, RETRYABLE, Callers, CallLog, oracle, patient
from benchmarks.attacking.held import HeldResources, held
from benchmarks.bars import Bar
from edge_agent.client import AdminClient, CallFailed, ReviewClient
from edge_agent.client.site_state import Engine
from tests.support.bundles import digest_of, echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync

MINUTES = 20.0
SEED = 7
SAMPLE_SECONDS, WARM_UP_SHARE = 2.0, 0.2
ASK_SECONDS, OTHER_SECONDS, OPERATE_SECONDS, KILL_SECONDS = 0.05, 0.5, 2.0, 7.0
RECOVERY_SECONDS_MAX, END_SECONDS_MAX = 20.0, 90.0
MEMORY_MB_AN_HOUR_MAX, DESCRIPTORS_AN_HOUR_MAX = 16.0, 12.0
KILLED = ("ENGINE_CRASHED: ", "process died during ")
"""How the failure reads of a change whose engine is killed in the middle of it, or of its load: nothing changed, and
it is made again. A load that takes too long, or that is refused, is no such thing."""
LABELS = ("refund", "price")
LIMITS = {"limits": {"input_tokens_max": 1000, "output_tokens_max": 500}}
SETTINGS = {
    "engine": {"heartbeat_seconds_max": 2.0, "restart_seconds_first": 0.05, "restart_seconds_max": 0.5},
    "examples": {"collect": {"classify": "local"}, "disk_reserve_bytes": 0},
}


@dataclass
class ResourceHistory:
    """What was held, again and again."""

    daemon: list[tuple[float, HeldResources]] = field(default_factory=list)
    engines: list[tuple[float, HeldResources]] = field(default_factory=list)
    """All of them together."""

    def megabytes(self, whose: list[tuple[float, HeldResources]]) -> HourlyGrowth:
        """Return the growth of memory after the warm-up."""
        return slope([(at, each.resident_bytes / 2**20) for at, each in _warm(whose)])

    def descriptors(self, whose: list[tuple[float, HeldResources]]) -> HourlyGrowth:
        """Return the growth of descriptors after the warm-up."""
        return slope([(at, float(each.descriptors)) for at, each in _warm(whose)])


@dataclass
class LoadedDaemon:
    """A daemon under load, and its callers."""

    daemon: RunningDaemon
    admin: AdminClient
    bundles: dict[str, Path]
    noted: CallLog
    growth: ResourceHistory = field(default_factory=ResourceHistory)
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))  # noqa: S311 - no secret
    stop: threading.Event = field(default_factory=threading.Event)
    kills: int = 0
    changes: int = 0

    def until_stopped(self, seconds: float, do: Callable[[], object]) -> Callable[[], None]:
        """Return a thread's work: do something again and again, with pauses of about so long."""

        def work() -> None:
            rng = random.Random(seconds)  # noqa: S311 - likewise
            while not self.stop.wait(rng.uniform(0, 2 * seconds)):
                do()

        return work

    def sample(self) -> None:
        """Sample the resources that the daemon holds."""
        assert self.daemon.process is not None
        at = time.monotonic()
        self.growth.daemon.append((at, held(self.daemon.process.pid)))
        engines = [held(engine.pid) for engine in self._engines() if engine.pid]
        together = HeldResources(
            sum(each.descriptors for each in engines), sum(each.resident_bytes for each in engines)
        )
        if len(engines) == len(self.bundles) - 2:  # none is away just now
            self.growth.engines.append((at, together))

    def operate(self, steps: list[Callable[[], object]]) -> Callable[[], None]:
        """Return what an operator does, one step after the other."""
        turns = itertools.cycle(steps)

        def step() -> None:
            change = next(turns)
            patient(self.noted, "operator", lambda: (change(), True), again=KILLED)
            self.changes += 1

        return step

    def disturb(self) -> None:
        """Kill or stop an engine, or have it killed by an input; the next disturbance waits until it is back."""
        engine = self.rng.choice([engine for engine in self._engines() if engine.pid] or [None])
        if engine is None:
            return
        how = self.rng.choice((self._kill, self._stop, self._crash))
        engine = how(engine)
        self.kills += 1
        with contextlib.suppress(AssertionError):
            eventually_sync(lambda: self._is_back(engine), RECOVERY_SECONDS_MAX)

    def _kill(self, engine: Engine) -> Engine:
        with contextlib.suppress(ProcessLookupError):
            os.kill(engine.pid, signal.SIGKILL)
        return engine

    def _stop(self, engine: Engine) -> Engine:
        with contextlib.suppress(ProcessLookupError):
            os.kill(engine.pid, signal.SIGSTOP)
        # Nobody waits for an engine without work, stopped or not.
        with self.daemon.client() as client, contextlib.suppress(CallFailed):
            client.classify("slow", [f"a refund {self.kills}"], timeout_seconds=1)
        return engine

    def _crash(self, _: Engine) -> Engine:
        slow = next((each for each in self._engines() if "slow" in each.tasks), _)
        with self.daemon.client() as client, contextlib.suppress(CallFailed):
            client.classify("slow", [f"!crash {self.kills}"], timeout_seconds=5)
        return slow

    def _is_back(self, gone: Engine) -> bool:
        return any(each.name == gone.name and each.pid not in (0, gone.pid) for each in self._engines())

    def _engines(self) -> list[Engine]:
        try:
            return list(self.admin.status().engines)
        except CallFailed as failed:
            if failed.code not in RETRYABLE:
                self.noted.failed.append(f"status: {failed.code} {failed.reason}: {failed.message}")
            return []


def measure(minutes: float = MINUTES) -> list[Bar]:
    """Load a daemon for so long; what went wrong is named on standard error."""
    noted = CallLog()
    with tempfile.TemporaryDirectory() as path, RunningDaemon(Path(path), **SETTINGS) as daemon:
        bundles = _bundles(Path(path) / "bundles")
        daemon.install(*bundles.values())
        with daemon.admin() as admin:
            field = LoadedDaemon(daemon, admin, bundles, noted)
            pending = _loaded(field, minutes * 60)
        lost = _lost(daemon, noted)
    _tell(field, lost)
    return _bars(field, minutes, pending, lost)


def _bundles(folder: Path) -> dict[str, Path]:
    """Return bundles in the order of their installation, each on an engine of its own but the second `classify`."""
    kinds = {kind: echo_bundle(folder / kind, kind, kind, weights=kind.encode()) for kind in ("extract", "embed")}
    generate = echo_bundle(folder / "generate", "generate", "generate", weights=b"generate", task=LIMITS)
    slow = echo_bundle(folder / "slow", "slow", labels=LABELS, weights=b"slow")
    versions = {
        f"classify {version}": echo_bundle(
            folder / version, "classify", labels=LABELS, version=version, weights=b"classify", task=LIMITS
        )
        for version in ("2.0.0", "1.0.0")
    }
    spare = echo_bundle(folder / "spare", "spare", labels=LABELS, weights=b"slow")
    return {**kinds, "generate": generate, "slow": slow, **versions, "spare": spare}


def _loaded(field: LoadedDaemon, seconds: float) -> int:
    """Load it; return the calls that are pending when all callers have gone."""
    with contextlib.ExitStack() as stack:
        works = _works(field, stack)
        threads = ThreadPoolExecutor(len(works))
        running = [(name, threads.submit(work)) for name, work in works]
        try:
            field.stop.wait(seconds)
        finally:
            field.stop.set()  # also for Ctrl-C: what waits for the threads would wait for ever
        wait([each for _, each in running], END_SECONDS_MAX)
        threads.shutdown(wait=False)
        note_ends(running, field.noted)
        return _pending(field)


def note_ends(running: Sequence[tuple[str, Future[None]]], noted: CallLog) -> None:
    """Record callers that do not end, or ended by an error and so made no further calls."""
    for name, each in running:
        if not each.done():
            noted.stuck.append(f"{name} does not end")
        elif error := each.exception():
            noted.failed.append(f"{name} ended by {error!r}")


def _works(field: LoadedDaemon, stack: contextlib.ExitStack) -> list[tuple[str, Callable[[], None]]]:
    with field.daemon.client() as client:
        known = oracle(client)
    works: list[tuple[str, Callable[[], None]]] = []

    def callers() -> Callers:
        client = stack.enter_context(field.daemon.client())
        reviewer = stack.enter_context(ReviewClient(f"unix:{field.daemon.run_dir}/review.sock"))
        rng = random.Random(len(works))  # noqa: S311 - no secret
        return Callers(client, reviewer, known, field.noted, rng)

    for kind in (*KINDS, *KINDS):
        works.append((kind, field.until_stopped(ASK_SECONDS, partial(callers().ask, kind))))
    for name, do in (("feedback", Callers.correct), ("deadline", Callers.hurry), ("cancel", Callers.leave)):
        works.append((name, field.until_stopped(OTHER_SECONDS, partial(do, callers()))))
    works.append(("operator", field.until_stopped(OPERATE_SECONDS, field.operate(_operations(field)))))
    works.append(("disturber", field.until_stopped(KILL_SECONDS, field.disturb)))
    works.append(("sampler", field.until_stopped(SAMPLE_SECONDS, field.sample)))
    return works


def _operations(field: LoadedDaemon) -> list[Callable[[], object]]:
    admin, bundles = field.admin, field.bundles
    other = digest_of(bundles["classify 2.0.0"])
    return [
        lambda: admin.activate("classify", other),
        lambda: admin.rollback("classify"),
        lambda: admin.bundles(),
        lambda: admin.remove("spare"),
        lambda: admin.install(str(bundles["spare"])),
        lambda: admin.install(str(bundles["classify 1.0.0"])),
    ]


def _pending(field: LoadedDaemon) -> int:
    """Return the remaining length of the queues after a time to finish."""
    with contextlib.suppress(AssertionError):
        eventually_sync(lambda: not _waiting(field.admin), RECOVERY_SECONDS_MAX)
    return _waiting(field.admin)


def _waiting(admin: AdminClient) -> int:
    return sum(engine.pending for engine in admin.status().engines)


def _lost(daemon: RunningDaemon, noted: CallLog) -> list[str]:
    """Kill the daemon; return the acknowledged corrections that it does not have when it is back."""
    daemon.kill()
    daemon.start()
    lost = []
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as reviewer:
        for identity, said in noted.acknowledged.items():
            try:
                values = [each.value for each in reviewer.prediction(identity).feedback]
            except CallFailed as failed:
                values = [f"{failed.code} {failed.reason}"]
            if values != [said]:
                lost.append(f"{identity}: {said} was acknowledged, and there is {values}")
    return lost


def _bars(field: LoadedDaemon, minutes: float, pending: int, lost: list[str]) -> list[Bar]:
    noted, growth = field.noted, field.growth
    memory, descriptors = growth.megabytes(growth.daemon), growth.descriptors(growth.daemon)
    engines = growth.megabytes(growth.engines)
    return [
        Bar("load: minutes", minutes, MINUTES, "higher"),
        Bar("load: calls answered", sum(noted.answers.values()), 1000 * minutes, "higher"),
        Bar("load: engines killed or stopped", field.kills, 5 * minutes, "higher"),
        Bar("load: changes by the operator", field.changes, 15 * minutes, "higher"),
        Bar("load: wrong answers", len(noted.wrong), 0, "lower"),
        Bar("load: stuck calls", len(noted.stuck) + pending, 0, "lower"),
        Bar("load: calls that failed for good", len(noted.failed), 0, "lower"),
        Bar("load: acknowledged feedback that was lost", len(lost), 0, "lower"),
        Bar("load: growth of the daemon, MB an hour", memory.an_hour, MEMORY_MB_AN_HOUR_MAX, "lower"),
        Bar("load: 95% interval of that, +-", memory.half_width, MEMORY_MB_AN_HOUR_MAX, "lower"),
        Bar("load: growth of all engines, MB an hour", engines.an_hour, MEMORY_MB_AN_HOUR_MAX, "lower"),
        Bar("load: 95% interval of that, +- MB", engines.half_width, MEMORY_MB_AN_HOUR_MAX, "lower"),
        Bar("load: growth of descriptors, an hour", descriptors.an_hour, DESCRIPTORS_AN_HOUR_MAX, "lower"),
        Bar("load: 95% interval of that, +- descriptors", descriptors.half_width, DESCRIPTORS_AN_HOUR_MAX, "lower"),
    ]


def _warm(samples: list[tuple[float, HeldResources]]) -> list[tuple[float, HeldResources]]:
    return samples[int(len(samples) * WARM_UP_SHARE) :]


def _tell(field: LoadedDaemon, lost: list[str]) -> None:
    noted = field.noted
    said = [f"{dict(noted.answers)}, {noted.retries} retries, {field.kills} kills, {field.changes} changes"]
    for name, found in (("wrong", noted.wrong), ("stuck", noted.stuck), ("failed", noted.failed), ("lost", lost)):
        said += [f"{name}: {each}" for each in found[:10]]
    print(*said, sep="\n", file=sys.stderr)  # noqa: T201


BLOCKS = 20
T_95 = {8: 2.31, 10: 2.23, 13: 2.16, 18: 2.10}
"""Student's t for 95%, two-sided, by degrees of freedom; fewer take the value of the next smaller entry, or 4.3."""
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class HourlyGrowth:
    """A growth for each hour."""

    an_hour: float
    half_width: float
    """Of the 95% interval around it."""


def slope(samples: Sequence[tuple[float, float]]) -> HourlyGrowth:
    """Return the growth of samples of (seconds, value), the oldest first."""
    points = blocks(samples)
    count = len(points)
    if count < 4:
        return HourlyGrowth(0.0, math.inf)
    mean_at, mean = (sum(each[axis] for each in points) / count for axis in (0, 1))
    spread = sum((at - mean_at) ** 2 for at, _ in points)
    growth = sum((at - mean_at) * (value - mean) for at, value in points) / spread
    errors = [value - mean - growth * (at - mean_at) for at, value in points]
    deviation = math.sqrt(sum(error**2 for error in errors) / (count - 2) / spread)
    return HourlyGrowth(growth * SECONDS_PER_HOUR, _t(count - 2) * deviation * SECONDS_PER_HOUR)


def blocks(samples: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the means of up to BLOCKS equal parts."""
    size = max(1, len(samples) // BLOCKS)
    parts = [samples[at : at + size] for at in range(0, len(samples) - size + 1, size)]
    return [(sum(at for at, _ in part) / len(part), sum(value for _, value in part) / len(part)) for part in parts]


def _t(freedom: int) -> float:
    return next((t for known, t in sorted(T_95.items(), reverse=True) if known <= freedom), 4.3)
