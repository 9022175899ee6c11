"""The out-of-distribution (OOD) score in an encoder's graph: the tensors that it reads, its value, and the unchanged
outputs."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from convert.quantize import onnx_quantizer
from convert.quantize import ood_detector as ood_graph
from convert.quantize.background_texts import REQUESTS, background_texts
from convert.quantize.graph_nodes import GraphNodes
from convert.quantize.ood_detector import BACKGROUND_MIN, Detector, FittedDetector, fit_detector, whiten, with_contrast
from edge_agent.formats.calibration_and_gate import OUTPUT_NAME
from tests.support import bert_onnx
from tests.support.bert_onnx import TINY

HEADS = {"classify": "classify", "extract": "tags", "embed": "hidden"}
RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Reset the random numbers before each test, so that they do not depend on other tests."""
    RNG.bit_generator.state = np.random.default_rng(5).bit_generator.state


def model_of(kind: str) -> onnx.ModelProto:
    """Return a random encoder for a task of this kind."""
    outputs = 0 if kind == "embed" else 3
    written = bert_onnx.build(TINY, bert_onnx.random_weights(TINY, outputs), HEADS[kind])
    return onnx.load_from_string(written)


def detector_of(
    width: int = 2 * TINY.hidden, classes: int = 4, centroids: int = 6, rank: int = 8, *, contrast: bool = True
) -> Detector:
    """Return a detector of random numbers that half precision holds exactly enough.

    Its whitening is one, as in every fitted detector: otherwise what lies outside of the space could have a negative
    length, and the score would be a difference of equal numbers.
    """
    draw = RNG.normal(0, 1, (2 + width + classes + centroids, max(width, rank))).astype(np.float32)
    variances = 0.5 + draw[1, :rank] ** 2
    return Detector(
        centre=draw[0, :width],
        whitening=np.linalg.qr(draw[2 : 2 + width, :rank])[0] / np.sqrt(variances),
        variances=variances,
        outside=0.5,
        classes=draw[2 + width : 2 + width + classes, :rank],
        centroids=draw[2 + width + classes :, :rank] / 30,
        contrast=RNG.normal(0, 0.3, width).astype(np.float32) if contrast else None,
    )


def run(model: onnx.ModelProto, rows: list[list[int]]) -> dict[str, np.ndarray]:
    """Run rows of tokens as one padded batch."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    longest = max(map(len, rows))
    ids = np.array([row + [0] * (longest - len(row)) for row in rows], np.int64)
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows], np.int64)
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def rows_of(*lengths: int) -> list[list[int]]:
    """Return rows with these numbers of random tokens."""
    return [[2, *RNG.integers(4, 40, length).tolist(), 3] for length in lengths]


@pytest.mark.parametrize("contrast", [True, False])
def test_saved_detector_gives_an_identical_graph(tmp_path, contrast):
    """A detector that was saved and read again changes a graph to identical bytes and has the same report."""
    model = model_of("classify")
    made = detector_of(contrast=contrast)
    strided = np.stack([made.centre, made.centre], axis=1)[:, 0]
    before = FittedDetector(ood_graph.find(model, "classify"), replace(made, centre=strided), 99, "logits")
    before.save(tmp_path / "detector.safetensors")
    after = ood_graph.read_saved(tmp_path / "detector.safetensors")
    for name, each in (("before", before), ("after", after)):
        onnx.save(model, tmp_path / name)
        assert each.put_into(tmp_path / name)
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()
    assert before.report() == after.report()


@pytest.mark.parametrize(("kind", "logits"), [("classify", "logits"), ("classify", ""), ("extract", ""), ("embed", "")])
@pytest.mark.parametrize("contrast", [True, False])
def test_graph_score_equals_the_detector_score(kind, logits, contrast):
    """For each kind of encoder the graph's score equals the detector's: the product of both distances, and of contrast
    and doubt if any; other outputs do not change."""
    model, rows = model_of(kind), rows_of(3, 9, 20)
    before = run(model, rows)
    layers = ood_graph.find(model, kind)
    vectors = model_of(kind)
    ood_graph.keep_only_vectors(vectors, layers)
    detector = detector_of(contrast=contrast)
    assert ood_graph.append(model, layers, detector, logits)
    onnx.checker.check_model(model)
    after = run(model, rows)
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])
    assert (3,) == after[OUTPUT_NAME].shape
    answers = before[logits] if logits else None
    wanted = detector.scores(run(vectors, rows)[ood_graph.VECTOR_NAME], answers)
    np.testing.assert_allclose(wanted, after[OUTPUT_NAME], rtol=1e-4)


@pytest.mark.parametrize(("distance", "tolerance"), [(0.5, 5e-6), (0.1, 1e-5), (0.02, 2e-4)])
def test_score_is_accurate_near_the_centre(distance, tolerance):
    """The graph's score is accurate for vectors near the centre, although the squared distance is a difference of
    larger numbers. No real text is so near: with two encoders for a till and CLINC150, the nearest texts are at
    distance 1.0."""
    detector = detector_of()
    middle, last = np.split(RNG.normal(0, 1, 2 * TINY.hidden), 2)
    centre = np.concatenate([middle / np.linalg.norm(middle), last / np.linalg.norm(last)])
    detector = replace(detector, centre=centre.astype(np.float32))
    moved = centre + RNG.normal(0, distance / len(centre) ** 0.5, (50, len(centre)))
    halves = [half / np.linalg.norm(half, axis=1, keepdims=True) for half in np.split(moved, 2, axis=1)]
    vectors = np.concatenate(halves, axis=1)
    assert 0.5 * distance < np.linalg.norm(vectors - centre, axis=1).mean() < 1.5 * distance
    given = [helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "tokens"])]
    given += [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "tokens", TINY.hidden]) for name in "ab"]
    graph = helper.make_graph(
        [], "vectors", given, [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [None])]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    detector.add_to(GraphNodes(model.graph, "/ood"), ("a", "b"))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    hidden = {name: half[:, np.newaxis].astype(np.float32) for name, half in zip("ab", halves, strict=True)}
    (found,) = session.run([OUTPUT_NAME], {"attention_mask": np.ones((50, 1), np.int64), **hidden})
    np.testing.assert_allclose(detector.scores(vectors), found, rtol=tolerance)


def test_score_adds_at_most_30_nodes():
    """The score adds at most 30 nodes, because for a short text most nodes cost more than their arithmetic; five of
    them are computed once at load."""
    model = model_of("classify")
    before = len(model.graph.node)
    assert ood_graph.append(model, ood_graph.find(model, "classify"), detector_of(), "logits")
    assert 30 >= len(model.graph.node) - before


def test_vector_joins_middle_and_last_layer():
    """The vector has the mean token vectors of the middle and the last layer, each normalized to length 1."""
    model, rows = model_of("embed"), rows_of(6)
    middle, last = ood_graph.find(model, "embed")
    assert "last_hidden_state" == last
    norms = [node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization"]
    assert norms[TINY.layers] == middle
    mean = run(model, rows)[last][0].mean(axis=0)
    ood_graph.keep_only_vectors(model, (middle, last))
    vector = run(model, rows)[ood_graph.VECTOR_NAME][0]
    np.testing.assert_allclose(mean / np.linalg.norm(mean), vector[TINY.hidden :], atol=1e-5)
    np.testing.assert_allclose(1, np.linalg.norm(vector[: TINY.hidden]), atol=1e-5)


def test_graph_without_layer_norms_uses_the_last_layer():
    """If no layer normalization is found in the middle of the graph, the vector is made of the last layer alone."""
    model = model_of("embed")
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            node.op_type = "InstanceNormalization"
    assert ("last_hidden_state",) == ood_graph.find(model, "embed")


def test_padding_does_not_change_the_score():
    """A row has the same score alone and in a batch with longer rows."""
    model = model_of("classify")
    assert ood_graph.append(model, ood_graph.find(model, "classify"), detector_of())
    rows = rows_of(2, 30)
    alone = [run(model, [row])[OUTPUT_NAME][0] for row in rows]
    np.testing.assert_allclose(alone, run(model, rows)[OUTPUT_NAME], rtol=1e-4)


@pytest.mark.parametrize("type_", onnx_quantizer.TYPES)
def test_score_can_be_added_to_each_quantized_graph(tmp_path, type_):
    """The layers keep their tensor names in each quantized form, and the score is within 20% of that of the float
    graph."""
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    full = model_of("classify")
    onnx.save(full, source)
    onnx_quantizer.quantize(source, target, type_)
    layers, detector, rows = ood_graph.find(full, "classify"), detector_of(), rows_of(5, 12)
    small = onnx.load(target)
    assert ood_graph.append(small, layers, detector)
    assert ood_graph.append(full, layers, detector)
    np.testing.assert_allclose(run(full, rows)[OUTPUT_NAME], run(small, rows)[OUTPUT_NAME], rtol=0.2)


def test_graph_without_the_tensors_is_not_changed():
    """If a graph lacks one of the tensors, or no layer is given, nothing is added to it."""
    model = model_of("classify")
    before = model.SerializeToString()
    assert not ood_graph.append(model, (*ood_graph.find(model, "classify"), "no such tensor"), detector_of())
    assert not ood_graph.append(model, (), detector_of())
    assert not ood_graph.append(model, ood_graph.find(model, "classify"), detector_of(), "no such output")
    assert before == model.SerializeToString()


def test_graph_before_opset_18_gets_no_score():
    """A graph before opset 18 gets no score, because reductions are written differently there."""
    model = model_of("classify")
    model.opset_import[0].version = 17
    assert () == ood_graph.find(model, "classify")


def test_differences_from_class_means_are_whitened():
    """Whitened differences have unit covariance whatever the scale of their directions, and shrinkage limits directions
    with low variance."""
    draw = RNG.normal(0, 1, (4000, 5)) @ np.diag([100.0, 10.0, 1.0, 1.0, 2.0])
    within = draw - draw.mean(axis=0)
    whitening, variances = whiten(within, np.eye(5), 0.0)
    white = within @ whitening
    np.testing.assert_allclose(np.eye(5), white.T @ white / len(white), atol=1e-6)
    np.testing.assert_allclose(sorted(variances), variances)
    # A direction far below the mean variance is shrunk, so that it does not decide alone.
    shrunk = within @ whiten(within, np.eye(5), 2.0)[0]
    assert np.linalg.eigvalsh(shrunk.T @ shrunk / len(shrunk)).max() <= 1.0 + 1e-9


def members_of(
    means: np.ndarray, count: int, spread: np.ndarray, rng: np.random.Generator = RNG
) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors around the class means, and their labels."""
    labels = rng.integers(0, len(means), count)
    drawn = means[labels] + rng.normal(0, 1, (count, means.shape[1])) * spread
    return drawn.astype(np.float32), np.array([str(each) for each in labels])


def test_ood_vectors_score_higher_than_class_members():
    """Vectors outside the classes score higher than new vectors of the classes."""
    means, spread = RNG.normal(0, 3, (5, 24)), np.ones(24)
    found = fit_detector(*members_of(means, 600, spread))
    fresh, _ = members_of(means, 600, spread)
    strangers = RNG.normal(0, 3, (600, 24)).astype(np.float32)
    assert np.quantile(found.scores(fresh), 0.97) < np.quantile(found.scores(strangers), 0.2)


def test_ood_vector_in_a_dropped_direction_scores_high():
    """A vector that moves in a direction in which training texts hardly vary, like another language or noise, scores
    higher, in the median of five draws; in a third of them some vectors moved too little."""
    spread = np.r_[np.full(12, 5.0), np.full(12, 0.1)]
    ratios = []
    for rng in map(np.random.default_rng, range(5)):
        means = rng.normal(0, 3, (5, 24)) * spread
        found = fit_detector(*members_of(means, 2000, spread, rng))
        assert 12 == found.whitening.shape[1]
        fresh, _ = members_of(means, 600, spread, rng)
        moved = fresh + np.r_[np.zeros(12), rng.normal(0, 1, 12)].astype(np.float32)
        ratios.append(np.quantile(found.scores(moved), 0.01) / np.quantile(found.scores(fresh), 0.99))
    assert np.median(ratios) > 1


def test_background_raises_scores_in_its_direction():
    """The background texts raise the score of vectors in their direction, but not that of most ordinary vectors."""
    vectors, labels = members_of(RNG.normal(0, 3, (5, 24)), 2000, np.ones(24))
    plain, aside = fit_detector(vectors, labels), 4 * np.eye(24)[0]
    background = (RNG.normal(0, 3, (100, 24)) + 3 * aside).astype(np.float32)
    found = with_contrast(plain, vectors, background)
    moved = (vectors + aside).astype(np.float32)
    raised, ordinary = (found.scores(each) / plain.scores(each) for each in (moved, vectors))
    assert np.median(raised) > 1.02
    assert (ordinary >= 1 - 1e-6).all()
    assert 1.0 == pytest.approx(np.median(ordinary))


def test_doubt_is_only_used_for_classify():
    """The score uses the logits only for a classify task: tags and several questions have more than one answer, and an
    embedding has none."""
    assert {"classify": "logits", "extract": "", "embed": ""} == {
        kind: ood_graph.logits_of(model_of(kind), kind) for kind in HEADS
    }
    assert "" == ood_graph.logits_of(model_of("classify"), "decide")


def test_doubt_raises_the_score():
    """The score rises as the probability of the best label falls, and more so with more labels."""
    vectors = RNG.normal(0, 1, (4, 24)).astype(np.float32)[[0, 0, 0, 0]]
    found = fit_detector(*members_of(RNG.normal(0, 3, (5, 24)), 400, np.ones(24)))
    two, hundred = (
        found.scores(vectors, np.pad(np.array([[0], [3], [9], [40]], np.float32), ((0, 0), (0, labels - 1))))
        / found.scores(vectors)
        for labels in (2, 100)
    )
    assert list(two) == sorted(two, reverse=True)
    np.testing.assert_allclose([0.55, 0.05], two[[0, 3]] ** (1 / (0.03 * np.log(2))), rtol=1e-3)
    np.testing.assert_allclose([1.04, 0.05], hundred[[0, 3]] ** (1 / (0.03 * np.log(100))), rtol=1e-3)


def test_background_like_the_training_texts_is_not_used():
    """Background texts that resemble the training texts are left out, and if too few remain, the detector does not
    change."""
    vectors, labels = members_of(RNG.normal(0, 3, (5, 24)), 2000, np.ones(24))
    plain = fit_detector(vectors, labels)
    assert plain is with_contrast(plain, vectors, vectors[:200])
    assert BACKGROUND_MIN > (plain.scores(vectors[:200]) > np.quantile(plain.scores(vectors), 0.95)).sum()


def test_background_texts_are_fixed():
    """The background texts are the same in each call, because random strings have a fixed seed, and at most five are
    duplicates."""
    texts = background_texts()
    assert background_texts() == texts
    assert len(texts) - len(set(texts)) <= 5
    assert len(set(REQUESTS)) == len(REQUESTS)


def test_detector_fit_is_deterministic():
    """Two fits on the same rows give the same detector."""
    vectors, labels = members_of(RNG.normal(0, 3, (5, 24)), 400, np.ones(24))
    first, second = (fit_detector(vectors, labels) for _ in range(2))
    np.testing.assert_array_equal(first.centroids, second.centroids)
    np.testing.assert_array_equal(first.scores(vectors), second.scores(vectors))


def test_vector_between_centroids_scores_high():
    """A vector whose direction lies between centroids scores higher than one near a centroid."""
    means = np.repeat(np.eye(6), 4, axis=1) * 5
    found = fit_detector(*members_of(means, 1200, np.ones(24)))
    fresh, _ = members_of(means, 300, np.ones(24))
    between, _ = members_of(np.array([means[0] + means[3], means[1] + means[5]]) / 2, 300, np.ones(24))
    assert np.quantile(found.scores(fresh), 0.95) < np.quantile(found.scores(between), 0.05)


@pytest.mark.slow
def test_detector_size_stays_below_one_megabyte():
    """A detector for 3,000 classes of 768 numbers fits into 1 MB by dropping directions; with fewer classes more
    directions remain."""
    vectors = RNG.normal(0, 1, (4000, 768)).astype(np.float32)
    many = fit_detector(vectors, np.array([str(each % 3000) for each in range(4000)]))
    few = fit_detector(vectors, np.array([str(each % 150) for each in range(4000)]))
    assert max(many.size_bytes, few.size_bytes) <= 1_000_000
    assert 0 < many.whitening.shape[1] < few.whitening.shape[1]
