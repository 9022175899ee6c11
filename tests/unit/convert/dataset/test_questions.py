"""Collected answers to several questions: joined by text as rows, and assessed by question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convert.cli import app
from convert.data.row_lines import read_rows
from convert.dataset.dataset_files import write
from convert.dataset.example_scope import questions_of
from convert.dataset.selection import DatasetSelection
from convert.dataset.surrogates import SurrogateSettings
from edge_agent.errors import InvalidRequest
from tests.support.examples import distinct_text, feedback, prediction
from tests.support.segments import CentralTeam, Record, SealingSite

WHOLE = {"all": 1.0}


def answered(number: int, question: str, output: str, said: str = "", **changes: Any) -> list[Record]:
    """Return an answer to a question about text `number // 10`, confirmed or corrected by a person; with "-"
    neither."""
    given = {"input": distinct_text(number // 10), "output": output, "scores": [[output, 0.9]], "confidence": 0.9}
    drawn = {"review_stream": "audit", "sampling_probability": 1.0}
    made = prediction(number, kind="decide", task="desk", question=question, **{**given, **drawn, **changes})
    if said == "-":
        return [made]
    verdict = {"verdict": "corrected", "value": said} if said else {"verdict": "accept", "value": ""}
    return [made, feedback(number, task="desk", **verdict)]


def collected(root: Path, *records: list[Record]) -> Path:
    SealingSite(root / "store").seal([each for some in records for each in some])
    central = CentralTeam(root)
    central.collect(root / "store")
    return central.out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Collect answers about three texts to two questions."""
    return collected(
        tmp_path,
        answered(10, "urgent", "no"),
        answered(11, "personal", "yes"),
        answered(20, "urgent", "yes"),
        answered(21, "personal", "no", "-"),
        answered(30, "urgent", "no", review_stream=None, sampling_probability=None),
        answered(31, "personal", "no"),
    )


def test_answers_about_one_text_are_one_row(folder: Path, tmp_path: Path):
    """Answers with the same sampling are one row with the ids of their predictions; others are rows of their own."""
    choice = DatasetSelection(folder, "desk", "reviewed", shares=WHOLE)
    made = write(choice, "text-answers", tmp_path / "data")
    rows = [json.loads(line) for line in (tmp_path / "data" / "all.jsonl").read_text().splitlines()]
    found = [(row["text"], row["answers"]) for row in rows]
    expected = [
        (distinct_text(1), {"personal": "yes", "urgent": "no"}),
        (distinct_text(2), {"urgent": "yes"}),
        (distinct_text(3), {"personal": "no"}),
        (distinct_text(3), {"urgent": "no"}),
    ]
    assert sorted(expected, key=str) == sorted(found, key=str)
    assert {"urgent/no": 2, "personal/yes": 1, "urgent/yes": 1, "personal/no": 1} == made.labels["all"]
    assert 2 == len(next(row for row in rows if row["text"] == distinct_text(1))["prediction_ids"])
    assert 4 == len(read_rows(tmp_path / "data" / "all.jsonl", "text-answers"))


def test_one_question_gives_a_text_label_dataset(folder: Path, tmp_path: Path):
    """TASK/QUESTION selects a question; a task with several questions, or a question without examples, is refused."""
    choice = DatasetSelection(folder, "desk/urgent", "reviewed", shares=WHOLE)
    write(choice, "text-label", tmp_path / "data")
    labels = [json.loads(line)["label"] for line in (tmp_path / "data" / "all.jsonl").read_text().splitlines()]
    assert ["no", "no", "yes"] == sorted(labels)
    assert ["desk/personal", "desk/urgent"] == questions_of(folder, "desk")
    with pytest.raises(InvalidRequest, match="task desk has several questions") as raised:
        write(DatasetSelection(folder, "desk", "reviewed"), "text-label", tmp_path / "other")
    assert "desk/personal, desk/urgent" in raised.value.remedy
    with pytest.raises(InvalidRequest, match="no examples of question intent of task desk"):
        write(DatasetSelection(folder, "desk/intent", "reviewed"), "text-label", tmp_path / "other")


def test_text_answers_format_requires_a_decide_task(tmp_path: Path):
    """The format text-answers is refused for a classify task."""
    made = collected(tmp_path, [prediction(1), feedback(1, verdict="accept", value="")])
    choice = DatasetSelection(made, "pos-intent", "reviewed", shares=WHOLE)
    with pytest.raises(InvalidRequest, match="text-answers is for tasks of kind decide, not classify"):
        write(choice, "text-answers", tmp_path / "data")


def test_answers_about_one_text_share_its_surrogates(tmp_path: Path):
    """All answers about a text have the same made-up values."""
    redacted = {"input": "call [CARD_1] now", "redaction": {"version": "1", "rules": ["card"], "counts": {"card": 1}}}
    made = collected(tmp_path, answered(10, "urgent", "no", **redacted), answered(11, "personal", "yes", **redacted))
    choice = DatasetSelection(made, "desk", "reviewed", shares=WHOLE)
    write(choice, "text-answers", tmp_path / "data", surrogates=SurrogateSettings("fill", ("en_US",), {}))
    [row] = [json.loads(line) for line in (tmp_path / "data" / "all.jsonl").read_text().splitlines()]
    assert {"urgent": "no", "personal": "yes"} == row["answers"]
    assert "[CARD_1]" not in row["text"]


@pytest.mark.slow
def test_each_question_is_assessed_separately(folder: Path):
    """`assess` lists the questions of a task and divides delta among them, also if one question is named."""
    arguments = ["assess", str(folder), "--no-label-errors", "--json", "--task"]
    whole = json.loads(CliRunner().invoke(app, [*arguments, "desk"]).output)
    assert ["desk/personal", "desk/urgent"] == list(whole["questions"])
    assert {"yes": 1, "no": 1} == whole["questions"]["desk/personal"]["labels"]
    alone = json.loads(CliRunner().invoke(app, [*arguments, "desk/urgent"]).output)
    assert alone == whole["questions"]["desk/urgent"]
    assert (3, 0.05) == (alone["reviewed"], alone["promise"]["delta"])
    shown = CliRunner().invoke(app, ["assess", str(folder), "--no-label-errors", "--task", "desk"]).output
    assert "desk/personal: 3 examples, 2 reviewed" in shown
