"""A ready token classifier in ONNX as source: the checks, and the copy of its files.

The folder has config.json with the names of the outputs (`id2label`), tokenizer.json, and one graph, at its top or in
`onnx/`. The graph is taken as its maker left it, quantized or not: there is no checkpoint to compare it with. What is
checked is that its files fit together and to the task.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tokenizers
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from convert.pipeline.stage import CHECKPOINT, Report, StageJob
from edge_agent.errors import FileMissing, InvalidRequest, ModelFailed, ModelLoadFailed

CONFIG, MODEL, TOKENIZER = "config.json", "model.onnx", "tokenizer.json"
LICENCES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*")
AS_IS = "as-is"
"""The only candidate of such a source."""
_COPY = "Copy the whole folder again."


def take(source: Path, out: Path) -> Report:
    """Check a folder and copy its files. Raises FileMissing, InvalidRequest, ModelLoadFailed."""
    config, graph, tokenizer = _config(source), _graph(source), source / TOKENIZER
    if not tokenizer.is_file():
        raise FileMissing(f"{source} has no {TOKENIZER}", remedy="Take it from the model's maker: the agent needs it.")
    opened = _open(graph)
    _check_tokenizer(tokenizer)
    out.mkdir(parents=True)
    shutil.copyfile(graph, out / MODEL)
    shutil.copyfile(tokenizer, out / TOKENIZER)
    (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for file in sorted({file for pattern in LICENCES for file in source.glob(pattern) if file.is_file()}):
        shutil.copyfile(file, out / file.name)
    return {
        "kind": "onnx",
        "base": source.resolve().name,
        "architecture": config.get("model_type", "unknown"),
        "graph": graph.name,
        "nodes": len(opened.graph.node),
        "operator_sets": {each.domain or "ai.onnx": each.version for each in opened.opset_import},
    }


def folder(job: StageJob) -> Path:
    """Return the folder that `take` wrote."""
    return job.done["prepare"] / CHECKPOINT


def read_config(place: Path) -> dict[str, Any]:
    """Read the config.json of a folder that `take` wrote."""
    found: dict[str, Any] = json.loads((place / CONFIG).read_text(encoding="utf-8"))
    return found


def check_outputs(outputs: list[NDArray[np.float32]], tokens: list[int], labels: int) -> Report:
    """Return what was checked of the outputs of some texts: one row a token, one finite number a label.

    Raises:
        ModelFailed: they are not.
    """
    for output, count in zip(outputs, tokens, strict=True):
        if output.shape != (count, labels):
            said = f"the graph gives {list(output.shape)} numbers for {count} tokens; the task has {labels} tags"
            raise ModelFailed(said, remedy="Write the model's tags into task.yaml, in the order of config.json.")
        if not np.isfinite(output).all():
            raise ModelFailed("the graph computes values that are not finite", remedy=_COPY)
    return {"reference": "none: the graph is taken as its maker left it", "texts": len(outputs), "rows": sum(tokens)}


def _config(source: Path) -> dict[str, Any]:
    file = source / CONFIG
    if not file.is_file():
        raise FileMissing(f"{source} has no {CONFIG}, which names the model's outputs", remedy=_COPY)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelLoadFailed(f"{file} is not valid JSON: {error}", remedy=_COPY) from None
    names = config.get("id2label") if isinstance(config, dict) else None
    if not isinstance(names, dict) or not all(key.isdecimal() and isinstance(name, str) for key, name in names.items()):
        raise InvalidRequest(f"{file} has no 'id2label', so nobody knows what the outputs mean", remedy=_COPY)
    return dict(config)


def _graph(source: Path) -> Path:
    found = sorted([*source.glob("*.onnx"), *source.glob("onnx/*.onnx")])
    if not found:
        raise FileMissing(f"{source} has no graph: no *.onnx, and none in onnx/", remedy=_COPY)
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(source)) for file in found)
        raise InvalidRequest(
            f"{source} has several graphs: {names}", remedy="Copy the one that you want, with the rest."
        )
    return found[0]


def _open(graph: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(graph, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise ModelLoadFailed(f"{graph} is not an ONNX graph: {error}", remedy=_COPY) from None
    if any(each.data_location == onnx.TensorProto.EXTERNAL for each in model.graph.initializer):
        said = f"{graph} has its weights in another file"
        raise InvalidRequest(said, remedy="Save it in one file of at most 2 GiB: the agent opens no other.")
    return model


def _check_tokenizer(file: Path) -> None:
    try:
        tokenizers.Tokenizer.from_buffer(file.read_bytes())
    except ValueError as error:
        raise ModelLoadFailed(f"{file} is not a tokenizer.json: {error}", remedy=_COPY) from None
