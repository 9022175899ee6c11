"""Tasks that get an out-of-distribution detector."""

from __future__ import annotations

from pathlib import Path

from convert.pipeline.recipe import Recipe
from convert.pipeline.stage import StageJob
from convert.quantize import ood_detector
from edge_agent.formats.manifest import TaskSpec


def test_redaction_task_gets_no_ood_detector(tmp_path: Path):
    """For a redaction task no detector is fitted and neither rows nor graph are read, because the model must process
    every text."""
    data = {"train": "none.jsonl", "calibration": "c.jsonl", "test": "t.jsonl"}
    recipe = Recipe.model_validate({"source": {"checkpoint": "m"}, "data": data, "folder": tmp_path})
    job = StageJob(recipe, tmp_path, {}, lambda _what, _done, _total: None)
    task = TaskSpec(name="pii", kind="redact", labels=("O", "B-NAME", "I-NAME"))
    assert None is ood_detector.fit(job, task, tmp_path / "none.onnx", tmp_path / "none.json")
