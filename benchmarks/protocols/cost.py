"""A model that computes nothing, called in three ways, which measures the overhead of a server.

By tritonclient, with the same calls to the daemon and to MLServer, in turns; both on plain TCP, each with one process
that serves and one that computes. And by bare gRPC, with the same text by our own API and by the protocol, in turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from benchmarks.bars import Bar, median
from edge_agent.v1 import inference_pb2
from tests.support import environments
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.free_ports import free_port
from tests.support.open_inference import infer

TEXT = "I want my money back"
CALL_SECONDS_MAX = 30.0
ROUNDS, CALLS = 150, 40
"""Blocks are short, so that whatever else the machine does hits all of them alike."""
OTHER_MAX, OWN_MAX = 0.6, 1.15


def measure(rounds: int = ROUNDS) -> list[Bar]:
    """Start both servers for the first, the daemon alone for the second."""
    with tempfile.TemporaryDirectory() as path:
        folder, address = Path(path), f"localhost:{free_port()}"
        service = {"tcp_address": address, "insecure": True}
        with RunningDaemon(folder / "daemon", service=service) as daemon:
            daemon.install(echo_bundle(folder / "null", "null", labels=("refund", "price")))
            assert daemon.process is not None
            with MlServer(folder / "mlserver") as other:
                bars = _beside(other, address, daemon.process.pid, rounds)
            return bars + _beside_own(address, daemon.process.pid, rounds)


def _beside(other: MlServer, address: str, pid: int, rounds: int) -> list[Bar]:
    before = cpu_seconds(pid), cpu_seconds(other.pid)
    took = _load(rounds, address, other.target)
    spent = [after - begin for after, begin in zip((cpu_seconds(pid), cpu_seconds(other.pid)), before, strict=True)]
    ours, theirs = median(took[address]), median(took[other.target])
    calls = CALLS * (rounds + 1)
    return [
        Bar("null model by tritonclient: p50, ms", ours, theirs, "lower"),
        Bar(
            "null model by tritonclient: server CPU a call, us", 1e6 * spent[0] / calls, 1e6 * spent[1] / calls, "lower"
        ),
        Bar("null model by tritonclient: p50 vs MLServer", ours / theirs, OTHER_MAX, "lower"),
        Bar("null model by tritonclient: server CPU vs MLServer", spent[0] / spent[1], OTHER_MAX, "lower"),
    ]


def _load(rounds: int, *targets: str) -> dict[str, list[float]]:
    script = environments.CLIENTS / "triton_load.py"
    command = [str(environments.interpreter("triton")), str(script), str(rounds), str(CALLS), *targets]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own script
    took: dict[str, list[float]] = json.loads(said)
    return took


def _beside_own(address: str, pid: int, rounds: int) -> list[Bar]:
    own = inference_pb2.ClassifyRequest(task="null", texts=[TEXT]).SerializeToString()
    asked = {
        "/edge_agent.v1.InferenceService/Classify": own,
        "/inference.GRPCInferenceService/ModelInfer": infer("null", TEXT).SerializeToString(),
    }
    took: dict[str, list[float]] = {path: [] for path in asked}
    spent = dict.fromkeys(asked, 0.0)
    with grpc.insecure_channel(address) as channel:
        calls = {path: channel.unary_unary(path, None, None) for path in asked}
        for number in range(rounds + 1):
            for path, raw in asked.items():
                before = cpu_seconds(pid)
                seconds = [_seconds(calls[path], raw) for _ in range(CALLS)]
                if number:  # the first round is to warm up
                    took[path] += seconds
                    spent[path] += cpu_seconds(pid) - before
    first, second = asked
    return [
        Bar("the protocol vs our own API: p50", median(took[second]) / median(took[first]), OWN_MAX, "lower"),
        Bar("the protocol vs our own API: server CPU a call", spent[second] / spent[first], OWN_MAX, "lower"),
    ]


def _seconds(call: grpc.UnaryUnaryMultiCallable, raw: bytes) -> float:  # type: ignore[type-arg]
    began = time.perf_counter()
    call(raw, timeout=CALL_SECONDS_MAX)
    return time.perf_counter() - began


def family(pid: int) -> list[int]:
    """Return a process and all that come from it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """Return the processor time, user and system, of a process and all that come from it, to the microsecond.

    Threads that have ended are not in it; those of the servers here last as long as they do.
    """
    threads = [task for each in family(pid) for task in Path(f"/proc/{each}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in threads) / 1e9


START_SECONDS_MAX = 120.0
POLL_SECONDS = 0.2


class MlServer:
    """Started and ready inside the block."""

    def __init__(self, folder: Path) -> None:
        """Write its settings."""
        folder.mkdir(parents=True)
        self._folder = folder
        self._http, grpc_port, metrics = free_port(), free_port(), free_port()
        self.target = f"localhost:{grpc_port}"
        settings = {"host": "127.0.0.1", "http_port": self._http, "grpc_port": grpc_port, "metrics_port": metrics}
        (folder / "settings.json").write_text(json.dumps({**settings, "debug": False}))
        model = {"name": "null", "implementation": "null_model.NullModel"}
        (folder / "model-settings.json").write_text(json.dumps(model))
        (folder / "null_model.py").write_text((environments.CLIENTS / "null_model.py").read_text())

    def __enter__(self) -> Self:
        """Start it, and wait until it is ready."""
        python = str(environments.interpreter("mlserver"))
        log = (self._folder / "log").open("wb")
        # One thread wherever a library would take more: the daemon's engine has one, too.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [python, "-c", "from mlserver.cli.main import main; main()", "start", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, env=environment)  # noqa: S603 - pinned
        until = time.monotonic() + START_SECONDS_MAX
        while not self._ready():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < until, (self._folder / "log").read_text()
            time.sleep(POLL_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Its first process."""
        return self._process.pid

    def _ready(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self._http}/v2/models/null/ready"
            with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - on loopback
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
