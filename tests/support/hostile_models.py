"""Bundles that load and then use unlimited memory (by a tokenizer or a graph) or unlimited time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.support import bert_onnx, bundles

ENDLESS = 1 << 60
FILLED = 10**9
"""Elements of a tensor that a node fills: 4 GB."""


def growing_tokenizer() -> bytes:
    """Return a tokenizer of some kilobytes that makes 10^12 characters of a space: each of its steps writes 1000."""
    data = json.loads(bert_onnx.tiny_tokenizer())
    steps = [("a", "b"), ("b", "a"), ("a", "b"), ("b", "a")]
    grown = [{"type": "Replace", "pattern": {"String": old}, "content": new * 1000} for old, new in steps]
    data["normalizer"] = {"type": "Sequence", "normalizers": [*grown, {"type": "Lowercase"}]}
    return json.dumps(data).encode()


def endless_graph() -> bytes:
    """Return the tiny BERT with a loop in it that does not end."""
    model = _tiny()
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["go"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [_value("i", onnx.TensorProto.INT64), _value("c", onnx.TensorProto.BOOL), _value("v")],
        [_value("go", onnx.TensorProto.BOOL), _value("w")],
    )
    _constants(model, trips=np.int64(ENDLESS), goes=np.bool_(True), zero=np.float32(0.0))
    return _ended(model, [helper.make_node("Loop", ["trips", "goes", "zero"], ["more"], body=body)])


def filling_graph(shape: Sequence[int] = (FILLED,)) -> bytes:
    """Return the tiny BERT with a node of some bytes that fills a tensor, whose shape stands in the file."""
    model = _tiny()
    _constants(model, shape=np.array(shape, np.int64))
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["filled"]),
        helper.make_node("ReduceMax", ["filled"], ["more"], keepdims=0),
    ]
    return _ended(model, nodes)


def computed_filling_graph() -> bytes:
    """Return the same, but the shape is computed from the input, so that nothing in the file tells."""
    model = _tiny()
    _constants(model, much=np.array([FILLED], np.int64), zero=np.array([0], np.int64), one=np.array([1], np.int64))
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["size"]),
        helper.make_node("Slice", ["size", "zero", "one"], ["rows"]),
        helper.make_node("Mul", ["rows", "much"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["filled"]),
        helper.make_node("ReduceMax", ["filled"], ["more"], keepdims=0),
    ]
    return _ended(model, nodes)


def bundle(folder: Path, graph: bytes = b"", tokenizer: bytes = b"", name: str = "", **more: Any) -> Path:
    """Write a bundle with one of these files; the other files are those of the tiny BERT."""
    files = {
        "weights": ("model.onnx", graph or bundles.tiny_onnx("classify")),
        "tokenizer": ("tokenizer.json", tokenizer or bert_onnx.tiny_tokenizer()),
    }
    return bundles.write(folder, bundles.fields_of("onnx", name, "classify"), more, files)


def _tiny() -> onnx.ModelProto:
    return onnx.load_from_string(bundles.tiny_onnx("classify"))


def _value(name: str, kind: int = onnx.TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [])


def _constants(model: onnx.ModelProto, **values: Any) -> None:
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in values.items())


def _ended(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> bytes:
    """Add nodes whose output `more` is added to the first output of the model."""
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if each == output else each for each in node.output]
    model.graph.node.extend([*nodes, helper.make_node("Add", ["before", "more"], [output])])
    written: bytes = model.SerializeToString()
    return written
