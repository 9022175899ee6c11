"""The folders of `edge-convert dataset`: their rows, what --force replaces, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convert.calibrate.calibration_split import one_of_each
from convert.data.row_lines import read_rows
from convert.dataset import dataset_files
from convert.dataset.dataset_files import REPORT_NAME, TASKS_NAME, replace_folder
from convert.dataset.selection import DatasetSelection
from edge_agent.errors import InvalidRequest
from tests.support.examples import feedback, prediction
from tests.support.segments import CentralTeam, SealingSite


def write(out: Path, mark: str = REPORT_NAME, content: str = '{"rows": {"train": 1}}', **files: str) -> None:
    """Write a folder as the command does, with `mark` and other files."""
    with replace_folder(out, mark, force=True) as folder:
        (folder / mark).write_text(content)
        for name, text in files.items():
            (folder / f"{name}.jsonl").write_text(text)


@pytest.mark.parametrize(("mark", "content"), [(REPORT_NAME, '{"rows": {"train": 1}}'), (TASKS_NAME, "[]")])
def test_a_folder_with_files_of_somebody_else_is_not_replaced(tmp_path: Path, mark: str, content: str):
    """Such as a recipe beside the splits, or an export of Label Studio beside the tasks."""
    write(tmp_path / "out", mark, content)
    (tmp_path / "out" / "mine.json").write_text("mine")
    with pytest.raises(InvalidRequest, match=r"also has mine\.json, which --force would delete"):
        write(tmp_path / "out", mark, content)
    assert "mine" == (tmp_path / "out" / "mine.json").read_text()


def test_earlier_splits_are_replaced_whole(tmp_path: Path):
    """Also those that the new dataset does not have."""
    write(tmp_path / "out", content='{"rows": {"train": 1, "test": 1}}', train="old", test="old")
    write(tmp_path / "out", train="new")
    assert {REPORT_NAME, "train.jsonl"} == {path.name for path in (tmp_path / "out").iterdir()}
    assert ["out"] == [path.name for path in tmp_path.iterdir()]


def test_the_folder_that_the_shell_is_in_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The shell would stand in a folder that is deleted."""
    write(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(InvalidRequest, match="is the current folder"):
        write(Path())


def test_a_link_to_a_dataset_is_followed(tmp_path: Path):
    """The folder behind it is replaced, and the link stays."""
    write(tmp_path / "out", train="old")
    (tmp_path / "newest").symlink_to(tmp_path / "out")
    write(tmp_path / "newest", train="new")
    assert (True, "new") == ((tmp_path / "newest").is_symlink(), (tmp_path / "out" / "train.jsonl").read_text())


def test_near_duplicates_with_different_answers_are_one_family(tmp_path: Path):
    """A threshold is tested on one of them, since the model is right or wrong on both together; a text without such a
    neighbour has no family."""
    long = "i want my money back for the toaster that you sold to me on the second of may"
    said = [(long, "refund"), (f"{long} ok", "price"), ("do you deliver to the island", "price")]
    records = [
        each
        for n, (text, label) in enumerate(said, 1)
        for each in (prediction(n, input=text), feedback(n, value=label))
    ]
    SealingSite(tmp_path / "store").seal(records)
    central = CentralTeam(tmp_path)
    central.collect(tmp_path / "store")
    choice = DatasetSelection(central.out, "pos-intent", "reviewed", shares={"train": 1.0})
    dataset_files.write(choice, "text-label", tmp_path / "data")
    lines = [json.loads(line) for line in (tmp_path / "data" / "train.jsonl").read_text().splitlines()]
    families = {row["text"]: row.get("family") for row in lines}
    assert families[long] == families[f"{long} ok"]
    assert (True, None) == (bool(families[long]), families["do you deliver to the island"])
    assert 2 == len(one_of_each(read_rows(tmp_path / "data" / "train.jsonl", "text-label")))


def test_what_a_stopped_run_left_is_not_deleted(tmp_path: Path):
    """It can be the only copy of the dataset that the run was replacing; nothing is made until somebody has looked."""
    (tmp_path / "data.replaced").mkdir()
    (tmp_path / "data.replaced" / "train.jsonl").write_text("the only copy")
    with (
        pytest.raises(InvalidRequest, match=r"data\.replaced exists, where an existing folder is kept"),
        replace_folder(tmp_path / "data", "", force=True),
    ):
        pass
    assert "the only copy" == (tmp_path / "data.replaced" / "train.jsonl").read_text()


def test_two_runs_do_not_write_one_folder(tmp_path: Path):
    """The first would otherwise give its name to what the second has written so far."""
    out = tmp_path / "data"
    with replace_folder(out, TASKS_NAME, force=True) as folder:
        (folder / TASKS_NAME).write_text("[1]")
        with pytest.raises(InvalidRequest, match="another run writes"), replace_folder(out, TASKS_NAME, force=True):
            pass
    assert ("[1]", [out]) == ((out / TASKS_NAME).read_text(), list(tmp_path.iterdir()))


def test_what_a_stopped_run_had_begun_is_deleted(tmp_path: Path):
    """Nobody holds it any more."""
    (tmp_path / "data.partial").mkdir()
    (tmp_path / "data.partial" / "rest").write_text("x")
    write(tmp_path / "data", TASKS_NAME, "[1]")
    assert [tmp_path / "data"] == list(tmp_path.iterdir())
    assert [TASKS_NAME] == [path.name for path in (tmp_path / "data").iterdir()]


def test_a_folder_that_cannot_get_its_name_leaves_the_earlier_one(tmp_path: Path):
    """Here somebody takes the new folder away before it gets its name."""
    out = tmp_path / "data"
    write(out, TASKS_NAME, "[1]")
    with pytest.raises(OSError, match=r"data\.partial"), replace_folder(out, TASKS_NAME, force=True) as folder:
        folder.rename(tmp_path / "elsewhere")
    assert "[1]" == (out / TASKS_NAME).read_text()
