"""Public data sets are read in their authors' layouts, and no test text is used for training or calibration."""

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


def test_banking77_keeps_its_official_test_set(tmp_path: Path):
    """For Banking77, test.csv is the test set and calibration rows are taken from train.csv; a text that is in both
    files is removed from training."""
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


def test_clinc150_is_read_without_out_of_scope_rows(tmp_path: Path):
    """For CLINC150, data_full.json is read by its splits; out-of-scope rows do not become a label."""
    named = {"train": rows("train"), "val": rows("val"), "test": rows("test"), "oos_test": [("what", "oos")]}
    (tmp_path / "data_full.json").write_text(json.dumps(named), encoding="utf-8")
    found = the_only(tmp_path)
    assert (True, 60, 60, 60) == (found.official, len(found.train), len(found.calibration), len(found.test))
    assert ["label-0", "label-1", "label-2"] == found.labels


def test_missing_test_set_is_split_from_the_training_rows(tmp_path: Path):
    """Without an official test set, one is split from the training rows by a hash of the text: independent of the row
    order, with texts that differ only in case or punctuation on the same side."""
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


def test_calibration_file_is_used_as_calibration_set(tmp_path: Path):
    """A folder with train, calibration and test files is used with exactly these splits."""
    write_jsonl(tmp_path / "a", train=rows("train"), calibration=rows("calibration", each=5), test=rows("test"))
    found = the_only(tmp_path / "a")
    assert (True, 60, 15, 60, ()) == (
        found.official, len(found.train), len(found.calibration), len(found.test), found.notes)  # fmt: skip


def test_quick_mode_limits_the_rows_per_label(tmp_path: Path):
    """Quick mode keeps at most 30, 10 and 10 rows per label, and a note states these numbers so that the figures are
    not taken for the whole data set."""
    write_jsonl(tmp_path / "a", train=rows("train", each=60), validation=rows("validation"), test=rows("test"))
    found = public_data.quick(the_only(tmp_path))
    assert (90, 30, 30) == (len(found.train), len(found.calibration), len(found.test))
    assert found.notes[-1].startswith("quick: at most 30, 10 and 10 rows of a label")


def test_folder_without_training_data_is_an_error(tmp_path: Path):
    """A folder without a training file raises an error, even if it has other files such as texts with marked values."""
    write_jsonl(tmp_path / "pii", dev=[("text", "label")])
    with pytest.raises(LookupError, match=r"holds no train\.jsonl, train\.csv or data_full\.json"):
        public_data.read(tmp_path)


def test_rows_with_a_label_missing_from_training_are_left_out(tmp_path: Path) -> None:
    """Calibration and test rows whose label has no training row are left out, because neither of the compared models
    could learn it."""
    strange = [("out of scope", "oos"), ("another one", "oos")]
    write_jsonl(
        tmp_path / "x", train=rows("train"), calibration=rows("calibration") + strange[:1], test=rows("test") + strange
    )
    found = the_only(tmp_path / "x")
    assert {"label-0", "label-1", "label-2"} == {label for _, label in (*found.calibration, *found.test)}
    assert "2 rows for calibration or test have a label that no training row has: left out" in found.notes


def test_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    """The error names a folder that does not exist or has no data."""
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(LookupError, match=re.escape(str(folder))):
            public_data.read(folder)
