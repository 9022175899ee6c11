"""Rejected answers whose reason is a label that the bundle does not have become rows of that label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convert.calibrate.threshold import Risk
from convert.cli import app
from convert.dataset.assessment import assess
from convert.dataset.dataset_files import write
from convert.dataset.example_scope import ExampleScope
from convert.dataset.selection import DatasetSelection
from edge_agent.errors import InvalidRequest
from tests.support.examples import distinct_text, feedback, prediction
from tests.support.segments import CentralTeam, Record, SealingSite

TASK = "pos-intent"
RISK = Risk(0.05, 0.1)
DRAWN = {"review_stream": "audit", "sampling_probability": 1.0}
FRAUD = (("fraud report", "fraud_report"),)


def rejected(number: int, *reasons: str, **changes: Any) -> list[Record]:
    """Return an answer that the audit drew, rejected by a reviewer for each reason."""
    said = [
        feedback(
            number * 100 + place,
            prediction_id=f"p-{number}",
            verdict="reject",
            value="",
            reason=reason,
            reviewer=f"reviewer-{place}",
        )
        for place, reason in enumerate(reasons)
    ]
    return [prediction(number, input=distinct_text(number), **{**DRAWN, **changes}), *said]


def accepted(number: int) -> list[Record]:
    return [prediction(number, input=distinct_text(number), **DRAWN), feedback(number, verdict="accept", value="")]


def collected(root: Path, *records: list[Record]) -> Path:
    SealingSite(root / "store").seal([record for some in records for record in some])
    central = CentralTeam(root)
    central.collect(root / "store")
    return central.out


def labels(root: Path, folder: Path, new_labels: tuple[tuple[str, str], ...] = FRAUD) -> list[str]:
    """Write a dataset of one split; return the labels of the rows of new labels, and check that people gave them."""
    choice = DatasetSelection(
        folder, TASK, "reviewed", shares={"calibration": 1.0}, scope=ExampleScope(new_labels=new_labels)
    )
    write(choice, "text-label", root / "data", force=True)
    lines = (root / "data/calibration.jsonl").read_text(encoding="utf-8").splitlines()
    named = {label for _, label in new_labels}
    rows = [row for row in map(json.loads, lines) if row["label"] in named]
    assert all(row["label_source"] == "corrected" and row["labeled_by"] for row in rows)
    return [row["label"] for row in rows]


def test_a_reason_becomes_the_label(tmp_path: Path):
    """Spelt as people spell it; and the answer counts as labelled in the random audit."""
    folder = collected(
        tmp_path, rejected(1, "Fraud report"), rejected(2, " fraud-report"), rejected(3, "rude"), accepted(4)
    )
    assert ["fraud_report", "fraud_report"] == labels(tmp_path, folder)
    sheet = json.loads((tmp_path / "data/dataset.json").read_text())
    assert (4, 3, 1) == tuple(sheet["audit"][name] for name in ("drawn", "labelled", "without_label"))
    assert {"rude": 1} == sheet["scope"]["reject_reasons"]


def test_several_reasons_can_mean_one_label(tmp_path: Path):
    """Reviewers at two sites call one thing by two names."""
    folder = collected(tmp_path, rejected(1, "scam call"), rejected(2, "fraud"))
    assert ["fraud_report"] * 2 == labels(tmp_path, folder, (("fraud", "fraud_report"), ("scam call", "fraud_report")))


@pytest.mark.parametrize("second", ["stolen card", ""])
def test_reviewers_who_differ_give_no_label(tmp_path: Path, second: str):
    """Two reasons are two opinions, and one without a reason is none."""
    folder = collected(tmp_path, rejected(1, "fraud report", second), rejected(2, "fraud report", "Fraud report"))
    assert ["fraud_report"] == labels(tmp_path, folder)


def test_an_answer_that_somebody_accepted_is_a_conflict(tmp_path: Path):
    """As it is without new labels."""
    agreed = feedback(900, prediction_id="p-1", verdict="accept", value="", reviewer="berta")
    folder = collected(tmp_path, [*rejected(1, "fraud report"), agreed], rejected(2, "fraud report"))
    assert ["fraud_report"] == labels(tmp_path, folder)


def test_a_correction_stays_what_it_is(tmp_path: Path):
    """The central team's word counts, and its label too."""
    later = feedback(900, prediction_id="p-1", value="price", reviewer="reviewer-0", at="2030-01-01T00:00:00Z")
    folder = collected(tmp_path, [*rejected(1, "fraud report"), later], rejected(2, "fraud report"))
    assert ["fraud_report"] == labels(tmp_path, folder)


def test_assess_counts_new_labels_and_says_which_reasons_remain(tmp_path: Path):
    """A new label is wrong for the bundle that answered, so it counts against its accuracy: as the rejection did."""
    folder = collected(tmp_path, *[rejected(n, "fraud report") for n in range(1, 4)], rejected(9, "rude"), accepted(10))
    before, after = (assess(folder, TASK, RISK, ExampleScope(new_labels=new)) for new in ((), FRAUD))
    assert {"fraud report": 3, "rude": 1} == before.scope.reject_reasons
    assert "fraud_report" not in before.labels
    assert 3 == after.labels["fraud_report"]
    assert before.right == after.right


def test_the_command_line(tmp_path: Path):
    """LABEL alone is its own reason; what nobody said, or said for nothing, is an error that lists the reasons."""
    folder = collected(tmp_path, *[rejected(n, "fraud report") for n in range(1, 4)], rejected(9, "rude"), accepted(10))
    given = ["dataset", str(folder), "--task", TASK, "--format", "text-label", "--out", str(tmp_path / "rows")]
    given += ["--no-label-errors", "--shares", "train=1"]
    done = CliRunner().invoke(app, [*given, "--new-label", "fraud_report"])
    assert 0 == done.exit_code, done.output
    assert "rejected without a right answer, by reason: 'rude' 1" in " ".join(done.output.split())
    rows = [json.loads(line) for line in (tmp_path / "rows/train.jsonl").read_text().splitlines()]
    assert 3 == sum(row["label"] == "fraud_report" for row in rows)
    said = CliRunner().invoke(app, ["assess", str(folder), "--task", TASK, "--no-label-errors"])
    assert "'fraud report' 3, 'rude' 1" in " ".join(said.output.split())


@pytest.mark.parametrize(
    ("new_labels", "said"),
    [
        ((("fruad", "fraud_report"),), "nobody rejected an answer with the reason 'fruad'"),
        ((("Fraud report", "a"), ("fraud_report", "b")), "reason 'fraud report' has several new labels"),
    ],
)
def test_reasons_that_cannot_be(tmp_path: Path, new_labels: tuple[tuple[str, str], ...], said: str):
    """A reason that nobody gave is a slip of the pen, and one with two labels is not decided."""
    folder = collected(tmp_path, rejected(1, "fraud report"))
    with pytest.raises(InvalidRequest) as failed:
        assess(folder, TASK, RISK, ExampleScope(new_labels=new_labels))
    assert said in str(failed.value)


def test_free_text_has_no_labels(tmp_path: Path):
    """The reason for rejecting a text is no better text."""
    folder = collected(tmp_path, rejected(1, "fraud report", kind="generate", scores=[]))
    with pytest.raises(InvalidRequest, match="not generate"):
        assess(folder, TASK, RISK, ExampleScope(new_labels=FRAUD))


def test_a_new_label_belongs_to_one_question(tmp_path: Path):
    """Of a task that decides, the format with all answers of a text has several."""
    records = [
        record
        for n, question in enumerate(("intent", "urgency"), 1)
        for record in rejected(n, "fraud report", kind="decide", question=question)
    ]
    folder = collected(tmp_path, records)
    assert 1 == assess(folder, f"{TASK}/intent", RISK, ExampleScope(new_labels=FRAUD)).labels["fraud_report"]
    choice = DatasetSelection(folder, TASK, "reviewed", scope=ExampleScope(new_labels=FRAUD))
    with pytest.raises(InvalidRequest, match="belongs to one question"):
        write(choice, "text-answers", tmp_path / "data")
