"""Label review: likely wrong labels are found out of fold, with families together, and shown to people with the
reasons."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from convert.cli import app
from convert.dataset import label_review, label_studio
from convert.dataset.label_review import rank, write_tasks
from convert.dataset.selection import DatasetSelection
from edge_agent.errors import InvalidRequest
from edge_agent.formats.signed_document import format_timestamp
from tests.support.examples import NOW, feedback, prediction
from tests.support.segments import CentralTeam, Record, SealingSite

LABELS = ("refund", "price", "hours")
WORDS = {
    "refund": ("money back", "return this", "refund it", "take it back"),
    "price": ("how much", "what does it cost", "the price", "how expensive"),
    "hours": ("when do you open", "opening hours", "closing time", "open on sunday"),
}
THINGS = (
    "kettle",
    "lamp",
    "chair",
    "jacket",
    "phone",
    "table",
    "mirror",
    "carpet",
    "bottle",
    "camera",
    "guitar",
    "spoon",
)
ROWS = [
    (f"{words} {thing} {place}", label)
    for label in LABELS
    for place, words in enumerate(WORDS[label])
    for thing in THINGS
]
WRONG = {5: "hours", 60: "refund", 110: "price", 130: "refund"}


def clusters(labels: int = 4, rows: int = 40) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Return vectors around a point for each label, and the labels."""
    rng = np.random.default_rng(2)
    truth = np.repeat(np.arange(labels), rows)
    return 4.0 * rng.standard_normal((labels, 16))[truth] + rng.standard_normal((labels * rows, 16)), [
        f"label-{number}" for number in truth
    ]


def flipped(labels: list[str], rows: set[int]) -> list[str]:
    """Return the labels, with a wrong one at some rows."""
    return [f"label-{(int(label[-1]) + 1) % 4}" if row in rows else label for row, label in enumerate(labels)]


def found_in(vectors: Any, labels: list[str], families: list[str] | None = None) -> label_review.LabelErrors:
    found = label_review.find(lambda: vectors, labels, families or [str(row) for row in range(len(labels))])
    assert found is not None
    return found


def collected(root: Path, wrong: dict[int, str]) -> Path:
    """Collect ROWS, labelled by a person, some of them wrongly."""
    records: list[Record] = []
    for number, (text, label) in enumerate(ROWS):
        said = wrong.get(number, label)
        at = format_timestamp(NOW + 60 * number)
        records += [
            prediction(number, input=text, output=label, scores=[[label, 0.9]], confidence=0.9, at=at),
            feedback(number, verdict="accept", value="") if said == label else feedback(number, value=said),
        ]
    SealingSite(root / "store").seal(records)
    central = CentralTeam(root)
    central.collect(root / "store")
    return central.out


def test_flipped_labels_come_first() -> None:
    """The flipped labels have the lowest probabilities, and the review suggests their right labels."""
    vectors, labels = clusters()
    wrong = {3, 50, 77, 100, 121, 159}
    found = found_in(vectors, flipped(labels, wrong))
    assert wrong == {each.row for each in found.ranked[: len(wrong)]}
    assert {labels[row] for row in wrong} == {each.suggested for each in found.suspects if each.row in wrong}
    assert {(row, labels[row]) for row in wrong} == {(each.row, each.suggested) for each in found.ranked[: len(wrong)]}
    assert len(wrong) == found.estimated


def test_correct_labels_are_not_suspects() -> None:
    """If the classifier agrees with every label, there are no suspects."""
    vectors, labels = clusters()
    found = found_in(vectors, labels)
    assert (0, [], 1.0) == (found.estimated, found.suspects, found.agreement)


@pytest.mark.slow
def test_families_are_judged_out_of_fold_as_a_whole() -> None:
    """Copies of one text with the same wrong label are found if they are one family, and hide each other otherwise."""
    vectors, labels = clusters()
    copies = set(range(8))
    vectors[list(copies)] = vectors[0] * 3
    wrong = flipped(labels, copies)
    together = ["one" if row in copies else str(row) for row in range(len(labels))]
    least = {each.row for each in found_in(vectors, wrong, together).ranked[: len(copies)]}
    assert copies == least
    alone = {each.row: each.given_probability for each in found_in(vectors, wrong).ranked}
    known = {each.row: each.given_probability for each in found_in(vectors, wrong, together).ranked}
    assert all(alone[row] > 10 * known[row] for row in copies)


def test_rare_labels_are_not_judged() -> None:
    """A label with fewer than five families could be absent from a fold, so its rows are counted but not judged."""
    vectors, labels = clusters()
    found = found_in(vectors, [*labels[:-4], *["rare"] * 4])
    assert (156, 4) == (found.judged, found.unjudged)
    assert "rare" not in {each.given for each in found.ranked} | {each.suggested for each in found.ranked}


@pytest.mark.parametrize("labels", [["a", "b"] * 40, ["a"] * 200])
def test_too_few_rows_or_one_label_give_no_review(labels: list[str]) -> None:
    """With too few rows, or with one label, there is no ranking and no vector is computed."""

    def never() -> Any:
        raise AssertionError

    assert label_review.find(never, labels, [str(row) for row in range(len(labels))]) is None


def test_ranking_is_reproducible() -> None:
    """Folds depend only on a seed and the names of families."""
    vectors, labels = clusters()
    wrong = flipped(labels, {1, 2, 90})
    assert found_in(vectors, wrong).ranked == found_in(vectors, wrong).ranked


def test_ngram_vectors_have_length_one() -> None:
    """Texts with common words have a higher product; a text without letters is the zero vector; a long text is
    accepted."""
    texts = ["where is my parcel", "where is my packet", "open on sunday", "...", "x" * 1_000_000]
    made = label_review.ngram_vectors(texts)
    assert pytest.approx([1, 1, 1, 0, 1]) == np.linalg.norm(made, axis=1)
    assert made[0] @ made[1] > made[0] @ made[2] + 0.2
    assert np.array_equal(made, label_review.ngram_vectors(texts))


@pytest.mark.slow
def test_review_tasks_show_both_labels_with_probabilities(tmp_path: Path) -> None:
    """Tasks for Label Studio have the given and the suggested label with their probabilities, and the given one is
    preselected."""
    found = rank(
        DatasetSelection(collected(tmp_path, WRONG), "pos-intent", "reviewed", shares={"all": 1.0}),
        None,
        lambda *_: None,
    )
    assert found is not None
    first = {row.prediction_id: (row.given, row.suggested) for row in found.rows[: len(WRONG)]}
    assert {f"p-{row}": (said, ROWS[row][1]) for row, said in WRONG.items()} == first
    assert 3 == write_tasks(found, tmp_path / "review", 3)
    task = json.loads((tmp_path / "review" / "tasks.json").read_text())[0]
    row = found.rows[0]
    assert (row.given, row.suggested) == (task["data"]["given_label"], task["data"]["suggested_label"])
    assert [row.given] == task["predictions"][0]["result"][0]["value"]["choices"]
    assert row.given_probability == task["predictions"][0]["score"] < task["data"]["suggested_probability"]
    assert f"Labelled '{row.given}'" in task["data"]["reason"]
    interface = ET.fromstring((tmp_path / "review" / "interface.xml").read_text())
    assert "$reason" == interface.findall("Header")[0].get("value")
    assert {*LABELS} == {choice.get("value") for choice in interface.iter("Choice")}
    report = json.loads((tmp_path / "review" / "label-errors.json").read_text())
    assert ("edge-agent/label-errors/v1", 3) == (report["schema"], len(report["rows"]))


@pytest.mark.slow
def test_corrected_labels_are_read_back_from_label_studio(tmp_path: Path) -> None:
    """If an expert chooses the suggested labels in Label Studio, the export gives a review for each, here an acceptance
    of the model's answer."""
    choice = DatasetSelection(collected(tmp_path, WRONG), "pos-intent", "reviewed", shares={"all": 1.0})
    write_tasks(rank(choice, None, lambda *_: None), tmp_path / "review", 4)
    export = json.loads((tmp_path / "review" / "tasks.json").read_text())
    for number, task in enumerate(export):
        result = task["predictions"][0]["result"][0]
        result["value"] = {"choices": [task["data"]["suggested_label"]]}
        made = {"id": number, "completed_by": 7, "updated_at": format_timestamp(NOW + 9), "result": [result]}
        task["annotations"] = [made]
    (tmp_path / "export.json").write_text(json.dumps(export))
    reviews = label_studio.read_reviews((tmp_path / "export.json").read_bytes()).feedback
    assert {f"p-{row}" for row in WRONG} == {review.prediction_id for review in reviews}
    assert {"accept"} == {review.verdict for review in reviews}, "the model had been right"


def test_review_without_suspects_writes_no_folder(tmp_path: Path) -> None:
    """The error gives the reason, and no folder is written."""
    with pytest.raises(InvalidRequest, match="fewer than 100 labels can be judged"):
        write_tasks(None, tmp_path / "review", 10)
    assert not (tmp_path / "review").exists()


@pytest.mark.slow
def test_commands_report_likely_wrong_labels(tmp_path: Path) -> None:
    """`assess` and `dataset` print likely wrong labels, and `dataset` writes a report; --no-label-errors prevents
    both."""
    folder = str(collected(tmp_path, WRONG))
    run = CliRunner().invoke
    shown = run(app, ["assess", folder, "--task", "pos-intent"])
    assert "labels: about " in shown.output
    assert ROWS[5][0] in shown.output
    plain = json.loads(run(app, ["assess", folder, "--task", "pos-intent", "--json"]).output)
    assert {f"p-{row}" for row in WRONG} <= {row["prediction_id"] for row in plain["label_errors"]["rows"]}
    written = ["dataset", folder, "--task", "pos-intent", "--format", "text-label", "--out"]
    assert "likely wrong" in run(app, [*written, str(tmp_path / "data")]).output
    assert (
        plain["label_errors"]["estimated"]
        == json.loads((tmp_path / "data" / "label-errors.json").read_text())["estimated"]
    )
    quiet = run(app, [*written, str(tmp_path / "quiet"), "--no-label-errors"])
    assert "likely wrong" not in quiet.output
    assert not (tmp_path / "quiet" / "label-errors.json").exists()
    asked = ["--format", "label-studio", "--which", "label-errors", "--rows-max", "2", "--out", str(tmp_path / "ask")]
    assert "2 tasks" in run(app, ["dataset", folder, "--task", "pos-intent", *asked]).output
