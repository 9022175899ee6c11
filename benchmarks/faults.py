"""A daemon under steady load while it is attacked: it loses no call, and holds no more resources afterwards."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bars import Bar, main
from edge_agent.client import AdminClient, CallFailed, Classification, Client
from edge_agent.client.site_state import Engine
from tests.support.bundles import digest_of, echo_bundle, tiny_onnx_bundle
from tests.support.callers import Callers
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync

SEED = 3
ROUNDS = 12
WARM_UP_ROUNDS = 2
RECOVERY_SECONDS_MAX = 10.0
STREAMS_AT_ONCE = 20
OVERLOAD_CALLS = 100
LABELS = ("refund", "price")
TALK = "!slow 1 " + "word " * 200
SETTINGS = {
    "queue_requests_max": 32,
    "heartbeat_seconds_max": 1.0,
    "restart_seconds_first": 0.05,
    "restart_seconds_max": 0.5,
}


@dataclass
class Attack:
    """One kind of fault after the other on one daemon. Each method injects a fault; after it all tasks must answer."""

    daemon: RunningDaemon
    admin: AdminClient
    client: Client
    swaps: Iterator[str]
    """Digests to activate for the task `swapped`."""
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))  # noqa: S311 - which fault comes next is no secret
    injected: int = 0
    survived: int = 0

    def round(self) -> None:
        """Inject every kind once."""
        kinds: list[Callable[[], None]] = [
            self.kill,
            self.stop,
            self.crash,
            self.garbage,
            self.cancel,
            self.abandon,
            self.overload,
            self.swap,
            self.refuse,
        ]
        self.rng.shuffle(kinds)
        for kind in kinds:
            kind()
            self.injected += 1
            self.survived += self._answers()

    def kill(self) -> None:
        """SIGKILL a child."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """SIGSTOP a child."""
        self._signal(signal.SIGSTOP)

    def crash(self) -> None:
        """Send an input that takes its child down."""
        with contextlib.suppress(CallFailed):
            self.client.classify("victim", [f"!crash {self.rng.random()}"], timeout_seconds=5)

    def garbage(self) -> None:
        """Write bytes that are no HTTP/2 to the socket."""
        for _ in range(STREAMS_AT_ONCE):
            with socket.socket(socket.AF_UNIX) as raw, contextlib.suppress(OSError):
                raw.connect(self.daemon.inference.removeprefix("unix:"))
                raw.sendall(self.rng.randbytes(4096))

    def cancel(self) -> None:
        """Cancel streams, half of them after the first piece."""
        streams = [self.client.generate("talk", TALK) for _ in range(STREAMS_AT_ONCE)]
        for stream in streams[::2]:
            with contextlib.suppress(CallFailed, StopIteration):
                next(iter(stream))
        for stream in streams:
            stream.cancel()

    def abandon(self) -> None:
        """Open streams, do not read them, and close the connection."""
        with self.daemon.client() as client:
            for _ in range(STREAMS_AT_ONCE):
                client.generate("talk", TALK)

    def overload(self) -> None:
        """Send more calls at once than the queue takes."""
        with ThreadPoolExecutor(OVERLOAD_CALLS) as threads:
            list(threads.map(self._call_once, range(OVERLOAD_CALLS)))

    def swap(self) -> None:
        """Let the other version of a task answer."""
        self.admin.activate("swapped", next(self.swaps))

    def refuse(self) -> None:
        """Install a file that is not a bundle."""
        with contextlib.suppress(CallFailed):
            self.admin.install(self.daemon.log)

    def _call_once(self, _: int) -> None:
        with contextlib.suppress(CallFailed):
            self.client.classify("victim", ["!slow 5 refund"], timeout_seconds=20)

    def _signal(self, signum: signal.Signals) -> None:
        engine = self._engine()
        os.kill(engine.pid, signum)
        eventually_sync(lambda: self._engine().pid != engine.pid, RECOVERY_SECONDS_MAX)

    def _engine(self) -> Engine:
        return next(engine for engine in self.admin.status().engines if "victim" in engine.tasks)

    def _answers(self) -> bool:
        """Tell whether health and every task answer again in time."""
        with contextlib.suppress(AssertionError):
            eventually_sync(self._all_answer, RECOVERY_SECONDS_MAX)
            return True
        return False

    def _all_answer(self) -> bool:
        try:
            tasks = ("victim", "neighbour", "swapped")
            results = [self.client.classify(task, ["refund"], timeout_seconds=5)[0] for task in tasks]
            return self.client.serving() and all(isinstance(result, Classification) for result in results)
        except CallFailed:
            return False


@dataclass(frozen=True)
class HeldResources:
    """What is held now."""

    descriptors: int
    """The daemon's: a confined child shows its own to nobody."""
    resident_bytes: int
    """Daemon and children."""


def measure() -> list[Bar]:
    """Attack a daemon for about a minute while callers call three of its tasks."""
    with tempfile.TemporaryDirectory() as folder, RunningDaemon(Path(folder), engine=SETTINGS) as daemon:
        swaps = _install(daemon, Path(folder))
        with daemon.admin() as admin, daemon.client() as client:
            return _attack(Attack(daemon, admin, client, swaps))


def _install(daemon: RunningDaemon, folder: Path) -> Iterator[str]:
    one = tiny_onnx_bundle(folder / "1", name="swapped")
    two = tiny_onnx_bundle(folder / "2", name="swapped", version="2.0.0", engine={"context_tokens": 2048})
    daemon.install(
        echo_bundle(folder / "victim", "victim", labels=LABELS, weights=b"victim"),
        echo_bundle(folder / "talk", "talk", "generate", weights=b"victim"),
        echo_bundle(folder / "neighbour", "neighbour", labels=LABELS, weights=b"neighbour"),
        two,
        one,
    )
    return itertools.cycle((digest_of(two), digest_of(one)))


def _attack(attack: Attack) -> list[Bar]:
    with contextlib.ExitStack() as stack:
        tasks = ("victim", "neighbour", "swapped")
        loads = [stack.enter_context(Callers(attack.daemon, task, 2)) for task in tasks]
        for _ in range(WARM_UP_ROUNDS):
            attack.round()
        before = _settled(attack)
        for _ in range(ROUNDS):
            attack.round()
        after = _settled(attack)
    _, neighbour, _ = loads
    lost = sum(len(load.lost) for load in loads)
    return [
        Bar("faults injected", attack.injected, 100, "higher"),
        Bar("faults survived, share", attack.survived / attack.injected, 1.0, "higher"),
        Bar("requests answered under attack", sum(load.answers for load in loads), 1000, "higher"),
        Bar("requests lost", lost, 0, "lower"),
        Bar("requests of the unharmed task that had to try again", neighbour.retries, 0, "lower"),
        Bar("descriptors after / before", after.descriptors / before.descriptors, 1.1, "lower"),
        Bar("RSS after / before", after.resident_bytes / before.resident_bytes, 1.25, "lower"),
    ]


def _settled(attack: Attack) -> HeldResources:
    """Measure while the callers go on and no fault is on its way."""
    time.sleep(1)
    assert attack.daemon.process is not None
    status = attack.admin.status()
    resident = status.resident_bytes + sum(engine.resident_bytes for engine in status.engines)
    return HeldResources(len(list(Path(f"/proc/{attack.daemon.process.pid}/fd").iterdir())), resident)


if __name__ == "__main__":
    sys.exit(main(measure))
