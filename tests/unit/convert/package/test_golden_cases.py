"""Which rows become golden cases: surrogates unless the recipe says otherwise, and a sentence that says so."""

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


def test_values_are_replaced_unless_the_recipe_says_otherwise():
    """The default looks at every row; the origin counts what was replaced and what sites sent."""
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


def test_only_composed_rows_become_cases_where_the_recipe_says_so():
    """A row that only has consent is left out; nothing is replaced."""
    found = candidates(PrivacySection(golden_cases="composed"), TASK, ROWS)
    assert ["what is it"] == [row.text for row in found.rows]
    assert "marked as composed; nothing was replaced" in origin_of(found, cases_of(["what is it"]), 0).sentence()


def test_rows_with_consent_become_cases_as_they_are_where_the_recipe_says_so():
    """Composed rows may, too; a row without a mark may not."""
    found = candidates(PrivacySection(golden_cases="consented"), TASK, ROWS)
    assert {"what is it", "give it back"} == {row.text for row in found.rows}
    assert "recorded consent" in origin_of(found, cases_of(["give it back"]), 0).sentence()


def test_a_locale_that_is_not_known_is_refused():
    """The message names it."""
    with pytest.raises(InvalidRequest, match="'xx_YY'"):
        candidates(PrivacySection(locales=("xx_YY",)), TASK, ROWS)
