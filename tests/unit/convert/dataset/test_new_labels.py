"""New labels: a rejected answer becomes a row of a label that the bundle does not have if the reason names this
label."""

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


def test_reject_reason_becomes_the_label(tmp_path: Path):
    """Case, spaces and hyphens of the reason do not matter, and the answer counts as labelled in the random audit."""
    folder = collected(
        tmp_path, rejected(1, "Fraud report"), rejected(2, " fraud-report"), rejected(3, "rude"), accepted(4)
    )
    assert ["fraud_report", "fraud_report"] == labels(tmp_path, folder)
    sheet = json.loads((tmp_path / "data/dataset.json").read_text())
    assert (4, 3, 1) == tuple(sheet["audit"][name] for name in ("drawn", "labelled", "without_label"))
    assert {"rude": 1} == sheet["scope"]["reject_reasons"]


def test_several_reasons_can_mean_one_label(tmp_path: Path):
    """Two reasons, for example of reviewers at two sites, can be mapped to one label."""
    folder = collected(tmp_path, rejected(1, "scam call"), rejected(2, "fraud"))
    assert ["fraud_report"] * 2 == labels(tmp_path, folder, (("fraud", "fraud_report"), ("scam call", "fraud_report")))


@pytest.mark.parametrize("second", ["stolen card", ""])
def test_reviewers_with_different_reasons_give_no_label(tmp_path: Path, second: str):
    """Two different reasons, or one reviewer without a reason, give no label."""
    folder = collected(tmp_path, rejected(1, "fraud report", second), rejected(2, "fraud report", "Fraud report"))
    assert ["fraud_report"] == labels(tmp_path, folder)


def test_rejected_and_accepted_answer_is_a_conflict(tmp_path: Path):
    """An answer that one reviewer rejected with a new label and another accepted gives no row."""
    agreed = feedback(900, prediction_id="p-1", verdict="accept", value="", reviewer="berta")
    folder = collected(tmp_path, [*rejected(1, "fraud report"), agreed], rejected(2, "fraud report"))
    assert ["fraud_report"] == labels(tmp_path, folder)


def test_later_correction_overrides_the_new_label(tmp_path: Path):
    """If the reviewer corrects the answer later, it gives no row of the new label."""
    later = feedback(900, prediction_id="p-1", value="price", reviewer="reviewer-0", at="2030-01-01T00:00:00Z")
    folder = collected(tmp_path, [*rejected(1, "fraud report"), later], rejected(2, "fraud report"))
    assert ["fraud_report"] == labels(tmp_path, folder)


def test_assess_counts_new_labels_as_wrong_answers(tmp_path: Path):
    """`assess` lists reject reasons; rows of a new label count as wrong answers, as the rejections did."""
    folder = collected(tmp_path, *[rejected(n, "fraud report") for n in range(1, 4)], rejected(9, "rude"), accepted(10))
    before, after = (assess(folder, TASK, RISK, ExampleScope(new_labels=new)) for new in ((), FRAUD))
    assert {"fraud report": 3, "rude": 1} == before.scope.reject_reasons
    assert "fraud_report" not in before.labels
    assert 3 == after.labels["fraud_report"]
    assert before.right == after.right


def test_new_label_option_of_the_command(tmp_path: Path):
    """`--new-label LABEL` alone uses the label as its reason; the output lists the other reasons."""
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
def test_unknown_or_ambiguous_reason_is_refused(tmp_path: Path, new_labels: tuple[tuple[str, str], ...], said: str):
    """A reason that nobody gave, or one with two labels, is refused."""
    folder = collected(tmp_path, rejected(1, "fraud report"))
    with pytest.raises(InvalidRequest) as failed:
        assess(folder, TASK, RISK, ExampleScope(new_labels=new_labels))
    assert said in str(failed.value)


def test_generate_task_has_no_new_labels(tmp_path: Path):
    """New labels are refused for a generate task, because a reason is not a better text."""
    folder = collected(tmp_path, rejected(1, "fraud report", kind="generate", scores=[]))
    with pytest.raises(InvalidRequest, match="not generate"):
        assess(folder, TASK, RISK, ExampleScope(new_labels=FRAUD))


def test_a_new_label_belongs_to_one_question(tmp_path: Path):
    """A decide task takes new labels for one question at a time; the format text-answers, with several questions,
    refuses them."""
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
