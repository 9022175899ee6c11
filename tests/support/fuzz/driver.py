"""Runs one target in separate processes, and returns the findings.

report = fuzz(TARGETS["manifest"], folder, seed="1", seconds=60, guided=Path(".cache/fuzz/manifest"))
report.executions, report.defects
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.errors import BY_REASON, EdgeAgentError
from tests.support.eventually import eventually_sync
from tests.support.fuzz.targets import Target
from tests.support.fuzz.worker import Progress

KINDS = ("crash", "hang", "memory", "unexplained", "left")
SILENT_PROCESSOR_SECONDS_MAX = 30.0
SILENT_SECONDS_MAX = 300.0
"""Of a case: the process has then waited for something that does not come, or the machine stands still."""
STARTS_MAX = 20
SHOWN_BYTES = 200


@dataclass(frozen=True)
class Defect:
    """A defect that was found."""

    kind: str
    defect: str
    case: bytes


@dataclass
class Report:
    """The results of a target."""

    target: str
    seed: str
    executions: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    defects: list[Defect] = field(default_factory=list)
    settled: int = 0
    """Cases of which the library died, hung or wanted too much, and that an engine refused with a reason."""

    def count(self, kind: str) -> int:
        """Return the number of defects of a kind; similar ones count once."""
        return sum(each.kind == kind for each in self.defects)

    def told(self, folder: Path) -> list[str]:
        """Write the cases with a defect to a folder, and return the command that repeats each."""
        lines = []
        for number, each in enumerate(self.defects, 1):
            path = folder / f"{self.target}-{each.kind}-{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(each.case)
            more = f"{each.case[:SHOWN_BYTES].hex()}{'…' if len(each.case) > SHOWN_BYTES else ''}"
            lines.append(
                f"{self.target}, seed {self.seed}: {each.kind}: {each.defect}\n"
                f"  again: python -m tests.support.fuzz.worker {self.target} /tmp/fuzz --case {path}\n"
                f"  {len(each.case)} bytes: {more}"
            )
        return lines


def fuzz(
    target: Target, folder: Path, seed: str, *, seconds: float = 0.0, runs: int = 0, guided: Path | None = None
) -> Report:
    """Read that many cases, or for that time. A process that dies is recorded, and the next one continues."""
    report, until = Report(target.name, seed), time.monotonic() + seconds
    where = ["--guided", str(guided)] if guided and target.guided else []
    for start in range(STARTS_MAX):
        left = until - time.monotonic()
        if seconds and left <= 0:
            break
        much = ["--seconds", str(left)] if seconds else ["--runs", str(max(runs - report.executions, 1))]
        if _one_process([report], folder / str(start), f"{seed}.{start}" if start else seed, [*much, *where]):
            break
    return settled(target, folder, report)


def fuzz_together(targets: Sequence[Target], folder: Path, seed: str) -> list[Report]:
    """Read the corpus and `runs` new cases of each in one process; where that dies, the rest is not read."""
    reports = [Report(target.name, seed) for target in targets]
    _one_process(reports, folder / "together", seed, [])
    return [settled(target, folder, report) for target, report in zip(targets, reports, strict=True)]


def settled(target: Target, folder: Path, report: Report) -> Report:
    """Drop defects that an engine's child process contains: files that crash a library, which the daemon refuses."""
    if target.settle is not None:
        report.defects = [each for each in report.defects if not _settled(target, folder / "settled", each, report)]
    return report


def _one_process(reports: Sequence[Report], folder: Path, seed: str, more: list[str]) -> bool:
    """Run a process to its end; return whether it ended normally."""
    folder.mkdir(parents=True)
    answers, log = folder / "answers", folder / "log"
    progress, by_name = Progress(folder / "progress"), {report.target: report for report in reports}
    with answers.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fuzz.worker", ",".join(by_name), str(folder), "--seed", seed, *more],
            stdout=out,
            stderr=err,
            stdin=subprocess.DEVNULL,
            # A module that a case imports first would be written as a file, which is a defect of no reader.
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        try:
            hung = _watched(process, progress)
        finally:
            process.kill()
            process.wait()
    for line in answers.read_bytes().splitlines():
        _take(json.loads(line), by_name)
    if not hung and process.returncode == 0:
        return True
    target, number, case = progress.now()
    report = by_name.get(target, reports[0])
    report.executions += number
    said = log.read_bytes()[-1000:].decode(errors="replace")
    kind, why = ("hang", "the process does nothing more") if hung else ("crash", f"exit {process.returncode}: {said}")
    report.defects.append(Defect(kind, why, case))
    return False


def _take(told: dict[str, Any], reports: Mapping[str, Report]) -> None:
    """Parse a line of a process's output."""
    report = reports[told["target"]]
    if "executions" in told:
        report.ended.update(told["ended"])
        report.executions += told["executions"]
    else:
        report.defects.append(Defect(told["kind"], told["defect"], bytes.fromhex(told["case"])))


def _watched(process: subprocess.Popen[bytes], progress: Progress) -> bool:
    """Wait for the end of a process; true when it reads one case for too long."""
    number, processor, since, hung = ("", 0), 0.0, time.monotonic(), False

    def ended() -> bool:
        nonlocal number, processor, since, hung
        now, spent = progress.now()[:2], _processor_seconds(process.pid)
        if now != number:
            number, processor, since = now, spent, time.monotonic()
        silent = time.monotonic() - since
        hung = number[1] > 0 and (spent - processor > SILENT_PROCESSOR_SECONDS_MAX or silent > SILENT_SECONDS_MAX)
        return hung or process.poll() is not None

    eventually_sync(ended, float("inf"))
    return hung


def _processor_seconds(pid: int) -> float:
    with contextlib.suppress(OSError):
        return time.clock_gettime(~pid << 3 | 2)  # CPUCLOCK_SCHED of a whole process, clock_getcpuclockid(3)
    return 0.0


def _settled(target: Target, folder: Path, defect: Defect, report: Report) -> bool:
    """Return whether an engine's child process reads the file, or refuses it with a reason."""
    if defect.kind not in ("crash", "hang", "memory"):
        return False
    assert target.settle is not None
    folder.mkdir(exist_ok=True)
    how = "read"
    try:
        target.settle(folder, defect.case)
    except EdgeAgentError as error:
        if error.reason not in BY_REASON or error.reason == "INTERNAL":
            return False
        how = error.reason
    report.settled += 1
    report.ended[f"{defect.kind} in this process, {how} in an engine"] += 1
    return True


def seed_of_the_day(given: str | None = None) -> str:
    """Return EDGE_AGENT_FUZZ_SEED, or the number of the day: every day reads other cases."""
    return given or os.environ.get("EDGE_AGENT_FUZZ_SEED") or str(int(time.time()) // 86_400)
