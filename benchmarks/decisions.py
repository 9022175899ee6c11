"""Several questions about one text: their cost compared with one question, separate calls, and llama-server.

    python -m benchmarks.decisions [--json] [--part NAME]... [--rounds N] [--data FOLDER]

encoder: seven questions to an encoder in one call, beside one question and beside seven classify calls.
http: what the gateway adds to a call, by /v1/decisions and by its chat API.
open-questions: seven questions of the call on a decoder. The first time, llama-server is built, which takes minutes.
soft-targets: what is learned from a teacher's distributions, beside its labels, on the same rows: of a data set in the
FOLDER of --data, as scripts/bench public reads it, or else of descriptions of food.
false-proofs: how often any threshold of a bundle is proved falsely, by 1,000 resamples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks import public_data
from benchmarks.bars import Bar, main
from benchmarks.deciding import encoder_questions, false_proofs, http_questions, open_questions, soft_targets

PARTS: dict[str, Callable[[int], Iterable[Bar]]] = {
    "encoder": encoder_questions.measure,
    "http": http_questions.measure,
    "open-questions": open_questions.measure,
    "false-proofs": lambda _rounds: false_proofs.measure(),
}
SOFT_TARGETS = "soft-targets"
"""This part takes data instead of rounds."""
ROUNDS = 12


def measure() -> Iterator[Bar]:
    """Run all parts, or those named on the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench decisions", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line, as they come")
    parser.add_argument(
        "--part", action="append", choices=[*PARTS, SOFT_TARGETS], help="only this; may be given several times"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each system; fewer are less sure")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="a data set that others published")
    asked = parser.parse_args()
    try:
        data = public_data.read(asked.data)[0] if asked.data else None
    except (LookupError, OSError, ValueError) as error:
        parser.error(f"--data: {error}")
    for part in asked.part or [*PARTS, SOFT_TARGETS]:
        yield from soft_targets.measure(data) if part == SOFT_TARGETS else PARTS[part](asked.rounds)


if __name__ == "__main__":
    sys.exit(main(measure))
