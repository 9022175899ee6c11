"""Rows that no site sent are redacted as on a site, unless the recipe waives this with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convert.data import imported_rows, row_files
from convert.data.data_row import DataRow
from convert.pipeline.recipe import PrivacySection
from edge_agent.errors import ManifestInvalid
from tests.support.recipes import recipe_of

MAIL = "anna.mueller@praxis-nord.de"
WAIVED = PrivacySection(imported_data="waived", waiver="composed by the team, decided by M. on 1 June")


def rows(**more: object) -> str:
    """Return two rows, one with an e-mail address."""
    made = ({"text": f"refund to {MAIL}", "label": "refund", **more}, {"text": "How much?", "label": "price"})
    return "".join(json.dumps(row) + "\n" for row in made)


@pytest.mark.parametrize("split", ["train", "calibration", "test"])
def test_imported_rows_of_every_split_are_redacted(tmp_path: Path, split: str):
    """An address is replaced by a made-up value, the same one each time, and other rows are unchanged."""
    recipe = recipe_of(tmp_path, **{split: rows()})
    found = row_files.rows(recipe, split)
    assert [True, False] == [MAIL not in found[0].text, found[0].text == f"refund to {MAIL}"]
    assert (found, "How much?") == (row_files.rows(recipe, split), found[1].text)


def test_equal_rows_keep_their_own_places(tmp_path: Path):
    """Each of two equal rows has its own line number, so a message names the right line."""
    found = row_files.rows(recipe_of(tmp_path, train=rows() + rows()), "train")
    assert [f"{tmp_path / 'train.jsonl'}:{line}" for line in (1, 2, 3, 4)] == [row.place for row in found]


@pytest.mark.parametrize("mark", [{"composed": True}, {"site": "clinic-1", "prediction_id": "p-1"}])
def test_composed_and_collected_rows_are_not_redacted_again(tmp_path: Path, mark: dict[str, object]):
    """A composed row has no real values, and the site has already redacted a collected row."""
    recipe = recipe_of(tmp_path, train=rows(**mark))
    assert f"refund to {MAIL}" == row_files.rows(recipe, "train")[0].text


def test_redaction_waiver_requires_a_reason(tmp_path: Path):
    """With a waiver and its reason the rows are unchanged; one without the other is refused."""
    sections = "privacy: {imported_data: waived, waiver: 'composed by the team'}"
    found = row_files.rows(recipe_of(tmp_path, train=rows(), sections=sections), "train")
    assert MAIL in found[0].text
    for broken in ("privacy: {imported_data: waived}", "privacy: {waiver: because}"):
        with pytest.raises(ManifestInvalid, match="needs its reason"):
            recipe_of(tmp_path, sections=broken)


def test_privacy_sentence_describes_the_redaction():
    """The sentence counts imported rows and rows with made-up values, or has the waiver's reason; rows of a redact task
    are unchanged."""
    made = [DataRow(f"refund to {MAIL}"), DataRow("How much?"), DataRow(MAIL, composed=True)]
    assert "2 imported rows, made-up values in 1" == imported_rows.sentence(made, PrivacySection(), "classify")
    assert "2 imported rows, redaction waived: composed by the team, decided by M. on 1 June" == imported_rows.sentence(
        made, WAIVED, "classify"
    )
    assert "no imported rows" == imported_rows.sentence(made[2:], PrivacySection(), "classify")
    assert imported_rows.sentence(made, PrivacySection(), "redact").startswith("not redacted")
    assert made == imported_rows.redact(made, PrivacySection(), "redact")
