"""BERT encoders as ONNX graphs, built from arrays: a tiny random one and the real all-MiniLM-L6-v2.

`build(config, weights, head)` writes the graph of Devlin et al. 2018 (arXiv 1810.04805), batch and sequence dynamic.
Weights are named as in Hugging Face checkpoints. Heads:

    hidden      last_hidden_state [batch, tokens, hidden]
    tags        logits [batch, tokens, outputs]: classifier over each token
    classify    logits [batch, outputs]: classifier over the mean of the token vectors
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import tokenizers
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from tests import models

OPSET = 20  # the first with Gelu
Weights = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Config:
    """Shape of an encoder."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int = 512


_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-"
_VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_ALPHABET, *(f"##{letter}" for letter in _ALPHABET), "refund"]
TINY = Config(vocabulary=len(_VOCABULARY), hidden=32, layers=2, heads=4, intermediate=64)


def tiny_tokenizer() -> bytes:
    """Return a tokenizer.json: WordPiece over letters, with truncation and padding that a server has to undo."""
    model = tokenizers.models.WordPiece({token: i for i, token in enumerate(_VOCABULARY)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    return tokenizer.to_str().encode()


def random_weights(config: Config, outputs: int, seed: int = 7) -> Weights:
    """Return weights from a normal distribution, wide enough that different texts get different answers."""
    rng = np.random.default_rng(seed)
    weights: Weights = {}

    def linear(name: str, rows: int, columns: int) -> None:
        weights[f"{name}.weight"] = rng.normal(0, 1 / math.sqrt(columns), (rows, columns)).astype(np.float32)
        weights[f"{name}.bias"] = rng.normal(0, 0.1, rows).astype(np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = np.ones(config.hidden, np.float32)
        weights[f"{name}.bias"] = np.zeros(config.hidden, np.float32)

    for name, rows in (("word", config.vocabulary), ("position", config.positions), ("token_type", 2)):
        table = rng.normal(0, 1, (rows, config.hidden)).astype(np.float32)
        weights[f"embeddings.{name}_embeddings.weight"] = table
    norm("embeddings.LayerNorm")
    for layer in range(config.layers):
        at = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            linear(f"{at}.attention.self.{part}", config.hidden, config.hidden)
        linear(f"{at}.attention.output.dense", config.hidden, config.hidden)
        norm(f"{at}.attention.output.LayerNorm")
        linear(f"{at}.intermediate.dense", config.intermediate, config.hidden)
        linear(f"{at}.output.dense", config.hidden, config.intermediate)
        norm(f"{at}.output.LayerNorm")
    if outputs:
        linear("classifier", outputs, config.hidden)
        weights["classifier.weight"] *= 4
    return weights


@functools.cache
def minilm() -> tuple[Config, Weights]:
    """Return shape and weights of all-MiniLM-L6-v2."""
    folder = models.minilm_dir()
    told = json.loads((folder / "config.json").read_text())
    config = Config(
        vocabulary=told["vocab_size"],
        hidden=told["hidden_size"],
        layers=told["num_hidden_layers"],
        heads=told["num_attention_heads"],
        intermediate=told["intermediate_size"],
        positions=told["max_position_embeddings"],
    )
    return config, load_file(folder / "model.safetensors")


def build(config: Config, weights: Weights, head: str) -> bytes:
    """Return the serialized ONNX model."""
    graph = _Graph(config, weights)
    hidden = graph.encoder()
    if head == "classify":
        output, name, shape = graph.linear(graph.mean(hidden), "classifier"), "logits", ["batch", None]
    elif head == "tags":
        output, name, shape = graph.linear(hidden, "classifier"), "logits", ["batch", "tokens", None]
    else:
        output, name, shape = hidden, "last_hidden_state", ["batch", "tokens", config.hidden]
    if shape[-1] is None:
        shape[-1] = len(weights["classifier.bias"])
    graph.nodes.append(helper.make_node("Identity", [output], [name]))
    inputs = [
        helper.make_tensor_value_info(each, TensorProto.INT64, ["batch", "tokens"])
        for each in ("input_ids", "attention_mask", "token_type_ids")
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
    whole = helper.make_graph(graph.nodes, "bert", inputs, outputs, graph.constants)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


class _Graph:
    """Nodes and constants under construction; each method adds some and returns the name of their result."""

    def __init__(self, config: Config, weights: Weights) -> None:
        self._config = config
        self._weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def encoder(self) -> str:
        hidden = self._embeddings()
        bias = self._mask_bias()
        for layer in range(self._config.layers):
            at = f"encoder.layer.{layer}"
            mixed = self.linear(self._attention(hidden, bias, f"{at}.attention.self"), f"{at}.attention.output.dense")
            hidden = self._norm(self._op("Add", hidden, mixed), f"{at}.attention.output.LayerNorm")
            inner = self._op("Gelu", self.linear(hidden, f"{at}.intermediate.dense"))
            hidden = self._norm(
                self._op("Add", hidden, self.linear(inner, f"{at}.output.dense")), f"{at}.output.LayerNorm"
            )
        return hidden

    def linear(self, value: str, name: str) -> str:
        product = self._op("MatMul", value, self._constant(np.ascontiguousarray(self._weights[f"{name}.weight"].T)))
        return self._op("Add", product, self._constant(self._weights[f"{name}.bias"]))

    def mean(self, hidden: str) -> str:
        """Average the token vectors where the mask is 1."""
        mask = self._op("Unsqueeze", self._float_mask(), self._constant(np.array([2])))
        total = self._op("ReduceSum", self._op("Mul", hidden, mask), self._constant(np.array([1])), keepdims=0)
        return self._op("Div", total, self._op("ReduceSum", mask, self._constant(np.array([1])), keepdims=0))

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

    def _mask_bias(self) -> str:
        """0 where a token may be looked at and -1e9 where it is padding, as [batch, 1, 1, tokens]."""
        absent = self._op("Sub", self._constant(np.float32(1)), self._float_mask())
        bias = self._op("Mul", absent, self._constant(np.float32(-1e9)))
        return self._op("Unsqueeze", bias, self._constant(np.array([1, 2])))

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
