"""bare/labels.py as the benchmark uses it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from benchmarks.llama import tasks
from benchmarks.llama.running import Settings

# As the engine's child has it.
ENVIRONMENT = {"GOMP_SPINCOUNT": "5000", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


class BareScorer:
    """A process that scores the labels of the few-shot task."""

    def __init__(self, settings: Settings) -> None:
        """Note what to load."""
        options = (str(settings.weights), str(settings.threads), str(tasks.CONTEXT_TOKENS), settings.flash_attention)
        self._command = [sys.executable, "-m", "benchmarks.bare.labels", *options]

    def __enter__(self) -> Self:
        """Start it, and give it the prompt."""
        pipe = subprocess.PIPE
        environment = {**os.environ, **ENVIRONMENT}
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True, env=environment)  # noqa: S603 - our own module
        prefix, _, _ = tasks.CLASSIFY.template.partition(" {input}")
        self._send({"prefix": prefix, "labels": tasks.CLASSIFY.labels})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._process.communicate()

    def p50_ms(self, inputs: Sequence[str]) -> float:
        """Return the median time of the texts; each is everything after the prefix."""
        self._send(inputs)
        assert self._process.stdout is not None
        return 1000 * float(self._process.stdout.readline())

    def _send(self, what: object) -> None:
        assert self._process.stdin is not None
        print(json.dumps(what), file=self._process.stdin, flush=True)
