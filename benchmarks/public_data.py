"""Public sets of labelled texts, in their authors' formats or as JSONL, and rows made from them.

    FOLDER/train.csv, test.csv             text,category                       BANKING77 (PolyAI)
    FOLDER/data_full.json                  {"train": [[text, label], ...]}     CLINC150 (clinc/oos-eval)
    FOLDER/train.jsonl, calibration.jsonl, validation.jsonl, test.jsonl        {"text": ..., "label": ...}

or a folder of such folders. Calibration rows are `calibration`, else `validation`, else carved out of the training
rows; test rows are the official ones where they are there, else carved out of the training rows. What is carved is
chosen by a hash of its text, label by label. Texts of the test that also stand elsewhere are taken out there.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from convert.data.data_row import normalised

CARVED_SHARE = 0.15
SEED = 1
_CLINC = "data_full.json"
_QUICK_ROWS = {"train": 30, "calibration": 10, "test": 10}

Text = tuple[str, str]
"""A text and its label."""


@dataclass(frozen=True)
class PublicData:
    """One data set in three splits."""

    name: str
    train: tuple[Text, ...]
    calibration: tuple[Text, ...]
    test: tuple[Text, ...]
    official: bool
    """Whether the test is the authors'."""
    notes: tuple[str, ...]
    """What was carved and left out, as sentences."""

    @property
    def labels(self) -> list[str]:
        """Return the labels that can be learnt."""
        return sorted({label for _, label in self.train})


def read(folder: Path) -> list[PublicData]:
    """Read the data set in a folder, or those in its subfolders. Raises LookupError if there is none."""
    if not folder.is_dir():
        raise LookupError(f"{folder} is no folder")
    places = [folder, *sorted(each for each in folder.iterdir() if each.is_dir())]
    found = [_divided(place.name, splits) for place in places if (splits := _splits(place)).get("train")]
    if not found:
        raise LookupError(f"{folder} holds no train.jsonl, train.csv or {_CLINC}, nor does a folder in it")
    return found


def quick(data: PublicData) -> PublicData:
    """Return some rows of each label."""
    cut = {split: _some(getattr(data, split), rows) for split, rows in _QUICK_ROWS.items()}
    note = "quick: at most {train}, {calibration} and {test} rows of a label".format(**_QUICK_ROWS)
    return replace(
        data, train=cut["train"], calibration=cut["calibration"], test=cut["test"], notes=(*data.notes, note)
    )


def _splits(folder: Path) -> dict[str, list[Text]]:
    if (folder / _CLINC).is_file():
        whole = json.loads((folder / _CLINC).read_text("utf-8"))
        named = {"train": "train", "validation": "val", "test": "test"}
        return {split: [(text, label) for text, label in whole[key]] for split, key in named.items()}
    return {split: _rows(folder, split) for split in ("train", "calibration", "validation", "test")}


def _rows(folder: Path, split: str) -> list[Text]:
    lines, table = folder / f"{split}.jsonl", folder / f"{split}.csv"
    if lines.is_file():
        plain = [json.loads(line) for line in lines.read_text("utf-8").splitlines() if line.strip()]
        return [(row["text"], row["label"]) for row in plain if {"text", "label"} <= row.keys()]
    if table.is_file():
        with table.open(encoding="utf-8", newline="") as file:
            return [(row["text"], row["category"]) for row in csv.DictReader(file)]
    return []


def _divided(name: str, splits: dict[str, list[Text]]) -> PublicData:
    train, test = splits["train"], splits["test"]
    calibration = splits.get("calibration") or splits["validation"]
    notes = []
    official = bool(test)
    if not official:
        test, train = _carved(train, "test")
        notes.append(f"the test is a development test, {len(test)} rows carved out of the training rows")
    if not calibration:
        calibration, train = _carved(train, "calibration")
        notes.append(f"{len(calibration)} rows for calibration were carved out of the training rows")
    known = {_key(text) for text, _ in test}
    calibrating, dropped = _without(calibration, known)
    learning, more = _without(train, known | {_key(text) for text, _ in calibrating})
    if dropped + more:
        notes.append(f"{dropped + more} rows for training or calibration have a text of a later split: left out")
    labels = {label for _, label in learning}
    kept, asked = ([row for row in rows if row[1] in labels] for rows in (calibrating, test))
    if strange := len(calibrating) - len(kept) + len(test) - len(asked):
        notes.append(f"{strange} rows for calibration or test have a label that no training row has: left out")
    return PublicData(name, tuple(learning), tuple(kept), tuple(asked), official, tuple(notes))


def _carved(rows: Sequence[Text], purpose: str) -> tuple[list[Text], list[Text]]:
    """Return a share of each label's rows, and the others; rows of the same text stay together."""
    by_label = defaultdict[str, list[Text]](list)
    for row in rows:
        by_label[row[1]].append(row)
    taken: set[str] = set()
    for label in sorted(by_label):
        keys = sorted({_key(text) for text, _ in by_label[label]}, key=lambda key: _hashed(f"{SEED} {purpose} {key}"))
        taken.update(keys[: round(CARVED_SHARE * len(keys))])
    return [row for row in rows if _key(row[0]) in taken], [row for row in rows if _key(row[0]) not in taken]


def _without(rows: Sequence[Text], known: set[str]) -> tuple[list[Text], int]:
    kept = [row for row in rows if _key(row[0]) not in known]
    return kept, len(rows) - len(kept)


def _some(rows: Sequence[Text], count: int) -> tuple[Text, ...]:
    seen: dict[str, int] = defaultdict(int)
    kept = []
    for text, label in sorted(rows, key=lambda row: _hashed(row[0])):
        seen[label] += 1
        if seen[label] <= count:
            kept.append((text, label))
    return tuple(kept)


def _key(text: str) -> str:
    return normalised(text)


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
