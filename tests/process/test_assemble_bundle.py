"""The assemble stage: it produces the finished bundle, identically from the same inputs, with golden answers that the
bundle repeats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from convert.calibrate import calibrate_stage
from convert.dataset import lineage
from convert.evaluate import evaluate_stage
from convert.evaluate.serving import predict
from convert.package import assemble_stage
from convert.pipeline.recipe import BudgetSection
from convert.pipeline.stage import StageJob
from convert.quantize.candidate_selection import Candidate, choose
from edge_agent.errors import ModelFailed
from edge_agent.formats.calibration import Threshold
from edge_agent.formats.golden_cases import is_binding, parse
from tests.support.bundles import INTENTS, digest_of, manifest_of
from tests.support.stages import after, stage_job

RISK = {"target": 0.1, "delta": 0.1}


def finished(folder: Path, kind: str = "classify", samples: str = "", **more) -> StageJob:
    """Run the stages from quantize to assemble and return the last job."""
    budget = {"golden_cases_min": 0}  # its test split has ten rows
    job = stage_job(folder, "quantize", kind, risk=RISK, budget=budget, **more)
    (folder / "model").mkdir()
    (folder / "model" / "LICENSE").write_text("do what you like")
    (folder / "model" / "config.json").write_text("{}")
    (folder / "samples.txt").write_text(samples)
    full = job.folders["export"] / "model.onnx"
    choose(job, [Candidate("fp32", full, {"type": "fp32", "bits_per_weight": 32.0})], full)
    target = job.out / "candidates" / "fp32" / "model.onnx"
    target.parent.mkdir(parents=True)
    target.write_bytes(full.read_bytes())
    for stage, run in (("calibrate", calibrate_stage.run), ("evaluate", evaluate_stage.run)):
        job = after(job, stage)
        run(job)
    return after(job, "assemble")


@pytest.mark.slow
def test_candidate_with_varying_scores_is_not_chosen(tmp_path):
    """A candidate whose scores depend on the batch is rejected with the reason, although it agrees on every row;
    another candidate is chosen."""
    job = stage_job(tmp_path, "quantize")
    task = tmp_path / "task.yaml"
    task.write_text(task.read_text().replace("runtime: onnx", "runtime: echo"))
    weights = {"full": b"w" * 1000, "steady": b"w" * 900, "varying": b"!vary"}
    paths = {name: tmp_path / f"{name}.bin" for name in weights}
    for name, path in paths.items():
        path.write_bytes(weights[name])
    report = choose(job, [Candidate(name, paths[name]) for name in ("varying", "steady")], paths["full"])
    varying, steady = report["candidates"]
    assert ("steady", [True, False]) == (report["chosen"], [steady["inside_budget"], varying["inside_budget"]])
    assert [1.0, 1.0] == [each["agreement"]["value"] for each in (varying, steady)]
    assert varying["batch_invariance"]["problem"] in varying["outside"]
    assert "" == steady["batch_invariance"]["problem"]


@pytest.mark.slow
def test_finished_bundle_is_complete(tmp_path):
    """The finished bundle is calibrated, records its provenance and memory requirement, and contains the report, the
    licence and golden answers."""
    job = finished(tmp_path / "run", samples="how much is the mug?\n")
    report = assemble_stage.run(job)
    folder = job.out / "bundle"
    manifest = manifest_of(folder)
    assert {folder, job.out / "lineage.json"} == set(job.out.iterdir())
    assert digest_of(folder) == report["digest"]
    assert isinstance(manifest.confidence, Threshold)
    assert {"weights", "tokenizer", "golden", "report", "licence"} == {each.role for each in manifest.artifacts}
    assert manifest.engine.quantization is not None
    assert (32.0, "Apache-2.0", "model") == (
        manifest.engine.quantization.bits_per_weight,
        manifest.provenance.licence,
        manifest.provenance.base,
    )
    assert {"source.checkpoint", "data.calibration", "data.test"} == set(manifest.provenance.sources)
    assert manifest.provenance.sources["data.test"].startswith(
        "120 rows, 0 synthetic, labels: 120 imported, 120 imported rows, made-up values in 0, sha256 "
    )
    assert {"edge-convert", "torch", "onnxruntime"} <= set(manifest.provenance.converter)
    measured = manifest.provenance.converter["batch invariance"]
    assert "answers to 32 texts alone and in batches of 2 and 8: the same to the last bit; onnxruntime " in measured
    assert 80e6 < manifest.requires.memory_bytes < 400e6
    quality = json.loads((folder / "report.json").read_text())
    assert {"evaluate", "calibrate", "quantize"} == set(quality)
    assert "latency_ms" not in json.dumps(quality)


@pytest.mark.slow
def test_the_golden_set_covers_the_labels(tmp_path):
    """The golden cases start with the samples and cover every label that rows have; the bundle repeats their answers
    when it is served again."""
    job = finished(tmp_path / "run", samples="how much is the mug?\n")
    report = assemble_stage.run(job)
    folder = job.out / "bundle"
    cases = parse((folder / "golden.jsonl").read_bytes())
    labels = {json.loads(line)["label"] for line in (tmp_path / "run" / "test.jsonl").read_text().splitlines()}
    assert "how much is the mug?" == cases[0].input
    assert labels <= {case.answer for case in cases}
    assert set(INTENTS) - {case.answer for case in cases} == set(report["labels_without_case"])
    assert (len(cases), sum(map(is_binding, cases))) == (report["golden"]["cases"], report["golden"]["binding"])
    said = predict(folder, [case.input for case in cases])
    assert [case.answer for case in cases] == [each.answer for each in said]


@pytest.mark.slow
def test_golden_cases_carry_surrogates_and_still_pass(tmp_path):
    """Golden cases contain surrogates instead of values of rows, with the answers to the surrogate text; the manifest
    and the lineage record it."""
    card = "4111 1111 1111 1111"
    job = finished(tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "test.jsonl").read_text().splitlines()]
    spoken = [
        {**row, "text": f"{row['text']} with card {card}", "site": "clinic-1", "prediction_id": f"p-{number}"}
        for number, row in enumerate(rows)
    ]
    (tmp_path / "run" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in spoken))
    report = assemble_stage.run(job)
    folder = job.out / "bundle"
    cases = parse((folder / "golden.jsonl").read_bytes())
    assert [] == [path.name for path in folder.iterdir() if card.encode() in path.read_bytes()]
    assert len(cases) == report["golden"]["origin"]["replaced_cases"]
    assert [case.answer for case in cases] == [each.answer for each in predict(folder, [case.input for case in cases])]
    assert "made-up ones" in manifest_of(folder).provenance.converter["golden cases"]
    (use,) = lineage.trace(lineage.documents(None, [job.out.parent]), ["clinic-1/p-0"])
    assert (digest_of(folder), ["clinic-1/p-0"]) == (use.document.digest, use.records["test"])


@pytest.mark.slow
def test_bundle_with_too_few_binding_golden_cases_is_refused(tmp_path):
    """If fewer golden cases are binding than the recipe requires, the error has both numbers, and the remedy names
    `golden_cases_min`."""
    job = finished(tmp_path / "run")
    strict = replace(job, recipe=job.recipe.model_copy(update={"budget": BudgetSection(golden_cases_min=200)}))
    with pytest.raises(ModelFailed, match=r"\d+ of \d+ golden cases are binding") as caught:
        assemble_stage.run(strict)
    assert "golden_cases_min" in caught.value.remedy


@pytest.mark.slow
def test_the_same_inputs_give_the_same_digest(tmp_path):
    """Two runs of all stages with the same inputs produce the same bundle, byte for byte."""
    digests, files = [], []
    for name in ("one", "two"):
        job = finished(tmp_path / name, wrong=5)
        digests.append(assemble_stage.run(job)["digest"])
        files.append({path.name: path.read_bytes() for path in (job.out / "bundle").iterdir()})
    assert digests[0] == digests[1]
    assert files[0] == files[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["extract", "embed"])
def test_other_kinds_are_finished_too(tmp_path, kind):
    """Bundles for records and for vectors have golden answers as well."""
    job = finished(tmp_path / "run", kind)
    report = assemble_stage.run(job)
    assert 24 == report["golden"]["cases"]
    assert [] == report["labels_without_case"]
