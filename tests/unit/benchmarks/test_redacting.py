"""The figures of `scripts/bench redaction`: found values, leaking texts and words that are covered in error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.redacting.bundle_model import BundleModel
from benchmarks.redacting.composed_texts import composed_texts
from benchmarks.redacting.figures import measure_redaction
from benchmarks.redacting.labelled_texts import MarkedText, MarkedValue, public_texts, read_marked
from edge_agent.capture.redact import strip_separators
from edge_agent.capture.redact.account_numbers import is_card_number
from tests.support import bundles

TEXT = "Anna Meyer, Kiel, card 4111"
MARKED = MarkedText(
    TEXT, (MarkedValue(0, 10, "PERSON"), MarkedValue(12, 16, "GPE"), MarkedValue(23, 27, "CREDIT_CARD"))
)


def test_value_counts_as_found_if_all_its_characters_are_covered():
    """A value counts as found if each letter and digit is covered, regardless of spaces; a text with a value that is
    not found counts as leaking."""
    figures = measure_redaction([MARKED, MARKED], [[(0, 4), (5, 10), (23, 27)], [(0, 9), (23, 27)]])
    assert {"PERSON": 1, "CREDIT_CARD": 2} == dict(figures.found)
    assert {"PERSON": 2, "CREDIT_CARD": 2} == dict(figures.marked)
    assert (0.75, 0.5) == (figures.recall, figures.leak_share)


def test_covered_place_lowers_only_the_strict_precision():
    """A covered value of a class that is not measured, such as a place, lowers the strict precision only; other covered
    words lower the precision too."""
    figures = measure_redaction([MARKED], [[(0, 16)]])
    assert (1.0, 9 / 13) == (figures.precision, figures.strict_precision)
    assert 4 / 8 == measure_redaction([MARKED], [[(18, 27)]]).precision


def test_a_folder_without_marked_texts_is_an_error(tmp_path: Path):
    """A folder without *.jsonl files raises an error that names the missing files; the marked values of a file are read
    with their offsets."""
    with pytest.raises(LookupError, match=r"no file \*\.jsonl"):
        read_marked(tmp_path)
    row = {"text": "Anna", "spans": [{"start": 0, "end": 4, "label": "PERSON"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert [MarkedText("Anna", (MarkedValue(0, 4, "PERSON"),))] == read_marked(tmp_path)


def test_composed_texts_mark_valid_values_in_12_languages():
    """Composed texts cover 12 languages and are the same each time; each marked card number is valid, also in
    lower-case texts."""
    texts = composed_texts()
    assert texts == composed_texts()
    assert 12 == len({each.language for each in texts})
    marked = [
        each.text[value.start : value.end] for each in texts for value in each.values if value.label == "CREDIT_CARD"
    ]
    assert [] == [number for number in marked if not is_card_number(strip_separators(number))]


def test_bundle_spans_are_whole_words_and_grow_with_a_lower_cutoff(tmp_path: Path):
    """A redaction bundle finds spans that are whole words; a lower cut-off covers at least the same characters, and the
    cost of the bundle's encoder is measurable."""
    folder = bundles.tiny_onnx_bundle(tmp_path / "bundle", "redact")
    text = "refund to anna 12 please"
    some, every = (BundleModel(folder, cutoff).find(text) for cutoff in (0.5, 0.01))
    covered = [{place for start, end in spans for place in range(start, end)} for spans in (some, every)]
    assert covered[0] <= covered[1]
    edges = [text[start - 1 : start] + text[end : end + 1] for start, end in every]
    assert [] == [edge for edge in edges if edge.strip()]
    redacting, classifying = BundleModel(folder).cost_share()
    assert min(redacting, classifying) > 0


def test_a_bundle_of_another_kind_is_refused(tmp_path: Path):
    """The benchmark refuses a bundle that is not of kind redact and names the bundle's kind."""
    with pytest.raises(ValueError, match="is of kind classify, not redact"):
        BundleModel(bundles.tiny_onnx_bundle(tmp_path / "bundle", "classify"))


def test_public_texts_are_a_clean_group_if_the_folder_exists(tmp_path: Path):
    """Public texts in a folder next to the marked texts form a group of clean texts."""
    (tmp_path / "banking77").mkdir()
    (tmp_path / "banking77" / "train.jsonl").write_text('{"text": "where is my card", "label": "x"}\n')
    assert {"BANKING77": ["where is my card"]} == dict(public_texts(tmp_path))
    assert {"BANKING77": ["where is my card"]} == dict(public_texts(tmp_path / "pii"))
