"""How soon and how small the daemon and a command start, beside the imports that neither can do without.

In an environment of the agent's own dependencies, so that nothing is loaded that only tests or the factory install. The
ratios are to `python -c "import grpc.aio, pydantic, structlog"` of the same rounds; with SmolLM2-135M on a warm page
cache.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bars import Bar, main, median
from tests.support.bundles import smollm2_bundle
from tests.support.daemon import RunningDaemon
from tests.support.environments import agent_interpreter

ROUNDS = 11
IMPORTS = "import grpc.aio, pydantic, structlog"
READY_SECONDS_MAX = 60.0
POLL_SECONDS = 0.005


def measure() -> list[Bar]:
    """Start daemons, alternating between an empty state directory and one with a model, and take medians."""
    with tempfile.TemporaryDirectory() as folder:
        return _measure(Path(folder))


def _measure(folder: Path) -> list[Bar]:
    empty, full = RunningDaemon(folder / "empty"), RunningDaemon(folder / "full")
    empty.python = full.python = str(agent_interpreter())
    with full:
        full.install(smollm2_bundle(folder / "bundle", "classify"))
    with empty:  # what the environment has not compiled yet is compiled now
        _seconds([*empty.command(), "status"])
    imports, serving, status, resident, ready, first = [], [], [], [], [], []
    for _ in range(ROUNDS):
        imports.append(_seconds([empty.python, "-c", IMPORTS]))
        with empty:
            serving.append(empty.seconds_to_serving)
            resident.append(_resident_megabytes(empty))
            status.append(_seconds([*empty.command(), "status"]))
        started = time.monotonic()
        with full:
            _wait_ready(full)
            ready.append(time.monotonic() - started)
            _classify(full)
            first.append(time.monotonic() - started)
    return [
        Bar(f"{IMPORTS}, s", median(imports), None, "lower"),
        Bar("daemon without engines: RSS, MB", median(resident), 80, "lower"),
        Bar("daemon without engines: SERVING, s", median(serving), 1.5, "lower"),
        Bar("daemon without engines: SERVING / these imports", median(serving) / median(imports), 2.5, "lower"),
        Bar("edge-agent status / these imports", median(status) / median(imports), 1.5, "lower"),
        Bar("daemon with SmolLM2, warm cache: task SERVING, s", median(ready), 4, "lower"),
        Bar("daemon with SmolLM2, warm cache: first answer, s", median(first), 4, "lower"),
    ]


def _seconds(command: Sequence[str]) -> float:
    """Return how long a command takes."""
    started = time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)  # noqa: S603 our own
    return time.monotonic() - started


def _resident_megabytes(daemon: RunningDaemon) -> float:
    with daemon.admin() as admin:
        return admin.status().resident_bytes / 1e6


def _wait_ready(daemon: RunningDaemon) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    with daemon.client() as client:
        while not client.serving("pos-intent"):
            if time.monotonic() > deadline:
                raise TimeoutError(daemon.log.read_text())
            time.sleep(POLL_SECONDS)


def _classify(daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.classify("pos-intent", ["I want my money back"])


if __name__ == "__main__":
    sys.exit(main(measure))
