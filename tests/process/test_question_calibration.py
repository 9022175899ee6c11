"""`edge-convert calibrate BUNDLE DATA`: thresholds for questions of a finished bundle."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convert.calibrate.threshold import Risk
from convert.cli import app
from convert.data.row_files import read_for_task
from convert.evaluate.serving import BundleFolder, open_bundle
from convert.package.question_calibration import QuestionCalibration, calibrated_bundle, read_questions
from convert.pipeline.recipe import PrivacySection
from edge_agent.errors import EdgeAgentError, FileMissing, InvalidRequest
from edge_agent.formats.calibration_and_gate import AlwaysEscalate, Threshold
from tests.support import bundles, gated_onnx

PARKING = "- name: parking\n  type: predicate\n  instructions: The customer asks about parking.\n"
RISK = Risk(0.05, 0.1)


def open_desk(folder: Path, **more: Any) -> BundleFolder:
    """Return an echo bundle that accepts questions in the call and has a few of its own."""
    task = {"open_questions": True, **more}
    return open_bundle(bundles.echo_bundle(folder / "desk", kind="decide", task=task, weights=b"w" * 1000))


def write_rows(folder: Path, count: int = 400, **more: Any) -> Path:
    """Write reviewed rows: the echo model recognizes an intent by its name in the text, but no question about
    parking."""
    rows = []
    for number in range(count):
        intent, parking = bundles.INTENTS[number % len(bundles.INTENTS)], number % 2 == 0
        said = f"{number} {intent} please, " + ("parking" if parking else "thanks")
        answers = {"intent": intent, "parking": "yes" if parking else "no"}
        rows.append({"text": said, "answers": answers, "label_source": "reviewed", **more})
    path = folder / "reviewed.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def written(folder: Path, text: str = PARKING) -> Path:
    path = folder / "questions.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.slow
def test_added_question_gets_a_threshold_and_weights_stay(tmp_path: Path) -> None:
    """The command adds a question and proves thresholds on reviewed rows; the weights and the questions that no row
    answers stay.

    A question that is changed later loses its threshold, and others keep theirs.
    """
    desk, rows = open_desk(tmp_path), write_rows(tmp_path)
    arguments = ["calibrate", str(desk.folder), str(rows), "--questions", str(written(tmp_path)), "--version", "1.1.0"]
    ran = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "next")])
    assert 0 == ran.exit_code, ran.output
    made = open_bundle(tmp_path / "next")
    assert ["intent", "urgent", "severity", "parking"] == [each.name for each in made.manifest.task.questions]
    assert isinstance(made.manifest.confidence_of("parking"), Threshold)
    assert 0.05 == made.manifest.confidence_of("intent").model_dump()["delta"]
    assert isinstance(made.manifest.confidence_of("urgent"), AlwaysEscalate)
    (before,), (after,) = desk.manifest.by_role("weights"), made.manifest.by_role("weights")
    assert (before.sha256, "1.1.0") == (after.sha256, made.manifest.version)
    assert {"weights", "golden", "report"} == {each.role for each in made.manifest.artifacts}
    assert "0 values in 0 cases replaced" in ran.output
    other = written(tmp_path, PARKING.replace("asks about", "complains about"))
    few = write_rows(tmp_path, 20)
    again, report = calibrated_bundle(QuestionCalibration(made, few, tmp_path / "last", "1.2.0", RISK, questions=other))
    assert isinstance(again.manifest.confidence_of("parking"), AlwaysEscalate)
    assert ["intent", "parking"] == report["calibrated"]
    assert "How these rows were drawn is unknown." in ran.output
    drawn = write_rows(tmp_path, 40, review_stream="audit", sampling_probability=0.02)
    with drawn.open("a") as file:  # what people chose to look at by doubt says nothing of all answers
        unsure = {"answers": {"intent": "refund"}, "label_source": "corrected", "review_stream": "uncertain"}
        file.writelines("\n" + json.dumps({"text": f"{number} what", **unsure}) for number in range(20))
    _, report = calibrated_bundle(QuestionCalibration(made, drawn, tmp_path / "audited", "1.3.0", RISK))
    assert (40, 20, 0.02) == (report["rows"], report["sampling"]["unknown"], report["sampling"]["probability"])


@pytest.mark.slow
def test_calibration_of_questions_keeps_the_gate(tmp_path: Path) -> None:
    """A question that no row answers keeps its threshold, which was proven with the gate; therefore the gate stays.

    Answers that the gate holds up do not count in the proof of the other thresholds.
    """
    between = gated_onnx.ordinary_and_strange("decide")[2]
    gate = gated_onnx.gate(*[between] * 9)
    folder = gated_onnx.write(
        tmp_path / "desk",
        "decide",
        gated_onnx.gated("decide"),
        {"policy": "always_escalate", "gate": gate},
        question_confidence={"intent": gated_onnx.CALIBRATED},
    )
    texts = [f"{first} {second} {third}" for first, second, third in itertools.product(gated_onnx.TEXTS, repeat=3)]
    rows = tmp_path / "reviewed.jsonl"
    rows.write_text("\n".join(json.dumps({"text": text, "answers": {"urgent": "yes"}}) for text in texts[:200]))
    desk = open_bundle(folder)
    made, report = calibrated_bundle(
        QuestionCalibration(desk, rows, tmp_path / "next", "1.1.0", Risk(0.4, 0.1), golden_cases_min=0)
    )
    assert desk.manifest.confidence.gate == made.manifest.confidence.gate is not None
    assert desk.manifest.confidence_of("intent") == made.manifest.confidence_of("intent")
    assert (gate["held_up_max"], 9) == (report["gate"]["held_up_max"], report["gate"]["rows"])
    assert 0 < report["questions"]["urgent"]["held_up"]["gate"]["value"] < 1


def golden_texts(folder: Path) -> list[str]:
    return [json.loads(line)["input"] for line in (folder / "golden.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_golden_cases_contain_no_text_of_a_person(tmp_path: Path) -> None:
    """Golden cases have surrogates, or come from rows that are marked as composed; the manifest records which.

    If the rows are too few for a check on a site, no bundle is created unless the command allows it.
    """
    desk, mail = open_desk(tmp_path), "jane.roe@example.org"
    rows = [json.loads(line) for line in write_rows(tmp_path, 40).read_text().splitlines()]
    marked = [row | {"composed": number < 9} for number, row in enumerate(rows)]
    data = tmp_path / "marked.jsonl"
    data.write_text("\n".join(json.dumps(row | {"text": f"{row['text']} {mail}"}) for row in marked))
    wanted = QuestionCalibration(desk, data, tmp_path / "a", "1.1.0", RISK, written(tmp_path))
    made, report = calibrated_bundle(wanted)
    travels = golden_texts(tmp_path / "a")
    assert (len(travels), []) == (report["golden"]["cases"], [text for text in travels if mail in text])
    assert all("@" in text for text in travels)
    assert f"{len(travels)} values in {len(travels)} cases" in made.manifest.provenance.converter["golden cases"]
    composed = replace(wanted, out=tmp_path / "b", privacy=PrivacySection(golden_cases="composed"))
    made, report = calibrated_bundle(composed)
    assert 9 == sum(mail in text for text in golden_texts(tmp_path / "b")) == report["golden"]["cases"]
    assert "marked as composed; nothing was replaced" in made.manifest.provenance.converter["golden cases"]
    few = replace(composed, out=tmp_path / "c", golden_cases_min=10)
    assert "9 of 9 golden cases are binding, and 10 are required" in refused(few).message
    assert "--golden-cases-min 9" in (refused(few).remedy or "")
    assert not few.out.exists()


def test_invalid_question_file_is_refused(tmp_path: Path) -> None:
    """A file of questions that is missing, is not YAML or breaks a rule is refused with the file's name or the rule."""
    with pytest.raises(FileMissing, match=r"none.yaml does not exist"):
        read_questions(tmp_path / "none.yaml")
    with pytest.raises(InvalidRequest, match="is not valid YAML"):
        read_questions(written(tmp_path, "- name: [unclosed"))
    with pytest.raises(InvalidRequest, match="is not valid YAML"):
        read_questions(written(tmp_path, "- name: 2026-02-30"))
    with pytest.raises(InvalidRequest, match="a choice has 2 to 255 labels, not 1"):
        read_questions(written(tmp_path, "- {name: a, type: choice, instructions: which, labels: [one]}"))


def refused(wanted: QuestionCalibration) -> EdgeAgentError:
    with pytest.raises(EdgeAgentError) as caught:
        calibrated_bundle(wanted)
    return caught.value


def test_unsuitable_bundle_or_rows_are_refused(tmp_path: Path) -> None:
    """Calibration refuses a bundle of another kind, rows for a question that the bundle lacks, and rows that are not a
    random sample labelled by people."""
    classify = open_bundle(bundles.echo_bundle(tmp_path / "other"))
    rows, out = write_rows(tmp_path, 4), tmp_path / "next"
    assert "is of kind classify" in refused(QuestionCalibration(classify, rows, out, "1.1.0", RISK)).message
    desk = open_desk(tmp_path)
    assert "no question 'parking'" in refused(QuestionCalibration(desk, rows, out, "1.1.0", RISK)).message
    for marks, said in (
        ({"label_source": "teacher"}, "4 rows were labelled by a machine"),
        ({"synthetic": True}, "4 rows are synthetic"),
        ({"review_stream": "uncertain"}, "none of 4 rows has a known sampling probability"),
    ):
        wanted = QuestionCalibration(desk, write_rows(tmp_path, 4, **marks), out, "1.1.0", RISK, written(tmp_path))
        assert said in refused(wanted).message
    assert not out.exists()


def test_missing_out_or_version_is_refused(tmp_path: Path) -> None:
    """Without `--out` or `--version` the command exits with 2 and names the missing option."""
    desk, rows = open_desk(tmp_path), write_rows(tmp_path, 4)
    for given, missing in (([], "--out is missing"), (["--out", str(tmp_path / "x")], "--version is missing")):
        ran = CliRunner().invoke(app, ["calibrate", str(desk.folder), str(rows), *given])
        assert (2, True) == (ran.exit_code, missing in ran.output)
    assert 4 == len(read_for_task(rows, desk.manifest.task.model_copy(update={"questions": _both(tmp_path, desk)})))


def _both(folder: Path, desk: BundleFolder) -> tuple[Any, ...]:
    return (*desk.manifest.task.questions, *read_questions(written(folder)))
