"""Start time and memory of the daemon and of a command, compared with their unavoidable imports.

In an environment of the agent's own dependencies, so that nothing is loaded that only tests or the factory install, and
with compiled modules, as a site has them. The ratios of the daemon without engines and of the command are to
`python -c "import grpc.aio, pydantic, structlog"` of the same rounds: the command's is the median of the ratios of
pairs, since both run one right after the other, beside the same daemon. Those of a task are to a process of
llama-cpp-python that loads the same file, SmolLM2-135M on a warm page cache, with as many cells, and reads one text.
The daemon that has the task was started before, so its settings of llama.cpp are measured already.
"""

from __future__ import annotations

import os
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
PAIRS = 2
"""Of a command and the imports, in each round."""
IMPORTS = "import grpc.aio, pydantic, structlog"
READY_SECONDS_MAX = 60.0
POLL_SECONDS = 0.005
TASK, TEXT = "pos-intent", "I want my money back"
LOADING = """
import sys, llama_cpp
model = llama_cpp.Llama(sys.argv[1], n_ctx=int(sys.argv[2]), n_batch=512, verbose=False)
model.eval(model.tokenize(sys.argv[3].encode()))
"""
"""What llama.cpp's own Python binding does until it has read one text."""
# A shell that forbids Python to keep what it has compiled would have every start compile its modules again.
_ENVIRONMENT = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}


def measure() -> list[Bar]:
    """Start daemons, alternating between an empty state directory and one with a model, and take medians."""
    with tempfile.TemporaryDirectory() as folder:
        return _measure(Path(folder))


def _measure(folder: Path) -> list[Bar]:
    empty, full = RunningDaemon(folder / "empty"), RunningDaemon(folder / "full", engine={"tune": True})
    empty.python = full.python = str(agent_interpreter())
    empty.environment = full.environment = _ENVIRONMENT
    with full:
        full.install(smollm2_bundle(folder / "bundle", "classify"))
        weights, cells = _weights_and_cells(full)
    load = [empty.python, "-c", LOADING, weights, cells, TEXT]
    with empty:  # what the environment has not compiled yet is compiled now
        _seconds([*empty.command(), "status"])
    _seconds(load)
    imports, serving, status, resident, loading, ready, first = [], [], [], [], [], [], []
    command = [*empty.command(), "status"]
    for _ in range(ROUNDS):
        imports.append(_seconds([empty.python, "-c", IMPORTS]))
        with empty:
            serving.append(empty.seconds_to_serving)
            resident.append(_resident_megabytes(empty))
            status += [_ratio(command, [empty.python, "-c", IMPORTS]) for _ in range(PAIRS)]
        loading.append(_seconds(load))
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
        Bar("edge-agent status / these imports", median(status), 1.5, "lower"),
        Bar("llama-cpp-python with SmolLM2: one text read, s", median(loading), None, "lower"),
        Bar("daemon with SmolLM2: task SERVING, s", median(ready), 4, "lower"),
        Bar("daemon with SmolLM2: first answer, s", median(first), 4, "lower"),
        Bar("daemon with SmolLM2: first answer / llama-cpp-python", median(first) / median(loading), None, "lower"),
    ]


def _seconds(command: Sequence[str]) -> float:
    """Return how long a command takes."""
    started = time.monotonic()
    subprocess.run(command, capture_output=True, check=True, env=_ENVIRONMENT)  # noqa: S603 our own
    return time.monotonic() - started


def _ratio(command: Sequence[str], beside: Sequence[str]) -> float:
    """Return how many times as long a command takes as another one that runs right before it."""
    unit = _seconds(beside)
    return _seconds(command) / unit


def _weights_and_cells(daemon: RunningDaemon) -> tuple[str, str]:
    """Return the file of weights of the only engine, and how many tokens its context holds."""
    with daemon.admin() as admin:
        details = admin.status().engines[0].details
    [weights] = [path for path in (daemon.state_dir / "blobs").rglob("*") if path.is_file() and _is_gguf(path)]
    return str(weights), details["context_cells"]


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as opened:
        return opened.read(4) == b"GGUF"


def _resident_megabytes(daemon: RunningDaemon) -> float:
    with daemon.admin() as admin:
        return admin.status().resident_bytes / 1e6


def _wait_ready(daemon: RunningDaemon) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    with daemon.client() as client:
        while not client.serving(TASK):
            if time.monotonic() > deadline:
                raise TimeoutError(daemon.log.read_text())
            time.sleep(POLL_SECONDS)


def _classify(daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.classify(TASK, [TEXT])


if __name__ == "__main__":
    sys.exit(main(measure))
