"""Rows that become golden cases: with surrogates unless the recipe says otherwise, and the sentence on their origin."""

from __future__ import annotations

import pytest

from convert.data.data_row import DataRow
from convert.package.golden_cases import candidates, origin_of
from convert.pipeline.recipe import PrivacySection
from edge_agent.errors import InvalidRequest
from edge_agent.formats.golden_cases import GoldenCase
from edge_agent.formats.manifest import TaskSpec

TASK = TaskSpec.model_validate({"name": "t", "kind": "classify", "labels": ["refund", "price"]})
CARD = "4111 1111 1111 1111"
ROWS = [
    DataRow(f"charge {CARD} back", "refund", site="clinic-1", prediction_id="p-1"),
    DataRow("what is it", "price", composed=True),
    DataRow("give it back", "refund", consented=True),
]


def cases_of(texts: list[str]) -> list[GoldenCase]:
    return [GoldenCase(input=text, answer="refund") for text in texts]


def test_golden_cases_have_surrogates_by_default():
    """By default each row is a candidate with its personal values replaced by surrogates, and the origin counts
    replacements, samples and consented records."""
    found = candidates(PrivacySection(), TASK, ROWS)
    texts = [row.text for row in found.rows]
    assert 3 == len(texts)
    assert not any(CARD in text for text in texts)
    origin = origin_of(found, cases_of(["a sample", *texts]), 1)
    assert (4, 1, ("clinic-1/p-1",), 1, {"card": 1}) == (
        origin.cases,
        origin.samples,
        origin.records,
        origin.replaced_cases,
        origin.replaced,
    )
    assert "surrogates: 1 value in 1 case replaced by made-up ones" in origin.sentence()


def test_only_composed_rows_with_golden_cases_composed():
    """With `golden_cases: composed`, only rows marked as composed become golden cases, and nothing is replaced."""
    found = candidates(PrivacySection(golden_cases="composed"), TASK, ROWS)
    assert ["what is it"] == [row.text for row in found.rows]
    assert "marked as composed; nothing was replaced" in origin_of(found, cases_of(["what is it"]), 0).sentence()


def test_consented_and_composed_rows_with_golden_cases_consented():
    """With `golden_cases: consented`, rows with consent and composed rows become golden cases unchanged; other rows do
    not."""
    found = candidates(PrivacySection(golden_cases="consented"), TASK, ROWS)
    assert {"what is it", "give it back"} == {row.text for row in found.rows}
    assert "recorded consent" in origin_of(found, cases_of(["give it back"]), 0).sentence()


def test_unknown_locale_is_refused():
    """An unknown locale for surrogates is refused by name."""
    with pytest.raises(InvalidRequest, match="'xx_YY'"):
        candidates(PrivacySection(locales=("xx_YY",)), TASK, ROWS)
