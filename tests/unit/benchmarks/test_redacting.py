"""The figures of `scripts/bench redaction`: what counts as found, as leaking, as covered in error."""

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


def test_a_value_counts_when_every_letter_and_digit_is_covered():
    """The space between two names need not be covered, a letter must be; one value left makes the text leak."""
    figures = measure_redaction([MARKED, MARKED], [[(0, 4), (5, 10), (23, 27)], [(0, 9), (23, 27)]])
    assert {"PERSON": 1, "CREDIT_CARD": 2} == dict(figures.found)
    assert {"PERSON": 2, "CREDIT_CARD": 2} == dict(figures.marked)
    assert (0.75, 0.5) == (figures.recall, figures.leak_share)


def test_a_place_that_is_covered_is_an_error_of_the_strict_precision_alone():
    """Values of classes that do not count are neither to be found nor covered in error; other words are."""
    figures = measure_redaction([MARKED], [[(0, 16)]])
    assert (1.0, 9 / 13) == (figures.precision, figures.strict_precision)
    assert 4 / 8 == measure_redaction([MARKED], [[(18, 27)]]).precision


def test_a_folder_without_marked_texts_is_an_error(tmp_path: Path):
    """The message names the folder; a file in it is read with its offsets."""
    with pytest.raises(LookupError, match=r"no file \*\.jsonl"):
        read_marked(tmp_path)
    row = {"text": "Anna", "spans": [{"start": 0, "end": 4, "label": "PERSON"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert [MarkedText("Anna", (MarkedValue(0, 4, "PERSON"),))] == read_marked(tmp_path)


def test_composed_texts_mark_their_values_in_every_language():
    """Twelve languages, the same texts each time; a marked card number is one, also where the text is in lower case."""
    texts = composed_texts()
    assert texts == composed_texts()
    assert 12 == len({each.language for each in texts})
    marked = [
        each.text[value.start : value.end] for each in texts for value in each.values if value.label == "CREDIT_CARD"
    ]
    assert [] == [number for number in marked if not is_card_number(strip_separators(number))]


def test_a_bundle_is_run_as_the_agent_decodes_it(tmp_path: Path):
    """Its spans are words of the text, a lower cut-off replaces no less, and its encoder can classify."""
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
    """The message names the kind."""
    with pytest.raises(ValueError, match="is of kind classify, not redact"):
        BundleModel(bundles.tiny_onnx_bundle(tmp_path / "bundle", "classify"))


def test_public_texts_count_as_clean_where_they_exist(tmp_path: Path):
    """A folder beside the marked texts adds a group."""
    (tmp_path / "banking77").mkdir()
    (tmp_path / "banking77" / "train.jsonl").write_text('{"text": "where is my card", "label": "x"}\n')
    assert {"BANKING77": ["where is my card"]} == dict(public_texts(tmp_path))
    assert {"BANKING77": ["where is my card"]} == dict(public_texts(tmp_path / "pii"))
