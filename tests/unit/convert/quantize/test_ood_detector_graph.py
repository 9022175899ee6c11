"""The score of strange inputs in an encoder's graph: where it is put, what it computes, what it leaves as it was."""

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
from edge_agent.formats.calibration import OUTPUT_NAME
from tests.support import bert_onnx
from tests.support.bert_onnx import TINY

HEADS = {"classify": "classify", "extract": "tags", "embed": "hidden"}
RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Let each test draw the same numbers, whichever tests run before it."""
    RNG.bit_generator.state = np.random.default_rng(5).bit_generator.state


def model_of(kind: str) -> onnx.ModelProto:
    """Return a random encoder that does a kind of task."""
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


@pytest.mark.parametrize("contrast", [True, False])
def test_a_saved_detector_adds_the_same_nodes(tmp_path, contrast):
    """A detector that was written to a file and read again changes a graph as it did before, to the last bit."""
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
def test_the_graph_computes_what_the_detector_computes(kind, logits, contrast):
    """The output is the product of both distances, and of contrast and doubt, if any, for each kind of encoder; other
    outputs stay."""
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
def test_the_score_is_right_near_the_centre_too(distance, tolerance):
    """The squared distance from the centre is a difference of larger numbers: what rounding does to it is little.

    No text is so near: of two encoders for a till and CLINC150 the nearest ones are 1.0 from it.
    """
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


def test_the_score_takes_few_nodes():
    """Most nodes cost a short text more than their numbers do; five of these are computed once, when a model loads."""
    model = model_of("classify")
    before = len(model.graph.node)
    assert ood_graph.append(model, ood_graph.find(model, "classify"), detector_of(), "logits")
    assert 30 >= len(model.graph.node) - before


def test_the_vector_joins_the_middle_layer_and_the_last_one():
    """Of each layer it has the direction of the mean token vector, and the length of both is 1."""
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


def test_a_graph_without_norms_has_one_layer():
    """Where nothing is found halfway, the vector is made of what the head reads alone."""
    model = model_of("embed")
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            node.op_type = "InstanceNormalization"
    assert ("last_hidden_state",) == ood_graph.find(model, "embed")


def test_padding_does_not_enter_the_score():
    """A row has the same score alone and beside longer ones."""
    model = model_of("classify")
    assert ood_graph.append(model, ood_graph.find(model, "classify"), detector_of())
    rows = rows_of(2, 30)
    alone = [run(model, [row])[OUTPUT_NAME][0] for row in rows]
    np.testing.assert_allclose(alone, run(model, rows)[OUTPUT_NAME], rtol=1e-4)


@pytest.mark.parametrize("type_", onnx_quantizer.TYPES)
def test_every_quantized_form_has_a_place_for_it(tmp_path, type_):
    """The tensors keep their names through quantization, and the score is near that of the float graph."""
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    full = model_of("classify")
    onnx.save(full, source)
    onnx_quantizer.quantize(source, target, type_)
    layers, detector, rows = ood_graph.find(full, "classify"), detector_of(), rows_of(5, 12)
    small = onnx.load(target)
    assert ood_graph.append(small, layers, detector)
    assert ood_graph.append(full, layers, detector)
    np.testing.assert_allclose(run(full, rows)[OUTPUT_NAME], run(small, rows)[OUTPUT_NAME], rtol=0.2)


def test_a_graph_without_that_tensor_is_left_alone():
    """Nothing is added to a graph that lacks one of the tensors."""
    model = model_of("classify")
    before = model.SerializeToString()
    assert not ood_graph.append(model, (*ood_graph.find(model, "classify"), "no such tensor"), detector_of())
    assert not ood_graph.append(model, (), detector_of())
    assert not ood_graph.append(model, ood_graph.find(model, "classify"), detector_of(), "no such output")
    assert before == model.SerializeToString()


def test_an_old_graph_has_no_place():
    """Before opset 18 reductions are written otherwise: such a graph gets no score."""
    model = model_of("classify")
    model.opset_import[0].version = 17
    assert () == ood_graph.find(model, "classify")


def test_differences_from_class_means_are_whitened():
    """What was whitened has unit covariance, whatever the scales of its directions were."""
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
    """Return vectors around the means of classes, and the label of each."""
    labels = rng.integers(0, len(means), count)
    drawn = means[labels] + rng.normal(0, 1, (count, means.shape[1])) * spread
    return drawn.astype(np.float32), np.array([str(each) for each in labels])


def test_strangers_are_farther_than_new_members_of_a_class():
    """Vectors of no class score higher than new vectors of the classes, with half precision in the file."""
    means, spread = RNG.normal(0, 3, (5, 24)), np.ones(24)
    found = fit_detector(*members_of(means, 600, spread))
    fresh, _ = members_of(means, 600, spread)
    strangers = RNG.normal(0, 3, (600, 24)).astype(np.float32)
    assert np.quantile(found.scores(fresh), 0.97) < np.quantile(found.scores(strangers), 0.2)


def test_a_stranger_in_a_direction_that_is_not_kept_is_far():
    """Where the training texts hardly vary, a vector that moves is strange: another language, or noise.

    For the median of five draws: in a third of them some of the moved vectors moved too little.
    """
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


def test_a_vector_in_the_direction_of_other_texts_is_stranger():
    """The background raises the score of what lies towards it, and of few ordinary vectors."""
    vectors, labels = members_of(RNG.normal(0, 3, (5, 24)), 2000, np.ones(24))
    plain, aside = fit_detector(vectors, labels), 4 * np.eye(24)[0]
    background = (RNG.normal(0, 3, (100, 24)) + 3 * aside).astype(np.float32)
    found = with_contrast(plain, vectors, background)
    moved = (vectors + aside).astype(np.float32)
    raised, ordinary = (found.scores(each) / plain.scores(each) for each in (moved, vectors))
    assert np.median(raised) > 1.02
    assert (ordinary >= 1 - 1e-6).all()
    assert 1.0 == pytest.approx(np.median(ordinary))


def test_only_what_classifies_has_doubt():
    """A head of tags or of several questions has more than one answer, and an embedding none."""
    assert {"classify": "logits", "extract": "", "embed": ""} == {
        kind: ood_graph.logits_of(model_of(kind), kind) for kind in HEADS
    }
    assert "" == ood_graph.logits_of(model_of("classify"), "decide")


def test_doubt_makes_an_input_stranger():
    """The less probable the surest label is, the higher the score, and the more so the more labels there are."""
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


def test_a_background_that_resembles_the_training_texts_is_no_contrast():
    """A text of the task's own kind is left out; if too few are left, the score stays as it is."""
    vectors, labels = members_of(RNG.normal(0, 3, (5, 24)), 2000, np.ones(24))
    plain = fit_detector(vectors, labels)
    assert plain is with_contrast(plain, vectors, vectors[:200])
    assert BACKGROUND_MIN > (plain.scores(vectors[:200]) > np.quantile(plain.scores(vectors), 0.95)).sum()


def test_the_background_is_always_the_same():
    """No text of it is in it twice, and the strings of random characters are drawn with a fixed seed."""
    texts = background_texts()
    assert background_texts() == texts
    assert len(texts) - len(set(texts)) <= 5
    assert len(set(REQUESTS)) == len(REQUESTS)


def test_the_same_texts_give_the_same_detector():
    """Nothing is drawn by chance: two fits on the same rows are the same numbers."""
    vectors, labels = members_of(RNG.normal(0, 3, (5, 24)), 400, np.ones(24))
    first, second = (fit_detector(vectors, labels) for _ in range(2))
    np.testing.assert_array_equal(first.centroids, second.centroids)
    np.testing.assert_array_equal(first.scores(vectors), second.scores(vectors))


def test_a_stranger_between_the_directions_of_the_training_texts_is_far():
    """A vector whose direction is that of no centroid scores higher than one that lies near a centroid."""
    means = np.repeat(np.eye(6), 4, axis=1) * 5
    found = fit_detector(*members_of(means, 1200, np.ones(24)))
    fresh, _ = members_of(means, 300, np.ones(24))
    between, _ = members_of(np.array([means[0] + means[3], means[1] + means[5]]) / 2, 300, np.ones(24))
    assert np.quantile(found.scores(fresh), 0.95) < np.quantile(found.scores(between), 0.05)


@pytest.mark.slow
def test_a_wide_encoder_stays_within_a_megabyte():
    """3,000 classes of 768 numbers fit by leaving out directions; fewer classes leave more of them."""
    vectors = RNG.normal(0, 1, (4000, 768)).astype(np.float32)
    many = fit_detector(vectors, np.array([str(each % 3000) for each in range(4000)]))
    few = fit_detector(vectors, np.array([str(each % 150) for each in range(4000)]))
    assert max(many.size_bytes, few.size_bytes) <= 1_000_000
    assert 0 < many.whitening.shape[1] < few.whitening.shape[1]
