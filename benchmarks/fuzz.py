"""Hostile files for the readers of a site: each is refused with a reason, in bounded time and memory.

    python -m benchmarks.fuzz [--json] [--minutes N] [--target NAME,NAME] [--seed SEED]

A fuzzer guided by coverage (atheris) spoils files by field: manifests, archives, enrolment files, signed updates,
GGUF heads, ONNX graphs, tokenizers; and bundles that a real engine's child loads. The minutes (20) are spread over the
targets. What it finds is named on standard error, and each case is written to .cache/fuzz/found. docs/fuzzing.md has
the rest.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bars import Bar, main, option
from tests.support.fuzz.driver import KINDS, Report, fuzz, seed_of_the_day
from tests.support.fuzz.targets import TARGETS, Target

MINUTES = 20.0
CACHE = Path(".cache/fuzz")
EXECUTIONS_MIN = 10
"""A target that reads fewer was not fuzzed."""
NAMES = {
    "crash": "crashes",
    "hang": "hangs",
    "memory": "over the memory limit",
    "unexplained": "unexplained exceptions",
    "left": "writes or descriptors left",
}


def measure() -> Iterator[Bar]:
    """Fuzz each target for its share of the time."""
    names, seed = option("--target", ",".join(TARGETS)).split(","), seed_of_the_day(option("--seed"))
    if unknown := set(names) - set(TARGETS):
        sys.exit(f"There is no target {min(unknown)!r}; there are: {', '.join(TARGETS)}.")
    chosen = [TARGETS[name] for name in names]
    seconds = float(option("--minutes", str(MINUTES))) * 60 / sum(each.share for each in chosen)
    for target in chosen:
        yield from bars(target, fuzzed(target, seed, seconds * target.share))


def fuzzed(target: Target, seed: str, seconds: float) -> Report:
    """Fuzz a target, and print the findings on standard error."""
    with tempfile.TemporaryDirectory() as path:
        guided = CACHE / "corpus" / target.name if importlib.util.find_spec("atheris") else None
        report = fuzz(target, Path(path), seed, seconds=seconds, guided=guided)
    ended = ", ".join(f"{how} {count}" for how, count in report.ended.most_common())
    print(f"{target.name}: {ended}", file=sys.stderr, flush=True)  # noqa: T201
    for line in report.told(CACHE / "found"):
        print(line, file=sys.stderr, flush=True)  # noqa: T201
    return report


def bars(target: Target, report: Report) -> Iterator[Bar]:
    """Yield the bars."""
    yield Bar(f"fuzz {target.name}: executions", report.executions, EXECUTIONS_MIN, "higher")
    for kind in KINDS:
        name = NAMES[kind]
        if kind == "memory":
            name = f"over {target.memory_bytes_max / 1e6:.0f} MB more of memory"
        yield Bar(f"fuzz {target.name}: {name}", report.count(kind), 0, "lower")


if __name__ == "__main__":
    sys.exit(main(measure))
