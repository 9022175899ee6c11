"""What a bundle says of where it comes from, and the bundles on the way to it."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from convert.evaluate.serving import open_bundle, quiet
from convert.package import assemble_stage, bundle_assembly
from convert.pipeline import recipe
from convert.pipeline.stage import StageJob
from edge_agent.errors import FileMissing
from edge_agent.formats.calibration import AlwaysEscalate

TASK = {
    "version": "1.0.0",
    "runtime": "onnx",
    "task": {"name": "till", "kind": "classify", "labels": ["refund", "price"]},
    "confidence": {"policy": "always_escalate", "temperature": 7.0},
}


@pytest.fixture
def job(tmp_path: Path) -> StageJob:
    """A job whose export and quantize stages are done, with files of a few bytes."""
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(TASK))
    for name, label in (("train", "refund"), ("calibration", "price"), ("test", "refund")):
        rows = [{"text": f"{name} one", "label": label}, {"text": f"{name} two", "label": "price"},
                {"text": f"{name} three", "label": "refund"}]  # fmt: skip
        if name == "train":
            rows[0]["synthetic"] = True
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {name: f"{name}.jsonl" for name in ("train", "calibration", "test")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"source": {"checkpoint": "model"}, "data": data}))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    export, quantize, out = (tmp_path / name for name in ("export", "quantize", "out"))
    (quantize / "candidates" / "q8").mkdir(parents=True)
    (quantize / "candidates" / "q8" / "model.onnx").write_bytes(b"weights")
    (quantize / "chosen").write_text("q8\n")
    export.mkdir()
    out.mkdir()
    (export / "tokenizer.json").write_text("{}")
    return StageJob(recipe.read(tmp_path), out, {"export": export, "quantize": quantize}, quiet)


def rewrite(job: StageJob, **sections) -> None:
    (job.recipe.folder / "task.yaml").write_text(yaml.safe_dump(TASK | sections))


def test_sources_have_hashes_and_rows(job):
    """Each split says how many rows it has, how many a model wrote, and its hash; the model says its own."""
    sources = assemble_stage.provenance_section(job)["sources"]
    assert {"source.checkpoint", "data.train", "data.calibration", "data.test"} == set(sources)
    digest = hashlib.sha256((job.recipe.folder / "train.jsonl").read_bytes()).hexdigest()
    said = "3 rows, 1 synthetic, labels: 3 imported, 3 imported rows, made-up values in 0"
    assert f"{said}, sha256 {digest}" == sources["data.train"]
    assert sources["data.test"].startswith("3 rows, 0 synthetic")


def test_rows_that_redaction_leaves_out_are_in_the_provenance(job):
    """A span that ends inside a replaced value makes its row unusable; the bundle says so."""
    labels = ["O", "B-item", "I-item"]
    rewrite(job, task={"name": "till", "kind": "extract", "labels": labels})
    rows = [{"text": "pay by card 4111 1111 1111 1111", "spans": [{"start": 7, "end": 21, "label": "item"}]},
            {"text": "a kettle please", "spans": [{"start": 2, "end": 8, "label": "item"}]}]  # fmt: skip
    splits = {name: f"{name}.jsonl" for name in ("train", "calibration", "test")}
    for name in splits.values():
        (job.recipe.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = {"source": {"checkpoint": "model"}, "data": {"format": "text-spans", **splits}}
    (job.recipe.folder / "recipe.yaml").write_text(yaml.safe_dump(plain))
    sources = assemble_stage.provenance_section(replace(job, recipe=recipe.read(job.recipe.folder)))["sources"]
    said = "1 row, 0 synthetic, labels: 1 imported, 2 imported rows, made-up values in 0, 1 left out"
    assert sources["data.train"].startswith(said)


def test_a_changed_source_shows(job):
    """The hash of a directory covers every file in it."""
    before = assemble_stage.provenance_section(job)["sources"]["source.checkpoint"]
    (job.recipe.folder / "model" / "config.json").write_text('{"layers": 2}')
    assert before != assemble_stage.provenance_section(job)["sources"]["source.checkpoint"]


def test_what_the_task_says_stands(job):
    """Base, licence and sources written in task.yaml are kept; without them the base is the recipe's source."""
    assert ("model", "") == (
        assemble_stage.provenance_section(job)["base"],
        assemble_stage.provenance_section(job)["licence"],
    )
    rewrite(job, provenance={"base": "MiniLM", "licence": "Apache-2.0", "sources": {"paper": "arXiv"}})
    section = assemble_stage.provenance_section(job)
    assert ("MiniLM", "Apache-2.0", "arXiv") == (section["base"], section["licence"], section["sources"]["paper"])


def test_converters_are_those_of_the_runtime(job):
    """An ONNX bundle names what exported it, a GGUF bundle the other tool; what is not installed is not named."""
    assert {"onnxruntime", "onnx"} <= set(assemble_stage.provenance_section(job)["converter"])
    rewrite(job, runtime="llama")
    names = set(assemble_stage.provenance_section(job)["converter"])
    assert "llama-cpp-python" in names
    assert "onnxruntime" not in names
    rewrite(job, runtime="echo")
    assert {} == assemble_stage.provenance_section(job)["converter"]


@pytest.mark.parametrize("name", [*assemble_stage.LICENCE_NAMES, None])
def test_a_licence_beside_the_model_is_found(job, name):
    """The usual names of a licence file are known; without one there is none."""
    if name:
        (job.recipe.folder / "model" / name).write_text("do what you like")
    found = assemble_stage.licence_file(job.recipe)
    assert name == (found.name if found else None)


def test_a_bundle_on_the_way_is_not_calibrated(job):
    """What task.yaml says of confidence does not get into a measurement: temperature 1, no threshold."""
    made = open_bundle(bundle_assembly.candidate_bundle(job, bundle_assembly.chosen_weights(job), job.out / "bundle"))
    assert AlwaysEscalate() == made.manifest.confidence
    assert {"weights", "tokenizer"} == set(made.paths)
    assert b"weights" == made.paths["weights"].read_bytes()


def test_the_adapter_comes_along(job):
    """What the export stage left beside the weights is part of the bundle."""
    (job.folders["export"] / "adapter.gguf").write_bytes(b"lora")
    assert {"weights", "adapter", "tokenizer"} == set(
        bundle_assembly.candidate_files(job, bundle_assembly.chosen_weights(job))
    )


def test_a_candidate_without_a_model_says_so(job):
    """A folder that was tampered with is an error that names the stage to run again."""
    (job.folders["quantize"] / "candidates" / "q8" / "model.onnx").unlink()
    with pytest.raises(FileMissing, match="has no model file") as caught:
        bundle_assembly.chosen_weights(job)
    assert "edge-convert quantize" in caught.value.remedy


def test_another_temperature_is_another_digest(job):
    """The same files under another temperature are another bundle for the engine, on the same weights."""
    made = open_bundle(bundle_assembly.candidate_bundle(job, bundle_assembly.chosen_weights(job), job.out / "bundle"))
    hot = made.at_temperature(2.0)
    assert (2.0, True) == (hot.manifest.confidence.temperature, hot.digest != made.digest)
    assert made.manifest.engine_key() == hot.manifest.engine_key()
    assert made == open_bundle(job.out / "bundle")
