"""One small recipe from a checkpoint to a bundle, through every stage that needs no training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from convert.evaluate.serving import predict
from convert.pipeline import execution
from convert.pipeline.recipe import Recipe, read
from convert.verify import divergence
from edge_agent.errors import InvalidRequest, ModelFailed
from edge_agent.formats.manifest import TaskSpec
from tests.support import tiny_models
from tests.support.stages import TEXTS
from tests.unit.convert.cli.test_cli import edge_convert

LABELS = tiny_models.LABELS
TASK = "version: 1.0.0\nruntime: {runtime}\ntask:\n  name: tiny\n  kind: classify\n  labels: [refund, price, other]\n"
LIMITS = "  limits: {input_tokens_max: 128}\nprovenance: {licence: Apache-2.0}\n"
PROMPT = '  prompt: {template: "Message: {input}\\nIntent:"}\n'


def written(folder: Path, name: str, runtime: str, types: str) -> Recipe:
    """Write a recipe for a tiny checkpoint; the model itself has labelled the rows, except every fifth."""
    make = tiny_models.decoder if runtime == "llama" else tiny_models.encoder
    checkpoint = make(folder / "model", name)
    prompt = {"template": "Message: {input}\nIntent:"} if runtime == "llama" else {}
    task = TaskSpec(name="tiny", kind="classify", labels=LABELS, prompt=prompt)
    best = divergence.label_log_probabilities(checkpoint, None, task, TEXTS[:300]).argmax(axis=1)
    # A tiny model may give all of them the same label, and a split with one label is refused.
    labels = [LABELS[(index + (number % 5 == 0)) % len(LABELS)] for number, index in enumerate(best)]
    rows = [json.dumps({"text": text, "label": label}) for text, label in zip(TEXTS[:300], labels, strict=True)]
    (folder / "calibration.jsonl").write_text("\n".join(rows[:240]) + "\n")
    (folder / "test.jsonl").write_text("\n".join(rows[240:]) + "\n")
    text = TASK.format(runtime=runtime) + (PROMPT if runtime == "llama" else "") + LIMITS
    (folder / "task.yaml").write_text(text)
    (folder / "recipe.yaml").write_text(
        "work: work\nsource: {checkpoint: model}\n"
        # Its texts differ in a number only.
        "data: {calibration: calibration.jsonl, test: test.jsonl, near_copies_max: 1}\n"
        f"quantize: {{types: [{types}]}}\n"
    )
    return read(folder)


@pytest.mark.slow
def test_encoder_becomes_a_bundle(tmp_path: Path) -> None:
    """A recipe for an encoder produces a bundle that answers as the model does, and its reports name both
    candidates."""
    recipe = written(tmp_path, "bert", "onnx", "matmul8-gather8, fp32")
    records = execution.run(recipe)
    reports = {record.stage: record.report for record in records}
    assert reports["verify"]["kl_max"] < 1e-4
    assert {"matmul8-gather8", "fp32"} == {each["name"] for each in reports["quantize"]["candidates"]}
    answers = predict(tmp_path / "work" / "assemble" / "bundle", TEXTS[:20])
    task = TaskSpec(name="tiny", kind="classify", labels=LABELS)
    expected = divergence.label_log_probabilities(tmp_path / "model", None, task, TEXTS[:20])
    assert np.abs(expected - np.array([answer.log_probabilities for answer in answers])).max() < 0.2


@pytest.mark.release
def test_decoder_becomes_a_bundle(tmp_path: Path) -> None:
    """A recipe for a decoder produces a llama.cpp bundle, quantized with an importance matrix from the task's own
    texts."""
    recipe = written(tmp_path, "llama", "llama", "F16, Q8_0")
    quantize = recipe.quantize.model_copy(update={"importance_matrix": True})
    data = recipe.data.model_copy(update={"importance": "importance.jsonl"})
    (tmp_path / "importance.jsonl").write_text("".join(json.dumps({"text": f"{i} kettles"}) + "\n" for i in range(9)))
    records = execution.run(recipe.model_copy(update={"quantize": quantize, "data": data}))
    report = next(record.report for record in records if record.stage == "quantize")
    assert (9, 14) == (report["importance"]["rows"], report["importance"]["tensors"])
    lost = {each["name"]: each["next_token"]["kl_mean"] for each in report["candidates"]}
    assert lost["F16"] < lost["Q8_0"] < 0.05
    assert (tmp_path / "work" / "assemble" / "bundle" / "manifest.json").is_file()


@pytest.mark.slow
def test_auto_measures_candidates_beyond_the_recipe(tmp_path: Path) -> None:
    """With `--auto` the quantize stage creates and measures the default candidates in addition to those of the recipe,
    and chooses one of them."""
    written(tmp_path, "bert", "onnx", "fp32")
    code, said = edge_convert("quantize", str(tmp_path), "--auto")
    assert code == 0, said
    made = {path.name for path in (tmp_path / "work" / "quantize" / "candidates").iterdir()}
    assert {"matmul8-gather8", "dynamic-int8"} <= made
    assert (tmp_path / "work" / "quantize" / "chosen").read_text().strip() in made


@pytest.mark.slow
def test_labels_in_another_order_stop_the_run_before_the_export(tmp_path: Path) -> None:
    """If the model's outputs are in another order than the task's labels, the run fails before the export stage."""
    recipe = written(tmp_path, "bert", "onnx", "fp32")
    task = (tmp_path / "task.yaml").read_text().replace("[refund, price, other]", "[price, refund, other]")
    (tmp_path / "task.yaml").write_text(task)
    with pytest.raises(InvalidRequest, match="the model's outputs are refund, price, other"):
        execution.run(recipe)
    assert not (tmp_path / "work" / "export").exists()


@pytest.mark.slow
def test_replaced_export_fails_verification(tmp_path: Path) -> None:
    """If the exported graph is replaced by one with other weights, the verify stage fails with the divergence."""
    recipe = written(tmp_path, "bert", "onnx", "fp32")
    execution.run(recipe, "export")
    (tmp_path / "other").mkdir()
    execution.run(written(tmp_path / "other", "distilbert", "onnx", "fp32"), "export")
    model = tmp_path / "work" / "export" / "model.onnx"
    model.unlink()
    model.write_bytes((tmp_path / "other" / "work" / "export" / "model.onnx").read_bytes())
    with pytest.raises(ModelFailed, match="Kullback-Leibler divergence"):
        execution.run(recipe, "verify")
