"""The calibrate and evaluate stages: their files, their reports and repeated runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from convert.calibrate import calibrate_stage
from convert.data import splits
from convert.evaluate import evaluate_stage
from convert.pipeline.stage import StageJob
from convert.report.markdown import headline
from edge_agent.formats.calibration_and_gate import Threshold
from tests.support.stages import after, quantized, stage_job


def ready(folder: Path, stage: str, kind: str = "classify", **more) -> StageJob:
    return after(quantized(stage_job(folder, "quantize", kind, **more)), stage)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.slow
def test_calibrate_writes_the_confidence_section(tmp_path):
    """The calibrate stage writes only confidence.json, which is the section of the manifest and matches the report."""
    job = ready(tmp_path / "run", "calibrate", risk={"target": 0.1, "delta": 0.1})
    report = calibrate_stage.run(job)
    assert ["confidence.json"] == files(job.out)
    section = Threshold.model_validate(json.loads((job.out / "confidence.json").read_text()))
    assert (report["threshold"], report["temperature"]) == (section.threshold, section.temperature)
    assert {"temperature": 72, "gate": 0, "threshold": 168, "failed": 0} == report["rows"]
    parts = {"bins", "calibration_error", "log_loss", "note"}
    assert parts == set(report["reliability"]["before"]) == set(report["reliability"]["after"])
    fit = report["temperature_fit"]
    assert report["temperature"] == (fit["tried"] if fit["kept"] else 1.0)
    assert json.loads(json.dumps(report)) == report


@pytest.mark.slow
def test_calibration_is_reproducible(tmp_path):
    """Two runs of the calibrate stage on the same inputs write the same bytes."""
    left = []
    for name in ("one", "two"):
        job = ready(tmp_path / name, "calibrate", wrong=20)
        left.append((calibrate_stage.run(job), (job.out / "confidence.json").read_bytes()))
    assert left[0] == left[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["embed"])
def test_a_task_without_confidence_is_not_calibrated(tmp_path, kind):
    """A task whose answers have no confidence, such as vectors, gets the policy always_escalate, and the report has the
    reason."""
    job = ready(tmp_path / "run", "calibrate", kind)
    assert "has no confidence" in calibrate_stage.run(job)["verdict"]
    assert "always_escalate" == json.loads((job.out / "confidence.json").read_text())["policy"]


@pytest.mark.slow
def test_extract_recipe_is_calibrated(tmp_path):
    """The calibrate stage of an extract recipe reads text-spans rows and finds a threshold."""
    job = ready(tmp_path / "run", "calibrate", "extract", risk={"target": 0.1, "delta": 0.1})
    report = calibrate_stage.run(job)
    assert (1.0, True) == (report["accuracy"]["value"], report["coverage"] > 0)


@pytest.mark.slow
def test_evaluate_writes_predictions_and_reproducible_figures(tmp_path):
    """The evaluate stage writes a line for each test row, and quality.json with the figures that do not change between
    runs, such as accuracy but not latency."""
    job = ready(tmp_path / "run", "evaluate", wrong=12)
    report = evaluate_stage.run(job)
    assert ["predictions.jsonl", "quality.json"] == files(job.out)
    lines = [json.loads(line) for line in (job.out / "predictions.jsonl").read_text().splitlines()]
    assert (120, 108) == (len(lines), sum(line["answer"] == line["expected"] for line in lines))
    assert (0.9, 120) == (report["accuracy"]["value"], report["rows"])
    quality = json.loads((job.out / "quality.json").read_text())
    assert report == {**quality, "latency_ms": report["latency_ms"]}
    assert report["latency_ms"]["p50"] > 0


@pytest.mark.slow
def test_headline_excludes_near_duplicates(tmp_path):
    """Test rows that are near duplicates of calibration rows are counted, and the report has a separate headline
    without them."""
    job = ready(tmp_path / "run", "evaluate", wrong=30)
    file = job.recipe.path("test.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for place, row in enumerate(rows[40:]):
        row["text"] = f"{place} {hashlib.sha256(str(place).encode()).hexdigest()[:30]}"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = evaluate_stage.run(job)
    lines = [json.loads(line) for line in (job.out / "predictions.jsonl").read_text().splitlines()]
    right = [line["answer"] == line["expected"] for line in lines]
    known = [json.loads(line)["text"] for line in job.recipe.path("calibration.jsonl").read_text().splitlines()]
    near = splits.copies_of_any([row["text"] for row in rows], {"calibration": known}).tolist()
    assert not any(near[40:])
    assert {"rows": 35, "splits": ["calibration"]} == report["near_copies"]
    others = [good for good, copy in zip(right, near, strict=True) if not copy]
    without = report["without_near_copies"]
    assert (85, sum(others) / 85) == (without["rows"], without["accuracy"]["value"])
    assert sum(right) / 120 == report["accuracy"]["value"]
    said = " ".join(headline(report))
    assert (
        "35 test rows (29.2%) are near duplicates of training or calibration rows. Without them it is right on" in said
    )
