"""llama-server as a process: in its defaults, but for what has to be the same on both sides."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.free_ports import free_port

START_SECONDS_MAX = 120.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Settings:
    """What both sides have in common."""

    weights: Path
    threads: int
    cells: int
    """Tokens of all requests together that the key-value cache holds."""
    streams: int
    flash_attention: str
    """on or off, as the engine has it."""

    def arguments(self) -> list[str]:
        """Return llama-server's; batch sizes, caches of prompts and all else stay as they are."""
        return [
            *("-m", str(self.weights), "-t", str(self.threads), "-c", str(self.cells), "-np", str(self.streams)),
            *("--kv-unified", "-ctk", "f16", "-ctv", "f16", "-fa", self.flash_attention),
        ]


class LlamaServer:
    """Started and ready inside the block."""

    def __init__(self, program: Path, settings: Settings, log: Path) -> None:
        """Note what to start."""
        self.port = free_port()
        self._command = [str(program), *settings.arguments(), "--host", "127.0.0.1", "--port", str(self.port)]
        self._log = log

    def __enter__(self) -> Self:
        """Start it, and wait until the model is loaded."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)  # noqa: S603 - that we have built
        until = time.monotonic() + START_SECONDS_MAX
        while not self._ready():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < until, self._log.read_text()
            time.sleep(POLL_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()

    def count(self, text: str) -> int:
        """Return how many tokens a text is to the model."""
        body = json.dumps({"content": text}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/tokenize", data=body)
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - likewise
            return len(json.load(answer)["tokens"])

    @property
    def processor_seconds(self) -> float:
        """What it has computed in all its life."""
        return time.clock_gettime(~self._process.pid << 3 | 2)  # clock_getcpuclockid(3)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
