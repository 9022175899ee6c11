"""How an encoder's output becomes an answer."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.protocol import EntitySpan
from edge_agent.engine.runtimes.onnx_outputs import (
    WordSpan,
    check_rows,
    decode_entities,
    embedding_bytes,
    is_finite,
    output_for,
    probabilities,
    word_spans,
)
from edge_agent.errors import ModelLoadFailed
from edge_agent.formats.manifest import TaskSpec

CLASSIFY = TaskSpec(name="a", kind="classify", labels=("yes", "no"))
EXTRACT = TaskSpec(name="a", kind="extract", labels=("O", "B-price", "I-price"))
EMBED = TaskSpec(name="a", kind="embed")
TAGS = ("O", "B-price", "I-price", "B-name", "I-name")


def row(*shape: int) -> np.ndarray:
    """Return zeros in the shape of a model's output."""
    return np.zeros(shape, np.float32)


def decoded(*tags: str, shares: tuple[float, ...] = ()) -> tuple[tuple[EntitySpan, ...], float]:
    """Decode words of 3 letters with a space in between, tagged as given."""
    of_words = [WordSpan(i, i * 4, i * 4 + 3) for i in range(len(tags))]
    table = np.zeros((len(tags), len(TAGS)))
    for i, tag in enumerate(tags):
        table[i, TAGS.index(tag)] = shares[i] if shares else 1.0
    return decode_entities(of_words, table, TAGS)


def spans(*tags: str) -> list[tuple[str, int, int]]:
    """Return the decoded spans of the tags, without scores."""
    return [(found.label, found.start, found.end) for found in decoded(*tags)[0]]


@pytest.mark.parametrize(
    ("kind", "names", "expected"),
    [
        ("classify", ["hidden", "logits"], "logits"),
        ("extract", ["scores"], "scores"),
        ("embed", ["last_hidden_state", "sentence_embedding"], "sentence_embedding"),
        ("embed", ["pooler_output", "last_hidden_state"], "last_hidden_state"),
    ],
)
def test_output_is_chosen_by_name_else_first(kind, names, expected):
    """The output is the one that exporters name for the kind, or the first one if no output has that name."""
    assert expected == output_for(kind, names)


@pytest.mark.parametrize(("task", "shape"), [(CLASSIFY, (2,)), (EXTRACT, (7, 3)), (EMBED, (7, 32)), (EMBED, (32,))])
def test_row_of_the_required_shape_passes(task, shape):
    """A row of the shape that the kind requires is accepted."""
    check_rows(task, [row(*shape)])


@pytest.mark.parametrize(
    ("task", "shape", "message"),
    [
        (CLASSIFY, (3,), "the model has 3 outputs and the manifest has 2 labels"),
        (EXTRACT, (7, 5), "the model has 5 outputs and the manifest has 3 labels"),
        (CLASSIFY, (7, 2), "the model's output has 3 dimensions, which does not suit 'classify'"),
        (EXTRACT, (3,), "the model's output has 2 dimensions, which does not suit 'extract'"),
        (EMBED, (7, 4, 4), "the model's output has 4 dimensions, which does not suit 'embed'"),
    ],
)
def test_row_of_another_shape_is_refused(task, shape, message):
    """A model whose output does not fit the task is refused with both numbers."""
    with pytest.raises(ModelLoadFailed) as caught:
        check_rows(task, [row(*shape)])
    assert message == caught.value.message


def test_tags_must_be_bio():
    """Labels of another scheme than BIO are refused, and the error names the first of them."""
    with pytest.raises(ModelLoadFailed, match=r"O, B-\.\.\. and I-\.\.\.; 'S-price' is not"):
        check_rows(TaskSpec(name="a", kind="extract", labels=("O", "S-price")), [row(4, 2)])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(value):
    """A model that computes NaN or infinity for a plain text is refused."""
    with pytest.raises(ModelLoadFailed, match="not finite"):
        check_rows(CLASSIFY, [np.array([0.0, value], np.float32)])


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, -1.5], True), ([3.4e38] * 9, True), ([0.0, math.nan], False), ([math.inf, -math.inf], False)],
)
@pytest.mark.parametrize("shape", [(-1,), (1, -1)])
def test_row_is_finite_if_all_values_are(values, expected, shape):
    """A row is finite if all its values are, however large; opposite infinities do not cancel out."""
    assert expected == is_finite(np.array(values, np.float32).reshape(shape))


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=20),
    st.floats(0.01, 100),
)
def test_probabilities_add_up_to_one(logits, temperature):
    """For any logits and temperature the probabilities are finite, add up to 1 and keep the likeliest label."""
    shares = probabilities(np.array(logits, np.float32), temperature)
    assert math.isclose(1.0, shares.sum(), abs_tol=1e-12)
    assert shares[int(np.argmax(logits))] == shares.max()


def test_temperature_divides_the_logits():
    """A temperature of 2 halves the logits before the softmax."""
    shares = probabilities(np.array([2.0, 0.0], np.float32), 2.0)
    assert pytest.approx([math.e / (math.e + 1), 1 / (math.e + 1)]) == shares.tolist()


def test_words_join_their_tokens():
    """Tokens with the same word id form one word; special tokens form none."""
    found = word_spans("refunds now", [None, 0, 0, 1, None], [(0, 0), (0, 6), (6, 7), (8, 11), (0, 0)])
    assert [WordSpan(1, 0, 7), WordSpan(3, 8, 11)] == found


def test_a_gap_ends_a_word():
    """Tokens of one word id with text between them are two words."""
    assert [WordSpan(0, 0, 2), WordSpan(1, 3, 5)] == word_spans("ab cd", [0, 0], [(0, 2), (3, 5)])


def test_leading_space_of_a_token_is_not_part_of_the_word():
    """If a tokenizer includes the space before a word in its token, the word still starts at its first letter."""
    assert [WordSpan(0, 0, 2), WordSpan(1, 4, 6)] == word_spans("ab  cd", [0, 1], [(0, 2), (2, 6)])


def test_offsets_are_code_points():
    """Offsets count code points, also after characters of several bytes."""
    text = "\N{GRINNING FACE} caf\u00e9"
    assert [WordSpan(0, 0, 1), WordSpan(1, 2, 6)] == word_spans(text, [0, 1], [(0, 1), (2, 6)])


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (("O", "O"), []),
        (("B-price", "I-price", "O"), [("price", 0, 7)]),
        (("B-price", "B-price"), [("price", 0, 3), ("price", 4, 7)]),
        (("B-price", "I-name"), [("price", 0, 3), ("name", 4, 7)]),
        (("I-price", "I-price"), [("price", 0, 7)]),
        (("B-price", "O", "I-price"), [("price", 0, 3), ("price", 8, 11)]),
    ],
)
def test_bio_decoding(tags, expected):
    """B starts an entity, I continues one of the same label and otherwise starts one, and O ends it."""
    assert expected == spans(*tags)


def test_entity_score_is_the_mean_of_its_words():
    """The score of an entity is the mean of its words; words outside do not count."""
    (found,), _ = decoded("O", "B-price", "I-price", shares=(0.5, 0.9, 0.7))
    assert pytest.approx(0.8) == found.score


def test_record_confidence_is_that_of_its_least_likely_word():
    """The confidence of a record is the smallest probability of any word, including words outside entities."""
    assert decoded("O", "B-price", "I-price", shares=(0.5, 0.9, 0.7))[1] == 0.5


def test_mean_and_cls_pooling():
    """Mean pooling averages the tokens; cls pooling takes the first."""
    values = np.array([[1.0, 2.0], [3.0, 6.0]], np.float32)
    assert struct.pack("<2f", 2.0, 4.0) == embedding_bytes(values, "mean", normalize=False)
    assert struct.pack("<2f", 1.0, 2.0) == embedding_bytes(values, "cls", normalize=False)


def test_vector_of_the_whole_text_is_not_pooled():
    """The output of a model that returns one vector for each text is used without pooling."""
    assert struct.pack("<2f", 1.0, 2.0) == embedding_bytes(np.array([1.0, 2.0], np.float32), "mean", normalize=False)


def test_normalized_vectors_have_length_one():
    """Normalizing scales to length 1 and leaves a zero vector as it is."""
    assert struct.pack("<2f", 0.6, 0.8) == embedding_bytes(np.array([3.0, 4.0], np.float32), "mean", normalize=True)
    assert struct.pack("<2f", 0.0, 0.0) == embedding_bytes(row(2), "mean", normalize=True)
