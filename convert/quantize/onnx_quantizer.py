"""ONNX graphs with smaller weights.

- `matmul8-gather8`: weights of linear layers to 8 bits in blocks of 32, embeddings to 8 bits. Closest to the original.
- `dynamic-int8`: weights to 8 bits for each output channel, activations at run time. Often faster, but less accurate.
- `fp32`: the graph as exported.

One scale for a whole tensor and static quantization are missing, because they lose too much on encoders. Decision 52
measures one scale for each row of activations.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

# Importing the quantizer sets the root logger to INFO, and it logs every node that it skips.
logging.getLogger().setLevel(logging.WARNING)
logging.getLogger("onnxruntime.quantization").setLevel(logging.ERROR)

TYPES = ("matmul8-gather8", "dynamic-int8", "fp32")
_BLOCK = 32
_LINEAR = {"MatMul", "Gemm"}


def quantize(source: Path, target: Path, name: str) -> dict[str, Any]:
    """Write one of TYPES; return its details for the report: the real types of the weights.

    `fallback_tensors` counts the weights of linear layers and embeddings that stayed float32, all of them for fp32.
    """
    if name == "fp32":
        shutil.copyfile(source, target)
    elif name == "dynamic-int8":
        _quantize_dynamically(source, target, ["MatMul", "Gemm", "Gather"])
    else:
        with _quiet_logging(), tempfile.TemporaryDirectory(dir=target.parent, prefix=".linear-") as folder:
            intermediate = Path(folder, "model.onnx")
            quantizer = MatMulNBitsQuantizer(
                onnx.load(source), bits=8, block_size=_BLOCK, is_symmetric=True, accuracy_level=4
            )
            quantizer.process()
            quantizer.model.save_model_to_file(str(intermediate))
            _quantize_dynamically(intermediate, target, ["Gather"])
    return {"type": name, **_contents(source, target)}


def _quantize_dynamically(source: Path, target: Path, kinds: list[str]) -> None:
    with _quiet_logging():
        quantize_dynamic(source, target, op_types_to_quantize=kinds, per_channel=True, weight_type=QuantType.QInt8)


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    """Silence onnxruntime's messages about every node, and its advice on a preprocessing that fails on these graphs."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _contents(source: Path, target: Path) -> dict[str, Any]:
    source_graph, target_graph = onnx.load(source).graph, onnx.load(target).graph
    weights = sum(int(np.prod(each.dims)) for each in source_graph.initializer)
    stored_bytes = sum(int(onnx.numpy_helper.to_array(each).nbytes) for each in target_graph.initializer)
    float_weights = _float_weights(target_graph)
    types = Counter(onnx.TensorProto.DataType.Name(each.data_type) for each in target_graph.initializer)
    return {
        "bits_per_weight": round(8 * stored_bytes / max(weights, 1), 4),
        "fallback_tensors": len(float_weights),
        "tensor_types": dict(types),
        "fallbacks": float_weights,
    }


def _float_weights(graph: Any) -> list[str]:
    """Return the float32 matrices that linear layers and embeddings still read."""
    matrices = {
        each.name for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT and len(each.dims) > 1
    }
    inputs = {name for node in graph.node if node.op_type in _LINEAR | {"Gather"} for name in node.input}
    return sorted(inputs & matrices)
