"""The confidence of record fields, the choice among allowed tokens, and the bounds that are added to a schema."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.record_grammar import bounded_schema
from edge_agent.engine.runtimes.llama.sequence_jobs import RecordTranscript, choose, value_spans
from edge_agent.formats import record_schema
from tests.support import record_schemas
from tests.support.bundles import RECORD_SCHEMA

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def written(*tokens: tuple[str, float]) -> RecordTranscript:
    """Return a transcript of texts and their probabilities."""
    made = RecordTranscript()
    for text, probability in tokens:
        made.add(text.encode(), math.log(probability))
    return made


@given(st.dictionaries(st.text(), VALUES, max_size=5), st.booleans())
def test_value_spans_hold_the_json_of_each_field(record: dict[str, object], ascii_only: bool):
    """For any names and values each span holds exactly the JSON of its field's value."""
    text = json.dumps(record, ensure_ascii=ascii_only)
    data = text.encode("utf-8", "surrogatepass")
    if data.decode("utf-8", "replace") != text:
        return  # half a character: no grammar writes one
    found = {name: json.loads(data[begin:end]) for name, begin, end in value_spans(text)}
    assert record == found


def test_field_confidence_is_the_product_of_its_tokens():
    """Tokens of field names count only for the record's confidence; a token that extends into a value counts for that
    field."""
    made = written(
        ('{"a": "', 1.0), ("x", 0.5), ("y", 0.8), ('", "', 0.9), ("b", 0.7), ('": ', 1.0), ("1", 0.6), ("}", 0.9)
    )
    assert '{"a": "xy", "b": 1}' == made.text
    assert {"a": pytest.approx(0.5 * 0.8 * 0.9), "b": pytest.approx(0.6 * 0.9)} == made.fields()
    assert pytest.approx(0.5 * 0.8 * 0.9 * 0.7 * 0.6 * 0.9) == made.confidence()


def test_token_after_a_number_counts_for_the_number():
    """The token after a number decides that 1 does not become 12, so its probability counts for the number's field,
    even if the token has no part of the value."""
    made = written(('{"n": ', 1.0), ("1", 0.9), (",", 0.5), (' "m": ', 1.0), ("null", 0.25), ("}", 1.0))
    assert {"n": pytest.approx(0.45), "m": pytest.approx(0.25)} == made.fields()


def test_split_characters_are_counted_in_bytes():
    """A character of several tokens counts for its field with all of them, and does not shift the fields behind it."""
    made = RecordTranscript()
    for piece, probability in (
        (b'{"\xc3\xb6": "', 1.0),
        (b"\xe6\xbc", 0.5),
        (b"\xa2", 0.5),
        (b'", "b": ', 1.0),
        (b"2}", 0.9),
    ):
        made.add(piece, math.log(probability))
    assert {"ö": pytest.approx(0.25), "b": pytest.approx(0.9)} == made.fields()


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 5))
def test_likeliest_allowed_token_is_chosen(seed: int, temperature: float):
    """The chosen token has the highest logit of the allowed tokens; its probability is the softmax over these alone, at
    the temperature."""
    dice = np.random.default_rng(seed)
    logits = dice.normal(0, 5, 50).astype(np.float32)
    allowed = np.sort(dice.choice(50, dice.integers(1, 50), replace=False))
    token, log_prob = choose(logits, allowed, temperature)
    weights = np.exp(logits[allowed].astype(np.float64) / temperature)
    assert token in allowed
    assert logits[token] == logits[allowed].max()
    assert pytest.approx(float(weights.max() / weights.sum()), rel=1e-4) == math.exp(log_prob)


def test_unbounded_schema_gets_limits():
    """Strings, arrays and numbers without bounds get limits; `required` sets the order of the fields, and annotations
    are removed."""
    count = {"minimum": 0, "maximum": 999, "type": ["integer", "null"]}
    whole = bounded_schema(RECORD_SCHEMA)
    assert ["product", "count", "wish", "day"] == list(whole["properties"])
    assert {"product", "count", "wish", "day"} == set(whole["required"])
    assert count == whole["properties"]["count"]
    assert record_schema.FORMATS["date"] == whole["properties"]["day"]["pattern"]
    assert {"type": "string", "minLength": 300, "maxLength": 300} == bounded_schema(
        {"type": "string", "minLength": 300}
    )
    assert 200 == bounded_schema({"type": "string", "title": "x"})["maxLength"]
    assert 16 == bounded_schema({"type": "array", "items": {"type": "null"}})["maxItems"]
    assert {"minimum": -(10**15), "maximum": 10**15} == {
        key: bounded_schema({"type": "number"})[key] for key in ("minimum", "maximum")
    }


def test_bounding_a_schema_is_idempotent():
    """Bounding a schema that is already bounded changes nothing."""
    for seed in range(100):
        once = bounded_schema(record_schemas.sensible(random.Random(seed)))
        assert once == bounded_schema(once)


@pytest.mark.parametrize("bad", [0, 2])
def test_choice_with_nan_logits_is_reported(bad: int):
    """If any allowed logit is NaN, the log-probability is NaN; NaN in a token that is not allowed has no effect."""
    logits = np.zeros(4, np.float32)
    logits[bad] = np.nan
    assert math.isnan(choose(logits, np.array([0, 1, 2]), 1.0)[1])
    assert 0.0 == choose(logits, np.array([3]), 1.0)[1]
