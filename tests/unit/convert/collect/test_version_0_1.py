"""Files that a site and a central team of version 0.1 wrote are read correctly.

tests/data/version-0.1 was written by the code of that version (commit 071dbaca, 2026-11-26): a site with a large model
answered ten texts and one record, two of them without a network, two in mode shadow; people judged five texts and the
record. `store` has the segments that the site sealed, `collected` the files that `edge-convert collect` made of them.
Its key is `identity.txt`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import duckdb
import pyrage
import pytest

from convert.calibrate.threshold import Risk
from convert.dataset.assessment import assess
from convert.dataset.dataset_files import write
from convert.dataset.example_scope import open_examples
from convert.dataset.selection import DatasetSelection
from convert.publish.central_keys import CentralKeys
from tests.support.examples import CENTRAL_KEY
from tests.support.segments import CentralTeam

OLD = Path(__file__).parents[3] / "data" / "version-0.1"
TASK = "pos-intent"
ANSWERS = [
    # input, local answer, teacher answer, confident, right answer, teacher label
    ("hmm blue", "exchange", "hours", False, "hours", None),
    ("hmm green", "hours", "hours", False, "price", None),
    ("hmm mail [EMAIL_1]", "payment", None, False, None, "hours"),
    ("hmm red", "price", None, False, None, "hours"),
    ("hmm yellow", "stock", "hours", False, None, None),
    ("price of the lamp", "price", None, True, "stock", None),
    ("refund again", "refund", None, True, None, None),
    ("refund in the shadow", "refund", "refund", True, None, None),
    ("refund please", "refund", None, True, "refund", None),
    ("when are you open, card [CARD_1]", "loyalty", "hours", False, None, None),
]


def collected(folder: Path, way: str) -> Path:
    """Return a collected folder: as version 0.1 left it, continued by today's collect, or made from the sealed
    segments."""
    identity = pyrage.x25519.Identity.from_str((OLD / "identity.txt").read_text().strip())
    central = CentralTeam(folder, keys=CentralKeys((identity,), CENTRAL_KEY))
    if way != "segments":
        shutil.copytree(OLD / "collected", central.out)
    if way != "Parquet":
        shutil.copytree(OLD / "store", folder / "store")  # collect lays receipts there
        report = central.collect(folder / "store")
        assert (True, 1) == (report.clean, report.segments_held)
        assert (report.segments_taken == 1) == (way == "segments")
    return central.out


@pytest.mark.parametrize("way", ["Parquet", pytest.param("collected again", marks=pytest.mark.slow), "segments"])
def test_answers_of_version_0_1_are_read(tmp_path: Path, way: str):
    """Each answer is attributed to its model, a confidence belongs to the local answer alone, and no example counts as
    drawn at random."""
    folder = collected(tmp_path, way)
    columns = "input, local_answer, teacher_answer, sure, truth, opinion"
    with duckdb.connect() as connection:
        open_examples(connection, folder, TASK)
        assert ANSWERS == connection.execute(f"SELECT {columns} FROM examples ORDER BY input").fetchall()
        graded = "confidence BETWEEN 0.15 AND 1 AND threshold = 0.9 AND (confidence >= threshold) = sure"
        assert [(True,)] == connection.execute(f"SELECT bool_and({graded}) FROM examples").fetchall()
        open_examples(connection, folder, "receipts")
        unknown = "local_answer, confidence, sure, teacher_answer = output"
        assert [(None, None, False, True)] == connection.execute(f"SELECT {unknown} FROM examples").fetchall()
    found = assess(folder, TASK, Risk(0.05, 0.1))
    assert (10, 5, 4, 0) == (found.examples, found.reviewed, found.usable, found.audit_reviews)


def test_dataset_of_version_0_1_has_only_training_rows(tmp_path: Path):
    """Labels of people and of the large model are training rows, each with its source; calibration and test are empty
    because no row was drawn."""
    folder = collected(tmp_path, "Parquet")
    summary = write(DatasetSelection(folder, TASK, "opinions"), "text-label", tmp_path / "data")
    assert {"train": 8, "calibration": 0, "test": 0} == summary.rows
    rows = [json.loads(line) for line in (tmp_path / "data" / "train.jsonl").read_text("utf-8").splitlines()]
    people = {(row["text"], row["label"]): (row["label_source"], row["labeled_by"]) for row in rows
              if row["label_source"] != "teacher"}  # fmt: skip
    expected = {
        ("refund please", "refund"): ("reviewed", "anna"),
        ("price of the lamp", "stock"): ("corrected", "anna"),
        ("hmm blue", "hours"): ("reviewed", "ben"),
        ("hmm green", "price"): ("corrected", "ben"),
    }
    assert expected == people
    taught = [row for row in rows if row["label_source"] == "teacher"]
    assert {"oracle-1"} == {row["labeled_by"] for row in taught}
    assert not any("[EMAIL_1]" in row["text"] or "[CARD_1]" in row["text"] for row in rows)
    assert not any("sampling_probability" in row for row in rows)
