"""BERT encoders as ONNX graphs, built from arrays, without torch.

`build(config, weights, head)` writes the graph of Devlin et al. 2018 (arXiv 1810.04805), batch and sequence dynamic.
Weights are named as in Hugging Face checkpoints. Heads:

    hidden      last_hidden_state [batch, tokens, hidden]
    tags        logits [batch, tokens, outputs]: classifier over each token
    classify    logits [batch, outputs]: classifier over the mean of the token vectors
    LayerPooling  one output for each question: classifier over mean, maximum and minimum of the token vectors of layers
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

OPSET = 20  # the first with Gelu
IR_VERSION = 10
Weights = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class BertConfig:
    """Shape of an encoder."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int = 512


@dataclass(frozen=True)
class LayerPooling:
    """The input and outputs of a head of several questions: mean, maximum and minimum of the token vectors of layers.

    The last layer of a sentence encoder is trained to drop features that do not change the meaning of a text, such as
    its tone or a telephone number; earlier layers still contain them.
    """

    layers: tuple[int, ...]
    """0 = the embeddings, `BertConfig.layers` = the last one; the vectors of the layers are joined in this order."""
    outputs: Mapping[str, int]
    """Names and sizes of the outputs, float32 [batch, size], in the order of the classifier's rows; without any, the
    graph has one output `pooled`, [batch, 3 * layers * hidden]."""


def load(folder: Path) -> tuple[BertConfig, Weights]:
    """Read config.json and model.safetensors of a BERT checkpoint."""
    plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = BertConfig(
        vocabulary=plain["vocab_size"],
        hidden=plain["hidden_size"],
        layers=plain["num_hidden_layers"],
        heads=plain["num_attention_heads"],
        intermediate=plain["intermediate_size"],
        positions=plain["max_position_embeddings"],
    )
    return config, load_file(folder / "model.safetensors")


def build(config: BertConfig, weights: Weights, head: str | LayerPooling) -> bytes:
    """Return the serialized ONNX model."""
    graph = _Graph(config, weights)
    hidden = graph.encoder()
    size = len(weights.get("classifier.bias", ()))
    outputs: dict[str, list[str | int]]
    if isinstance(head, LayerPooling):
        pooled = graph.pool(head.layers)
        outputs = {name: ["batch", size] for name, size in head.outputs.items()}
        if outputs:
            graph.split(graph.linear(pooled, "classifier"), head.outputs)
        else:
            graph.name(pooled, "pooled")
            outputs = {"pooled": ["batch", 3 * len(head.layers) * config.hidden]}
    elif head == "classify":
        graph.name(graph.linear(graph.mean(hidden), "classifier"), "logits")
        outputs = {"logits": ["batch", size]}
    elif head == "tags":
        graph.name(graph.linear(hidden, "classifier"), "logits")
        outputs = {"logits": ["batch", "tokens", size]}
    else:
        graph.name(hidden, "last_hidden_state")
        outputs = {"last_hidden_state": ["batch", "tokens", config.hidden]}
    inputs = [
        helper.make_tensor_value_info(each, TensorProto.INT64, ["batch", "tokens"])
        for each in ("input_ids", "attention_mask", "token_type_ids")
    ]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    graph_proto = helper.make_graph(graph.nodes, "bert", inputs, results, graph.constants)
    model = helper.make_model(graph_proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


class _Graph:
    """Nodes and constants under construction; each method adds some and returns the name of their result."""

    def __init__(self, config: BertConfig, weights: Weights) -> None:
        self._config = config
        self._weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._layers: list[str] = []

    def encoder(self) -> str:
        """Add the layers; return the token vectors."""
        hidden = self._embeddings()
        self._layers.append(hidden)
        # What to add to the scores of attention, as [batch, 1, 1, tokens].
        bias = self._op("Unsqueeze", self._absence(), self._constant(np.array([1, 2])))
        for layer in range(self._config.layers):
            prefix = f"encoder.layer.{layer}"
            attended = self._attention(hidden, bias, f"{prefix}.attention.self")
            mixed = self.linear(attended, f"{prefix}.attention.output.dense")
            hidden = self._norm(self._op("Add", hidden, mixed), f"{prefix}.attention.output.LayerNorm")
            inner = self._op("Gelu", self.linear(hidden, f"{prefix}.intermediate.dense"))
            outer = self.linear(inner, f"{prefix}.output.dense")
            hidden = self._norm(self._op("Add", hidden, outer), f"{prefix}.output.LayerNorm")
            self._layers.append(hidden)
        return hidden

    def linear(self, value: str, name: str) -> str:
        """Multiply by a weight and add its bias."""
        product = self._op("MatMul", value, self._constant(np.ascontiguousarray(self._weights[f"{name}.weight"].T)))
        return self._op("Add", product, self._constant(self._weights[f"{name}.bias"]))

    def mean(self, hidden: str) -> str:
        """Average the token vectors where the mask is 1."""
        mask = self._op("Unsqueeze", self._float_mask(), self._constant(np.array([2])))
        total = self._op("ReduceSum", self._op("Mul", hidden, mask), self._constant(np.array([1])), keepdims=0)
        return self._op("Div", total, self._op("ReduceSum", mask, self._constant(np.array([1])), keepdims=0))

    def pool(self, layers: Sequence[int]) -> str:
        """Join mean, maximum and minimum of the token vectors of layers, where the mask is 1; after `encoder`."""
        absent = self._op("Unsqueeze", self._absence(), self._constant(np.array([2])))
        tokens, parts = self._constant(np.array([1])), []
        for layer in layers:
            hidden = self._layers[layer]
            highest = self._op("ReduceMax", self._op("Add", hidden, absent), tokens, keepdims=0)
            lowest = self._op("ReduceMin", self._op("Sub", hidden, absent), tokens, keepdims=0)
            parts += [self.mean(hidden), highest, lowest]
        return self._op("Concat", *parts, axis=-1)

    def split(self, value: str, outputs: Mapping[str, int]) -> None:
        """Divide the last axis into outputs."""
        sizes = self._constant(np.array(list(outputs.values())))
        self.nodes.append(helper.make_node("Split", [value, sizes], list(outputs), axis=-1))

    def name(self, value: str, output: str) -> None:
        """Give a result the name of an output."""
        self.nodes.append(helper.make_node("Identity", [value], [output]))

    def _embeddings(self) -> str:
        one = self._constant(np.array(1))
        length = self._op("Gather", self._op("Shape", "input_ids"), one)
        positions = self._op("Range", self._constant(np.array(0)), length, one)
        summed = self._op("Add", self._lookup("word", "input_ids"), self._lookup("token_type", "token_type_ids"))
        return self._norm(self._op("Add", summed, self._lookup("position", positions)), "embeddings.LayerNorm")

    def _lookup(self, table: str, ids: str) -> str:
        return self._op("Gather", self._constant(self._weights[f"embeddings.{table}_embeddings.weight"]), ids)

    def _float_mask(self) -> str:
        return self._op("Cast", "attention_mask", to=TensorProto.FLOAT)

    def _absence(self) -> str:
        """0 where there is a token and -1e9 where there is padding, as [batch, tokens]."""
        absent = self._op("Sub", self._constant(np.float32(1)), self._float_mask())
        return self._op("Mul", absent, self._constant(np.float32(-1e9)))

    def _attention(self, hidden: str, bias: str, name: str) -> str:
        heads = self._config.heads
        size = self._config.hidden // heads
        split = self._constant(np.array([0, 0, heads, size]))

        def part(which: str, order: list[int]) -> str:
            return self._op("Transpose", self._op("Reshape", self.linear(hidden, f"{name}.{which}"), split), perm=order)

        product = self._op("MatMul", part("query", [0, 2, 1, 3]), part("key", [0, 2, 3, 1]))
        scores = self._op("Div", product, self._constant(np.float32(math.sqrt(size))))
        shares = self._op("Softmax", self._op("Add", scores, bias), axis=-1)
        mixed = self._op("Transpose", self._op("MatMul", shares, part("value", [0, 2, 1, 3])), perm=[0, 2, 1, 3])
        return self._op("Reshape", mixed, self._constant(np.array([0, 0, self._config.hidden])))

    def _norm(self, value: str, name: str) -> str:
        scale, bias = (self._constant(self._weights[f"{name}.{each}"]) for each in ("weight", "bias"))
        return self._op("LayerNormalization", value, scale, bias, axis=-1, epsilon=1e-12)

    def _constant(self, value: npt.NDArray[Any] | np.generic) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name
