"""The process in which files are read: so many cases or seconds of each target, each case in a map that outlives it.

    python -m tests.support.fuzz.worker TARGET[,TARGET...] FOLDER --seed SEED [--runs N] [--seconds T] [--guided CORPUS]
    python -m tests.support.fuzz.worker TARGET FOLDER --case FILE

It prints a line of JSON for each defect, and one at the end. `driver.py` starts it and takes over what it cannot say
itself: that it died, or hangs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

CASE_BYTES_MAX = 1 << 20
NAME_BYTES = 32
HEAD = struct.Struct(f"<{NAME_BYTES}sQQ")
MAP_BYTES = CASE_BYTES_MAX + HEAD.size
GUIDED_BYTES_MAX = 64 * 1024
DATA_BYTES_MAX = 3 << 30
"""Of private memory: more is refused by the kernel, so that no case takes the machine's."""
INSTRUMENTED = (
    *(f"edge_agent.{name}" for name in ("formats", "store", "update", "engine.runtimes.llama.header")),
    "tarfile",
    "tuf",
)


class Progress:
    """The number of started cases and the current one, in a file that outlives this process."""

    def __init__(self, path: Path) -> None:
        """Map it."""
        path.touch()
        os.truncate(path, MAP_BYTES)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), MAP_BYTES)

    def begin(self, target: str, number: int, case: bytes) -> None:
        """Note the case."""
        case = case[:CASE_BYTES_MAX]
        self._map[: HEAD.size] = HEAD.pack(target.encode(), number, len(case))
        self._map[HEAD.size : HEAD.size + len(case)] = case

    def now(self) -> tuple[str, int, bytes]:
        """Return the target, the number of the case, and the case."""
        target, number, length = HEAD.unpack(self._map[: HEAD.size])
        return target.rstrip(b"\0").decode(), number, self._map[HEAD.size : HEAD.size + length]


class Worker:
    """One target in this process."""

    def __init__(self, name: str, told: argparse.Namespace, answer: Any) -> None:
        """Make the reader."""
        from tests.support.fuzz import corpus  # noqa: PLC0415 - after the hook that instruments what is imported
        from tests.support.fuzz.judge import Judge  # noqa: PLC0415
        from tests.support.fuzz.targets import TARGETS  # noqa: PLC0415

        self.target, self._told, self._answer = TARGETS[name], told, answer
        folder = Path(told.folder) / name
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = str(folder)
        self._judge = Judge(self.target, folder)
        self._progress = Progress(Path(told.folder) / "progress")
        self._ended, self._shown = Counter[str](), set[str]()
        self._until = time.monotonic() + told.seconds if told.seconds else float("inf")
        self.cases = [*corpus.files(name).values(), *self.target.seeds(folder)]
        self.done = 0

    def one(self, case: bytes) -> None:
        """Read a case, and report a defect; of similar defects only the first."""
        self.done += 1
        self._progress.begin(self.target.name, self.done, case)
        verdict = self._judge.judge(case)
        self._ended[verdict.how] += 1
        if verdict.kind:
            alike = f"{verdict.kind} {verdict.how} {verdict.defect[:60]}"
            self._ended[f"defect: {verdict.kind}"] += 1
            if alike not in self._shown:
                self._shown.add(alike)
                self.say(kind=verdict.kind, how=verdict.how, defect=verdict.defect, case=case.hex())

    @property
    def over(self) -> bool:
        """Whether all requested cases are done, in addition to the given ones."""
        runs = 0 if self._told.seconds else self._told.runs or self.target.runs
        return bool(runs and self.done >= len(self.cases) + runs) or time.monotonic() >= self._until

    def end(self) -> None:
        """Report the results of all cases."""
        self.say(executions=self.done, ended=self._ended)

    def say(self, **told: object) -> None:
        """Print a line."""
        self._answer.write(json.dumps({"target": self.target.name, **told}) + "\n")
        self._answer.flush()

    def plain(self) -> None:
        """Read the corpus, then mutated copies of its files, the same ones for the same seed."""
        for case in self.cases:
            self.one(case)
        number = 0
        while not self.over:
            rng = Random(f"{self._told.seed} {self.target.name} {number}")
            self.one(self.target.mutate(rng, rng.choice(self.cases))[:CASE_BYTES_MAX])
            number += 1
        self.end()

    def guided(self, corpus_folder: Path) -> None:
        """Let libFuzzer choose the mutations by the code that earlier cases reached."""
        import atheris  # noqa: PLC0415

        corpus_folder.mkdir(parents=True, exist_ok=True)
        kept = Path(self._told.folder) / "given"
        kept.mkdir(exist_ok=True)
        for number, case in enumerate(self.cases):
            (kept / str(number)).write_bytes(case)

        def one(case: bytes) -> None:
            if self.over:
                self.end()
                os._exit(0)  # the fuzzer's own loop does not return
            self.one(case)

        def mutated(case: bytes, most: int, seed: int) -> bytes:
            rng = Random(seed)
            if rng.randrange(5) == 0:
                return bytes(atheris.Mutate(case, most))
            # What is spoilt again and again is refused at its first byte: half begin with a file that is sound.
            return self.target.mutate(rng, rng.choice((bytes(case), rng.choice(self.cases))))[:most]

        options = [
            "-timeout=1000000",
            "-rss_limit_mb=0",
            "-detect_leaks=0",
            "-verbosity=0",
            f"-max_len={GUIDED_BYTES_MAX}",
            f"-artifact_prefix={self._told.folder}/",
        ]
        seed = f"-seed={Random(self._told.seed).randrange(1, 2**31)}"
        quiet = ("-handle_segv=0", "-handle_abrt=0", "-handle_bus=0", "-handle_fpe=0", "-handle_ill=0")
        given = [sys.argv[0], *options, *quiet, seed, str(corpus_folder), str(kept)]
        atheris.Setup(given, one, custom_mutator=mutated)
        atheris.Fuzz()


def _instrumented(guided: str) -> contextlib.AbstractContextManager[object]:
    """Return the block in which the readers are imported."""
    if not guided:
        return contextlib.nullcontext()
    import atheris  # noqa: PLC0415

    for name in [name for name in sys.modules if name.startswith(INSTRUMENTED)]:
        del sys.modules[name]
    instrumenting: contextlib.AbstractContextManager[object] = atheris.instrument_imports(include=list(INSTRUMENTED))
    return instrumenting


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("folder")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--guided", default="")
    parser.add_argument("--case", default="")
    told = parser.parse_args()
    # What libraries print goes to standard error; standard output is for this module alone.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name in told.target.split(","):
        with _instrumented(told.guided):
            worker = Worker(name, told, answer)
        if not worker.target.child:  # which has a limit of its own
            resource.setrlimit(resource.RLIMIT_DATA, (DATA_BYTES_MAX, DATA_BYTES_MAX))
        if told.case:
            worker.one(Path(told.case).read_bytes())
            worker.end()
        elif told.guided and worker.target.guided:
            worker.guided(Path(told.guided))
        else:
            worker.plain()


if __name__ == "__main__":
    main()
