"""Jobs for stages after the export, with real small models: a recipe, its rows, and the folders of the stages before.

    job = stage_job(tmp_path, "quantize")                   # a random 2-layer BERT that classifies
    weights = spoiled(tmp_path / "other.onnx", 0.5)         # the same with noise on its weights

The rows are labelled with what the model itself says, so it is always right, but for the first `wrong` of each split.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from convert.data.data_row import DataRow
from convert.evaluate.serving import predict, quiet
from convert.pipeline import recipe
from convert.pipeline.stage import StageJob
from tests.support import bert_onnx
from tests.support.bundles import DEFAULT_LABELS, QUESTIONS, tiny_onnx, tiny_onnx_bundle

_FORMATS = {"extract": "text-spans", "decide": "text-answers"}
_VERBS = ("return", "price of", "swap", "where is", "pay")
_THINGS = ("kettle", "blue lamp", "shirt", "red shoes", "toy", "mug", "bag", "old radio", "tv")
TEXTS = [f"{verb} the {thing} {i}" for i in range(8) for verb in _VERBS for thing in _THINGS]


def stage_job(
    folder: Path, stage: str, kind: str = "classify", wrong: int = 0, *, train: bool = False, **more: Any
) -> StageJob:
    """Return a job whose export stage is done; `more` are sections of the recipe.

    With `train` there is a training split: what the calibration rows say, and a word more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = list(DEFAULT_LABELS[kind])
    task: dict[str, Any] = {"name": "tiny", "kind": kind, "labels": labels, "limits": {"input_tokens_max": 64}}
    if kind == "decide":
        task["questions"] = QUESTIONS
    plain = {"version": "1.0.0", "runtime": "onnx", "task": task, "provenance": {"licence": "Apache-2.0"}}
    (folder / "task.yaml").write_text(yaml.safe_dump(plain))
    rows = _labelled(folder / "labelling", kind, wrong)
    for split, part in (("calibration", rows[:240]), ("test", rows[240:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in part))
    data = {"calibration": "calibration.jsonl", "test": "test.jsonl"} | (
        {"format": _FORMATS[kind]} if kind in _FORMATS else {}
    )
    if train:
        more_said = ({**each, "text": each["text"].replace("the", "that")} for each in rows[:240])
        (folder / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in more_said))
        data["train"] = "train.jsonl"
    written = {"source": {"checkpoint": "model"}, "data": data, **more}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(written))
    export, out = folder / "export", folder / stage
    export.mkdir()
    out.mkdir()
    (export / "model.onnx").write_bytes(tiny_onnx(kind))
    (export / "tokenizer.json").write_bytes(bert_onnx.tiny_tokenizer())
    return StageJob(recipe.read(folder), out, {"export": export}, quiet)


def after(job: StageJob, stage: str) -> StageJob:
    """Return a job for another stage, to which the one before is done."""
    out = job.out.with_name(stage)
    out.mkdir()
    return StageJob(job.recipe, out, {**job.folders, job.out.name: job.out}, quiet)


def quantized(job: StageJob) -> StageJob:
    """Write the output of a quantize stage that kept the weights unchanged; return a job for the next stage."""
    target = job.out / "candidates" / "fp32"
    target.mkdir(parents=True)
    (target / "model.onnx").write_bytes((job.folders["export"] / "model.onnx").read_bytes())
    (job.out / "chosen").write_text("fp32\n")
    return job


def spoiled(path: Path, noise: float, kind: str = "classify") -> Path:
    """Write the same model with normal noise on its weights, relative to their spread, and return the path."""
    config, rng = bert_onnx.TINY, np.random.default_rng(3)
    sizes = {each["name"]: len(each.get("labels", "ny")) for each in QUESTIONS}
    outputs = sum(sizes.values()) if kind == "decide" else len(DEFAULT_LABELS[kind])
    weights = bert_onnx.random_weights(config, outputs=outputs)
    moved = {
        name: (value + rng.normal(0, noise * (value.std() + 1e-9), value.shape)).astype(np.float32)
        for name, value in weights.items()
    }
    head = {"classify": "classify", "decide": "classify", "extract": "tags", "embed": "hidden"}[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    made = bert_onnx.build(config, moved, head)
    path.write_bytes(bert_onnx.split_by_question(made, sizes) if kind == "decide" else made)
    return path


def _labelled(folder: Path, kind: str, wrong: int) -> list[dict[str, Any]]:
    said = predict(tiny_onnx_bundle(folder, kind), TEXTS, at_once=8)
    rows: list[dict[str, Any]] = []
    for place, (text, each) in enumerate(zip(TEXTS, said, strict=True)):
        row = DataRow(text, each.answer)
        if place % 240 < wrong:
            row = DataRow(text, next(label for label in DEFAULT_LABELS["classify"] if label != each.answer))
        spans = [{"start": e.start, "end": e.end, "label": e.label} for e in each.entities]
        answers = json.loads(each.answer) if kind == "decide" else {}
        if kind == "decide" and place % 240 < wrong:
            answers["urgent"] = {"no": "yes", "yes": "no"}[answers["urgent"]]
        rows.append({"text": text, "label": row.label or "none", "spans": spans, "answers": answers})
    return rows
