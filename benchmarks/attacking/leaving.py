"""What serve and its children send of their own accord while they are called, updated and disturbed: nothing.

They run in a network namespace that counts every packet that is not an answer (tests/support/counted_network.py).
Callers connect through the sockets, and from another namespace through TCP with certificates. All three runtimes are
used, because a library that phones home would do so from a child. First, three deliberate attempts prove that the
counter counts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar
from edge_agent.client import CallFailed
from tests.support.bundles import echo_bundle, smollm2_bundle, tiny_onnx_bundle
from tests.support.callers import Callers
from tests.support.counted_network import INSIDE, CountedNetwork, why_not
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.examples import RECIPIENT
from tests.support.fleet_cases import CentralTeam
from tests.support.tls_site import TlsSite

SECONDS = 20.0
PORT = 9443
LABELS = ("refund", "price")
PROBES = {
    "a TCP connection": "s = socket.socket(); s.settimeout(0.2); s.connect_ex(('192.0.2.9', 80))",
    "a datagram": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.53', 53))",
    "a connection to itself": "s = socket.socket(); s.settimeout(0.2); s.connect_ex(('127.0.0.1', 9))",
}


def measure(seconds: float = SECONDS) -> list[Bar]:
    """Count the bytes that leave the machine during some seconds of work; if they cannot be counted, print why."""
    if reason := why_not():
        _tell(f"leaving: not measured: {reason}")
        return [Bar("leaving: measured", 0, 1, "higher")]
    with tempfile.TemporaryDirectory() as path, CountedNetwork(PORT) as network:
        counted = _proved(network)
        before = network.attempts()
        answers, fewest, updated = _worked(network, Path(path), seconds)
        left = network.attempts() - before
    return [
        Bar("leaving: deliberate attempts that were counted", counted, len(PROBES), "higher"),
        Bar("leaving: calls answered meanwhile", answers, 20 * seconds, "higher"),
        Bar("leaving: of these by one runtime, the fewest", fewest, 1, "higher"),
        Bar("leaving: updates that came meanwhile", updated, 1, "higher"),
        Bar("leaving: packets that serve and its children sent", left, 0, "lower"),
    ]


def _proved(network: CountedNetwork) -> int:
    """Return how many kinds of attempts the counter sees."""
    counted = 0
    for what, attempt in PROBES.items():
        before = network.attempts()
        command = [*network.inside, sys.executable, "-c", f"import socket; {attempt}"]
        subprocess.run(command, check=True, timeout=30)  # noqa: S603 - our own words
        seen = network.attempts() > before
        counted += seen
        _tell(f"leaving: {what}: {'counted' if seen else 'NOT COUNTED'}")
    return counted


def _worked(network: CountedNetwork, folder: Path, seconds: float) -> tuple[int, int, int]:
    """Let a daemon do everything that it does; return the calls answered, the fewest by one runtime or from outside,
    and the updates that came."""
    site, central = TlsSite(folder / "tls"), CentralTeam(folder / "central")
    new = central.publish(echo_bundle(folder / "new", "updated", labels=LABELS, version="2.0.0", weights=b"new"))
    central.plan(central.offering(new))
    running = RunningDaemon(folder / "daemon", **_settings(site, central, folder))
    running.inside = network.inside
    with running as daemon:
        daemon.install(
            echo_bundle(folder / "victim", "victim", labels=LABELS, weights=b"victim"),
            tiny_onnx_bundle(folder / "onnx", name="onnx"),
            smollm2_bundle(folder / "llama", name="llama"),
        )
        with (
            Callers(daemon, "victim", 2) as victim,
            Callers(daemon, "onnx", 1) as onnx,
            Callers(daemon, "llama", 1) as llama,
        ):
            remote = _called_from_outside(network, site, seconds)
            central.copy(daemon.state_dir / "incoming")
            _disturb(daemon, seconds)
            output, _ = remote.communicate(timeout=60)
            answers = (victim.answers, onnx.answers, llama.answers, int(json.loads(output)))
            updated = _updated(daemon)
        lost = [*victim.lost, *onnx.lost, *llama.lost]
    _tell(*(f"leaving: lost: {each}" for each in lost[:5]))
    return sum(answers), min(answers), updated


def _settings(site: TlsSite, central: CentralTeam, folder: Path) -> dict[str, Any]:
    anchor = folder / "root.json"
    anchor.write_bytes(central.root_bytes)
    settings = site.settings()
    settings["service"]["tcp_address"] = f"{INSIDE}:{PORT}"
    return {
        **settings,
        "examples": {"collect": {"victim": "local"}, "disk_reserve_bytes": 0},
        "site": {"id": "shop-1", "recipients": [RECIPIENT]},
        "update": {"root_file": str(anchor), "check_seconds": 0.5},
        "engine": {"restart_seconds_first": 0.05, "restart_seconds_max": 0.5},
    }


CALLER = """
import sys, time
from edge_agent.client import Client, Tls
address, ca, certificate, key, seconds = sys.argv[1:]
until, answers = time.monotonic() + float(seconds), 0
with Client(address, Tls(ca, certificate, key, "localhost")) as client:
    while time.monotonic() < until:
        client.task("onnx")
        answers += 1
        time.sleep(0.02)
print(answers)
"""


def _called_from_outside(network: CountedNetwork, site: TlsSite, seconds: float) -> subprocess.Popen[str]:
    tls = site.client("till", "infer")
    files = map(str, (tls.ca, tls.certificate, tls.key))
    command = [*network.outside, sys.executable, "-c", CALLER, network.address, *files, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own words


def _disturb(daemon: RunningDaemon, seconds: float) -> None:
    """Kill an engine, seal, roll back and look, over and over."""
    until = time.monotonic() + seconds
    with daemon.admin() as admin:
        steps: list[Callable[[], object]] = [admin.status, admin.seal_examples, admin.bundles]
        while time.monotonic() < until:
            for step in steps:
                step()
            # One that is loading is left alone: loads that fail in a row are given up.
            ready = [each for each in admin.status().engines if "victim" in each.tasks and each.state == "READY"]
            for victim in ready:
                os.kill(victim.pid, signal.SIGKILL)
            time.sleep(3)


def _updated(daemon: RunningDaemon) -> int:
    """Return the updates that came."""

    def version() -> str:
        try:
            with daemon.client() as client:
                return client.task("updated").bundle.version
        except CallFailed:
            return ""

    eventually_sync(lambda: version() == "2.0.0", 30)
    return 1


def _tell(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)  # noqa: T201
