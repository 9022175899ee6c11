"""Nodes added to an ONNX graph: their results and their unique names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from convert.quantize.graph_nodes import Factor, GraphNodes

Building = Callable[[GraphNodes], None]


def computed(
    build: Callable[[GraphNodes], None], x: np.ndarray, *, outputs: int = 1, rank: int = 2
) -> list[np.ndarray]:
    """Run a graph of the nodes that `build` adds to read `x` and write y0, y1, ..."""
    names = [f"y{place}" for place in range(outputs)]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", x.shape[1]])
    graph = helper.make_graph([], "graph", [given], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    build(GraphNodes(model.graph, "/added"))
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name in names)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(names, {"x": x}))


def test_multiply_raises_factors_after_a_lower_limit():
    """Each factor is raised to its lower limit, then to its power; the product is one number per input."""

    def build(nodes: GraphNodes) -> None:
        one, two, three = nodes.split("x", (1, 1, 1))
        nodes.multiply([Factor(one, 1 / 2), Factor(two, -1), Factor(three, 3, least=2)], "y0")

    (found,) = computed(build, np.array([[16, 2, 1], [9, 4, 3], [-1e-9, 1, 0]], np.float32), rank=1)
    np.testing.assert_allclose([4 / 2 * 8, 3 / 4 * 27, 0], found)


def test_split_divides_a_matrix_by_columns():
    """`split` gives parts with the columns in their order."""

    def build(nodes: GraphNodes) -> None:
        for place, part in enumerate(nodes.split("x", (2, 1))):
            nodes.add("Identity", [part], f"y{place}")

    first, second = computed(build, np.array([[1, 2, 3], [4, 5, 6]], np.float32), outputs=2)
    np.testing.assert_array_equal([[1, 2], [4, 5]], first)
    np.testing.assert_array_equal([[3], [6]], second)


def test_lowest_gives_the_minimum_of_each_row():
    """`lowest` gives the minimum of each row as a matrix of one column, and weights in half precision are computed in
    single precision."""

    def build(nodes: GraphNodes) -> None:
        weights = nodes.half(np.array([[1.0, -1.0], [0.5, 2.0]], np.float32))
        nodes.add("Identity", [nodes.lowest("MatMul", ["x", weights])], "y0")

    (found,) = computed(build, np.array([[1, 2], [4, 1]], np.float32))
    np.testing.assert_array_equal([[2], [-2]], found)


def test_names_of_added_nodes_start_with_the_prefix():
    """Added nodes and tensors have distinct names that start with the prefix, so they cannot collide with those of the
    graph."""
    model = helper.make_model(helper.make_graph([], "graph", [], []))
    nodes = GraphNodes(model.graph, "/added")
    nodes.add("Mul", ["x", nodes.half(np.ones(2, np.float32))])
    names = [*(each.name for each in model.graph.initializer), *(each.name for each in model.graph.node)]
    assert 3 == len(set(names)) == len(names)
    assert all(name.startswith("/added/") for name in names)
