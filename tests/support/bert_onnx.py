"""Encoders for tests, as ONNX graphs: a tiny random BERT and the real all-MiniLM-L6-v2."""

from __future__ import annotations

import functools
import math

import numpy as np
import onnx
import tokenizers
from onnx import TensorProto, helper, numpy_helper

from convert.encoder.bert_graph import BertConfig, Weights, build, load
from edge_agent.formats.questions import QUESTION_OUTPUT
from tests.support import models

__all__ = ["TINY", "build", "minilm", "random_weights", "split_by_question", "tiny_tokenizer"]


_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-"
_VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_ALPHABET, *(f"##{letter}" for letter in _ALPHABET), "refund"]
TINY = BertConfig(vocabulary=len(_VOCABULARY), hidden=32, layers=2, heads=4, intermediate=64)


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
    written: str = tokenizer.to_str()
    return written.encode()


def random_weights(config: BertConfig, outputs: int, seed: int = 7) -> Weights:
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


def split_by_question(model: bytes, sizes: dict[str, int]) -> bytes:
    """Return a classifier with its outputs divided into those of several questions, by name and number of answers."""
    loaded = onnx.load_from_string(model)
    graph, names = loaded.graph, [QUESTION_OUTPUT.format(name) for name in sizes]
    graph.initializer.append(numpy_helper.from_array(np.array(list(sizes.values())), "question_sizes"))
    graph.node.append(helper.make_node("Split", ["logits", "question_sizes"], names, axis=1))
    del graph.output[:]
    for name, size in zip(names, sizes.values(), strict=True):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]))
    onnx.checker.check_model(loaded)
    written: bytes = loaded.SerializeToString()
    return written


@functools.cache
def minilm() -> tuple[BertConfig, Weights]:
    """Return shape and weights of all-MiniLM-L6-v2."""
    return load(models.minilm_dir())
