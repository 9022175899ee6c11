"""The large model of the flywheel: a scripted oracle with the right labels, and errors in a share of its answers.

    python -m benchmarks.flywheel.oracle ROWS --wrong 0.06     # prints its address; ends with its standard input

It is called an oracle and not a model, since it is none: it looks the right label up in a file, and says another one
where a hash of the text says so. So the same text gets the same answer, its errors know nothing of what is hard, and
its accuracy is known. All the rest is real: HTTP, the chat API of OpenAI, streams, JSON by a schema, counted tokens.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flywheel.commands import StepFailed
from benchmarks.flywheel.goods import Row
from tests.support.large_model import LargeModel

SEED = "oracle 1"


@dataclass(frozen=True)
class Oracle:
    """The oracle's answer to each text."""

    rows: Sequence[Row]
    wrong_share: float

    def answers(self) -> dict[str, str]:
        """Return its label by text."""
        labels = sorted({row.label for row in self.rows})
        return {row.text: self._said(row, labels) for row in self.rows}

    def _said(self, row: Row, labels: list[str]) -> str:
        chance = random.Random(f"{SEED} {row.text}")  # noqa: S311 - not for secrets
        wrong = chance.random() < self.wrong_share
        return chance.choice([label for label in labels if label != row.label]) if wrong else row.label


@contextmanager
def running(oracle: Oracle, folder: Path) -> Iterator[str]:
    """Run it as a process, and yield its address."""
    file = folder / "oracle.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in oracle.rows), encoding="utf-8")
    command = [sys.executable, "-m", __spec__.name, str(file), "--wrong", str(oracle.wrong_share)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            if not address:
                raise StepFailed(f"the oracle did not start: {shlex.join(command)}")
            yield address
        finally:
            process.stdin.close()


def main() -> None:
    """Answer until standard input ends, as it does when the parent process ends."""
    parser = argparse.ArgumentParser(description="Speak the chat API of OpenAI, with answers from a file.")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--wrong", type=float, required=True)
    given = parser.parse_args()
    if not 0 <= given.wrong < 1:
        parser.error("--wrong is a share, from 0 to 1")
    rows = [Row(*json.loads(line)) for line in given.rows.read_text("utf-8").splitlines()]
    answers = Oracle(rows, given.wrong).answers()
    with LargeModel(answers.__getitem__) as served:
        sys.stdout.write(f"{served.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
