"""The gate of an encoder, whose graph computes the out-of-distribution score in the same run."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_agent.engine import protocol
from edge_agent.engine.protocol import JobRequest, JobResult
from edge_agent.engine.runtimes.onnx_runtime import OnnxRuntime
from edge_agent.formats.golden_cases import GoldenCase, differences
from tests.support import bundles, gated_onnx
from tests.support.gated_onnx import opened, refused

UNCALIBRATED = {"policy": "always_escalate"}
KINDS = ("classify", "extract", "embed")


def answered(runtime: OnnxRuntime, texts: tuple[str, ...]) -> list[JobResult]:
    for place, text in enumerate(texts):
        runtime.submit(JobRequest(job_id=str(place), digest="a", text=text))
    found = []
    while runtime.busy:
        found += runtime.step()
    assert all(isinstance(event, JobResult) for event in found)
    return sorted(found, key=lambda event: int(event.job_id))


@pytest.mark.parametrize("kind", KINDS)
def test_ood_score_is_that_of_the_graph(tmp_path, kind):
    """Each answer has the out-of-distribution score that the graph computes for its input, also if inputs are computed
    together."""
    runtime = opened(gated_onnx.bundle(tmp_path, kind))
    for text, done in zip(gated_onnx.TEXTS, answered(runtime, gated_onnx.TEXTS), strict=True):
        assert pytest.approx(gated_onnx.score(kind, text), rel=1e-4, abs=1e-4) == done.ood_score
    runtime.close()


def test_ood_score_is_the_same_alone_and_in_batches(tmp_path):
    """No bit of an extraction's out-of-distribution score depends on other inputs."""
    runtime = opened(gated_onnx.bundle(tmp_path, "extract"))
    alone = [answered(runtime, (text,))[0].ood_score for text in gated_onnx.TEXTS]
    assert alone == [done.ood_score for done in answered(runtime, gated_onnx.TEXTS)]
    runtime.close()


def test_bundle_without_a_gate_has_no_ood_score(tmp_path):
    """The answers of a graph without the gate's output have no out-of-distribution score."""
    runtime = opened(bundles.tiny_onnx_bundle(tmp_path))
    assert [None] == [done.ood_score for done in answered(runtime, ("refund",))]
    runtime.close()


@pytest.mark.parametrize("confidence", [UNCALIBRATED, gated_onnx.CALIBRATED], ids=["uncalibrated", "calibrated"])
def test_graph_may_have_a_score_that_the_manifest_does_not_use(tmp_path, confidence):
    """A bundle whose graph computes a score but whose manifest has no gate reports the score and holds back no answer,
    so its gate can be calibrated."""
    folder = gated_onnx.write(tmp_path, "classify", gated_onnx.gated("classify"), confidence)
    runtime = opened(folder)
    (done,) = answered(runtime, ("refund",))
    assert done.ood_score is not None
    assert protocol.ood_score(bundles.manifest_of(folder), done) is None
    runtime.close()


def test_gate_requires_the_score_output(tmp_path):
    """A manifest with a gate is refused at attach if the graph computes no score."""
    confidence = {**gated_onnx.CALIBRATED, "gate": gated_onnx.gate(1.0, 2.0, 3.0)}
    folder = gated_onnx.write(tmp_path, "classify", bundles.tiny_onnx("classify"), confidence)
    assert "the manifest has a gate, and the model has no output ood_score" == refused(folder)


@pytest.mark.parametrize(
    ("elem_type", "shape", "message"),
    [
        (TensorProto.DOUBLE, ("batch",), "the output ood_score is tensor(double); it must be tensor(float)"),
        (TensorProto.INT64, ("batch",), "the output ood_score is tensor(int64); it must be tensor(float)"),
        (TensorProto.FLOAT, ("batch", 1), "the output ood_score has 2 dimensions; it must have one number per input"),
    ],
)
def test_score_output_of_another_type_or_shape_is_refused(tmp_path, elem_type, shape, message):
    """The type and shape of the score's output are checked at attach."""
    model = gated_onnx.with_score(bundles.tiny_onnx("classify"), elem_type, shape)
    confidence = {"policy": "always_escalate", "gate": gated_onnx.gate(1.0)}
    assert message == refused(gated_onnx.write(tmp_path, "classify", model, confidence))


def changed(change) -> bytes:
    """Return the classifier with `change` applied to its graph and to the node that computes its score."""
    model = onnx.load_from_string(gated_onnx.gated("classify"))
    (cast,) = [node for node in model.graph.node if "ood_score" in node.output]
    change(model.graph, cast)
    return model.SerializeToString()


def test_score_of_the_wrong_number_of_inputs_is_refused(tmp_path):
    """A graph that computes the same number of scores for any number of inputs is refused."""

    def scalar(graph, cast):
        graph.initializer.append(numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "gate_fixed"))
        cast.input[0] = "gate_fixed"

    folder = gated_onnx.write(tmp_path, "classify", changed(scalar), UNCALIBRATED)
    assert "the model gives 2 results for 1 inputs" == refused(folder)


def test_score_that_is_always_infinite_is_refused(tmp_path):
    """A graph whose score is not finite for the fixed test text is refused at attach."""

    def endless(graph, cast):
        graph.initializer.append(numpy_helper.from_array(np.array([math.inf], np.float32), "gate_fixed"))
        cast.input[0] = "gate_fixed"

    folder = gated_onnx.write(tmp_path, "classify", changed(endless), UNCALIBRATED)
    assert "the model computes an ood_score that is not finite" == refused(folder)


def test_nan_score_exceeds_every_gate_limit(tmp_path):
    """An input for which the graph computes NaN is answered and held back by the gate."""
    warm, texts = gated_onnx.score("classify", "Please check order 12345 for me."), gated_onnx.TEXTS
    above = [text for text in texts if gated_onnx.score("classify", text) > warm + 1e-3]
    assert above

    def rooted(graph, cast):  # the root of what is negative for all that is stranger than the fixed text
        graph.initializer.append(numpy_helper.from_array(np.array(warm + 5e-4, np.float32), "gate_limit"))
        graph.node.remove(cast)
        graph.node.append(helper.make_node("Sub", ["gate_limit", cast.input[0]], ["gate_left"]))
        graph.node.append(helper.make_node("Sqrt", ["gate_left"], ["ood_score"]))

    confidence = {**gated_onnx.CALIBRATED, "gate": gated_onnx.gate(*(3 * [1e9]))}
    folder = gated_onnx.write(tmp_path, "classify", changed(rooted), confidence)
    runtime, found = opened(folder), bundles.manifest_of(folder)
    (done,) = answered(runtime, (above[0],))
    score = protocol.ood_score(found, done)
    assert math.isnan(score)
    assert found.confidence.gate.holds_up(score)
    assert len(found.task.labels) == len(done.scores)
    runtime.close()


def test_graph_limits_include_the_gate(tmp_path):
    """A gate that fills a huge tensor is refused before onnxruntime opens the file."""

    def huge(graph, cast):
        graph.initializer.append(numpy_helper.from_array(np.array([1 << 40]), "gate_size"))
        graph.node.append(helper.make_node("ConstantOfShape", ["gate_size"], ["gate_filled"]))
        graph.node.append(helper.make_node("ReduceMax", ["gate_filled"], ["gate_unused"]))

    folder = gated_onnx.write(tmp_path, "classify", changed(huge), UNCALIBRATED)
    assert "elements" in refused(folder)


def test_golden_case_includes_the_ood_score(tmp_path):
    """A golden case with an out-of-distribution score differs from an answer with a distant score and from one
    without."""
    folder = gated_onnx.bundle(tmp_path)
    runtime, manifest = opened(folder), bundles.manifest_of(folder)
    (done,) = answered(runtime, ("refund",))
    said = protocol.golden_answer(manifest, "", done)
    assert said.ood_score == done.ood_score
    case = GoldenCase(input="refund", answer=said.answer, scores=said.scores, ood_score=said.ood_score)
    assert [] == differences(case, said)
    assert differences(case.model_copy(update={"ood_score": case.ood_score + 10.0}), said)
    ungated = gated_onnx.write(tmp_path / "b", "classify", gated_onnx.gated("classify"), UNCALIBRATED)
    assert differences(case, protocol.golden_answer(bundles.manifest_of(ungated), "", done))
    runtime.close()
