"""One walk: what people say at a site becomes training rows, and a threshold that keeps its promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import learning_loop
from benchmarks.learning_loop import REVIEW_SHARE


@pytest.mark.slow
def test_a_correction_in_the_console_ends_as_a_row_with_its_probability(tmp_path: Path):
    """It is measured on, as it was drawn at random; what only the large model labelled never is."""
    found = learning_loop.gather(tmp_path, 120)
    assert ("refund", "audit", REVIEW_SHARE) == tuple(
        found.corrected[key] for key in ("label", "review_stream", "sampling_probability")
    )
    measured = [row for split in ("calibration", "test") for row in found.rows[split]]
    assert ("corrected", "anna") == (found.corrected["label_source"], found.corrected["labeled_by"])
    assert "[CARD_1]" not in found.corrected["text"]  # a card number made up in its place
    assert learning_loop.CARD not in found.corrected["text"]
    assert {"reviewed", "corrected"} == {row["label_source"] for row in measured}
    assert "teacher" in {row["label_source"] for row in found.rows["train"]}
    assert {("audit", REVIEW_SHARE)} == {(row["review_stream"], row["sampling_probability"]) for row in measured}
    audit = found.sheet["audit"]
    assert (0, len(measured)) == (audit["unreviewed"], sum(audit["used"].values()))
    assert {row["prediction_id"] for row in measured}.isdisjoint(row["prediction_id"] for row in found.rows["train"])


@pytest.mark.release
def test_the_bundle_made_of_it_keeps_its_promise(tmp_path: Path):
    """A threshold is proved on the audit alone, and messages that nobody has sent before do not refute it."""
    walked = learning_loop.walk(tmp_path)
    assert (REVIEW_SHARE, 0) == (walked.sampling["probability"], walked.sampling["unknown"])
    assert walked.threshold is not None
    assert walked.sure > 100
    assert walked.promise_holds
