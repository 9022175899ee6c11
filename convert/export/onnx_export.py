"""Exports checkpoints to ONNX with optimum.

A classifier on mean token vectors, which transformers lacks, is built by `encoder.bert_graph` instead.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import transformers
from onnx import TensorProto, helper, numpy_helper
from optimum.exporters.onnx import main_export

from convert.encoder import bert_graph
from convert.encoder.pooling import MeanPooledBert
from convert.pipeline.stage import Report
from convert.training import checkpoint_loading
from convert.training.checkpoint_loading import Head
from edge_agent.durable import atomic_files
from edge_agent.errors import InvalidRequest, ModelLoadFailed
from edge_agent.formats.questions import QUESTION_OUTPUT, QuestionSpec

LOGITS = "logits"
_SIZES = "question_sizes"


def output_of(question: QuestionSpec) -> str:
    """Return the name of a question's output, float32 [batch, outputs]."""
    return QUESTION_OUTPUT.format(question.name)


def split_logits(model: onnx.ModelProto, questions: Sequence[QuestionSpec]) -> None:
    """Replace the output `logits`, [batch, outputs of all questions], with one output for each question, in order."""
    graph = model.graph
    index = next(index for index, output in enumerate(graph.output) if output.name == LOGITS)
    del graph.output[index]
    sizes = [len(question.outputs) for question in questions]
    graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), _SIZES))
    names = [output_of(question) for question in questions]
    graph.node.append(helper.make_node("Split", [LOGITS, _SIZES], names, "split_questions", axis=-1))
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        graph.output.insert(index + number, helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]))
    onnx.checker.check_model(model)


MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
OPSET = 18
_TASKS: dict[Head, str] = {
    "sequence": "text-classification",
    "token": "token-classification",
    "none": "feature-extraction",
}
# Errors of optimum and torch for a model that they cannot export.
_ERRORS = (OSError, ValueError, RuntimeError, KeyError, NotImplementedError, AttributeError, TypeError, IndexError)


def export(
    checkpoint: Path, adapter: Path | None, head: Head, out: Path, questions: Sequence[QuestionSpec] = ()
) -> Report:
    """Write `model.onnx` in float32, and `tokenizer.json`; with `questions` the graph has an output for each.

    Raises:
        InvalidRequest: optimum does not know the architecture, or the graph is too large for one file.
        ModelLoadFailed: the weights do not fill the model, or the export fails.
    """
    model = checkpoint_loading.open_model(checkpoint, adapter, head)
    if isinstance(model, MeanPooledBert):
        config, _ = bert_graph.load(checkpoint)
        weights = {name.removeprefix("bert."): tensor.numpy() for name, tensor in model.state_dict().items()}
        (out / MODEL).write_bytes(bert_graph.build(config, weights, "classify"))
        shutil.copyfile(checkpoint / TOKENIZER, out / TOKENIZER)
        return _finish_graph(out, model, questions)
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as name:
        source, exported = Path(name, "checkpoint"), Path(name, "onnx")
        model.save_pretrained(source)
        checkpoint_loading.open_tokenizer(checkpoint).save_pretrained(source)
        _call_optimum(source, exported, _TASKS[head])
        if not (exported / MODEL).is_file() or (exported / (MODEL + "_data")).exists():
            message = "the graph does not fit into one ONNX file of 2 GiB"
            raise InvalidRequest(message, remedy="Choose a smaller encoder: the agent is made for small models.")
        (exported / MODEL).replace(out / MODEL)
        shutil.copyfile(source / TOKENIZER, out / TOKENIZER)
    return _finish_graph(out, model, questions)


def _finish_graph(out: Path, model: Any, questions: Sequence[QuestionSpec]) -> Report:
    graph = onnx.load(out / MODEL, load_external_data=False)
    if questions:
        split_logits(graph, questions)
        onnx.save(graph, out / MODEL)
    return {
        "model": MODEL,
        "tokenizer": TOKENIZER,
        "opset": graph.opset_import[0].version,
        "nodes": len(graph.graph.node),
        "architecture": model.config.model_type,
    }


def _call_optimum(checkpoint: Path, out: Path, task: str) -> None:
    """Export one checkpoint directory; the only function that calls optimum."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from torch's tracer, about branches that the export does not take
        try:
            main_export(
                str(checkpoint),
                output=out,
                task=task,
                opset=OPSET,
                framework="pt",
                do_validation=False,  # it warns of differences, for which `verify` fails
                local_files_only=True,
                trust_remote_code=False,
            )
        except _ERRORS as error:
            atomic_files.require_free_space(out)
            reason = " ".join(str(error).split())[:300]
            kind = transformers.AutoConfig.from_pretrained(checkpoint).model_type
            remedy = "docs/architectures.md lists the architectures that work."
            if "custom or unsupported architecture" in reason or "is not supported" in reason:
                message = f"optimum cannot export the architecture {kind}: {reason}"
                raise InvalidRequest(message, remedy=remedy) from None
            raise ModelLoadFailed(f"optimum could not export this {kind}: {reason}", remedy=remedy) from None
