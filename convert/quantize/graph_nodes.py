"""Adds nodes to an ONNX graph, with generated names.

nodes = GraphNodes(model.graph, "/ood")
doubled = nodes.add("Mul", ["logits", nodes.constant(np.array(2, np.float32))])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper


class Factor(NamedTuple):
    """A factor of a product."""

    base: str
    """The tensor, [batch, 1]."""
    power: float
    least: float = 0.0
    """Smallest value of the base: with 0, a square that rounding made negative counts as 0."""


class GraphNodes:
    """Appends nodes and tensors to a graph."""

    def __init__(self, graph: onnx.GraphProto, prefix: str) -> None:
        """Append to `graph`; `prefix` begins the name of each node and tensor."""
        self._graph, self._prefix = graph, prefix
        self._names: Iterator[str] = (f"{prefix}/{number}" for number in range(1000))

    def add(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node; return its output."""
        output = output or next(self._names)
        self._append(kind, inputs, [output], attributes)
        return output

    def constant(self, values: npt.NDArray[np.generic]) -> str:
        """Add a tensor; return its name."""
        name = next(self._names)
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def half(self, values: npt.NDArray[np.float32]) -> str:
        """Add a tensor stored in half precision; return its name after the cast to single precision."""
        return self.add("Cast", [self.constant(values.astype(np.float16))], to=TensorProto.FLOAT)

    def axis(self, number: int) -> str:
        """Add the number of an axis; return its name."""
        return self.constant(np.array([number], np.int64))

    def lowest(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node that computes a matrix; return the name of the smallest value of each row, [batch, 1]."""
        return self.add("ReduceMin", [self.add(kind, inputs, **attributes), self.axis(1)])

    def split(self, matrix: str, columns: Sequence[int]) -> list[str]:
        """Split a matrix into parts with these numbers of columns; return the names of the parts."""
        parts = [next(self._names) for _ in columns]
        self._append("Split", [matrix, self.constant(np.array(columns, np.int64))], parts, {"axis": 1})
        return parts

    def multiply(self, factors: Sequence[Factor], output: str) -> None:
        """Add the product of the powers of all factors, as an output [batch]."""
        bases, powers, least = zip(*factors, strict=True)
        bounded = self.add("Max", [self.add("Concat", bases, axis=1), self.constant(np.array(least, np.float32))])
        raised = self.add("Pow", [bounded, self.constant(np.array(powers, np.float32))])
        self.add("ReduceProd", [raised, self.axis(1)], output, keepdims=0)

    def _append(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], attributes: dict[str, Any]) -> None:
        self._graph.node.append(helper.make_node(kind, inputs, outputs, f"{self._prefix}/{outputs[0]}", **attributes))
