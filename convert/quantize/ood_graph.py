"""Nodes behind an exported encoder that compute how strange an input is: the output `ood_score`, float32, [batch].

    anchors = find(onnx.load("model.onnx"), "classify")    # in the graph as exported, whose shapes are known
    append(model, anchors, detector)                       # to any quantized form of it: tensors keep their names

The same run computes it as the answer, so a site reads one more output, and no other file. The vector of an input is
its first token's or the mean of its tokens, padding left out. It is whitened by the covariance that the classes of the
training texts share; the score is the squared distance to the nearest class (Lee et al. 2018, Podolskiy et al. 2021).
Matrices lie in the file in half precision and are computed with in single.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_agent.formats.manifest import Kind
from edge_agent.formats.ood_gate import OUTPUT_NAME

Pooling = Literal["first", "mean"]
Floats = npt.NDArray[np.float32]

VECTOR_NAME = "ood_vector"
OPSET_MIN = 18
"""From there on every reduction takes its axes as an input."""
_PREFIX = "/ood"
_OUTPUTS = ("logits", "last_hidden_state", "sentence_embedding")
_HEADS = ("MatMul", "Gemm")


@dataclass(frozen=True)
class Detector:
    """What the score is computed from."""

    pooling: Pooling
    centre: Floats
    """[width]"""
    whitening: Floats
    """[width, rank]: `(vector - centre) @ whitening` has the unit covariance within a class."""
    classes: Floats
    """[classes, rank]: their means, centred and whitened."""

    def scores(self, vectors: Floats) -> Floats:
        """Return the scores of vectors, [rows], as the graph computes them."""
        white = (vectors - self.centre) @ _halved(self.whitening)
        classes = _halved(self.classes)
        nearest = ((classes**2).sum(axis=1) - 2 * white @ classes.T).min(axis=1)
        return np.asarray((white**2).sum(axis=1) + nearest, np.float32)

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return 2 * (self.whitening.size + self.classes.size) + 4 * (self.centre.size + len(self.classes))


def find(model: onnx.ModelProto, kind: Kind) -> str:
    """Return the name of the tensor [batch, tokens, width] that the head of an exported graph reads; empty = none.

    From the output backwards: a head is passed, and then the first tensor of three dimensions is it.
    """
    if not _is_scorable(model):
        return ""
    known = onnx.shape_inference.infer_shapes(model).graph
    ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in (*known.value_info, *known.output)}
    headless = kind == "embed"
    for tensor, node in _upwards(known):
        if headless and ranks.get(tensor) == 3:
            return tensor
        headless = headless or node.op_type in _HEADS
    return ""


def _is_scorable(model: onnx.ModelProto) -> bool:
    opset = next((each.version for each in model.opset_import if not each.domain), 0)
    return opset >= OPSET_MIN and "attention_mask" in {each.name for each in model.graph.input}


def _upwards(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.NodeProto]]:
    """Yield the answering output and the tensors that it is computed from, each with its node, backwards."""
    makers = {name: node for node in graph.node for name in node.output}
    names = [each.name for each in graph.output]
    tensor = next((name for name in _OUTPUTS if name in names), names[0])
    while tensor in makers:
        yield tensor, makers[tensor]
        tensor = next((name for name in makers[tensor].input if name in makers), "")


def append(model: onnx.ModelProto, hidden: str, detector: Detector) -> bool:
    """Add the output to a graph; False, and nothing added, where the graph has no tensor of that name."""
    if hidden not in {name for node in model.graph.node for name in node.output}:
        return False
    nodes = _Nodes(model.graph)
    vector = nodes.pooled(hidden, detector.pooling)
    nodes.scored(vector, detector)
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch"]))
    return True


def vectors_only(model: onnx.ModelProto, hidden: str, pooling: Pooling) -> None:
    """Make the vector of an input a graph's only output."""
    nodes = _Nodes(model.graph)
    nodes.add("Identity", [nodes.pooled(hidden, pooling)], VECTOR_NAME)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(VECTOR_NAME, TensorProto.FLOAT, ["batch", "width"]))


def _halved(values: Floats) -> Floats:
    return values.astype(np.float16).astype(np.float32)


class _Nodes:
    """Adds nodes to a graph, under names of their own."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._names: Iterator[str] = (f"{_PREFIX}/{number}" for number in range(1000))

    def add(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: object) -> str:
        """Add a node; return its output."""
        output = output or next(self._names)
        self._graph.node.append(helper.make_node(kind, list(inputs), [output], f"{_PREFIX}/{output}", **attributes))
        return output

    def constant(self, values: npt.NDArray[np.generic]) -> str:
        """Add a tensor; return its name."""
        name = next(self._names)
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def half(self, values: Floats) -> str:
        """Add a tensor in half precision; return the name of it in single precision."""
        return self.add("Cast", [self.constant(values.astype(np.float16))], to=TensorProto.FLOAT)

    def axis(self, place: int) -> str:
        return self.constant(np.array([place], np.int64))

    def pooled(self, hidden: str, pooling: Pooling) -> str:
        """Return the vector of each input, [batch, width]."""
        if pooling == "first":
            return self.add("Gather", [hidden, self.constant(np.array(0, np.int64))], axis=1)
        tokens = self.axis(1)
        mask = self.add("Cast", ["attention_mask"], to=TensorProto.FLOAT)
        mask = self.add("Unsqueeze", [mask, self.axis(-1)])
        total = self.add("ReduceSum", [self.add("Mul", [hidden, mask]), tokens], keepdims=0)
        return self.add("Div", [total, self.add("ReduceSum", [mask, tokens], keepdims=0)])

    def scored(self, vector: str, detector: Detector) -> None:
        """Add the score of a vector."""
        white = self.add(
            "MatMul", [self.add("Sub", [vector, self.constant(detector.centre)]), self.half(detector.whitening)]
        )
        product = self.add("MatMul", [white, self.half(-2 * detector.classes.T)])
        lengths = self.constant((_halved(detector.classes) ** 2).sum(axis=1))
        nearest = self.add("ReduceMin", [self.add("Add", [product, lengths]), self.axis(1)], keepdims=0)
        length = self.add("ReduceSumSquare", [white, self.axis(1)], keepdims=0)
        self.add("Add", [length, nearest], OUTPUT_NAME)
