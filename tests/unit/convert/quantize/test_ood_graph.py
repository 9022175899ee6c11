"""The score of strange inputs in an encoder's graph: where it is put, what it computes, what it leaves as it was."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from convert.quantize import onnx_quantizer, ood_graph
from convert.quantize.detector import fitted, whiten
from convert.quantize.ood_graph import Detector
from edge_agent.formats.ood_gate import OUTPUT_NAME
from tests.support import bert_onnx
from tests.support.bert_onnx import TINY

HEADS = {"classify": "classify", "extract": "tags", "embed": "hidden"}
RNG = np.random.default_rng(5)


def model_of(kind: str) -> onnx.ModelProto:
    """Return a random encoder that does a kind of task."""
    outputs = 0 if kind == "embed" else 3
    written = bert_onnx.build(TINY, bert_onnx.random_weights(TINY, outputs), HEADS[kind])
    return onnx.load_from_string(written)


def detector_of(pooling: str, width: int = TINY.hidden, classes: int = 4, rank: int = 8) -> Detector:
    """Return a detector of random numbers that half precision holds exactly enough."""
    draw = RNG.normal(0, 1, (1 + width + classes, max(width, rank))).astype(np.float32)
    return Detector(pooling, draw[0, :width], draw[1 : 1 + width, :rank], draw[1 + width :, :rank])


def run(model: onnx.ModelProto, rows: list[list[int]]) -> dict[str, np.ndarray]:
    """Compute rows of tokens together, padded."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    longest = max(map(len, rows))
    ids = np.array([row + [0] * (longest - len(row)) for row in rows], np.int64)
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows], np.int64)
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def rows_of(*lengths: int) -> list[list[int]]:
    """Return rows of tokens."""
    return [[2, *RNG.integers(4, 40, length).tolist(), 3] for length in lengths]


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_the_graph_computes_what_the_detector_says(kind, pooling):
    """The output is the squared distance to the nearest class, for each kind of encoder; other outputs stay."""
    model, rows = model_of(kind), rows_of(3, 9, 20)
    before = run(model, rows)
    hidden = ood_graph.find(model, kind)
    vectors = model_of(kind)
    ood_graph.vectors_only(vectors, hidden, pooling)
    detector = detector_of(pooling)
    assert ood_graph.append(model, hidden, detector)
    onnx.checker.check_model(model)
    after = run(model, rows)
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])
    assert (3,) == after[OUTPUT_NAME].shape
    wanted = detector.scores(run(vectors, rows)[ood_graph.VECTOR_NAME])
    np.testing.assert_allclose(wanted, after[OUTPUT_NAME], rtol=1e-4)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_padding_does_not_enter_the_score(pooling):
    """A row has the same score alone and beside longer ones."""
    model = model_of("classify")
    assert ood_graph.append(model, ood_graph.find(model, "classify"), detector_of(pooling))
    rows = rows_of(2, 30)
    alone = [run(model, [row])[OUTPUT_NAME][0] for row in rows]
    np.testing.assert_allclose(alone, run(model, rows)[OUTPUT_NAME], rtol=1e-4)


@pytest.mark.parametrize("type_", onnx_quantizer.TYPES)
def test_every_quantized_form_has_a_place_for_it(tmp_path, type_):
    """The tensor keeps its name through quantization, and the score is near that of the float graph."""
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    full = model_of("classify")
    onnx.save(full, source)
    onnx_quantizer.quantize(source, target, type_)
    hidden, detector, rows = ood_graph.find(full, "classify"), detector_of("mean"), rows_of(5, 12)
    small = onnx.load(target)
    assert ood_graph.append(small, hidden, detector)
    assert ood_graph.append(full, hidden, detector)
    np.testing.assert_allclose(run(full, rows)[OUTPUT_NAME], run(small, rows)[OUTPUT_NAME], rtol=0.2)


def test_a_graph_without_that_tensor_is_left_alone():
    """Nothing is added to a graph that lacks the tensor."""
    model = model_of("classify")
    before = model.SerializeToString()
    assert not ood_graph.append(model, "no such tensor", detector_of("mean"))
    assert before == model.SerializeToString()


def test_an_old_graph_has_no_place():
    """Before opset 18 reductions are written otherwise: such a graph gets no score."""
    model = model_of("classify")
    model.opset_import[0].version = 17
    assert ood_graph.find(model, "classify") == ""


def test_differences_from_class_means_are_whitened():
    """What was whitened has unit covariance, whatever the scales of its directions were."""
    draw = RNG.normal(0, 1, (4000, 5)) @ np.diag([100.0, 10.0, 1.0, 1.0, 2.0])
    within = draw - draw.mean(axis=0)
    white = within @ whiten(within, 5)
    # Directions far below the mean variance are shrunk, and never blown up.
    assert np.linalg.eigvalsh(white.T @ white / len(white)).max() <= 1.0 + 1e-9


def test_strangers_are_farther_than_new_members_of_a_class():
    """Vectors of no class score higher than new vectors of the classes, with half precision in the file."""
    means = RNG.normal(0, 3, (5, 24))
    labels = RNG.integers(0, 5, 600)
    train, fresh = (means[labels] + RNG.normal(0, 1, (600, 24)) for _ in range(2))
    found = fitted(train.astype(np.float32), np.array([str(each) for each in labels]), "mean")
    strangers = RNG.normal(0, 3, (600, 24))
    assert np.quantile(found.scores(fresh.astype(np.float32)), 0.97) < np.quantile(
        found.scores(strangers.astype(np.float32)), 0.2
    )


def test_a_wide_encoder_stays_within_a_megabyte():
    """2,000 classes of 768 numbers fit by leaving out directions."""
    vectors = RNG.normal(0, 1, (4000, 768)).astype(np.float32)
    found = fitted(vectors, np.array([str(each % 2000) for each in range(4000)]), "mean")
    assert found.size_bytes <= 1_000_000
    assert 0 < found.whitening.shape[1] < 256
