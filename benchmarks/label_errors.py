"""Detection of wrong labels, with 8% flipped: scripts/bench label-errors [--json] [--data FOLDER].

    --data FOLDER   public data, in the layouts of benchmarks/public_data.py; otherwise descriptions of food in 16
                    groups, which a package that scripts/setup installs carries

Of the rows that `dataset.label_review` ranks first, as many as were flipped, this is the share that was flipped. Every
label is flipped with the same probability into any other one. The labels as published count as right, so what is wrong
there already counts against the ranking. Both ways to compare texts are measured: by letters and words, which is what
`assess` and `dataset` do by themselves, and by MiniLM's vectors, as with `--encoder`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import public_data
from benchmarks.bars import Bar, printed
from benchmarks.flywheel import goods
from convert.cli import progress_output
from convert.dataset import label_review
from convert.encoder.sentence_embeddings import sentence_vectors
from tests.support import models

FLIPPED_SHARE = 0.08
PRECISION_MIN = 0.7
SEED = 1


def main() -> int:
    """Measure each data set, print the bars, and return the exit code: 1 when one is missed."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench label-errors", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    try:
        sets = _read(asked.data)
    except (LookupError, OSError, ValueError) as error:
        parser.error(f"--data: {error}")
    return printed(lambda: (bar for each in sets for bar in measure(*each)), as_json=asked.json)


def measure(name: str, rows: list[tuple[str, str]]) -> Iterator[Bar]:
    """Flip labels, rank them, and count."""
    texts, labels = [text for text, _ in rows], sorted({label for _, label in rows})
    flipped, given = _flipped([label for _, label in rows], labels)
    with progress_output.bar() as advance:
        ways: dict[str, Callable[[], npt.ArrayLike]] = {
            "letters and words": lambda: label_review.ngram_vectors(texts),
            "MiniLM": lambda: sentence_vectors(models.minilm_dir(), texts, advance),
        }
        for way, vectors in ways.items():
            began = time.monotonic()
            found = label_review.find(vectors, given, texts)
            if found is None:
                raise ValueError(f"{name} has too few rows")
            first = [each.row in flipped for each in found.ranked[: len(flipped)]]
            what = f"{name}, {len(rows)} rows, by {way}"
            yield Bar(f"{what}: precision of the first 8%", round(float(np.mean(first)), 4), PRECISION_MIN, "higher")
            yield Bar(f"{what}: estimated of those flipped", found.estimated / len(flipped), None, "lower")
            yield Bar(f"{what}: seconds", round(time.monotonic() - began, 1), None, "lower")


def _flipped(right: list[str], labels: list[str]) -> tuple[set[int], list[str]]:
    """Return which rows were flipped, and the labels."""
    rng = np.random.default_rng(SEED)
    chosen: npt.NDArray[np.int64] = rng.permutation(len(right))[: round(FLIPPED_SHARE * len(right))]
    given = list(right)
    for row in chosen:
        given[row] = str(rng.choice([label for label in labels if label != right[row]]))
    return set(chosen.tolist()), given


def _read(folder: Path | None) -> list[tuple[str, list[tuple[str, str]]]]:
    if folder is not None:
        return [(data.name, list(data.train)) for data in public_data.read(folder)]
    with tempfile.TemporaryDirectory() as made:
        return [("goods", [(row.text, row.label) for row in goods.rows(Path(made))])]


if __name__ == "__main__":
    sys.exit(main())
