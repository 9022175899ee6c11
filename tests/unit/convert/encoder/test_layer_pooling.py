"""Layer pooling for heads of several questions: mean, maximum and minimum of the token vectors of chosen layers."""

import numpy as np
import onnxruntime

from convert.encoder.bert_graph import LayerPooling
from tests.support.bert_onnx import TINY, build, random_weights

IDS = np.array([[2, 9, 14, 11, 3]])
LAYERS = (0, TINY.layers)
SIZE = 3 * len(LAYERS) * TINY.hidden


def computed(model: bytes, padding: int = 0) -> list[np.ndarray]:
    """Run a graph on one text, followed by `padding` tokens of padding."""
    ids = np.pad(IDS, ((0, 0), (0, padding)))
    mask = np.pad(np.ones_like(IDS), ((0, 0), (0, padding)))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return list(session.run(None, feed))


def test_token_vectors_are_pooled_layer_by_layer():
    """Each layer contributes the mean, maximum and minimum of its token vectors, in this order with the last layer at
    the end; padding changes nothing."""
    weights = random_weights(TINY, 0)
    [pooled] = computed(build(TINY, weights, LayerPooling(LAYERS, {})))
    [hidden] = computed(build(TINY, weights, "hidden"))
    wanted = np.concatenate([hidden[0].mean(axis=0), hidden[0].max(axis=0), hidden[0].min(axis=0)])
    assert (1, SIZE) == pooled.shape
    assert np.allclose(wanted, pooled[0, SIZE // 2 :], atol=1e-5)
    [padded] = computed(build(TINY, weights, LayerPooling(LAYERS, {})), padding=4)
    assert np.allclose(pooled, padded, atol=1e-5)


def test_each_question_gets_its_rows_of_the_classifier():
    """The graph has one output per question, and the rows of the classifier are divided among them in that order."""
    weights = random_weights(TINY, 0)
    [pooled] = computed(build(TINY, weights, LayerPooling(LAYERS, {})))
    chance = np.random.default_rng(3)
    head = {"classifier.weight": chance.normal(size=(5, SIZE)).astype(np.float32)}
    head["classifier.bias"] = chance.normal(size=5).astype(np.float32)
    first, second = computed(build(TINY, {**weights, **head}, LayerPooling(LAYERS, {"a": 3, "b": 2})))
    logits = pooled @ head["classifier.weight"].T + head["classifier.bias"]
    assert np.allclose(logits, np.concatenate([first, second], axis=1), atol=1e-4)
    assert ((1, 3), (1, 2)) == (first.shape, second.shape)
