"""The calibrate stage of a redaction model on the real engine, which reads documents as a site does.

The model is the echo runtime's: every run of digits is personal at any cut-off.
"""

from pathlib import Path

import pytest

from convert.calibrate.redaction_cutoff import CUTOFFS, MissedTarget, calibrate_cutoff
from convert.data.data_row import DataRow, TextSpan
from convert.evaluate.serving import BundleFolder, open_bundle, quiet
from tests.support.bundles import echo_bundle

pytestmark = pytest.mark.slow
TAGS = ("O", "B-ROOM", "I-ROOM", "B-NAME", "I-NAME")


@pytest.fixture
def digits(tmp_path: Path) -> BundleFolder:
    """A bundle that finds digits."""
    return open_bundle(echo_bundle(tmp_path / "pii", "pii", "redact", TAGS, redaction={"cutoff": 0.5}))


def row(text: str, *values: tuple[str, str], **more: str) -> DataRow:
    """Return a row with values and their types."""
    spans = tuple(TextSpan(text.index(value), text.index(value) + len(value), label) for value, label in values)
    return DataRow(text=text, spans=spans, **more)


def test_model_and_rules_are_combined_beyond_one_window(digits):
    """A number that the model finds and an address that the rules find both count as found, also at the end of a text
    longer than one window."""
    long = "kettle " * 200
    rows = [
        row(f"{long}room {number} of g{number}@example.org", (str(number), "ROOM"), (f"g{number}@example.org", "NAME"))
        for number in range(100, 160)
    ]
    rows += [row(f"The kettle number {'i' * (number + 1)} is broken.") for number in range(10)]
    found = calibrate_cutoff(digits, rows, MissedTarget(0.1, 0.1), quiet)
    assert CUTOFFS[-1] == found.section["cutoff"]
    figures = found.report["as_a_site_redacts"]
    assert (1.0, 0.0) == (figures["values_found"]["value"], figures["clean_touched"]["value"])
    assert (0.1, 2) == (found.section["bound"]["bound"], found.section["bound"]["values_max"])
    assert (60, "60 imported") == (found.section["bound"]["n"], found.section["bound"]["labeled_by"])


def test_missed_names_prove_no_bound(digits):
    """If names are missed, the bundle keeps its cut-off and guarantees nothing, and the report has no number of
    documents that would help."""
    rows = [row(f"room {number} of Anna", (str(number), "ROOM"), ("Anna", "NAME")) for number in range(100, 140)]
    found = calibrate_cutoff(digits, rows, MissedTarget(0.1, 0.1), quiet)
    assert {} == found.section
    assert (0.5, False, None) == (found.report["cutoff"], found.report["proved"], found.report["needed"])
    assert "The cut-off of task.yaml, 0.5, serves, and the bundle promises nothing." in found.report["verdict"]


def test_only_replaced_types_count_as_missed(digits):
    """Values of a type that `redaction.labels` leaves out do not count as missed."""
    section = digits.manifest.redaction_rule.model_copy(update={"labels": ("ROOM",)})
    rooms = digits._with({"redaction": section})
    rows = [row(f"room {number} of Anna", (str(number), "ROOM"), ("Anna", "NAME")) for number in range(100, 160)]
    found = calibrate_cutoff(rooms, rows, MissedTarget(0.1, 0.1), quiet)
    assert CUTOFFS[-1] == found.section["cutoff"]


def test_text_that_the_model_fails_on_is_excluded_and_counted(tmp_path):
    """A document on which the model fails is excluded and counted as failed, because a site does not store such a
    text."""
    failing = open_bundle(
        echo_bundle(tmp_path / "pii", "pii", "redact", TAGS, task={"prompt": {"template": "!fail after 1 {input}"}})
    )
    found = calibrate_cutoff(failing, [row("room 7", ("7", "ROOM"))] * 3, MissedTarget(0.1, 0.1), quiet)
    assert ({}, 2, 1) == (found.section, found.report["failed"], found.report["documents"])
