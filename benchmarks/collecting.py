"""Speed and memory of the central team's 'collect', from sealed segments to joined Parquet.

    python -m benchmarks.collecting [--json] [--examples N]

Segments of 1,000 records are made first, which is not measured: predictions of 500 characters with 12 labels, every
hundredth corrected, one in ten a duplicate. Then edge-convert collect runs as a process of its own, on one core.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar, main, option
from edge_agent.formats import example_records
from tests.support.command_result import measured
from tests.support.examples import feedback, prediction
from tests.support.segments import SealingSite

EXAMPLES = 100_000
RECORDS_PER_SEGMENT = 1_000
INPUT_CHARACTERS = 500
LABELS = 12
CORRECTED_EVERY, REPEATED_EVERY = 100, 10
SITES = 4
EXAMPLES_PER_SECOND_MIN = 2_000.0
# What collect may use for joining; besides it needs Python with its libraries, the records being taken in and the rows
# being written, which do not grow with the number of examples.
JOINING_MEBIBYTES = 256
RESIDENT_MEGABYTES_MAX = 800.0
AGAIN_SECONDS_MAX = 20.0


def measure(examples: int = EXAMPLES) -> list[Bar]:
    """Make segments, collect them, and once more when there is nothing new."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _run("keys", "create", str(root / "keys"))
        seal(root / "store", examples, (root / "keys" / "recipient.txt").read_text().strip())
        first, report = collect(root)
        again, _ = collect(root)
    held = report["tasks"][0]
    if (held["examples"], held["corrected"]) != (examples, examples // CORRECTED_EVERY) or report["gaps"]:
        raise AssertionError(f"collect lost or invented something: {report}")
    rate = examples / first.processor_seconds
    return [
        Bar("collect: examples a second of one core", rate, EXAMPLES_PER_SECOND_MIN, "higher"),
        Bar(
            f"collect of {examples} with {JOINING_MEBIBYTES} MiB to join in: peak resident, MB",
            first.megabytes,
            RESIDENT_MEGABYTES_MAX,
            "lower",
        ),
        Bar("collect: nothing new, s of one core", again.processor_seconds, AGAIN_SECONDS_MAX, "lower"),
    ]


@dataclass(frozen=True)
class Cost:
    """What one run of the command took. Processor time, so that other work on the machine does not count."""

    processor_seconds: float
    megabytes: float
    """Most memory resident."""


def seal(store: Path, examples: int, recipient: str) -> None:
    """Write the segments of a few sites, and their status."""
    sites = [SealingSite(store, f"shop-{number}") for number in range(SITES)]
    records = _records(examples)
    for turn in range(0, examples, RECORDS_PER_SEGMENT):
        site = sites[turn // RECORDS_PER_SEGMENT % SITES]
        count = min(RECORDS_PER_SEGMENT, examples - turn)
        site.seal([record for _ in range(count) for record in next(records)], recipients=(recipient,))
    for site in sites:
        site.say()


def _records(examples: int) -> Iterator[list[example_records.ExamplePrediction | example_records.ExampleFeedback]]:
    """Yield each prediction, with its correction if it has one."""
    rng = random.Random(5)  # noqa: S311 - texts, not secrets
    words = ["".join(rng.choices("abcdefghijklmnoprstuw", k=rng.randint(2, 9))) for _ in range(5_000)]
    labels = [f"label-{number}" for number in range(LABELS)]
    repeated = " ".join(rng.choices(words, k=INPUT_CHARACTERS // 5))[:INPUT_CHARACTERS]
    for number in range(examples):
        text = " ".join(rng.choices(words, k=INPUT_CHARACTERS // 5))[:INPUT_CHARACTERS]
        scores = [[label, 1 / LABELS] for label in labels]
        text = repeated if number % REPEATED_EVERY == 0 else text
        made = prediction(number, input=text, output=labels[number % LABELS], scores=scores)
        judged = [feedback(number, value=labels[0])] if number % CORRECTED_EVERY == 0 else []
        yield [made, *judged]


def collect(root: Path) -> tuple[Cost, dict[str, Any]]:
    """Run the command on one core; returns what it took, and its report."""
    where = ("--keys", str(root / "keys"), "--out", str(root / "collected"))
    output, cost = _run("collect", str(root / "store"), *where, "--json", "--memory-mib", str(JOINING_MEBIBYTES))
    return cost, json.loads(output)


def _run(*arguments: str) -> tuple[str, Cost]:
    core = str(min(os.sched_getaffinity(0)))
    command = ["/usr/bin/taskset", "-c", core, sys.executable, "-m", "convert.cli", *arguments]
    done = measured(command)
    if done.code:
        raise AssertionError(f"{arguments[0]} ended with {done.code}: {done.output}")
    return done.output, Cost(done.processor_seconds, done.resident_bytes / 1e6)


if __name__ == "__main__":
    sys.exit(main(lambda: measure(int(option("--examples", str(EXAMPLES))))))
