"""Which rows figures can rest on: rows with a known sampling probability, thinned to be equally likely."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from convert.calibrate.threshold import Risk
from convert.data import row_files
from convert.data.data_row import DataRow
from convert.data.row_files import equally_likely
from edge_agent.errors import InvalidRequest
from tests.support.recipes import recipe_of


def drawn(number: int, probability: float | None) -> DataRow:
    return DataRow(f"text {number}", "refund", review_stream="audit" if probability else "uncertain",
               sampling_probability=probability)  # fmt: skip


def test_file_without_sampling_keys_is_used_whole():
    """A file without sampling probabilities is used whole, and the report states that the way of drawing is unknown."""
    rows = [DataRow("one", "refund"), DataRow("two", "price")]
    found = equally_likely(rows)
    assert (rows, 0, 0, None) == (found.rows, found.unknown, found.thinned, found.probability)
    assert found.sentence.startswith("How these rows were drawn is unknown")


def test_rows_of_unknown_probability_are_left_out_and_counted():
    """In a file with sampling probabilities, a row without one was chosen for a reason, so it is left out and
    counted."""
    rows = [drawn(1, 0.5), drawn(2, None), drawn(3, 0.5), DataRow("four", "refund")]
    found = equally_likely(rows)
    assert ([rows[0], rows[2]], 2, 0, 0.5) == (found.rows, found.unknown, found.thinned, found.probability)
    assert "2 rows of unknown probability are left out" in found.sentence


def test_rows_are_thinned_to_the_smallest_probability():
    """Of rows that are five times as likely, one fifth stays, the same rows each time; the least likely rows all
    stay."""
    rows = [drawn(number, 0.02 if number % 2 else 0.1) for number in range(10_000)]
    found = equally_likely(rows)
    rare = [row for row in found.rows if row.sampling_probability == 0.02]
    assert (5000, 0.02, found.rows) == (len(rare), found.probability, equally_likely(rows).rows)
    frequent = len(found.rows) - len(rare)
    assert stats.binomtest(frequent, 5000, 0.2).pvalue > 1e-6
    assert 5000 - frequent == found.thinned


def test_rows_with_a_repeated_text_are_thinned_separately():
    """Rows with the same text are not all kept or all removed: each stays with its own probability."""
    rows = [drawn(1, 0.5)] * 2000 + [drawn(2, 0.25)]
    assert stats.binomtest(len(equally_likely(rows).rows) - 1, 2000, 0.5).pvalue > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("weighed", [True, False])
def test_proof_holds_after_thinning_unequal_probabilities(weighed: bool):
    """If the site with fewer errors draws more rows, false proofs stay within delta after thinning, but not as drawn.

    300 resamples of 400 answers at a site with 2% errors, drawn with 0.5, and 400 at one with 18.5%, drawn with 0.1: of
    all answers 10.25% are wrong, over the target of 10%.
    """
    random, risk, proved, resamples = np.random.default_rng(1), Risk(0.10, 0.10), 0, 300
    for sample in range(resamples):
        rows = []
        for probability, error in ((0.5, 0.02), (0.1, 0.185)):
            wrong = random.random(random.binomial(400, probability)) < error
            for number, each in enumerate(wrong):
                row = drawn(number, probability)
                rows.append(replace(row, text=f"{sample} {probability} {number}", label="wrong" if each else "right"))
        kept = equally_likely(rows).rows if weighed else rows
        proved += risk.passes(sum(row.label == "wrong" for row in kept), len(kept))
    limit = resamples * risk.delta + 2 * (resamples * risk.delta * (1 - risk.delta)) ** 0.5
    assert weighed == (proved <= limit)


def lines(rows: list[tuple[str, str, float | None]]) -> str:
    plain = [
        {"text": text, "label": label, "review_stream": "audit" if p else "uncertain"}
        | ({"sampling_probability": p} if p else {})
        for text, label, p in rows
    ]
    return "".join(json.dumps(row) + "\n" for row in plain)


MIXED = [("one", "refund", 0.5), ("two", "price", 0.5), ("three", "price", None)]


def test_calibration_takes_only_rows_of_known_probability(tmp_path: Path):
    """Training takes all rows; the check warns of the number of rows that calibration leaves out."""
    recipe = recipe_of(tmp_path, calibration=lines(MIXED), train=lines([("a", "refund", None), ("b", "price", 0.5)]))
    assert ["one", "two"] == [row.text for row in row_files.rows(recipe, "calibration")]
    assert ["a", "b"] == [row.text for row in row_files.rows(recipe, "train")]
    (warning,) = [each for each in row_files.check(recipe).warnings if "sampling probability" in each]
    assert "1 row of the calibration split has no sampling probability and is left out." == warning


def test_test_split_without_any_known_probability_is_refused(tmp_path: Path):
    """A test split is refused if it has sampling keys but only rows that somebody chose."""
    recipe = recipe_of(tmp_path, test=lines([("one", "refund", None), ("two", "price", None)]))
    with pytest.raises(InvalidRequest, match="none of 2 rows has a known sampling probability"):
        row_files.rows(recipe, "test")


@pytest.mark.parametrize("value", [0, -0.5, 1.5, "0.5", True, [0.5]])
def test_invalid_sampling_probability_is_refused(tmp_path: Path, value):
    """A value that is not a number above 0 and up to 1 is refused with its line."""
    row = {"text": "one", "label": "refund", "sampling_probability": value}
    with pytest.raises(InvalidRequest, match=r"test.jsonl:1: 'sampling_probability' must be a number"):
        row_files.rows(recipe_of(tmp_path, test=json.dumps(row) + "\n"), "test")
