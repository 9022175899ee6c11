"""A bundle of kind redact as the benchmark runs it: the agent's own decoding, one thread, in this process.

A text is read in the windows of the agent. What a text costs is measured against the same encoder as a classifier: its
graph with the mean of the token vectors and one layer of eight labels in place of the tags.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tokenizers
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from benchmarks.redacting.figures import Spans
from convert.evaluate.serving import open_bundle
from edge_agent.capture.redact.model_findings import FoundValue, join_windows, windows
from edge_agent.engine.protocol import EntitySpan
from edge_agent.engine.runtimes import onnx_outputs
from edge_agent.engine.runtimes.onnx_outputs import TagColumns, find_personal

COST_TOKENS, COST_ROUNDS, CLASSES = 32, 300, 8


class BundleModel:
    """The model of a bundle, at its cut-off or another."""

    def __init__(self, folder: Path, cutoff: float | None = None) -> None:
        """Open a bundle folder. Raises BundleError, ManifestInvalid; ValueError if it is of another kind."""
        bundle = open_bundle(folder)
        if bundle.manifest.task.kind != "redact":
            raise ValueError(f"{folder} is of kind {bundle.manifest.task.kind}, not redact")
        self.manifest, self._paths = bundle.manifest, bundle.paths
        self.cutoff = cutoff or bundle.manifest.redaction_rule.cutoff
        self._columns = TagColumns(bundle.manifest.task.labels, bundle.manifest.redaction_rule)
        self._session = _session(self._paths["weights"].read_bytes())
        self._tokenizer = tokenizers.Tokenizer.from_file(str(self._paths["tokenizer"]))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def find(self, text: str) -> Spans:
        """Return the spans that it would replace."""
        return [(value.start, value.end) for value in self.values(text)]

    def values(self, text: str) -> tuple[FoundValue, ...]:
        """Return the values that it would replace, read window by window as the agent reads a long text."""
        found = (
            FoundValue(begin + each.start, begin + each.end, each.label, each.score)
            for begin, end in windows(text)
            for each in self._found(text[begin:end])
        )
        return join_windows(found)

    def cost_share(self) -> tuple[float, float]:
        """Return the milliseconds of a text of 32 tokens, median, and that of the same encoder classifying it."""
        text = " ".join(["table"] * (COST_TOKENS - 2))
        classifier = _session(as_classifier(self._paths["weights"]))
        fed = _fed(self._tokenizer.encode(text).ids)
        redacting: list[float] = []
        classifying: list[float] = []
        for _ in range(COST_ROUNDS):  # in turn, so that both meet the same load of the machine
            started = time.process_time()
            self._found(text)
            between = time.process_time()
            self._tokenizer.encode(text)
            classifier.run(None, fed)
            redacting.append(between - started)
            classifying.append(time.process_time() - between)
        return 1000 * float(np.median(redacting)), 1000 * float(np.median(classifying))

    def _found(self, text: str) -> tuple[EntitySpan, ...]:
        encoding = self._tokenizer.encode(text)
        [logits] = self._session.run(["logits"], _fed(encoding.ids))
        words = onnx_outputs.word_spans(text, encoding.word_ids, encoding.offsets)
        shares = onnx_outputs.probabilities(logits[0], self.manifest.confidence.temperature)
        return find_personal(text, words, shares, self._columns, self.cutoff).spans


def as_classifier(graph: Path) -> bytes:
    """Return the graph of a token classifier with the mean of its token vectors and a layer of CLASSES labels."""
    model = onnx.load(graph)
    makers = {output: node for node in model.graph.node for output in node.output}
    head = makers["logits"]
    product = next(makers[name] for name in head.input if name in makers)
    hidden, width = product.input[0], _width(model, product)
    weight = np.random.default_rng(1).standard_normal((width, CLASSES)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "classes"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "over_tokens"))
    model.graph.node.append(helper.make_node("ReduceMean", [hidden, "over_tokens"], ["mean"], keepdims=0))
    model.graph.node.append(helper.make_node("MatMul", ["mean", "classes"], ["scores"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [None, CLASSES]))
    return bytes(model.SerializeToString())


def _width(model: onnx.ModelProto, product: onnx.NodeProto) -> int:
    """Return how wide the vectors are that a product reads."""
    packed = [each.i for each in product.attribute if each.name == "K"]
    return int(packed[0] if packed else next(w.dims[0] for w in model.graph.initializer if w.name == product.input[1]))


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _fed(ids: list[int]) -> dict[str, NDArray[np.int64]]:
    row = np.array([ids], dtype=np.int64)
    return {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
