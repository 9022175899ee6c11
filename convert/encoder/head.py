"""Joins an encoder from an installed package with a linear head of some kilobytes: a model that classifies or decides.

    python -m convert.encoder.head HEAD PACKAGE OUT    # writes OUT/model.onnx and OUT/tokenizer.json

A head is a safetensors file: `classifier.weight`, `classifier.bias`, and in its metadata `encoder_sha256`, the hash of
the weights that it was trained on. Other weights are refused, because its answers would be random. A head of several
questions also has `layers` and `outputs`, the fields of `bert_graph.LayerPooling`, as JSON. Without them it reads the
mean of the token vectors and classifies. A `detector.safetensors` next to it (`ood_detector.FittedDetector.save`) adds
the out-of-distribution score, from which a calibration makes the gate.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from convert.encoder import bert_graph
from convert.encoder.bert_graph import LayerPooling, Weights
from convert.quantize import ood_detector
from edge_agent.errors import FileMissing, InvalidRequest

ENCODER_SHA256 = "encoder_sha256"
LAYERS, OUTPUTS = "layers", "outputs"
WEIGHT, BIAS = "classifier.weight", "classifier.bias"
WEIGHTS_NAME, TOKENIZER_NAME = "model.safetensors", "tokenizer.json"
DETECTOR_NAME = "detector.safetensors"


def checkpoint_of(package: str) -> Path:
    """Return the folder of the checkpoint in a package, found without importing it. Raises FileMissing."""
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (folder := Path(location) / "model").is_dir():
            return folder
    raise FileMissing(f"the package {package} is not installed", remedy="Run scripts/setup --quick, which installs it.")


def save(path: Path, head: Weights, encoder: Path, metadata: Mapping[str, str]) -> None:
    """Write a head, with the hash of its encoder and further metadata."""
    save_file(head, path, metadata={ENCODER_SHA256: _sha256(encoder / WEIGHTS_NAME), **metadata})
    path.chmod(0o644)  # safetensors writes it readable by its owner only


def read(path: Path, encoder: Path) -> Weights:
    """Read a head. Raises InvalidRequest: it was trained on another encoder."""
    with safe_open(path, framework="numpy") as file:
        sha256 = (file.metadata() or {}).get(ENCODER_SHA256, "")
        head = {name: np.asarray(file.get_tensor(name), np.float32) for name in (WEIGHT, BIAS)}
    actual = _sha256(encoder / WEIGHTS_NAME)
    if actual != sha256:
        message = f"{path} was trained on an encoder with sha256 {sha256[:16]}…, and {encoder} has {actual[:16]}…"
        raise InvalidRequest(message, remedy="Install the version of the package that scripts/setup names.")
    return head


def pooling_of(path: Path) -> LayerPooling | None:
    """Return layers and outputs of a head of several questions; None = it classifies."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    return (
        LayerPooling(tuple(json.loads(metadata[LAYERS])), json.loads(metadata[OUTPUTS])) if LAYERS in metadata else None
    )


def pooling_metadata(pooling: LayerPooling) -> dict[str, str]:
    """Return the metadata of a head of several questions."""
    return {LAYERS: json.dumps(pooling.layers), OUTPUTS: json.dumps(dict(pooling.outputs))}


def compose(path: Path, encoder: Path) -> bytes:
    """Return encoder and head as one ONNX model. Raises InvalidRequest: they do not belong together."""
    head = read(path, encoder)
    config, weights = bert_graph.load(encoder)
    return bert_graph.build(config, {**weights, **head}, pooling_of(path) or "classify")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(head: str, package: str, out: str) -> None:
    """Write the model, with the detector if the head has one, and its tokenizer into a folder."""
    encoder, folder = checkpoint_of(package), Path(out)
    model, detector = compose(Path(head), encoder), Path(head).with_name(DETECTOR_NAME)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(encoder / TOKENIZER_NAME, folder / TOKENIZER_NAME)
    weights = folder / "model.onnx"
    weights.write_bytes(model)
    if detector.is_file() and not ood_detector.read_saved(detector).put_into(weights):
        message = f"{detector} was fitted on another graph than that of {head}"
        raise InvalidRequest(message, remedy="Write both by one run of the train.py beside them.")


if __name__ == "__main__":
    main(*sys.argv[1:])
