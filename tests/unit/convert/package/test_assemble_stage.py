"""The assemble stage: provenance of a bundle, and candidate bundles before calibration."""

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
from edge_agent.formats.calibration_and_gate import AlwaysEscalate

TASK = {
    "version": "1.0.0",
    "runtime": "onnx",
    "task": {"name": "till", "kind": "classify", "labels": ["refund", "price"]},
    "confidence": {"policy": "always_escalate", "temperature": 7.0},
}


@pytest.fixture
def job(tmp_path: Path) -> StageJob:
    """A job whose export and quantize stages are done, with tiny files."""
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


def test_provenance_has_rows_and_hash_of_each_split(job):
    """The provenance has for each split the numbers of rows and synthetic rows, the origin of labels and the file's
    hash, and also lists the model."""
    sources = assemble_stage.provenance_section(job)["sources"]
    assert {"source.checkpoint", "data.train", "data.calibration", "data.test"} == set(sources)
    digest = hashlib.sha256((job.recipe.folder / "train.jsonl").read_bytes()).hexdigest()
    said = "3 rows, 1 synthetic, labels: 3 imported, 3 imported rows, made-up values in 0"
    assert f"{said}, sha256 {digest}" == sources["data.train"]
    assert sources["data.test"].startswith("3 rows, 0 synthetic")


def test_provenance_counts_rows_left_out_by_redaction(job):
    """A row whose span ends inside a replaced value cannot be used, and the provenance counts it as left out."""
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


def test_provenance_hash_covers_each_source_file(job):
    """A change to a file in the source directory changes the source's hash in the provenance."""
    before = assemble_stage.provenance_section(job)["sources"]["source.checkpoint"]
    (job.recipe.folder / "model" / "config.json").write_text('{"layers": 2}')
    assert before != assemble_stage.provenance_section(job)["sources"]["source.checkpoint"]


def test_provenance_in_task_yaml_is_kept(job):
    """Base, licence and sources in task.yaml are kept; without them the base is the recipe's source."""
    assert ("model", "") == (
        assemble_stage.provenance_section(job)["base"],
        assemble_stage.provenance_section(job)["licence"],
    )
    rewrite(job, provenance={"base": "MiniLM", "licence": "Apache-2.0", "sources": {"paper": "arXiv"}})
    section = assemble_stage.provenance_section(job)
    assert ("MiniLM", "Apache-2.0", "arXiv") == (section["base"], section["licence"], section["sources"]["paper"])


def test_provenance_names_the_converters_of_the_runtime(job):
    """The provenance of an ONNX bundle names the ONNX tools, that of a GGUF bundle llama-cpp-python, and that of an
    echo bundle none."""
    assert {"onnxruntime", "onnx"} <= set(assemble_stage.provenance_section(job)["converter"])
    rewrite(job, runtime="llama")
    names = set(assemble_stage.provenance_section(job)["converter"])
    assert "llama-cpp-python" in names
    assert "onnxruntime" not in names
    rewrite(job, runtime="echo")
    assert {} == assemble_stage.provenance_section(job)["converter"]


@pytest.mark.parametrize("name", [*assemble_stage.LICENCE_NAMES, None])
def test_licence_file_next_to_the_model_is_found(job, name):
    """A licence file with one of the usual names is found next to the model; without one the result is None."""
    if name:
        (job.recipe.folder / "model" / name).write_text("do what you like")
    found = assemble_stage.licence_file(job.recipe)
    assert name == (found.name if found else None)


def test_candidate_bundle_is_not_calibrated(job):
    """A candidate bundle ignores `confidence` of task.yaml: it is measured at temperature 1 and without a threshold."""
    made = open_bundle(bundle_assembly.candidate_bundle(job, bundle_assembly.chosen_weights(job), job.out / "bundle"))
    assert AlwaysEscalate() == made.manifest.confidence
    assert {"weights", "tokenizer"} == set(made.paths)
    assert b"weights" == made.paths["weights"].read_bytes()


def test_adapter_is_part_of_the_candidate(job):
    """An adapter that the export stage wrote next to the weights is part of the candidate bundle."""
    (job.folders["export"] / "adapter.gguf").write_bytes(b"lora")
    assert {"weights", "adapter", "tokenizer"} == set(
        bundle_assembly.candidate_files(job, bundle_assembly.chosen_weights(job))
    )


def test_candidate_without_a_model_file_is_refused(job):
    """If the model file of a candidate was deleted, the error names the stage to run again."""
    (job.folders["quantize"] / "candidates" / "q8" / "model.onnx").unlink()
    with pytest.raises(FileMissing, match="has no model file") as caught:
        bundle_assembly.chosen_weights(job)
    assert "edge-convert quantize" in caught.value.remedy


def test_other_temperature_gives_another_digest(job):
    """The same files with another temperature are a bundle with another digest and the same engine key."""
    made = open_bundle(bundle_assembly.candidate_bundle(job, bundle_assembly.chosen_weights(job), job.out / "bundle"))
    hot = made.at_temperature(2.0)
    assert (2.0, True) == (hot.manifest.confidence.temperature, hot.digest != made.digest)
    assert made.manifest.engine_key() == hot.manifest.engine_key()
    assert made == open_bundle(job.out / "bundle")
