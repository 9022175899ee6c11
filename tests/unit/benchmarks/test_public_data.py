"""Data sets of others are read in the layouts of their authors, and no text of a test is trained or calibrated on."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from benchmarks import public_data
from benchmarks.public_data import PublicData

Rows = list[tuple[str, str]]


def rows(split: str, labels: int = 3, each: int = 20) -> Rows:
    return [
        (f"{split} text {number} of label {label}", f"label-{label}")
        for label in range(labels)
        for number in range(each)
    ]


def write_jsonl(folder: Path, **splits: Rows) -> None:
    folder.mkdir(parents=True)
    for split, members in splits.items():
        lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in members)
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def the_only(folder: Path) -> PublicData:
    (found,) = public_data.read(folder)
    return found


def parts(found: PublicData) -> dict[str, set[str]]:
    return {split: {text for text, _ in getattr(found, split)} for split in ("train", "calibration", "test")}


def test_the_official_test_of_banking77_is_the_test(tmp_path: Path):
    """train.csv and test.csv as their authors publish them; calibration rows are carved out of the training rows."""
    for split in ("train", "test"):
        with (tmp_path / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([("text", "category"), ('with "quotes", and a\nline', "label-0"), *rows(split)])
    found = the_only(tmp_path)
    assert found.official
    assert 61 == len(found.test)
    assert 9 == len(found.calibration)
    assert {"label-0", "label-1", "label-2"} == {label for _, label in found.calibration}
    # The text that stands in both files is trained on no more.
    assert 'with "quotes", and a\nline' in parts(found)["test"] - parts(found)["train"]
    assert any("have a text of a later split: left out" in note for note in found.notes)


def test_the_file_of_clinc150_is_read(tmp_path: Path):
    """data_full.json with lists of text and label; what is out of scope there is no label."""
    named = {"train": rows("train"), "val": rows("val"), "test": rows("test"), "oos_test": [("what", "oos")]}
    (tmp_path / "data_full.json").write_text(json.dumps(named), encoding="utf-8")
    found = the_only(tmp_path)
    assert (True, 60, 60, 60) == (found.official, len(found.train), len(found.calibration), len(found.test))
    assert ["label-0", "label-1", "label-2"] == found.labels


def test_without_an_official_test_one_is_carved_out_of_the_training_rows(tmp_path: Path):
    """By a hash of the text, label by label: whatever the order of the file, and no text twice."""
    train = [*rows("train"), ("Train text 0 of label 0.", "label-0")]  # the same text, but for case and full stop
    write_jsonl(tmp_path / "one" / "a", train=train, validation=rows("validation"))
    write_jsonl(tmp_path / "two" / "a", train=train[::-1], validation=rows("validation"))
    found = the_only(tmp_path / "one")
    assert parts(found) == parts(the_only(tmp_path / "two"))
    assert not found.official
    assert "a development test" in found.notes[0]
    split = parts(found)
    assert 60 == len(split["calibration"])
    assert not split["train"] & split["test"]
    once = {"train text 0 of label 0", "Train text 0 of label 0."}
    assert once <= split["test"] or once <= split["train"]


def test_a_calibration_file_comes_before_a_validation_file(tmp_path: Path):
    """The files of a folder with a division of its own are used as they are."""
    write_jsonl(tmp_path / "a", train=rows("train"), calibration=rows("calibration", each=5), test=rows("test"))
    found = the_only(tmp_path / "a")
    assert (True, 60, 15, 60, ()) == (
        found.official, len(found.train), len(found.calibration), len(found.test), found.notes)  # fmt: skip


def test_some_rows_of_each_label_are_quick(tmp_path: Path):
    """The numbers stand in the notes, so that nobody takes the figures for those of the whole."""
    write_jsonl(tmp_path / "a", train=rows("train", each=60), validation=rows("validation"), test=rows("test"))
    found = public_data.quick(the_only(tmp_path))
    assert (90, 30, 30) == (len(found.train), len(found.calibration), len(found.test))
    assert found.notes[-1].startswith("quick: at most 30, 10 and 10 rows of a label")


def test_a_folder_without_data_is_an_error(tmp_path: Path):
    """Also one with a file of another kind, such as texts with marked values."""
    write_jsonl(tmp_path / "pii", dev=[("text", "label")])
    with pytest.raises(LookupError, match=r"holds no train\.jsonl, train\.csv or data_full\.json"):
        public_data.read(tmp_path)


def test_a_label_that_no_training_row_has_is_neither_asked_nor_calibrated(tmp_path: Path) -> None:
    """Both models that are compared answer the same rows, so none has a label that neither could learn."""
    strange = [("out of scope", "oos"), ("another one", "oos")]
    write_jsonl(
        tmp_path / "x", train=rows("train"), calibration=rows("calibration") + strange[:1], test=rows("test") + strange
    )
    found = the_only(tmp_path / "x")
    assert {"label-0", "label-1", "label-2"} == {label for _, label in (*found.calibration, *found.test)}
    assert "2 rows for calibration or test have a label that no training row has: left out" in found.notes


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """As is one without data."""
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(LookupError, match=re.escape(str(folder))):
            public_data.read(folder)
