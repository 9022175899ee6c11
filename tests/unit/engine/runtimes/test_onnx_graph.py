"""The size check of an ONNX graph before it is opened, from the sizes in the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edge_agent.engine.runtimes import onnx_graph
from edge_agent.errors import ModelLoadFailed
from tests.support import bundles, hostile_models

LIMIT = onnx_graph.CONSTANT_ELEMENTS_MAX
OVER = [2**14, 2**13]


def model(nodes: Sequence[onnx.NodeProto], functions: Sequence[onnx.FunctionProto] = (), **values: Any) -> bytes:
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = helper.make_graph(list(nodes), "g", [], [], constants)
    return helper.make_model(graph, functions=list(functions)).SerializeToString()


def check(folder: Path, content: bytes) -> None:
    path = folder / "model.onnx"
    path.write_bytes(content)
    onnx_graph.check_graph(str(path))


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(ModelLoadFailed) as caught:
        check(folder, content)
    return caught.value.message


def node(kind: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, ["out"], **attributes)


def filling(shape: Sequence[int]) -> dict[str, bytes]:
    """Return, for each operator, a graph whose output has the given two-dimensional shape."""
    size, total = np.array(shape, np.int64), int(np.prod(shape))
    of = [helper.make_node("Constant", [], ["size"], value=numpy_helper.from_array(size))]
    ints = [helper.make_node("Constant", [], ["size"], value_ints=[int(each) for each in shape])]
    fill = node("ConstantOfShape", "size")
    pads = np.array([0, 0, *shape], np.int64)
    return {
        "ConstantOfShape": model([fill], size=size),
        "its shape in a node": model([*of, fill]),
        "its shape in an attribute": model([*ints, fill]),
        "Expand": model([node("Expand", "x", "size")], size=size, x=np.float32(1)),
        "Tile": model([node("Tile", "x", "size")], size=size, x=np.ones((1, 1), np.float32)),
        "Resize": model([node("Resize", "x", "", "", "size")], size=size, x=np.ones((1, 1), np.float32)),
        "Pad": model([node("Pad", "x", "pads")], pads=pads, x=np.ones((1, 1), np.float32)),
        "Range": model([node("Range", "a", "b", "c")], a=np.int64(0), b=np.int64(total), c=np.int64(1)),
        "Range of floats": model(
            [node("Range", "a", "b", "c")], a=np.float32(0), b=np.float32(1), c=np.float32(1 / total)
        ),
        "OneHot": model([node("OneHot", "x", "b", "c")], b=np.int64(total), x=np.int64(1), c=np.ones(2)),
        "RandomNormal": model([node("RandomNormal", shape=[int(each) for each in shape])]),
        "RandomUniform": model([node("RandomUniform", shape=[int(each) for each in shape])]),
    }


@pytest.mark.parametrize("how", filling(OVER))
def test_graph_with_a_huge_output_is_refused(tmp_path: Path, how: str) -> None:
    """A graph is refused for each operator that makes a large output of a small input, wherever the size is stored; an
    output at the limit passes."""
    assert f"elements; the limit is {LIMIT}" in refusal(tmp_path, filling(OVER)[how])
    check(tmp_path, filling([2**10, 2**10])[how])


def test_nested_tiles_multiply(tmp_path: Path) -> None:
    """The output of a tile of a tile counts with the product of both factors."""
    factors = {"a": np.array([2**14], np.int64), "x": np.ones(1, np.float32)}
    nodes = [helper.make_node("Tile", ["x", "a"], ["y"]), helper.make_node("Tile", ["y", "a"], ["z"])]
    assert "a node Tile that makes 268435456 elements" in refusal(tmp_path, model(nodes, **factors))


def nested(depth: int, inner: onnx.NodeProto) -> onnx.NodeProto:
    for _ in range(depth):
        graph = helper.make_graph([inner], "branch", [], [])
        inner = helper.make_node("If", ["x"], ["y"], then_branch=graph, else_branch=graph)
    return inner


def test_nested_graphs_are_checked(tmp_path: Path) -> None:
    """A nested graph is checked with constants of the outer graph, and nesting above the limit is refused."""
    shape = np.array(OVER, np.int64)
    assert "ConstantOfShape" in refusal(tmp_path, model([nested(3, node("ConstantOfShape", "size"))], size=shape))
    plain = helper.make_node("Identity", ["x"], ["y"])
    limit = onnx_graph.NESTING_MAX
    check(tmp_path, model([nested(9, plain)]))
    assert f"nested {limit + 1} deep; the limit is {limit}" in refusal(tmp_path, model([_chain(limit, plain)]))


def _chain(depth: int, inner: onnx.NodeProto) -> onnx.NodeProto:
    for _ in range(depth):
        inner = helper.make_node("Loop", ["m", "c"], ["y"], body=helper.make_graph([inner], "body", [], []))
    return inner


def test_function_calls_count_as_expanded(tmp_path: Path) -> None:
    """Twelve functions that each call the next one ten times count as 10^12 nodes and are refused, and so is a function
    that calls itself."""
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]

    def function(number: int, calls: int, called: int) -> onnx.FunctionProto:
        nodes = [helper.make_node(f"f{called}", ["a"], ["b"], domain="own")] * calls
        return helper.make_function("own", f"f{number}", ["a"], ["b"], nodes, opset)

    start = helper.make_node("f0", ["x"], ["y"], domain="own")
    tower = [function(each, 10, each + 1) for each in range(12)]
    assert f"nodes; the limit is {onnx_graph.NODES_MAX}" in refusal(tmp_path, model([start], tower))
    assert "nested" in refusal(tmp_path, model([start], [function(0, 1, 0)]))


def test_overflowing_dimensions_are_refused(tmp_path: Path) -> None:
    """Dimensions whose product overflows are refused; with a dimension of zero the size is zero and the graph
    passes."""
    tiles = numpy_helper.from_array(np.array([1] * 21, np.int64), "tiles")

    def tiled(dims: Sequence[int]) -> bytes:
        huge = onnx.TensorProto(name="huge", data_type=onnx.TensorProto.INT64, dims=dims)
        return helper.make_model(
            helper.make_graph([node("Tile", "huge", "tiles")], "g", [], [], [huge, tiles])
        ).SerializeToString()

    assert f"the limit is {LIMIT}" in refusal(tmp_path, tiled([2**62] * 21))
    check(tmp_path, tiled([2**62] * 20 + [0]))


@pytest.mark.parametrize("kind", ["classify", "extract", "embed"])
def test_real_encoders_pass(tmp_path: Path, kind: str) -> None:
    """The size check passes the encoders that other tests use."""
    check(tmp_path, bundles.tiny_onnx(kind))


@pytest.mark.parametrize("made", [hostile_models.endless_graph, hostile_models.computed_filling_graph])
def test_graph_whose_cost_is_only_known_at_run_time_passes(tmp_path: Path, made: Callable[[], bytes]) -> None:
    """An endless graph, and one whose large size is only computed at run time, pass the check; time and memory are
    limited while computing."""
    check(tmp_path, made())


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_damaged_graph_passes_or_is_refused_by_a_limit(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A graph with random changes passes the check or is refused by a limit, and no other error is raised; onnxruntime
    reports the damage."""
    content = bytearray(hostile_models.filling_graph([2, 2]))
    start = data.draw(st.integers(0, len(content) - 1))
    content[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=8))
    folder = tmp_path_factory.mktemp("damaged")
    try:
        check(folder, bytes(content))
    except ModelLoadFailed as error:
        assert "; the limit is " in error.message
