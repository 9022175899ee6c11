"""The folders of `edge-convert dataset`: their rows, which files --force replaces, and which folders it refuses."""

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
def test_folder_with_other_files_is_not_replaced(tmp_path: Path, mark: str, content: str):
    """--force refuses a folder that also contains files which the command did not write."""
    write(tmp_path / "out", mark, content)
    (tmp_path / "out" / "mine.json").write_text("mine")
    with pytest.raises(InvalidRequest, match=r"also has mine\.json, which --force would delete"):
        write(tmp_path / "out", mark, content)
    assert "mine" == (tmp_path / "out" / "mine.json").read_text()


def test_earlier_dataset_is_replaced_completely(tmp_path: Path):
    """Splits of the earlier dataset that the new one does not have are deleted."""
    write(tmp_path / "out", content='{"rows": {"train": 1, "test": 1}}', train="old", test="old")
    write(tmp_path / "out", train="new")
    assert {REPORT_NAME, "train.jsonl"} == {path.name for path in (tmp_path / "out").iterdir()}
    assert ["out"] == [path.name for path in tmp_path.iterdir()]


def test_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command refuses the current folder, because the shell would be left in a deleted folder."""
    write(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(InvalidRequest, match="is the current folder"):
        write(Path())


def test_symlink_to_a_dataset_is_followed(tmp_path: Path):
    """The target folder is replaced, and the link stays."""
    write(tmp_path / "out", train="old")
    (tmp_path / "newest").symlink_to(tmp_path / "out")
    write(tmp_path / "newest", train="new")
    assert (True, "new") == ((tmp_path / "newest").is_symlink(), (tmp_path / "out" / "train.jsonl").read_text())


def test_near_duplicates_with_different_answers_are_one_family(tmp_path: Path):
    """A threshold is tested on one of them, because the model is right or wrong on both together; a text without a near
    duplicate has no family."""
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


def test_replaced_folder_of_a_stopped_run_is_not_deleted(tmp_path: Path):
    """The folder can be the only copy of the dataset that the run was replacing, so the next run refuses to start."""
    (tmp_path / "data.replaced").mkdir()
    (tmp_path / "data.replaced" / "train.jsonl").write_text("the only copy")
    with (
        pytest.raises(InvalidRequest, match=r"data\.replaced exists, where an existing folder is kept"),
        replace_folder(tmp_path / "data", "", force=True),
    ):
        pass
    assert "the only copy" == (tmp_path / "data.replaced" / "train.jsonl").read_text()


def test_concurrent_run_into_the_same_folder_is_refused(tmp_path: Path):
    """Otherwise the first run would publish the second run's partial files."""
    out = tmp_path / "data"
    with replace_folder(out, TASKS_NAME, force=True) as folder:
        (folder / TASKS_NAME).write_text("[1]")
        with pytest.raises(InvalidRequest, match="another run writes"), replace_folder(out, TASKS_NAME, force=True):
            pass
    assert ("[1]", [out]) == ((out / TASKS_NAME).read_text(), list(tmp_path.iterdir()))


def test_partial_folder_of_a_stopped_run_is_deleted(tmp_path: Path):
    """The next run deletes a partial folder that no process has locked."""
    (tmp_path / "data.partial").mkdir()
    (tmp_path / "data.partial" / "rest").write_text("x")
    write(tmp_path / "data", TASKS_NAME, "[1]")
    assert [tmp_path / "data"] == list(tmp_path.iterdir())
    assert [TASKS_NAME] == [path.name for path in (tmp_path / "data").iterdir()]


def test_failed_rename_keeps_the_earlier_dataset(tmp_path: Path):
    """If the new folder cannot be renamed, here because it was moved away, the earlier dataset is unchanged."""
    out = tmp_path / "data"
    write(out, TASKS_NAME, "[1]")
    with pytest.raises(OSError, match=r"data\.partial"), replace_folder(out, TASKS_NAME, force=True) as folder:
        folder.rename(tmp_path / "elsewhere")
    assert "[1]" == (out / TASKS_NAME).read_text()
