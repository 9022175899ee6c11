"""Nodes after an exported encoder that compute an out-of-distribution score: output `ood_score`, float32, [batch].

    layers = find(onnx.load("model.onnx"), "classify")    # in the graph as exported, whose shapes are known
    append(model, layers, detector)                       # to any quantized form of it: tensors keep their names

The run that computes the answer also computes the score, so a site reads one more output, and no other file. The vector
of an input joins two layers, the middle one and the one that the head reads: of each the mean of the token vectors
without padding, divided by its length. The middle layer separates languages and noise, the last one topics.

The score is the product of two distances to the training texts. The Mahalanobis distance to the nearest class (Lee et
al. 2018, Podolskiy et al. 2021) is exact inside the space of the largest principal components; outside that space every
direction has the same variance (Tipping & Bishop 1999). The other distance is between directions: the chord from the
unit vector of the input, relative to the mean, to the nearest centroid of the training vectors (few neighbours for the
many of Sun et al. 2022). Matrices are stored in half precision and used in single precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_agent.formats.calibration import OUTPUT_NAME
from edge_agent.formats.manifest import Kind

Floats = npt.NDArray[np.float32]

VECTOR_NAME = "ood_vector"
OPSET_MIN = 18
"""From there on every reduction takes its axes as an input."""
_PREFIX = "/ood"
_OUTPUTS = ("logits", "last_hidden_state", "sentence_embedding")
_HEADS = ("MatMul", "Gemm")
_NORM = "LayerNormalization"


@dataclass(frozen=True)
class Detector:
    """The parameters of the score."""

    centre: Floats
    """[width]"""
    whitening: Floats
    """[width, rank]: `(vector - centre) @ whitening` has unit variance within a class, and no correlation."""
    variances: Floats
    """[rank]: within a class, of the directions of `whitening`."""
    outside: float
    """Variance of one direction outside the space of `whitening`."""
    classes: Floats
    """[classes, rank]: the means of the classes, centred and whitened."""
    centroids: Floats
    """[centroids, rank]: `(vector - centre) @ whitening @ centroids.T` is the vector's length times each cosine."""

    def scores(self, vectors: Floats) -> Floats:
        """Return the scores of vectors [rows, width], [rows], as the graph computes them."""
        centred = vectors - self.centre
        white = centred @ _halved(self.whitening)
        classes = _halved(self.classes)
        nearest = ((classes**2).sum(axis=1) - 2 * white @ classes.T).min(axis=1)
        length = (centred**2).sum(axis=1)
        squared = (white**2) @ self._weights + length / self.outside + nearest
        cosine = (white @ _halved(self.centroids).T).max(axis=1) / np.sqrt(length)
        return np.asarray(np.sqrt(np.maximum(squared * (2 - 2 * cosine), 0)), np.float32)

    @property
    def _weights(self) -> Floats:
        """[rank]: 1 for the distance inside the space, less what the whole length counts of it already."""
        return np.asarray(1 - self.variances / self.outside, np.float32)

    def add_to(self, nodes: GraphNodes, vector: str) -> None:
        """Add the nodes that compute the score of a vector."""
        centred = nodes.add("Sub", [vector, nodes.constant(self.centre)])
        white = nodes.add("MatMul", [centred, nodes.half(self.whitening)])
        length = nodes.add("ReduceSumSquare", [centred, nodes.axis(1)], keepdims=0)
        squared = self._squared(nodes, white, length)
        doubled = nodes.add("MatMul", [white, nodes.half(2 * self.centroids.T)])
        highest = nodes.add("ReduceMax", [doubled, nodes.axis(1)], keepdims=0)
        cosine = nodes.add("Div", [highest, nodes.add("Sqrt", [length])])
        chord = nodes.add("Sub", [nodes.constant(np.array(2, np.float32)), cosine])
        nodes.add("Sqrt", [nodes.add("Relu", [nodes.add("Mul", [squared, chord])])], OUTPUT_NAME)

    def _squared(self, nodes: GraphNodes, white: str, length: str) -> str:
        """Add the squared Mahalanobis distance to the nearest class; return its name."""
        product = nodes.add("MatMul", [white, nodes.half(-2 * self.classes.T)])
        lengths = nodes.constant((_halved(self.classes) ** 2).sum(axis=1))
        nearest = nodes.add("ReduceMin", [nodes.add("Add", [product, lengths]), nodes.axis(1)], keepdims=0)
        squares = nodes.add("Mul", [nodes.add("Mul", [white, white]), nodes.constant(self._weights)])
        inside = nodes.add("ReduceSum", [squares, nodes.axis(1)], keepdims=0)
        rest = nodes.add("Div", [length, nodes.constant(np.array(self.outside, np.float32))])
        return nodes.add("Add", [nodes.add("Add", [inside, rest]), nearest])

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        halves = (self.whitening, self.classes, self.centroids)
        singles = (self.centre, self.variances, self.classes[:, 0])
        return 2 * sum(each.size for each in halves) + 4 * sum(each.size for each in singles)


def find(model: onnx.ModelProto, kind: Kind) -> tuple[str, ...]:
    """Return the tensors [batch, tokens, width] that the vector of an input is made of; () if there are none.

    The last one is what the head of an exported graph reads; the one before it is the norm halfway below, if any.
    """
    if not _is_scorable(model):
        return ()
    known = onnx.shape_inference.infer_shapes(model).graph
    ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in (*known.value_info, *known.output)}
    headless = kind == "embed"
    for tensor, node in _upwards(known):
        if headless and ranks.get(tensor) == 3:
            return (*_middle_of(known, tensor), tensor)
        headless = headless or node.op_type in _HEADS
    return ()


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


def _middle_of(graph: onnx.GraphProto, hidden: str) -> tuple[str, ...]:
    """Return the middle one of the norms up to a tensor, in the order of the graph; () with fewer than three.

    BERT has one norm behind the embeddings and two a layer, so it is the output of a layer, or of attention in it.
    """
    norms: list[str] = []
    for node in graph.node:
        if node.op_type == _NORM:
            norms.append(node.output[0])
        if hidden in node.output:
            break
    return (norms[(len(norms) - 1) // 2],) if len(norms) >= 3 else ()


def append(model: onnx.ModelProto, layers: Sequence[str], detector: Detector) -> bool:
    """Add the output to a graph; False, and nothing added, where the graph lacks one of the tensors."""
    if not layers or not set(layers) <= {name for node in model.graph.node for name in node.output}:
        return False
    nodes = GraphNodes(model.graph)
    detector.add_to(nodes, nodes.vector_of(layers))
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch"]))
    return True


def vectors_only(model: onnx.ModelProto, layers: Sequence[str]) -> None:
    """Make the vector of an input the only output of a graph."""
    nodes = GraphNodes(model.graph)
    nodes.add("Identity", [nodes.vector_of(layers)], VECTOR_NAME)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(VECTOR_NAME, TensorProto.FLOAT, ["batch", "width"]))


def _halved(values: Floats) -> Floats:
    return values.astype(np.float16).astype(np.float32)


class GraphNodes:
    """Adds nodes to a graph, under names of their own."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        """Take the graph that nodes and tensors are appended to."""
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
        """Add the number of an axis; return its name."""
        return self.constant(np.array([place], np.int64))

    def vector_of(self, layers: Sequence[str]) -> str:
        """Return the vector of each input, [batch, width of all layers]."""
        mask = self.add("Unsqueeze", [self.add("Cast", ["attention_mask"], to=TensorProto.FLOAT), self.axis(1)])
        # The mean would divide this sum over the tokens by their number; the direction is the same.
        totals = [self.add("MatMul", [mask, each]) for each in layers]
        units = [self.add("LpNormalization", [each], axis=-1, p=2) for each in totals]
        return self.add("Squeeze", [self.add("Concat", units, axis=-1), self.axis(1)])
