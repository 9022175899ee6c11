"""A good client's latency while others crowd the same listener: a Unix socket, and TCP with certificates.

Each assault comes from a process of its own (assault.py), as somebody who may connect: on TCP with a certificate.
Before each the client is measured in quiet, so that what else this machine does counts on both sides. Limits:

- no call of the good client fails, whatever the others do;
- its median at most triples: it shares processors with the attackers and the daemon's work for them, and a call of
  about a millisecond stays one that nobody notices;
- 99 of 100 calls take less than 250 ms: what people at a till take for at once;
- connections and memory come back: 16 descriptors, 64 MB, which is less than 64 kB for each of 1,000 connections.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.attacking.assault import KINDS
from benchmarks.attacking.held import HeldResources, held
from benchmarks.bars import Bar, median
from edge_agent.client import CallFailed, Classification, Client
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.tls_site import TlsSite

SECONDS = 6.0
"""Of quiet, and of each assault."""
RAMP_SECONDS = 2.0
PAUSE_SECONDS = 0.002
SETTLED_SECONDS_MAX = 30.0
MEDIAN_RATIO_MAX, P99_MS_MAX = 3.0, 250.0
DESCRIPTORS_MAX, GROWTH_MB_MAX = 16, 64.0
LABELS = ("refund", "price")


@dataclass
class ClientResults:
    """What a good client got."""

    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def p99_ms(self) -> float:
        """99 of 100 calls took less."""
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)] * 1000


@dataclass(frozen=True)
class EntryPoint:
    """A way in."""

    name: str
    address: str
    files: tuple[str, ...]
    """Authority, certificate and key; none on a socket."""
    client: Client


@dataclass
class AssaultResults:
    """What came of all assaults."""

    ratios: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    calls: int = 0


def measure(seconds: float = SECONDS) -> list[Bar]:
    """Crowd a daemon in every way by each kind of assault; what came of each is on standard error."""
    with tempfile.TemporaryDirectory() as folder:
        site = TlsSite(Path(folder) / "tls")
        with RunningDaemon(Path(folder) / "daemon", **site.settings()) as daemon:
            daemon.install(echo_bundle(Path(folder) / "bundle", "intent", labels=LABELS))
            with _ways(daemon, site) as ways:
                return _measured(daemon, ways, seconds)


def _measured(daemon: RunningDaemon, ways: list[EntryPoint], seconds: float) -> list[Bar]:
    assert daemon.process is not None
    crowded = AssaultResults()
    for way in ways:  # everything is used once before it counts what is held
        assaulted(way, "idle", seconds / 2, crowded)
    before = settled(daemon)
    for way in ways:
        for kind in KINDS:
            assaulted(way, kind, seconds, crowded)
    after = settled(daemon, before)
    _tell(*crowded.failed[:10], f"held before: {before}, after: {after}")
    return [
        Bar(
            "crowding: calls of the good client under assault", crowded.calls, 20_000 * seconds / SECONDS / 10, "higher"
        ),
        Bar("crowding: its calls that failed", len(crowded.failed), 0, "lower"),
        Bar("crowding: its worst median / in quiet", max(crowded.ratios), MEDIAN_RATIO_MAX, "lower"),
        Bar("crowding: its worst p99, ms", max(crowded.p99s), P99_MS_MAX, "lower"),
        Bar("crowding: descriptors more than before", after.descriptors - before.descriptors, DESCRIPTORS_MAX, "lower"),
        Bar(
            "crowding: memory more than before, MB",
            (after.resident_bytes - before.resident_bytes) / 2**20,
            GROWTH_MB_MAX,
            "lower",
        ),
    ]


def assaulted(way: EntryPoint, kind: str, seconds: float, crowded: AssaultResults) -> None:
    """Measure the good client in quiet and under one kind of assault."""
    quiet = _served(way.client, seconds)
    with assault(way, kind) as done:
        time.sleep(RAMP_SECONDS)
        under = _served(way.client, seconds)
    ratio = median(under.seconds) / median(quiet.seconds)
    crowded.ratios.append(ratio)
    crowded.p99s.append(under.p99_ms)
    crowded.failed += under.failed + quiet.failed
    crowded.calls += len(under.seconds)
    medians = f"{median(quiet.seconds) * 1000:.2f} -> {median(under.seconds) * 1000:.2f} ms"
    p99s = f"p99 {quiet.p99_ms:.1f} -> {under.p99_ms:.1f} ms"
    _tell(f"{way.name:<16} {kind:<14} {medians}, {p99s}, {len(under.seconds)} calls; {done}")


def _served(client: Client, seconds: float) -> ClientResults:
    """Call for so long, one call after the other with a pause."""
    served, until = ClientResults(), time.monotonic() + seconds
    while time.monotonic() < until:
        started = time.monotonic()
        try:
            [answer] = client.classify("intent", ["a refund"], timeout_seconds=10)
            if not isinstance(answer, Classification) or answer.label != "refund":
                served.failed.append(f"a wrong answer: {answer}")
        except CallFailed as failed:
            served.failed.append(f"{failed.code} {failed.reason} {failed.message}")
        served.seconds.append(time.monotonic() - started)
        time.sleep(PAUSE_SECONDS)
    return served


@contextlib.contextmanager
def assault(way: EntryPoint, kind: str) -> Iterator[dict[str, int]]:
    """Attack while the block runs; then fill the dictionary with the counts. Raises AssertionError if they are zero."""
    command = [sys.executable, "-m", "benchmarks.attacking.assault", kind, way.address, *way.files]
    done: dict[str, int] = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own
        yield done
        output, _ = process.communicate(timeout=60)
    done.update(json.loads(output or b"{}"))
    if process.returncode or not done.get("connections"):
        raise AssertionError(f"{kind} did not reach {way.address}: it ended with {process.returncode}, {done}")


@contextlib.contextmanager
def _ways(daemon: RunningDaemon, site: TlsSite) -> Iterator[list[EntryPoint]]:
    tls, attacker = site.client("till", "infer"), site.client("stranger", "infer")
    files = (str(attacker.ca), str(attacker.certificate), str(attacker.key))
    with daemon.client() as client, Client(site.address, tls) as remote:
        yield [
            EntryPoint("inference.sock", daemon.inference, (), client),
            EntryPoint("TCP with mTLS", site.address, files, remote),
        ]


def settled(daemon: RunningDaemon, before: HeldResources | None = None) -> HeldResources:
    """Return the daemon's resources once they are back at the earlier level, or after the time limit."""
    assert daemon.process is not None
    pid = daemon.process.pid
    with contextlib.suppress(AssertionError):
        if before:
            eventually_sync(lambda: _given_back(held(pid), before), SETTLED_SECONDS_MAX)
    threading.Event().wait(1)
    return held(pid)


def _given_back(now: HeldResources, before: HeldResources) -> bool:
    grown_mb = (now.resident_bytes - before.resident_bytes) / 2**20
    return now.descriptors <= before.descriptors and grown_mb <= GROWTH_MB_MAX


def _tell(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr)  # noqa: T201
