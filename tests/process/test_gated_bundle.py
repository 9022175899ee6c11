"""A bundle with a gate, from the export to the finished bundle: the gate separates training texts from others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convert.calibrate import calibrate_stage
from convert.evaluate import evaluate_stage
from convert.evaluate.serving import open_bundle, predict
from convert.package import assemble_stage, bundle_assembly
from convert.pipeline import task_file as tasks
from convert.pipeline.recipe import BudgetSection
from convert.pipeline.stage import Report, StageJob
from convert.quantize import onnx_quantizer, ood_detector
from convert.quantize.candidate_selection import Candidate, choose, judge
from edge_agent.formats import golden_cases
from edge_agent.formats.calibration_and_gate import OodGate
from tests.support.stages import TEXTS, after, stage_job

STRANGE = ["7 8 9 0 1 2", "q", "xx yy zz", "zq qz 99 qq zz", "!!!! ????", "k" * 40]


def chosen_of(job: StageJob, *types: str) -> Report:
    """Do the work of the quantize stage without a checkpoint for comparison; return its report."""
    exported, full = job.folders["export"] / "model.onnx", job.out.with_name("full.onnx")
    full.write_bytes(exported.read_bytes())
    task = tasks.of(job.recipe.path(job.recipe.task))
    fitted = ood_detector.fit(job, task, full, job.folders["export"] / "tokenizer.json")
    scored = fitted is not None and fitted.put_into(full)
    candidates = []
    for name in types:
        target = job.out / "candidates" / name / "model.onnx"
        target.parent.mkdir(parents=True)
        details = onnx_quantizer.quantize(exported, target, name)
        candidates.append(
            Candidate(name, target, details | {"ood_score": fitted is not None and fitted.put_into(target)})
        )
    return choose(job, candidates, full, scored=scored) | {"detector": fitted.report() if fitted else None}


@pytest.mark.slow
def test_run_produces_a_bundle_with_a_gate(tmp_path: Path):
    """The candidates and golden cases have an out-of-distribution score, the manifest has a gate, and the gate holds up
    texts that are unlike the training data."""
    budget = {"agreement_min": 0.0, "kl_mean_max": 9.0, "golden_cases_min": 0}
    job = stage_job(tmp_path / "run", "quantize", train=True, risk={"target": 0.2, "held_up_max": 0.1}, budget=budget)
    made = chosen_of(job, "fp32", "dynamic-int8")
    assert 240 == made["detector"]["rows"]
    assert [True, True] == [each["ood_score"] for each in made["candidates"]]
    assert 1.0 == made["candidates"][0]["gate_agreement"]["value"]
    job = after(job, "calibrate")
    report = calibrate_stage.run(job)
    assert ("ood_score", report["rows"]["gate"]) == (report["gate"]["score"], report["gate"]["rows"])
    assert report["held_up"]["gate"]["value"] < 0.4
    job = after(job, "evaluate")
    evaluate_stage.run(job)
    job = after(job, "assemble")
    (tmp_path / "run" / "model").mkdir()
    (tmp_path / "run" / "model" / "config.json").write_text("{}")
    assemble_stage.run(job)
    bundle = open_bundle(job.out / "bundle")
    gate = bundle.manifest.confidence.gate
    assert gate is not None
    cases = golden_cases.parse(bundle.paths["golden"].read_bytes())
    assert all(case.ood_score is not None for case in cases)
    said = predict(job.out / "bundle", [*STRANGE, *TEXTS[:60]])
    held_up = [gate.holds_up(each.ood_score) for each in said]
    assert sum(held_up[: len(STRANGE)]) >= 4
    assert sum(held_up[len(STRANGE) :]) <= 20


@pytest.mark.slow
def test_training_text_over_the_limit_is_left_out_of_the_gate(tmp_path: Path):
    """A training text that a site would refuse as too long is not used for the gate, because the graph can lack
    positions for it."""
    job = stage_job(tmp_path / "run", "quantize", train=True)
    with (tmp_path / "run" / "train.jsonl").open("a") as file:
        file.write(json.dumps({"text": "kettle " * 5000, "label": "price"}) + "\n")
    exported, task = job.folders["export"], tasks.of(job.recipe.path(job.recipe.task))
    found = ood_detector.fit(job, task, exported / "model.onnx", exported / "tokenizer.json")
    assert found is not None
    assert 240 == found.rows


def test_candidate_with_low_gate_agreement_is_outside_the_budget():
    """A candidate with less than 99% of the rows on the same side of the gate is rejected with that reason; one without
    a gate is not."""
    line = {"agreement": {"value": 1.0}, "accuracy_loss": 0.0}
    assert [] == judge(line | {"gate_agreement": None}, BudgetSection())
    assert [] == judge(line | {"gate_agreement": {"value": 0.99}}, BudgetSection())
    assert ["gate agreement under 0.99"] == judge(line | {"gate_agreement": {"value": 0.98}}, BudgetSection())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["extract", "embed"])
def test_other_encoders_have_a_gate_for_their_inputs(tmp_path: Path, kind: str):
    """Encoders for records and vectors, whose training texts have no classes, have a gate as well, which holds up texts
    unlike the training data."""
    job = stage_job(
        tmp_path / "run", "quantize", kind, train=True, budget={"agreement_min": 0.0}, risk={"held_up_max": 0.1}
    )
    assert 1 == chosen_of(job, "fp32")["detector"]["classes"]
    job = after(job, "calibrate")
    assert "ood_score" == calibrate_stage.run(job)["gate"]["score"]
    section = _section(job.out)
    assert isinstance(section["gate"], dict)
    gate = OodGate.model_validate_json(json.dumps(section["gate"]))
    bundle = bundle_assembly.candidate_bundle(job, bundle_assembly.chosen_weights(job), tmp_path / "bundle")
    said = predict(bundle, [*STRANGE, *TEXTS[:60]])
    held_up = [gate.holds_up(gate.score_of(each.ood_score, each.label_mass)) for each in said]
    assert sum(held_up[: len(STRANGE)]) >= 4
    assert sum(held_up[len(STRANGE) :]) <= 20


@pytest.mark.slow
def test_bundle_without_training_texts_has_no_gate(tmp_path: Path):
    """A recipe with a tuned source and no training split produces a bundle without a gate, and the report has the
    reason."""
    job = stage_job(tmp_path / "run", "quantize", budget={"agreement_min": 0.0})
    assert None is chosen_of(job, "fp32")["detector"]
    job = after(job, "calibrate")
    report = calibrate_stage.run(job)
    assert {"score": "none", "why": "The model has no out-of-distribution score."} == report["gate"]
    assert "gate" not in {key for key, value in _section(job.out).items() if value is not None}


def _section(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "confidence.json").read_text())
    return found
