"""Texts whose personal values are marked, and clean texts, in which nothing should be replaced.

    {"text": "…", "spans": [{"start": 3, "end": 9, "label": "PERSON"}, …], "language": "en"}     one a line

Offsets are in Unicode code points. `language` is optional.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flywheel import goods

NOT_COUNTED = frozenset({"ORGANIZATION", "GPE", "DATE_TIME", "TITLE", "AGE", "NRP"})
"""Classes that are outside the taxonomy: a value of them need not be replaced, and replacing it is not an error."""
PUBLIC_TEXTS = 1000
EXAMPLES = Path(__file__).parents[2] / "examples"
LOOKALIKES = Path(__file__).parents[2] / "tests" / "data" / "clean_lookalikes.txt"


@dataclass(frozen=True)
class MarkedValue:
    """One value in a text, from `start` to before `end`."""

    start: int
    end: int
    label: str

    @property
    def counts(self) -> bool:
        """Return whether it must be replaced."""
        return self.label not in NOT_COUNTED


@dataclass(frozen=True)
class MarkedText:
    """A text and its marked values."""

    text: str
    values: tuple[MarkedValue, ...] = ()
    language: str = ""


def read_marked(folder: Path) -> list[MarkedText]:
    """Read every *.jsonl of a folder, or of its folder `pii`. Raises LookupError if there is none."""
    files = sorted(folder.glob("*.jsonl")) or sorted(folder.glob("pii/*.jsonl"))
    if not files:
        raise LookupError(f"{folder} has no file *.jsonl of marked texts")
    return [_marked(json.loads(line)) for file in files for line in _lines(file)]


def _marked(row: dict[str, object]) -> MarkedText:
    spans = row["spans"]
    assert isinstance(spans, list)
    values = tuple(MarkedValue(span["start"], span["end"], span["label"]) for span in spans)
    return MarkedText(str(row["text"]), values, str(row.get("language", "")))


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        yield from (line for line in lines if line.strip())


def clean_texts(public: Path | None = None, most: int | None = None) -> dict[str, Sequence[str]]:
    """Return texts without personal data, by where they come from; with `most` no more of each, drawn by a seed.

    Customers' sentences of examples/pos-intent; names of goods of examples/retail-categories; look-alikes, which
    people wrote to look like personal data: article numbers, doses, readings, product names that are first names; and,
    where `public` has them, questions to a bank (BANKING77) and to an assistant (CLINC150), PUBLIC_TEXTS of each.
    Nobody marked those: a few have a first name or a town.
    """
    intents = sorted((EXAMPLES / "pos-intent" / "data").glob("*.jsonl"))
    with tempfile.TemporaryDirectory() as folder:
        names = [row.text for row in goods.rows(Path(folder))]
    found = {
        "customers' sentences": [json.loads(line)["text"] for file in intents for line in _lines(file)],
        "names of goods": names,
        "look-alikes": list(_lines(LOOKALIKES)),
    }
    found |= dict(public_texts(public)) if public else {}
    unlike = {name: list(dict.fromkeys(text.rstrip("\n") for text in texts)) for name, texts in found.items()}
    if most is None:
        return dict(unlike)
    drawn = random.Random("clean texts")  # noqa: S311 - not for secrets
    return {name: drawn.sample(texts, min(most, len(texts))) for name, texts in unlike.items()}


def public_texts(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield name and texts of the public sets in a folder, or next to it."""
    for name, title in (("banking77", "BANKING77"), ("clinc150", "CLINC150")):
        files = [file for where in (folder, folder.parent) for file in sorted((where / name).glob("train.jsonl"))]
        if files:
            texts = sorted({json.loads(line)["text"] for line in _lines(files[0])})
            yield title, random.Random(name).sample(texts, min(PUBLIC_TEXTS, len(texts)))  # noqa: S311 - not for secrets
