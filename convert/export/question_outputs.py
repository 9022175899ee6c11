"""The outputs of an ONNX graph that answers several questions: one for each, computed by one run. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_agent.formats.questions import QUESTION_OUTPUT, QuestionSpec

LOGITS = "logits"
_SIZES = "question_sizes"


def output_of(question: QuestionSpec) -> str:
    """Return the name of a question's output, float32 [batch, outputs]."""
    return QUESTION_OUTPUT.format(question.name)


def split_logits(model: onnx.ModelProto, questions: Sequence[QuestionSpec]) -> None:
    """Replace the output `logits`, [batch, outputs of all questions], with one output for each question, in order."""
    graph = model.graph
    place = next(place for place, output in enumerate(graph.output) if output.name == LOGITS)
    del graph.output[place]
    sizes = [len(question.outputs) for question in questions]
    graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), _SIZES))
    names = [output_of(question) for question in questions]
    graph.node.append(helper.make_node("Split", [LOGITS, _SIZES], names, "split_questions", axis=-1))
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        graph.output.insert(place + number, helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]))
    onnx.checker.check_model(model)
