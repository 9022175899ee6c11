"""Quality of a redaction bundle: share of personal values found, of texts that leak, and precision by character."""

from __future__ import annotations

import numpy as np

from convert.data.data_row import DataRow, TextSpan
from convert.evaluate.predictions import FoundEntity, ServedPrediction
from convert.evaluate.site_redaction import measure_redaction, remaining


def row(text: str, *values: str) -> DataRow:
    """Return a text in which these values are labelled."""
    return DataRow(
        text, spans=tuple(TextSpan(text.index(each), text.index(each) + len(each), "NAME") for each in values)
    )


def said(text: str, *values: str) -> ServedPrediction:
    """Return an answer that finds these values under another type."""
    return ServedPrediction(
        entities=tuple(FoundEntity(text.index(each), text.index(each) + len(each), "CITY") for each in values)
    )


def test_value_counts_as_found_if_no_letter_or_digit_remains():
    """A value counts as found if every letter and digit of it is covered; the type and the characters between words do
    not matter."""
    text = "ask Anna M. Roe"
    value = row(text, "Anna M. Roe").spans
    assert [] == remaining(text, value, said(text, "Anna", "M", "Roe").entities)
    assert list(value) == remaining(text, value, said(text, "Anna", "Roe").entities)


def test_redaction_figures_count_values_texts_and_characters():
    """In four texts, two of three values are found, one of two texts with values leaks, and one of two clean texts is
    changed."""
    texts = ["Anna and Bo", "Cy", "12 kettles", "hello"]
    rows = [row(texts[0], "Anna", "Bo"), row(texts[1], "Cy"), row(texts[2]), row(texts[3])]
    answers = [said(texts[0], "Anna"), said(texts[1], "Cy"), said(texts[2], "12"), said(texts[3])]
    found = measure_redaction(rows, answers, np.arange(4))
    assert (2 / 3, 0.5, 0.5) == tuple(
        found[key]["value"] for key in ("values_found", "texts_that_leak", "clean_touched")
    )
    assert {"NAME": {"values": 3, "found": 2}} == found["per_type"]
    assert 6 / 8 == found["precision"]


def test_redaction_figures_without_values_are_none():
    """Without values or replacements, the figures are None and not a perfect score."""
    found = measure_redaction([row("hi")], [said("hi")], np.arange(1))
    assert (None, None, None) == (found["values_found"], found["texts_that_leak"], found["precision"])
