"""Dividing one file into splits whose calibration and test rows are valid for figures."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convert.cli import app
from convert.data.data_row import DataRow
from convert.data.row_lines import read_rows
from convert.data.splits import DIVISION_SHARES, divide, plain_of
from tests.support.mounts import tmpfs

WORDS = ("amber", "birch", "cobalt", "dahlia", "ember", "fjord", "garnet", "hazel", "indigo", "jasper")
TASK = "version: 1.0.0\nruntime: onnx\ntask: {name: t, kind: classify, labels: [refund, price]}\n"


def texts(count: int, first: int = 0) -> list[str]:
    """Return texts that are no near duplicates of each other, numbered from `first`."""
    numbers = range(first, first + count)
    return [" ".join(f"{WORDS[(at * k) % 10]} {at * k * 7919}" for k in (1, 3, 7, 11)) for at in numbers]


def people(count: int, **marks: Any) -> list[DataRow]:
    return [DataRow(text, label=("refund", "price")[at % 2], **marks) for at, text in enumerate(texts(count))]


def test_division_keeps_shares_families_and_near_duplicates():
    """Each label has its share of each split; a family, and a text with its near duplicate, stay in one split."""
    rows = people(100)
    rows += [DataRow(f"um {rows[50].text}", label="refund")]
    rows += [DataRow(text, label="price", family="fam") for text in texts(6, 900)]
    found = divide(rows, "1")
    assert Counter(rows) == Counter(row for members in found.values() for row in members)
    of_label = {split: Counter(row.label for row in members) for split, members in found.items()}
    assert all(abs(of_label["test"][label] - 0.15 * 53) <= 6 for label in ("refund", "price"))
    assert 1 == sum(any(row.family for row in members) for members in found.values())
    assert 1 == sum(bool({rows[50], rows[100]} & set(members)) for members in found.values())


@pytest.mark.parametrize(
    "marks", [{"synthetic": True}, {"label_source": "teacher", "labeled_by": "large-1"}, {"label_source": "model"}]
)
def test_rows_made_or_labelled_by_a_model_are_for_training(marks: dict[str, Any]):
    """A variant of a measured text is left out, because it must be neither measured nor learned."""
    rows = people(60)
    made = [DataRow(text, label="refund", **marks) for text in texts(30, 900)]
    variants = [DataRow(f"um {row.text}", label=row.label, **marks) for row in rows]
    found = divide([*rows, *made, *variants], "1")
    measured = [*found["calibration"], *found["test"]]
    assert 20 < len(measured) < 30
    assert set(measured) <= set(rows)
    assert set(made) <= set(found["train"])
    assert {f"um {row.text}" for row in measured}.isdisjoint(row.text for row in found["train"])
    assert len(measured) == 150 - sum(map(len, found.values()))


def test_only_audit_rows_are_measured_if_streams_are_known():
    """Rows that were reviewed because the model was uncertain are for training."""
    drawn = people(40, label_source="reviewed", review_stream="audit", sampling_probability=0.02)
    chosen = [
        DataRow(text, label="price", label_source="corrected", review_stream="uncertain") for text in texts(40, 900)
    ]
    found = divide([*drawn, *chosen], "1")
    assert {"audit"} == {row.review_stream for split in ("calibration", "test") for row in found[split]}
    assert set(chosen) <= set(found["train"])


def test_written_row_keeps_all_its_marks(tmp_path: Path):
    """Without its marks, a synthetic row or one of unknown probability could be measured."""
    row = DataRow(
        "a text",
        label="refund",
        **{"synthetic": True, "model": "m", "family": "f", "label_source": "teacher", "labeled_by": "large-1"},
        **{"review_stream": "audit", "sampling_probability": 0.02, "site": "s", "prediction_id": "p"},
        **{"composed": True, "consented": True},
    )
    for number, each in enumerate((row, DataRow("a text", label="refund"))):
        file = tmp_path / f"{number}.jsonl"
        file.write_text(json.dumps(plain_of(each)) + "\n")
        assert [each] == read_rows(file, "text-label")


def test_split_command_counts_the_training_only_rows(tmp_path: Path):
    """The output has the number of rows for training only, and the written rows keep their label source."""
    (tmp_path / "task.yaml").write_text(TASK)
    taught = [DataRow(text, label="price", label_source="teacher") for text in texts(20, 900)]
    lines = (json.dumps(plain_of(row)) + "\n" for row in [*people(60), *taught])
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    command = ["split", str(tmp_path / "rows.jsonl"), "--task", str(tmp_path), "--out", str(tmp_path / "data")]
    result = CliRunner().invoke(app, command)
    assert 0 == result.exit_code, result.output
    assert "20 rows for training only: made or labelled by a model, or not drawn at random" in result.stdout
    train = read_rows(tmp_path / "data" / "train.jsonl", "text-label")
    assert 20 == sum(row.label_source == "teacher" for row in train)


def test_empty_split_is_named(tmp_path: Path):
    """Two rows do not fill three splits: the files are written, with a warning for each empty split."""
    code, said = divided(tmp_path, people(2))
    assert (0, 2) == (code, said.count("empty, and a recipe needs rows here")), said


def keys_of(folder: Path) -> dict[str, set[str]]:
    """Return the texts of each split, by their keys."""
    return {split: {row.key for row in read_rows(folder / f"{split}.jsonl", "text-label")} for split in DIVISION_SHARES}


def test_rows_of_an_earlier_division_stay_in_their_split(tmp_path: Path):
    """Rows keep their split in another order, with more rows and with another seed, so no bundle is measured on rows
    that an earlier one learned. New rows bring the splits to their shares, and the command counts the kept rows."""
    assert "left in the earlier split" not in divided(tmp_path, people(60))[1]
    before = keys_of(tmp_path / "data")
    code, said = divided(tmp_path, people(160)[::-1], "--force", "--seed", "2")
    after = keys_of(tmp_path / "data")
    assert 0 == code, said
    assert all(before[split] <= after[split] for split in DIVISION_SHARES)
    assert {"train": 96, "calibration": 40, "test": 24} == {split: len(keys) for split, keys in after.items()}
    assert "60 rows left in the earlier split, where a bundle can have learned from them, and 100 dealt" in said


def test_variant_of_a_training_text_moves_to_training(tmp_path: Path):
    """If a test text joins the family of a training text, both are in training."""
    rows = people(60)
    divided(tmp_path, rows)
    before = keys_of(tmp_path / "data")
    learned, measured = (next(row for row in rows if row.key in before[split]) for split in ("train", "test"))
    both = [replace(row, family="f") if row in (learned, measured) else row for row in rows]
    divided(tmp_path, both, "--force")
    assert {learned.key, measured.key} <= keys_of(tmp_path / "data")["train"]


def test_unreadable_earlier_split_is_replaced_with_a_warning(tmp_path: Path):
    """All rows are dealt again, and the command warns that figures of a bundle that learned from them can be too
    good."""
    divided(tmp_path, people(60))
    for split, content in (("train", "{"), ("calibration", ""), ("test", "{")):
        (tmp_path / "data" / f"{split}.jsonl").write_text(content)
    code, said = divided(tmp_path, people(60), "--force")
    assert (0, False) == (code, "left in the earlier split" in said), said
    unread = [f"the earlier {tmp_path}/data/{split}.jsonl cannot be read" in said for split in DIVISION_SHARES]
    assert ([True, False, True], True) == (unread, "figures of a bundle that learned from them can be too good" in said)


def test_teacher_rows_are_dealt_again_after_a_review(tmp_path: Path):
    """A large model labels difficult rows: kept in training after a review, they would be missing where the guarantee
    is proved."""
    rows = people(120)
    easy, hard = rows[:60], rows[60:]
    divided(tmp_path, [*easy, *(replace(row, label_source="teacher", labeled_by="large-1") for row in hard)])
    assert {row.key for row in hard} <= keys_of(tmp_path / "data")["train"]
    code, said = divided(tmp_path, rows, "--force")
    after = keys_of(tmp_path / "data")
    found = {split: sum(row.key in keys for row in hard) for split, keys in after.items()}
    assert (0, 36) == (code, found["train"]), said
    assert min(found["calibration"], found["test"]) >= 9
    assert "60 rows left in the earlier split, where a bundle can have learned from them, and 60 dealt" in said


def test_moved_row_is_not_counted_as_kept(tmp_path: Path):
    """If a calibration row and a test row become variants, both are in calibration, and the command counts one moved
    row."""
    rows = people(60)
    divided(tmp_path, rows)
    before = keys_of(tmp_path / "data")
    ones = [next(row for row in rows if row.key in before[split]) for split in ("calibration", "test")]
    code, said = divided(tmp_path, [replace(row, family="f") if row in ones else row for row in rows], "--force")
    assert {row.key for row in ones} <= keys_of(tmp_path / "data")["calibration"]
    assert "59 rows left in the earlier split, where a bundle can have learned from them, and 0 dealt" in said
    assert (0, True) == (code, "1 row moved to the split of a variant, or to training" in said)


def divided(folder: Path, rows: list[DataRow], *more: str) -> tuple[int, str]:
    """Write the rows to `folder`, divide them there into `folder`/data; return exit code and output."""
    (folder / "task.yaml").write_text(TASK)
    (folder / "rows.jsonl").write_text("".join(json.dumps(plain_of(row)) + "\n" for row in rows))
    command = ["split", str(folder / "rows.jsonl"), "--task", str(folder), "--out", str(folder / "data"), *more]
    result = CliRunner().invoke(app, command)
    return result.exit_code, " ".join(result.output.split())


def test_unknown_label_is_refused_with_its_line(tmp_path: Path):
    """The error names the nearest label, and nothing is written."""
    rows = people(60)
    rows[7:7] = [DataRow("a typo", label="refnd")] * 2
    code, said = divided(tmp_path, rows)
    assert (2, True) == (code, "rows.jsonl:8: label 'refnd', which the task lacks (2 rows have it)" in said)
    assert "Did you mean 'refund'?" in said
    assert not (tmp_path / "data").exists()


def test_split_files_are_private(tmp_path: Path):
    """Split files have mode 0600, and the folder keeps its mode."""
    (tmp_path / "data").mkdir(mode=0o755)
    assert 0 == divided(tmp_path, people(60))[0]
    assert {0o600} == {file.stat().st_mode & 0o777 for file in (tmp_path / "data").iterdir()}
    assert 0o755 == (tmp_path / "data").stat().st_mode & 0o777


def test_full_disk_leaves_the_old_splits(tmp_path: Path):
    """All splits are written before the first one is renamed; the message names the file."""
    with tmpfs(tmp_path / "disk", "size=32k") as disk:
        assert 0 == divided(disk, people(40))[0]
        before = {file.name: file.read_bytes() for file in (disk / "data").iterdir()}
        (disk / "ballast").write_bytes(bytes(4096))
        code, said = divided(disk, people(40), "--force", "--seed", "2")
        assert (3, True) == (code, "jsonl: No space left on device" in said)
        assert before == {file.name: file.read_bytes() for file in (disk / "data").iterdir()}
