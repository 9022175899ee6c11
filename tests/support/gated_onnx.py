"""Encoders with an OOD gate, for tests: a tiny random BERT whose graph also outputs the OOD score of an input.

Its score is the negative of the best logit, of the first token where there is one vector a token: any function of the
vectors does, as what is tested is the way of the number and not its worth.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tokenizers
from onnx import TensorProto, helper, numpy_helper

from edge_agent.engine.protocol import LoadRequest
from edge_agent.engine.runtimes.onnx_runtime import OnnxRuntime
from edge_agent.errors import ModelLoadFailed
from edge_agent.formats.calibration_and_gate import OUTPUT_NAME, ROWS_MAX, OodGate
from tests.support import bert_onnx, bundles

CALIBRATED = {
    **{"policy": "threshold", "temperature": 1.0, "threshold": 0.01, "target_risk": 0.05, "delta": 0.1},
    **{"n": 100, "bound": 0.04, "coverage": 0.9},
}
HELD_UP_MAX = 0.25
TEXTS = ("refund", "price", "stock", "hours", "please", "what", "cost", "42 !", "points", "club card", "lamp", "two")


def with_score(model: bytes, elem_type: int = TensorProto.FLOAT, shape: Sequence[str | int] = ("batch",)) -> bytes:
    """Return a graph with the output of a gate; of another type or shape, it computes what those can hold."""
    loaded = onnx.load_from_string(model)
    graph = loaded.graph
    values, axis = graph.output[0].name, 1
    if len(graph.output[0].type.tensor_type.shape.dim) == 3:
        graph.initializer.append(numpy_helper.from_array(np.array(0), "gate_first"))
        graph.node.append(helper.make_node("Gather", [values, "gate_first"], ["gate_vector"], axis=1))
        values = "gate_vector"
    graph.initializer.append(numpy_helper.from_array(np.array([axis]), "gate_axis"))
    graph.node.extend(
        [
            helper.make_node("ReduceMax", [values, "gate_axis"], ["gate_best"], keepdims=int(len(shape) == 2)),
            helper.make_node("Neg", ["gate_best"], ["gate_strange"]),
            helper.make_node("Cast", ["gate_strange"], [OUTPUT_NAME], to=elem_type),
        ]
    )
    graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, elem_type, list(shape)))
    onnx.checker.check_model(loaded)
    written: bytes = loaded.SerializeToString()
    return written


@functools.cache
def gated(kind: str) -> bytes:
    """Return the tiny random BERT with a score."""
    return with_score(bundles.tiny_onnx(kind))


def write(directory: Path, kind: str, model: bytes, confidence: dict[str, Any], **more: Any) -> Path:
    """Write a bundle of that graph."""
    files: dict[str, tuple[str, bytes | Path]] = {
        "weights": ("model.onnx", model),
        "tokenizer": ("tokenizer.json", bert_onnx.tiny_tokenizer()),
    }
    fields = {**bundles.fields_of("onnx", "", kind), "confidence": confidence}
    return bundles.write(directory, fields, more, files)


def gate(*scores: float) -> dict[str, Any]:
    """Return a gate that holds up inputs with a higher score than all of three held-out rows, or of those given."""
    return {"score": "ood_score", "held_up_max": HELD_UP_MAX, "scores": sorted(scores)}


def large_gate() -> OodGate:
    """Return a gate with as many held-out rows as there may be."""
    scores = np.sort(np.random.default_rng(26).normal(400, 30, ROWS_MAX).astype(np.float32)).tolist()
    return OodGate(score="ood_score", held_up_max=0.03, scores=tuple(scores))


def score(kind: str, text: str, model: bytes | None = None) -> float:
    """Compute the score of a text without the agent."""
    session = onnxruntime.InferenceSession(model or gated(kind), providers=["CPUExecutionProvider"])
    tokenizer = tokenizers.Tokenizer.from_str(bert_onnx.tiny_tokenizer().decode())
    tokenizer.no_padding()
    ids = np.array([tokenizer.encode(text).ids], np.int64)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return float(session.run([OUTPUT_NAME], feed)[0][0])


@functools.cache
def ordinary_and_strange(kind: str = "classify") -> tuple[str, str, float]:
    """Return the least and the most strange of some texts, and a score between the two."""
    ranked = sorted(TEXTS, key=lambda text: score(kind, text))
    low, high = score(kind, ranked[0]), score(kind, ranked[-1])
    return ranked[0], ranked[-1], float(np.float32((low + high) / 2))


def bundle(directory: Path, kind: str = "classify", **more: Any) -> Path:
    """Write a bundle that answers the in-distribution text confidently and holds up the out-of-distribution one."""
    between = ordinary_and_strange(kind)[2]
    confidence = {**CALIBRATED, "gate": gate(between, between, between)}
    if kind == "embed":
        confidence = {"policy": "always_escalate", "gate": confidence["gate"]}
    return write(directory, kind, gated(kind), confidence, **more)


def opened(folder: Path) -> OnnxRuntime:
    """Return a runtime with the bundle in a folder attached as "a"."""
    runtime = OnnxRuntime()
    runtime.load(LoadRequest(runtime="onnx", weights=str(folder / "model.onnx")))
    runtime.attach("a", bundles.manifest_of(folder), bundles.paths_of(folder))
    return runtime


def refused(folder: Path) -> str:
    """Return the message with which the bundle in a folder is refused."""
    with pytest.raises(ModelLoadFailed) as caught:
        opened(folder)
    return caught.value.message
