"""edge_agent/engine/runtimes/llama/sequence_jobs.py, and what record_grammar.py fills in."""

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
    """Return a transcript of texts and probabilities."""
    made = RecordTranscript()
    for text, probability in tokens:
        made.add(text.encode(), math.log(probability))
    return made


@given(st.dictionaries(st.text(), VALUES, max_size=5), st.booleans())
def test_spans_are_those_of_the_values(record: dict[str, object], ascii_only: bool):
    """Whatever is in names and values, each span holds its value's JSON and nothing else."""
    text = json.dumps(record, ensure_ascii=ascii_only)
    data = text.encode("utf-8", "surrogatepass")
    if data.decode("utf-8", "replace") != text:
        return  # half a character: no grammar writes one
    found = {name: json.loads(data[begin:end]) for name, begin, end in value_spans(text)}
    assert record == found


def test_a_fields_confidence_is_the_product_over_its_tokens():
    """Tokens of names count for the record only; one that reaches into a value counts for the field."""
    made = written(
        ('{"a": "', 1.0), ("x", 0.5), ("y", 0.8), ('", "', 0.9), ("b", 0.7), ('": ', 1.0), ("1", 0.6), ("}", 0.9)
    )
    assert '{"a": "xy", "b": 1}' == made.text
    assert {"a": pytest.approx(0.5 * 0.8 * 0.9), "b": pytest.approx(0.6 * 0.9)} == made.fields()
    assert pytest.approx(0.5 * 0.8 * 0.9 * 0.7 * 0.6 * 0.9) == made.confidence()


def test_the_end_of_a_number_is_its_own():
    """Whether 1 was to become 12 is decided by the token behind it, also where that is all a token holds."""
    made = written(('{"n": ', 1.0), ("1", 0.9), (",", 0.5), (' "m": ', 1.0), ("null", 0.25), ("}", 1.0))
    assert {"n": pytest.approx(0.45), "m": pytest.approx(0.25)} == made.fields()


def test_half_characters_are_counted_in_bytes():
    """A character of several tokens belongs to its field with all of them, and moves nothing behind it."""
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
def test_the_choice_is_the_likeliest_that_is_allowed(seed: int, temperature: float):
    """Its probability is the softmax over the allowed tokens alone, at the temperature."""
    dice = np.random.default_rng(seed)
    logits = dice.normal(0, 5, 50).astype(np.float32)
    allowed = np.sort(dice.choice(50, dice.integers(1, 50), replace=False))
    token, log_prob = choose(logits, allowed, temperature)
    weights = np.exp(logits[allowed].astype(np.float64) / temperature)
    assert token in allowed
    assert logits[token] == logits[allowed].max()
    assert pytest.approx(float(weights.max() / weights.sum()), rel=1e-4) == math.exp(log_prob)


def test_what_is_open_gets_a_limit():
    """Strings, arrays and numbers without bounds get some; 'required' sets the order; notes are left out."""
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


def test_a_bounded_schema_bounds_nothing_twice():
    """Filling in changes only what is open: doing it again changes nothing."""
    for seed in range(100):
        once = bounded_schema(record_schemas.sensible(random.Random(seed)))
        assert once == bounded_schema(once)


@pytest.mark.parametrize("bad", [0, 2])
def test_a_choice_among_what_are_no_numbers_says_so(bad: int):
    """Whichever of the allowed logits it is; what is not allowed does not matter."""
    logits = np.zeros(4, np.float32)
    logits[bad] = np.nan
    assert math.isnan(choose(logits, np.array([0, 1, 2]), 1.0)[1])
    assert 0.0 == choose(logits, np.array([3]), 1.0)[1]
