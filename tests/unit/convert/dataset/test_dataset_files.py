"""The folders of `edge-convert dataset`: what --force replaces, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.dataset.dataset_files import REPORT_NAME, TASKS_NAME, made_whole
from edge_agent.errors import InvalidRequest


def write(out: Path, mark: str = REPORT_NAME, content: str = '{"rows": {"train": 1}}', **files: str) -> None:
    """Write a folder as the command does, with `mark` and other files."""
    with made_whole(out, mark, force=True) as folder:
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
