"""Tasks for Label Studio and reviews from its exports: the central team's review settles conflicts between a site's
reviewers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from convert.cli import app
from convert.dataset import assessment, label_studio
from convert.dataset.assessment import ReviewSelection
from convert.publish import central_keys
from edge_agent.capture.redact.model_findings import FoundValue, ModelFindings
from edge_agent.errors import InvalidRequest
from tests.support.bundles import echo_bundle
from tests.support.examples import feedback, prediction
from tests.support.segments import CentralTeam, SealingSite


def torn(root: Path) -> CentralTeam:
    """Collect one conflict, one unreviewed pair of duplicates, and one answer with a low confidence."""
    SealingSite(root / "store").seal(
        [
            prediction(1, input="is this a refund or what"),
            feedback(1),
            feedback(1, record_id="f:2", feedback_id="f-2", reviewer="ben", value="stock"),
            prediction(2, input="do you sell kettles", confidence=0.6),
            prediction(3, input="Do you sell kettles?", confidence=0.5),
            prediction(4, input="hm", confidence=0.1),
        ]
    )
    central = CentralTeam(root)
    central.collect(root / "store")
    return central


AUDIT = {"review_stream": "audit", "sampling_probability": 0.25}


def test_every_second_task_is_of_the_random_audit(tmp_path: Path):
    """Audit tasks come oldest first, with duplicates; between them, the least confident and the diverse answers
    alternate."""
    other = {"review_stream": "uncertain"}
    unsure = [prediction(n, input=f"{'abc'[n - 4] * 9} text", confidence=n / 10, **other) for n in (6, 5, 4)]
    SealingSite(tmp_path / "store").seal(
        [
            *(prediction(number, input="the same text", confidence=0.9, **AUDIT) for number in (1, 2, 3)),
            *unsure,
            prediction(7, input="hello there", review_stream="diverse"),
            prediction(8, input="an answer of an older agent", confidence=0.0),
        ]
    )
    central = CentralTeam(tmp_path)
    central.collect(tmp_path / "store")
    tasks = [task["data"] for task in tasks_of(tmp_path, central)]
    assert ["p-1", "p-8", "p-2", "p-7", "p-3", "p-4", "p-5", "p-6"] == [each["prediction_id"] for each in tasks]
    assert ("audit", 0.25) == (tasks[0]["review_stream"], tasks[0]["sampling_probability"])
    assert ("uncertain", False) == (tasks[1]["review_stream"], "sampling_probability" in tasks[1])
    drawn = [task["data"]["prediction_id"] for task in tasks_of(tmp_path, central, which="audit")]
    assert ["p-1", "p-2", "p-3"] == drawn
    assert "$review_stream" in (tmp_path / "tasks" / assessment.INTERFACE_NAME).read_text()


def answered(tasks: list[dict[str, Any]], said: str | None, **more: Any) -> bytes:
    """Return an export of Label Studio 1.x in which a person gave every task one answer."""
    for number, task in enumerate(tasks, 1):
        result = [{"from_name": "answer", "to_name": "input", "type": "choices", "value": {"choices": [said]}}]
        annotation = {
            "id": number,
            "completed_by": {"id": 7, "email": "expert@example.org"},
            "result": result if said is not None else [],
            "was_cancelled": False,
            "updated_at": "2026-11-25T10:00:00.000000Z",
            "lead_time": 3.5,
        }
        task.update(id=number, annotations=[{**annotation, **more}])
    return json.dumps(tasks).encode()


def typed(said: str) -> dict[str, Any]:
    """Return a task of an export with a typed answer."""
    return _task("textarea", {"text": [said]})


def chosen(said: str) -> dict[str, Any]:
    """Return a task of an export with a chosen answer."""
    return _task("choices", {"choices": [said]})


def _task(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    asked = label_studio.ReviewTask("site-1", "p-1", "talk", "to whom", "hello", "hello", None, "1.0.0 abc")
    task = label_studio.task_of(asked, choices=False)
    answered([task], "", result=[{"from_name": "answer", "type": kind, "value": value}])
    return task


def tasks_of(root: Path, central: CentralTeam, **asking: Any) -> list[dict[str, Any]]:
    assessment.write(ReviewSelection(central.out, "pos-intent", **asking), root / "tasks", force=True)
    tasks: list[dict[str, Any]] = json.loads((root / "tasks" / assessment.TASKS_NAME).read_text())
    return tasks


def test_least_confident_answers_come_first(tmp_path: Path):
    """The tasks have one example of each group of duplicates, with the model's answer as the prediction."""
    tasks = tasks_of(tmp_path, torn(tmp_path))
    assert ["hm", "do you sell kettles"] == [task["data"]["input"] for task in tasks]
    prediction_ = tasks[0]["predictions"][0]
    assert (0.1, f"1.0.0 {'ab' * 6}") == (prediction_["score"], prediction_["model_version"])
    assert {"choices": ["refund"]} == prediction_["result"][0]["value"]
    assert 1 == len(tasks_of(tmp_path, CentralTeam(tmp_path), rows_max=1))


def test_interface_lists_the_labels(tmp_path: Path):
    """The interface is well-formed XML with the names that tasks use; without labels it has a text area."""
    tasks_of(tmp_path, torn(tmp_path))
    view = ElementTree.parse(tmp_path / "tasks" / assessment.INTERFACE_NAME).getroot()
    assert ["price", "refund"] == [choice.get("value") for choice in view.iter("Choice")]
    assert ("answer", "input") == (view.find("Choices").get("name"), view.find("Choices").get("toName"))
    assert 'a "quoted" & <odd> label' == (
        ElementTree.fromstring(label_studio.interface(['a "quoted" & <odd> label'])).find("Choices/Choice").get("value")
    )
    assert ElementTree.fromstring(label_studio.interface([])).find("TextArea") is not None


def test_review_of_the_central_team_settles_a_conflict(tmp_path: Path):
    """After one review at the central team, a conflict of two reviewers has a truth, and all three reviews are kept."""
    central = torn(tmp_path)
    export = answered(tasks_of(tmp_path, central, which="conflicts"), "refund")
    for _ in range(2):
        central.collect(reviews=label_studio.read_reviews(export).feedback)
        rows = central.query(
            "SELECT verdict, truth, conflict, reviewer, len(reviews) FROM examples WHERE verdict <> ''"
        )
        assert [("accept", "refund", False, "label-studio:expert@example.org", 3)] == rows


def test_changed_annotation_is_a_later_review(tmp_path: Path):
    """If an annotation is changed and exported again, the later review counts, in whichever order the exports are
    collected."""
    central = torn(tmp_path)
    early = answered(tasks_of(tmp_path, central, which="conflicts"), "refund")
    later = answered(json.loads(early), "stock", updated_at="2026-11-25T11:00:00Z")
    for export in (later, early):
        central.collect(reviews=label_studio.read_reviews(export).feedback)
    assert [("stock", 4)] == central.query("SELECT truth, len(reviews) FROM examples WHERE verdict <> ''")


@pytest.mark.parametrize(
    ("said", "more", "expected"),
    [
        ("price", {}, ("corrected", "price", "label-studio:expert@example.org")),
        ("refund", {"completed_by": 12}, ("accept", "", "label-studio:12")),
        ("refund", {"was_cancelled": True}, None),
        (None, {}, None),
    ],
)
def test_annotation_becomes_a_review(said: str | None, more: dict, expected: tuple | None):
    """The model's answer becomes an acceptance and another answer a correction; skipped and empty annotations give no
    review."""
    asked = label_studio.ReviewTask("site-1", "p-1", "pos-intent", "text", "refund", "refund", 0.5, "1.0.0 abc")
    export = answered([label_studio.task_of(asked, choices=True)], said, **more)
    found = label_studio.read_reviews(export).feedback
    assert [expected] * bool(expected) == [(each.verdict, each.value, each.reviewer) for each in found]


def test_edited_text_is_a_correction():
    """The annotation of a record or text is a text area, and its edited content is the correction."""
    asked = label_studio.ReviewTask(
        "site-1", "p-1", "orders", "two flat whites", '{"count": 1}', '{"count": 1}', None, "1.0.0 abc"
    )
    task = label_studio.task_of(asked, choices=False)
    result = [{"from_name": "answer", "type": "textarea", "value": {"text": ['{"count": 2}']}}]
    (found,) = label_studio.read_reviews(answered([task], "", result=result)).feedback
    assert ("corrected", '{"count": 2}') == (found.verdict, found.value)


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("mail anna@example.org", "mail [EMAIL_2]"),
        ('{"to": "anna@example.org"}', '{"to": "[EMAIL_2]"}'),
        ("mail [EMAIL_1]", "mail [EMAIL_1]"),
    ],
)
def test_typed_answer_is_redacted(typed: str, kept: str):
    """A typed answer is redacted as feedback is at a site; the example's placeholders stay, and their numbers are not
    reused."""
    asked = label_studio.ReviewTask("site-1", "p-1", "talk", "to [EMAIL_1]", "hello", "hello", None, "1.0.0 abc")
    task = label_studio.task_of(asked, choices=False)
    result = [{"from_name": "answer", "type": "textarea", "value": {"text": [typed]}}]
    (found,) = label_studio.read_reviews(answered([task], "", result=result)).feedback
    assert kept == found.value


def test_typed_answer_is_redacted_by_the_model():
    """The redaction model gets typed texts and the values of records with their keys, but no chosen labels or accepted
    answers."""
    asked_of: list[str] = []

    def find(texts: Sequence[str]) -> ModelFindings:
        asked_of.extend(texts)
        places = {text: text.find("Anna") for text in texts}
        found = {text: (FoundValue(at, at + 4, "GIVEN_NAME"),) if at >= 0 else () for text, at in places.items()}
        return ModelFindings(found, "pii@1.0.0")

    said = [typed("ask Anna"), typed('{"who": "Anna"}'), typed("hello"), chosen("Anna")]
    found = label_studio.read_reviews(json.dumps(said).encode(), find)
    assert ["ask [GIVEN_NAME_1]", '{"who": "[GIVEN_NAME_1]"}', "", "Anna"] == [each.value for each in found.feedback]
    assert {"ask Anna", "who", "who: Anna"} == set(asked_of)


def test_review_that_the_redaction_model_cannot_read_is_left_out():
    """The other reviews are taken, and the numbers of the unread tasks are reported."""
    export = json.dumps([typed("ask Anna"), chosen("refund")]).encode()
    found = label_studio.read_reviews(export, lambda _texts: None)
    assert (["refund"], (1,)) == ([each.value for each in found.feedback], found.unread)


@pytest.mark.parametrize(
    "export",
    [b"{", b"{}", b'[{"data": {}}]', b"[1]", answered([{"data": {"site": "Not A Site", "output": "x"}}], "y")],
)
def test_file_other_than_an_export_is_refused(export: bytes):
    """The remedy names the JSON export of Label Studio."""
    with pytest.raises(InvalidRequest) as caught:
        label_studio.read_reviews(export)
    assert "as JSON" in caught.value.remedy


def test_commands_write_tasks_and_read_the_export(tmp_path: Path):
    """`dataset --format label-studio` writes the tasks, and `collect --label-studio` reads the export."""
    central_keys.create(tmp_path / "keys")
    central = torn(tmp_path)

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert 0 == result.exit_code, result.output
        return result.output

    out = ("--task", "pos-intent", "--format", "label-studio", "--out", tmp_path / "tasks")
    assert "2 tasks" in run("dataset", central.out, *out)
    export = tmp_path / "export.json"
    export.write_bytes(answered(json.loads((tmp_path / "tasks" / "tasks.json").read_text()), "price"))
    where = ("--keys", tmp_path / "keys", "--out", central.out)
    assert "3 reviewed (3 corrected" in run("collect", *where, "--label-studio", export)
    assert 2 == CliRunner().invoke(app, list(map(str, ("collect", *where)))).exit_code


def test_collect_redacts_typed_answers_with_a_bundle(tmp_path: Path):
    """`collect --redaction-bundle` redacts typed answers as a site would; without an export the option is refused."""
    central_keys.create(tmp_path / "keys")
    central = torn(tmp_path)
    bundle = echo_bundle(tmp_path / "pii", "pii", "redact", ("O", "B-ROOM", "I-ROOM"))
    export = tmp_path / "export.json"
    export.write_text(json.dumps([typed("price of room 407182")]))
    where = ("collect", "--keys", tmp_path / "keys", "--out", central.out, "--redaction-bundle", bundle)
    assert 0 == CliRunner().invoke(app, list(map(str, (*where, "--label-studio", export)))).exit_code
    assert [] == [file for file in central.out.rglob("*") if file.is_file() and b"407182" in file.read_bytes()]
    assert [("price of room [ROOM_1]",)] == central.query(
        "SELECT value FROM records WHERE reviewer LIKE 'label-studio%'"
    )
    assert 2 == CliRunner().invoke(app, list(map(str, where))).exit_code


def test_each_model_is_shown_with_its_own_answer():
    """The large model's answer comes first and has no score; the score belongs to the local answer."""
    both = label_studio.ReviewTask(
        "site-1", "p-1", "pos-intent", "text", "price", "refund", 0.9, "1.0.0 abc", "price", "large-1"
    )
    first, second = label_studio.task_of(both, choices=True)["predictions"]
    assert ("large-1", ["price"], None) == (
        first["model_version"],
        first["result"][0]["value"]["choices"],
        first.get("score"),
    )
    assert ("1.0.0 abc", ["refund"], 0.9) == (
        second["model_version"],
        second["result"][0]["value"]["choices"],
        second["score"],
    )
