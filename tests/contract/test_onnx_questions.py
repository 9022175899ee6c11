"""Several questions about an input in one run of an encoder, with an output of the graph for each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge_agent.engine.protocol import JobRequest, JobResult
from edge_agent.engine.runtimes.onnx_runtime import OnnxRuntime
from tests.support import bert_onnx, bundles, gated_onnx
from tests.support.gated_onnx import opened, refused

CALIBRATED = {**gated_onnx.CALIBRATED, "temperature": 3.0}


def written(folder: Path, model: bytes = b"", gate: dict[str, Any] | None = None, **more: Any) -> Path:
    confidence = {"policy": "always_escalate", **({"gate": gate} if gate else {})}
    return gated_onnx.write(folder, "decide", model or bundles.tiny_onnx("decide"), confidence, **more)


def answered(runtime: OnnxRuntime, text: str = "refund") -> JobResult:
    runtime.submit(JobRequest(job_id="1", digest="a", text=text))
    found: list[Any] = []
    while runtime.busy:
        found += runtime.step()
    (done,) = found
    assert isinstance(done, JobResult)
    return done


def without_output(model: bytes, name: str) -> bytes:
    loaded = onnx.load_from_string(model)
    kept = [each for each in loaded.graph.output if each.name != name]
    del loaded.graph.output[:]
    loaded.graph.output.extend(kept)
    return loaded.SerializeToString()


def with_infinity(model: bytes, name: str) -> bytes:
    """Return the model with infinity added to an output."""
    loaded = onnx.load_from_string(model)
    split = next(node for node in loaded.graph.node if name in node.output)
    split.output[list(split.output).index(name)] = "finite"
    loaded.graph.initializer.append(numpy_helper.from_array(np.array([np.inf], np.float32), "infinity"))
    loaded.graph.node.append(helper.make_node("Add", ["finite", "infinity"], [name]))
    return loaded.SerializeToString()


def test_each_question_has_its_own_temperature(tmp_path):
    """The temperature of a question flattens its scores and no others."""
    plain = answered(opened(written(tmp_path / "plain")))
    flat = answered(opened(written(tmp_path / "flat", question_confidence={"intent": CALIBRATED})))
    assert max(flat.question_scores[0]) < max(plain.question_scores[0])
    assert plain.question_scores[1:] == flat.question_scores[1:]
    logits = [math.log(each) for each in plain.question_scores[0]]
    weights = [math.exp(each / 3.0) for each in logits]
    assert pytest.approx([each / sum(weights) for each in weights]) == flat.question_scores[0]


def test_one_run_answers_the_questions_and_the_gate(tmp_path):
    """The out-of-distribution score of the graph is returned with the answers to the questions."""
    model = gated_onnx.with_score(bundles.tiny_onnx("decide"))
    done = answered(opened(written(tmp_path, model, gated_onnx.gate(1, 2, 3))))
    assert done.ood_score is not None
    assert [len(each) for each in done.question_scores] == [len(bundles.INTENTS), 2, 3]


def test_question_without_an_output_is_refused(tmp_path):
    """The error names the missing output and the existing ones."""
    model = without_output(bundles.tiny_onnx("decide"), "logits.urgent")
    said = refused(written(tmp_path, model))
    assert "the model has no output logits.urgent; it has logits.intent, logits.severity" in said


def test_question_output_of_another_size_is_refused(tmp_path):
    """A bundle is refused if a question's number of possible answers differs from the size of its output, and the error
    has both numbers."""
    config = bert_onnx.TINY
    sizes = {"intent": len(bundles.INTENTS), "urgent": 2, "severity": 4}
    weights = bert_onnx.random_weights(config, outputs=sum(sizes.values()))
    model = bert_onnx.split_by_question(bert_onnx.build(config, weights, "classify"), sizes)
    said = refused(written(tmp_path, model))
    assert "the model's output logits.severity is [batch, 4]; the question has 3 possible answers" in said


def test_question_output_that_is_not_finite_is_refused(tmp_path):
    """A bundle is refused if an output computes values that are not finite, and the error names the output."""
    said = refused(written(tmp_path, with_infinity(bundles.tiny_onnx("decide"), "logits.urgent")))
    assert "the model computes values of logits.urgent that are not finite" in said
