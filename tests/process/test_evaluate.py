"""Bundles measured through real engines, in child processes as on a site."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convert.calibrate.calibrate_stage import calibrate
from convert.calibrate.calibration_answers import Answers
from convert.calibrate.calibration_split import divide_rows
from convert.calibrate.threshold import Risk
from convert.data.data_row import DataRow, TextSpan
from convert.evaluate.evaluate_stage import compare, evaluate
from convert.evaluate.predictions import ServedPrediction
from convert.evaluate.scoring import is_right
from convert.evaluate.serving import open_bundle, predict, serve_bundles
from edge_agent.errors import BundleUnreadable, FileMissing, HashMismatch, InvalidRequest, ModelLoadFailed
from edge_agent.formats.calibration_and_gate import AlwaysEscalate, Threshold
from tests.support.bundles import INTENTS, echo_bundle, smollm2_bundle, tiny_onnx_bundle

RISK = Risk(0.05, 0.1)


def intents(count: int, wrong: int = 0) -> list[DataRow]:
    """Return rows whose label is in the text, so that echo answers them correctly; the first `wrong` have another
    label."""
    rows = [DataRow(f"message {i} about {INTENTS[i % 8]}", INTENTS[i % 8]) for i in range(count)]
    return [DataRow(row.text, INTENTS[(i + 1) % 8] if i < wrong else row.label) for i, row in enumerate(rows)]


def test_each_kind_is_answered(tmp_path):
    """The engine returns labels with log-probabilities, text, entities or vectors by kind, with tokens and time."""
    label = predict(echo_bundle(tmp_path / "a"), ["I want a refund"])[0]
    assert ("refund", 4) == (label.answer, label.input_tokens)
    assert 1.0 == pytest.approx(sum(map(math.exp, label.log_probabilities)))
    assert label.seconds > 0.0
    text = predict(echo_bundle(tmp_path / "b", "talk", "generate"), ["one two"])[0]
    assert ("one two", 2) == (text.answer, text.output_tokens)
    record = predict(echo_bundle(tmp_path / "c", "", "extract", ("number",)), ["pay 12"])[0]
    assert ('[["number", 4, 6]]', 1.0) == (record.answer, record.confidence)
    vector = predict(tiny_onnx_bundle(tmp_path / "d", "embed"), ["pay 12"])[0].vector
    assert 1.0 == pytest.approx(sum(value * value for value in vector), abs=1e-5)


def test_failed_input_is_recorded_with_its_reason(tmp_path):
    """An input that the model or the limits refuse is recorded with its reason, and the other inputs are answered."""
    said = predict(echo_bundle(tmp_path / "a", task={"limits": {"input_tokens_max": 4}}), ["!fail", "1 2 3 4 5", "ok"])
    assert ["MODEL_FAILED", "INPUT_TOO_LONG", ""] == [each.failure for each in said]
    report, _ = evaluate(tmp_path / "a", [DataRow("!fail", "refund"), DataRow("a refund", "refund")])
    assert ({"MODEL_FAILED": 1}, 0.5) == (report["failed"], report["accuracy"]["value"])


def test_log_probabilities_do_not_depend_on_the_temperature(tmp_path):
    """The same weights at another temperature have other confidences and the same log-probabilities."""
    bundle, texts = open_bundle(tiny_onnx_bundle(tmp_path / "a")), ["where is my order", "refund"]
    with serve_bundles([bundle]) as served:
        plain = served.predict(bundle, texts)
        hot = served.predict(bundle.at_temperature(3.0), texts)
    for left, right in zip(plain, hot, strict=True):
        assert left.log_probabilities == pytest.approx(right.log_probabilities, abs=1e-9)
        assert left.confidence > right.confidence


@pytest.mark.slow
def test_parallel_answers_equal_sequential_answers(tmp_path):
    """Texts that an engine computes eight at a time have the same order and scores as texts that it computes one by
    one."""
    folder, texts = tiny_onnx_bundle(tmp_path / "a"), [f"text {'more ' * (i % 7)}{i}" for i in range(40)]
    alone, together = predict(folder, texts), predict(folder, texts, at_once=8)
    assert np.allclose([a.log_probabilities for a in alone], [b.log_probabilities for b in together], atol=1e-4)


def test_progress_counts_every_text(tmp_path):
    """The progress callback is called after each answer with the number of answers and the total."""
    heard = []
    predict(echo_bundle(tmp_path / "a"), ["a", "b", "c"], lambda what, done, all_: heard.append((what, done, all_)))
    assert [("pos-intent 1.0.0", i, 3) for i in (1, 2, 3)] == heard


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), BundleUnreadable, "has no manifest.json"),
        (lambda folder: (folder / "model.onnx").unlink(), FileMissing, "does not exist, though the manifest"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), HashMismatch, "has 2 bytes"),
        (
            lambda folder: (folder / "model.onnx").write_bytes(b"x" * (folder / "model.onnx").stat().st_size),
            ModelLoadFailed,
            r"model\.onnx|weights",
        ),
    ],
)
def test_invalid_bundle_folder_is_refused(tmp_path, spoil, error, said):
    """A folder that is not a usable bundle is refused, and the error names the file at fault."""
    folder = tiny_onnx_bundle(tmp_path / "a")
    spoil(folder)
    with pytest.raises(error, match=said):
        predict(folder, ["text"])


def test_two_bundles_are_compared(tmp_path):
    """Two bundles with the same labels in another order compare as equal, and bundles of different kinds are
    refused."""
    knows = echo_bundle(tmp_path / "knows", labels=("refund", "price"))
    swapped = echo_bundle(tmp_path / "other", labels=("price", "refund"), version="2.0.0")
    report = compare(knows, swapped, [DataRow("a refund", "refund"), DataRow("the price", "price")])
    assert (1.0, 1.0) == tuple(report[which]["accuracy"]["value"] for which in ("first", "second"))
    assert (0, 0, 1.0) == (report["only_first"], report["only_second"], report["differences"]["accuracy"]["p_value"])
    assert ["pos-intent 1.0.0", "pos-intent 2.0.0"] == [name.rpartition(" ")[0] for name in report["bundles"]]
    with pytest.raises(InvalidRequest, match="of kind classify and embed"):
        compare(knows, echo_bundle(tmp_path / "v", kind="embed"), [DataRow("x")])


def test_rows_that_do_not_fit_the_bundle_are_refused(tmp_path):
    """Rows with a label that the bundle lacks, or without a label, are refused before anything runs."""
    folder = echo_bundle(tmp_path / "a", labels=("refund", "price"))
    with pytest.raises(InvalidRequest, match=r"1 label of the rows is not one of .*: hours"):
        evaluate(folder, [DataRow("x", "hours"), DataRow("y", "price")])
    with pytest.raises(InvalidRequest, match="have no label"):
        evaluate(folder, [DataRow("x")])


def test_classifier_without_errors_gets_a_threshold(tmp_path):
    """A model that is right on every row gets a proven threshold with full coverage, and limits for unusual inputs."""
    rows = intents(400)
    found = calibrate(open_bundle(echo_bundle(tmp_path / "a")), rows, RISK)
    section, report = found.confidence, found.report
    assert isinstance(section, Threshold)
    assert {"temperature": 120, "gate": 0, "threshold": 280, "failed": 0} == report["rows"]
    assert (280, 1.0) == (section.n, section.coverage)
    assert section.bound <= RISK.target
    assert section.novelty is not None
    assert (4, 4) == (section.novelty.input_tokens_min, section.novelty.input_tokens_max)
    assert report["verdict"].startswith(
        f"At a threshold of {section.threshold:g}, 100.0% of the answers to the calibration rows are confident."
    )


def test_served_coverage_equals_calibrated_coverage(tmp_path):
    """The share of confident answers that the calibrated bundle serves on the proving rows is the coverage in its
    manifest."""
    rows = intents(300, wrong=2) + [DataRow(f"nothing {i} known", INTENTS[i % 8]) for i in range(60)]
    found = calibrate(open_bundle(echo_bundle(tmp_path / "a")), rows, RISK)
    section = found.confidence
    assert isinstance(section, Threshold)
    proving = divide_rows(rows).proving
    folder = echo_bundle(tmp_path / "b", confidence=section.model_dump())
    said = predict(folder, [row.text for row in proving])
    sure = [(row, each) for row, each in zip(proving, said, strict=True) if each.confidence >= section.threshold]
    assert section.coverage == pytest.approx(len(sure) / len(proving), abs=1e-6)
    assert section.coverage < 0.95
    assert sum(not is_right("classify", row, each) for row, each in sure) <= section.bound * len(sure)


def test_too_few_rows_escalate_and_report_the_missing_labels(tmp_path):
    """30 rows cannot prove a risk of 5%: the bundle always escalates, and the report states how many more labels are
    needed."""
    found = calibrate(open_bundle(echo_bundle(tmp_path / "a")), intents(30), RISK)
    section, report = found.confidence, found.report
    assert isinstance(section, AlwaysEscalate)
    assert (1.0, {"temperature": 0, "gate": 0, "threshold": 30, "failed": 0}) == (section.temperature, report["rows"])
    assert 15 <= report["labels_needed"] <= 100
    assert f"every answer escalates. About {report['labels_needed']} more labels are needed" in report["verdict"]


def test_confidently_wrong_model_is_not_helped_by_labels(tmp_path):
    """If the most confident answers are wrong too often, the report states that more labels will not help and asks for
    none."""
    found = calibrate(open_bundle(echo_bundle(tmp_path / "a")), intents(300, wrong=100), RISK)
    section, report = found.confidence, found.report
    assert isinstance(section, AlwaysEscalate)
    assert report["labels_needed"] is None
    assert "More labels alone will not help" in report["verdict"]


@pytest.mark.slow
def test_extracted_records_count_as_right_only_as_a_whole(tmp_path):
    """An extract bundle is calibrated on whole records: random weights get no threshold, and a bundle whose own answers
    are the labels has an accuracy of 1."""
    rows = [DataRow(f"refund {i}", spans=(TextSpan(0, 6, "product"),)) for i in range(150)]
    found = calibrate(open_bundle(tiny_onnx_bundle(tmp_path / "a", "extract")), rows, RISK)
    section, report = found.confidence, found.report
    assert isinstance(section, AlwaysEscalate)
    assert 0.5 <= section.temperature <= 4.0
    assert report["accuracy"]["value"] < 0.9
    said = predict(tiny_onnx_bundle(tmp_path / "b", "extract"), [row.text for row in rows])
    spans = [tuple(TextSpan(e.start, e.end, e.label) for e in each.entities) for each in said]
    own = [DataRow(row.text, spans=found) for row, found in zip(rows, spans, strict=True)]
    found = calibrate(open_bundle(tmp_path / "b"), own, RISK)
    section, report = found.confidence, found.report
    assert (1.0, 0.5) == (report["accuracy"]["value"], section.temperature)


def test_the_rows_are_divided_by_their_texts():
    """Rows are divided into fitting and proving rows by their texts: the order of the file does not matter, and the
    same text is never in both parts."""
    rows = intents(300) + intents(40)
    parts, again = divide_rows(rows), divide_rows(rows[::-1])
    for name in ("tuning", "proving"):
        assert {row.key for row in getattr(parts, name)} == {row.key for row in getattr(again, name)}
    assert not {row.key for row in parts.tuning} & {row.key for row in parts.proving}
    assert (340, True) == (len(parts.tuning) + len(parts.proving), 100 <= len(parts.tuning) <= 104)
    assert ([], 90) == (divide_rows(rows[:90]).tuning, len(divide_rows(rows[:90]).proving))


def test_temperature_uses_at_most_500_rows():
    """Of many rows the temperature takes at most 500, and all others prove the threshold."""
    parts = divide_rows([DataRow(f"text {i}", "a") for i in range(4000)])
    assert (500, 3500) == (len(parts.tuning), len(parts.proving))
    assert not {row.text for row in parts.tuning} & {row.text for row in parts.proving}


def test_a_family_is_in_one_part_and_tested_once():
    """All rows of a family are in the same part, and only one row, always the same, is tested, because they are right
    or wrong together."""
    rows = [replace(row, family=f"family {place % 60}") for place, row in enumerate(intents(300))]
    parts = divide_rows(rows)
    proving = parts.proving
    assert not {row.family for row in parts.tuning} & {row.family for row in proving}
    assert parts.tuning
    answers = Answers(proving, [ServedPrediction(row.label, 0.9) for row in proving], np.arange(len(proving)) % 2 == 0)
    once = answers.one_of_each_family()
    assert len({row.family for row in proving}) == len(once.rows) == len(once.predictions) == len(once.right)
    places = [proving.index(row) for row in once.rows]
    assert [bool(answers.right[place]) for place in places] == once.right.tolist()
    back = Answers(proving[::-1], answers.predictions[::-1], answers.right[::-1]).one_of_each_family()
    assert {row.key for row in once.rows} == {row.key for row in back.rows}


@pytest.mark.release
def test_decoder_reports_its_label_mass(tmp_path):
    """SmolLM2 reports a label mass, and an engine that computes several texts at once returns the same labels."""
    folder = smollm2_bundle(Path(tmp_path, "a"))
    texts = ["I want my money back", "Until when are you open?", "Do you have red socks?"]
    said = predict(folder, texts, at_once=3)
    assert [each.answer for each in said] == [each.answer for each in predict(folder, texts)]
    assert all(0.0 < each.label_mass < 1.0 for each in said)
    assert json.loads(said[0].line("x", "refund"))["label_mass"] < 1.0
