"""The stages of a decide task: one tiny encoder that answers three questions, from its heads to the finished bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from convert.calibrate import calibrate_stage
from convert.calibrate.threshold import Risk
from convert.data.data_row import DataRow
from convert.data.row_lines import read_rows
from convert.evaluate import evaluate_stage
from convert.evaluate.predictions import views
from convert.evaluate.serving import open_bundle, serve_bundles
from convert.export import export_stage
from convert.package import assemble_stage
from convert.pipeline import recipe as recipes
from convert.pipeline.stage import StageJob
from convert.quantize import candidate_selection
from convert.quantize.candidate_selection import Candidate
from convert.training import finetune_stage
from convert.verify import verify_stage
from edge_agent.errors import ModelFailed
from edge_agent.formats.calibration_and_gate import AlwaysEscalate, Threshold
from edge_agent.formats.golden_cases import parse
from edge_agent.formats.manifest import encode
from tests.support import tiny_encoder
from tests.support.bundles import QUESTIONS, manifest_of, tiny_onnx_bundle
from tests.support.stages import TEXTS, after, quantized, spoiled, stage_job

NAMES = [each["name"] for each in QUESTIONS]


@pytest.mark.slow
def test_bundle_of_a_decide_task_answers_each_question(tmp_path: Path):
    """The bundle has a threshold for each question, one gate, a delta that is divided among the questions, and golden
    cases with every answer."""
    folder = tmp_path / "run"
    sections: dict[str, Any] = {"risk": {"target": 0.1, "delta": 0.15}, "budget": {"golden_cases_min": 0}}
    job = stage_job(folder, "quantize", "decide", wrong=40, **sections)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    full = job.folders["export"] / "model.onnx"
    report = candidate_selection.choose(job, [Candidate("fp32", full, {"type": "fp32", "bits_per_weight": 32.0})], full)
    assert NAMES == list(report["candidates"][0]["questions"])
    quantized(job)
    for stage, run in (("calibrate", calibrate_stage.run), ("evaluate", evaluate_stage.run)):
        job = after(job, stage)
        report = run(job)
        assert NAMES == list(report["questions"])
    assemble_stage.run(job := after(job, "assemble"))
    manifest = manifest_of(job.out / "bundle")
    intent, urgent, severity = (manifest.confidence_of(name) for name in NAMES)
    assert isinstance(intent, Threshold)
    assert isinstance(severity, Threshold)
    assert (pytest.approx(0.05), 0.1, 168) == (intent.delta, intent.target_risk, intent.n)
    assert isinstance(urgent, AlwaysEscalate)  # one in six of its answers is wrong
    assert isinstance(manifest.confidence, AlwaysEscalate)
    cases = parse((job.out / "bundle" / "golden.jsonl").read_bytes())
    assert all(set(NAMES) == set(case.answers) == set(case.question_scores) for case in cases)
    quality = json.loads((job.out / "bundle" / "report.json").read_text())
    assert set(NAMES) == set(quality["evaluate"]["questions"]) == set(quality["calibrate_questions"])


@pytest.mark.slow
def test_a_question_with_too_few_rows_always_escalates(tmp_path: Path):
    """A question with too few rows always escalates; the other questions divide delta among them, and the report names
    both."""
    bundle = open_bundle(tiny_onnx_bundle(tmp_path / "a", "decide"))
    with serve_bundles([bundle]) as served:
        said = [json.loads(each.answer) for each in served.predict(bundle, TEXTS[:200])]
    lines = [
        {"text": text, "answers": {name: label for name, label in each.items() if name != "urgent" or place < 20}}
        for place, (text, each) in enumerate(zip(TEXTS, said, strict=False))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    rows: list[DataRow] = read_rows(tmp_path / "rows.jsonl", "text-answers")
    found = calibrate_stage.calibrate(bundle, rows, Risk(0.1, 0.1))
    assert isinstance(found.questions["urgent"], AlwaysEscalate)
    assert (0.05, 0.05) == tuple(found.questions[name].delta for name in ("intent", "severity"))  # type: ignore[union-attr]
    assert "2 of 3 questions have a threshold: intent, severity." in found.report["verdict"]
    assert "Every answer to urgent escalates." in found.report["verdict"]


def test_each_question_has_its_own_temperature(tmp_path: Path):
    """A temperature changes only the probabilities of its question; log-probabilities at temperature 1 stay the
    same."""
    bundle = open_bundle(tiny_onnx_bundle(tmp_path / "a", "decide"))
    warmer = bundle.at_temperatures({"intent": 1.0, "urgent": 4.0, "severity": 1.0})
    assert encode(warmer.manifest) == warmer.manifest_bytes
    with serve_bundles([bundle]) as served:
        pair = [served.predict(each, TEXTS[:1])[0] for each in (bundle, warmer)]
    assert [True, False, True] == [
        one == other for one, other in zip(*(each.question_scores for each in pair), strict=True)
    ]
    raw = [views(each.manifest)[1].prediction(said) for each, said in zip((bundle, warmer), pair, strict=True)]
    assert pytest.approx(raw[0].log_probabilities, abs=1e-4) == raw[1].log_probabilities
    assert raw[1].confidence < raw[0].confidence


@pytest.mark.slow
def test_candidate_that_is_worse_in_one_question_is_outside_the_budget(tmp_path: Path):
    """The budget applies to each question, and the error names the question that exceeds it."""
    job = stage_job(tmp_path / "run", "quantize", "decide")
    full = job.folders["export"] / "model.onnx"
    other = spoiled(tmp_path / "other.onnx", 0.5, "decide")
    with pytest.raises(ModelFailed) as raised:
        candidate_selection.choose(job, [Candidate("spoiled", other)], full)
    assert "intent: agreement under 0.98" in str(raised.value.details)


def decide_recipe(folder: Path, **finetune: object) -> recipes.Recipe:
    """Write a recipe for the tiny encoder; the words of a text answer its questions, and some rows lack some
    answers."""
    folder.mkdir()
    tiny_encoder.checkpoint(folder / "prepare" / "checkpoint")
    task = {"name": "tiny", "kind": "decide", "questions": [QUESTIONS[1], {**QUESTIONS[2], "name": "level"}]}
    (folder / "task.yaml").write_text(
        json.dumps({"version": "1.0.0", "runtime": "onnx", "task": {**task, "limits": {"input_tokens_max": 60}}})
    )
    rows = []
    for place, (word, level) in enumerate([("kettle", "low"), ("lamp", "middle"), ("radio", "high")] * 20):
        urgent = place % 2 == 0
        text = f"the {word} number {place}" + (" at once please" if urgent else "")
        soft = {"low": 0.1, "middle": 0.1, "high": 0.1, level: 0.8}
        answers = {"urgent": "yes" if urgent else "no", "level": soft if place % 4 else level}
        if place % 5 == 0:
            del answers["level"]
        rows.append({"text": text, "answers": answers if place % 7 else {}})
    for split, part in (("train", rows[:48]), ("calibration", rows[48:54]), ("test", rows[54:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    data = {"format": "text-answers", **{split: f"{split}.jsonl" for split in ("train", "calibration", "test")}}
    settings = {"method": "full", "epochs": 2, "batch_rows": 16, **finetune}
    (folder / "recipe.yaml").write_text(
        json.dumps({"source": {"checkpoint": "prepare"}, "data": data, "finetune": settings})
    )
    return recipes.read(folder)


def test_trained_encoder_has_an_output_for_each_question(tmp_path: Path):
    """One encoder is trained on several questions: rows without an answer are counted, and each question's output of
    the graph matches the checkpoint."""
    written = decide_recipe(tmp_path / "run", class_weights="balanced")
    done = {"prepare": tmp_path / "run" / "prepare"}
    reports = {}
    for stage, run in (("finetune", finetune_stage.run), ("export", export_stage.run), ("verify", verify_stage.run)):
        out = tmp_path / stage
        out.mkdir()
        reports[stage] = run(StageJob(written, out, done, lambda *_: None))
        done[stage] = out
    assert 7 == reports["finetune"]["rows"]["unanswered"]
    config = json.loads((done["finetune"] / "checkpoint" / "config.json").read_text())
    assert ["urgent/no", "urgent/yes", "level/low"] == list(config["id2label"].values())[:3]
    session = onnxruntime.InferenceSession(done["export"] / "model.onnx")
    assert ["logits.urgent", "logits.level"] == [each.name for each in session.get_outputs()]
    assert {"urgent", "level"} == set(reports["verify"]["questions"])
    assert reports["verify"]["kl_max"] < 1e-4
    assert np.isfinite(reports["finetune"]["validation_loss"])
