"""Processes killed, and calls of their disk failed, at system calls all over an update: mirror, install, activate.

The uplink runs under strace from its start. The daemon is there already: strace takes hold of its threads, and not of
its children, whose end is a matter of the bundle.
"""

from __future__ import annotations

import random
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.updating.tally import Fault, Tally, suffer
from tests.support.fleet_site import FleetSite, comes_true
from tests.support.strace import CALLS, WRITING, Point, failed_at, killed_at, points, strace
from tests.support.update_sites import NEW, UpdateSites

SEED = 6
ERRORS = ("EIO", "ENOSPC")
TRACER_SECONDS_MAX = 60.0
FAULT_SECONDS_MAX = 15.0
"""How long a fault gets to have its effect; then it has had none that stops an update for good, or it has."""


def measure(field: UpdateSites, each: int, tally: Tally) -> None:
    """Inject that many faults of each kind."""
    rng = random.Random(SEED)  # noqa: S311 - which fault comes next is no secret
    for what, fault in [*_of_the_uplink(field, each, rng), *_of_the_daemon(field, each, rng)]:
        suffer(field, what, fault, tally)


# --- the uplink -------------------------------------------------------------------------------------------------------


def _of_the_uplink(field: UpdateSites, each: int, rng: random.Random) -> Iterator[tuple[str, Fault]]:
    every = points(lambda *tracer: _undisturbed(field, *tracer), field.root / "uplink.trace")
    writes = [point for point in every if point[0] in WRITING]
    for call, number in _some(every, each, rng):
        yield f"uplink killed at {call} {number}", _fetch_under(*killed_at(call, number))
    for error in ERRORS:
        for call, number in _some(writes, each, rng):
            yield f"uplink: {call} {number} fails with {error}", _fetch_under(*failed_at(call, number, error))


def _undisturbed(field: UpdateSites, *tracer: str) -> subprocess.CompletedProcess[str]:
    with field.site() as site:
        site.start_uplink(*tracer)
        site.until(NEW)
        site.stop_uplink()
    return subprocess.CompletedProcess(tracer, 0, "", "")


def _fetch_under(*tracer: str) -> Fault:
    def fault(site: FleetSite) -> None:
        uplink = site.start_uplink(*tracer)
        comes_true(lambda: uplink.poll() is not None or site.version() == NEW, FAULT_SECONDS_MAX)
        site.stop_uplink()

    return fault


# --- the daemon -------------------------------------------------------------------------------------------------------


def _of_the_daemon(field: UpdateSites, each: int, rng: random.Random) -> Iterator[tuple[str, Fault]]:
    every = _daemon_points(field)
    # A daemon's plain writes go to sockets and eventfds too, and no disk fails those. strace counts both
    # alike; tests/process/test_updates_crash.py lets each write of the store fail.
    writes = [point for point in every if point[0] in WRITING and point[0] != "write"]
    for call, number in _some(every, each, rng):
        yield f"daemon killed at {call} {number}", _update_under(call, f"inject={call}:signal=KILL:when={number}")
    for error in ERRORS:
        for call, number in _some(writes, each, rng):
            injection = f"inject={call}:error={error}:when={number}"
            yield f"daemon: {call} {number} fails with {error}", _update_under(call, injection)


def _daemon_points(field: UpdateSites) -> list[Point]:
    """Count the calls of each thread in an undisturbed update: strace counts by thread too."""
    log = field.root / "daemon.trace"
    with field.site() as site:
        with _traced(site, log, f"trace={','.join(CALLS)}"):
            site.start_uplink()
            assert comes_true(lambda: _is_done(site))
        site.stop_uplink()
    counts = Counter(re.findall(r"^(\d+) +(\w+)\(", log.read_text(), re.MULTILINE))
    most = {call: max((count for (_, name), count in counts.items() if name == call), default=0) for call in CALLS}
    return [(call, number) for call in CALLS for number in range(1, most[call] + 1)]


def _is_done(site: FleetSite) -> bool:
    """Return whether the site has finished the update to version 2; before, its status is that of version 1."""
    return site.version() == NEW and site.state() == "done"


def _update_under(call: str, injection: str) -> Fault:
    def fault(site: FleetSite) -> None:
        with _traced(site, site.folder / "trace", f"trace={call}", injection):
            site.start_uplink()
            comes_true(lambda: site.ended() or _is_done(site), FAULT_SECONDS_MAX)

    return fault


class _traced:  # noqa: N801 - used like a function
    """strace on the daemon's threads, from when it has taken hold until the block is left or the daemon is gone."""

    def __init__(self, site: FleetSite, log: Path, *expressions: str) -> None:
        assert site.daemon.process is not None
        threads = Path(f"/proc/{site.daemon.process.pid}/task").iterdir()
        held = [part for thread in threads for part in ("-p", thread.name)]
        filters = [part for each in expressions for part in ("-e", each)]
        self._command = [part for part in strace() if part not in ("-f", "-qq")] + [*held, *filters, "-o", str(log)]

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own words
        assert self._process.stderr is not None
        assert "attached" in self._process.stderr.readline()

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=TRACER_SECONDS_MAX)


def _some(every: list[Point], count: int, rng: random.Random) -> list[Point]:
    return sorted(rng.sample(every, min(count, len(every))))
