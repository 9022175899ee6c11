"""Spans: a record's values are located in its text with certainty or left out, and corrections of sites become tagged
rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from convert.cli import app
from convert.data import row_files
from convert.dataset.dataset_files import write
from convert.dataset.row_builder import PLACES_MAX, VALUES_MAX, SpanCounts, align
from convert.dataset.selection import DatasetSelection
from convert.dataset.surrogates import SurrogateSettings
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.errors import InvalidRequest
from tests.support.corrected_records import CARDS, ITEMS, collected, recipe_over
from tests.support.examples import feedback, prediction
from tests.support.segments import CentralTeam, SealingSite


def found(record: Any, text: str) -> list[tuple[str, str]]:
    """Return the label and the text of each span."""
    alignment = align(json.dumps(record), text)
    assert () == alignment.problems
    return [(span.label, text[span.start : span.end]) for span in alignment.spans]


def problems(record: Any, text: str) -> list[tuple[str, str]]:
    alignment = align(record if isinstance(record, str) else json.dumps(record), text)
    assert () == alignment.spans
    return list(alignment.problems)


# --- alignment --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "text", "expected"),
    [
        ({"item": "milk", "count": 2}, "2 milk please", [("count", "2"), ("item", "milk")]),
        ({"item": "Flat  white"}, "one flat\nwhite, please", [("item", "flat\nwhite")]),
        ({"item": ["milk", "bread"]}, "bread and milk", [("item", "bread"), ("item", "milk")]),
        ({"order": {"item": "tea", "size": None}, "note": ""}, "a tea", [("item", "tea")]),
        ({"item": ["tea", "tea"]}, "tea, and tea", [("item", "tea"), ("item", "tea")]),
        ({"item": "Milk"}, "milk, no, Milk", [("item", "Milk")]),
        ({"card": "[CARD_1]", "count": 1}, "1 to [CARD_1]", [("count", "1"), ("card", "[CARD_1]")]),
        ({"place": "東京"}, "東京へ行く", [("place", "東京")]),
        ({"item": "tea", "shop": "tea bar"}, "a tea at tea bar", [("item", "tea"), ("shop", "tea bar")]),
        ({"item": []}, "nothing", []),
    ],
)  # fmt: skip
def test_values_are_found_in_the_text(record: Any, text: str, expected: list[tuple[str, str]]):
    """Values are found as written, or else without regard to case and white space; a span that another value needs is
    not used twice."""
    assert expected == found(record, text)


@pytest.mark.parametrize(
    ("record", "text", "expected"),
    [
        ({"item": "tea"}, "a coffee", [("absent", "item")]),
        ({"item": "tea"}, "a teapot", [("absent", "item")]),
        ({"item": "cafe"}, "a cafe\u0301", [("absent", "item")]),
        ({"item": "tea"}, "tea or green tea", [("ambiguous", "item")]),
        ({"from": "Bern", "to": "Bern"}, "Bern to Bern", [("ambiguous", "from"), ("ambiguous", "to")]),
        ({"item": ["tea", "tea"]}, "a tea", [("absent", "item")]),
        ({"count": 1}, "to [CARD_1]", [("absent", "count")]),
        ({"card": "[CARD_2]"}, "to [CARD_1]", [("absent", "card")]),
        ({"card": "[CARD_1]"}, "[CARD_1], yes [CARD_1]", [("ambiguous", "card")]),
        ({"item": "green tea", "colour": "green"}, "a green tea", [("overlapping", "item"), ("overlapping", "colour")]),
        ({"urgent": True, "item": "tea"}, "tea", [("not_text", "urgent")]),
        ('{"item":' + "[" * 500 + "]" * 500 + "}", "tea", [("not_text", "item")]),
        ('["tea"]', "tea", [("no_record", "(record)")]),
        ("tea", "tea", [("no_record", "(record)")]),
        ({"item": [f"w{n}" for n in range(VALUES_MAX + 1)]}, "w0", [("too_many", "(record)")]),
        ({"item": "a", "other": "b"}, "a " * (PLACES_MAX + 9) + "b", [("ambiguous", "item")]),
    ],
)
def test_absent_or_ambiguous_value_gives_no_spans(record: Any, text: str, expected: list[tuple[str, str]]):
    """A value that is absent, or occurs more often than the record has it, leaves no spans and a reason for its
    field."""
    assert sorted(expected) == sorted(problems(record, text))


NAMES = st.lists(st.sampled_from(["milk", "bread", "tea", "jam", "rice", "salt"]), min_size=1, unique=True)


@given(values=NAMES, fillers=st.lists(st.sampled_from(["and", "two", "please", "Milkshake", "[CARD_1]"]), min_size=6))
def test_spans_are_the_values_and_do_not_overlap(values: list[str], fillers: list[str]):
    """For any text between them, each value has one span with its own text, in order."""
    text = " ".join(word for pair in zip(fillers, values, strict=False) for word in pair)
    alignment = align(json.dumps({"item": values}), text)
    assert values == [text[span.start : span.end] for span in alignment.spans]
    assert all(a.end < b.start for a, b in zip(alignment.spans, alignment.spans[1:], strict=False))


def test_left_out_values_are_counted_by_field():
    """The report has the kinds of matches, the rows that were left out, and the left-out values by reason and field."""
    counts = SpanCounts()
    for record, text in (
        ({"a": "x"}, "x"),
        ({"a": "X"}, "x"),
        ({"a": "y", "b": "x"}, "x x"),
        ({"a": "[C_1]"}, "[C_1]"),
    ):
        counts.add(align(json.dumps(record), text))
    assert {
        "matches": {"exact": 1, "normalised": 1, "placeholder": 1},
        "rows_left_out": 1,
        "left_out": {"absent": {"a": 1}, "ambiguous": {"b": 1}},
    } == counts.report()


# --- from a site to training ------------------------------------------------------------------------------------------


def dataset(root: Path, **changes: Any) -> dict[str, Any]:
    """Write a dataset of text-spans; return its report."""
    settings = SurrogateSettings(**changes)
    write(DatasetSelection(collected(root), "pos-intent", "reviewed"), "text-spans", root / "data", surrogates=settings)
    sheet: dict[str, Any] = json.loads((root / "data" / "dataset.json").read_text())
    return sheet


def test_corrections_become_rows_with_spans(tmp_path: Path):
    """A recipe reads the rows; each span is its value, and each card is a made-up one that redaction finds."""
    sheet = dataset(tmp_path)
    recipe = recipe_over(tmp_path)
    rows = [row for split in ("train", "calibration", "test") for row in row_files.rows(recipe, split)]
    assert sorted(ITEMS) == sorted(row.text[span.start : span.end] for row in rows for span in row.spans[:1])
    for row in rows:
        item, card = row.spans
        assert ("item", "card") == (item.label, card.label)
        assert "[CARD_1]" == Redactor().start().text(row.text[card.start : card.end])
        assert not any(each in row.text for each in CARDS)
    assert {"CARD": 10} == sheet["surrogates"]["filled"]
    assert {"absent": {"item": 1}, "ambiguous": {"count": 1}} == sheet["spans"]["left_out"]
    assert (2, 10) == (sheet["spans"]["rows_left_out"], sum(sheet["rows"].values()))
    assert {"item": 6, "card": 6} == sheet["labels"]["train"]
    row_files.check(recipe)


def test_spans_point_at_kept_placeholders(tmp_path: Path):
    """If placeholders are kept, the spans are positions in the text with placeholders."""
    sheet = dataset(tmp_path, placeholders="keep")
    for line in (tmp_path / "data" / "train.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert "[CARD_1]" == row["text"][row["spans"][1]["start"] : row["spans"][1]["end"]]
        assert "surrogates" not in row
    assert {"placeholders": "kept", "kept": {"CARD": 10}} == sheet["surrogates"]


def test_text_spans_format_requires_an_extract_task(tmp_path: Path):
    """The format text-spans is refused for a classify task, and nothing is written."""
    SealingSite(tmp_path / "store").seal([prediction(1), feedback(1)])
    central = CentralTeam(tmp_path)
    central.collect(tmp_path / "store")
    with pytest.raises(InvalidRequest, match="kind extract, not classify"):
        write(DatasetSelection(central.out, "pos-intent", "reviewed"), "text-spans", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_dataset_without_any_span_is_refused(tmp_path: Path):
    """If no record has spans, the error has the reasons and the fields, and nothing is written."""
    made = prediction(1, kind="extract", input="send it", output='{"item":"them"}', scores=[])
    SealingSite(tmp_path / "store").seal([made, feedback(1, value='{"item":"shoes"}')])
    central = CentralTeam(tmp_path)
    central.collect(tmp_path / "store")
    with pytest.raises(InvalidRequest, match=r'of 1 record, none has.*"absent": {"item": 1}'):
        write(DatasetSelection(central.out, "pos-intent", "reviewed"), "text-spans", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_command_reports_filled_and_left_out_values(tmp_path: Path):
    """The output has records without spans by reason and field, and filled placeholders by type; an invalid option is
    named."""
    folder = str(collected(tmp_path))
    arguments = ["dataset", folder, "--task", "pos-intent", "--format", "text-spans", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--locale", "de_DE"])
    said = " ".join(result.output.split())
    assert 0 == result.exit_code
    assert "2 records without spans left out; absent: item (1); ambiguous: count (1)" in said
    assert "placeholders filled with made-up values: CARD 10" in said
    refused = CliRunner().invoke(app, [*arguments, "--force", "--surrogate", "patient"])
    assert (2, True) == (refused.exit_code, "--surrogate patient" in refused.output)
