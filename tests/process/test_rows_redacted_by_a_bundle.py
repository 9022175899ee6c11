"""Rows of the central team, redacted by the rules and by a redaction bundle, as a site redacts its examples.

The bundle uses the echo runtime: every run of digits is personal.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convert.data import imported_rows, row_files
from convert.data.data_row import DataRow
from convert.evaluate.site_redaction import ValueReader
from convert.package import golden_cases
from convert.pipeline.execution import STAGES, inputs_of
from convert.pipeline.recipe import PrivacySection
from edge_agent.errors import BundleUnreadable, InvalidRequest
from edge_agent.formats.manifest import TaskSpec
from tests.support.bundles import echo_bundle
from tests.support.recipes import recipe_of

TASK = TaskSpec.model_validate({"name": "t", "kind": "classify", "labels": ["refund", "price"]})
MAIL = "anna.mueller@praxis-nord.de"


def redactor(folder: Path, version: str = "1.0.0", **more: object) -> Path:
    """Create a redaction bundle that finds digits."""
    return echo_bundle(folder / f"pii-{version}", "pii", "redact", ("O", "B-ROOM", "I-ROOM"), version, **more)


def test_imported_rows_are_redacted_by_rules_and_model(tmp_path: Path) -> None:
    """Values that the rules or the model find in imported rows are replaced; rows that are marked as composed stay
    unchanged, and the sentence for the manifest counts both."""
    texts = [f"a refund for room 407 to {MAIL}", "how much is it", "room 512, please"]
    written = [{"text": text, "label": label} for text, label in zip(texts, ("refund", "price", "refund"), strict=True)]
    written += [{"text": "room 700", "label": "price", "composed": True}]
    lines = "".join(json.dumps(row) + "\n" for row in written)
    sections = f"privacy: {{redaction_bundle: {redactor(tmp_path)}}}"
    recipe = recipe_of(tmp_path, train=lines, sections=sections)
    found = [row.text for row in row_files.rows(recipe, "train")]
    assert (texts[1], "room 700") == (found[1], found[3])
    assert [] == [value for value in ("407", "512", MAIL) if any(value in text for text in found)]
    assert found[0].startswith("a refund for room ")
    assert "@" in found[0]
    raw = [DataRow(text) for text in texts]
    said = imported_rows.sentence(raw, recipe.privacy, "classify", recipe.redaction_bundle)
    assert "3 imported rows, made-up values in 2 (redaction rules of version 2 and pii@1.0.0)" == said


def test_golden_cases_are_redacted_by_the_model(tmp_path: Path) -> None:
    """Values that the model finds are replaced in golden cases, and the sentence for the manifest names the bundle."""
    rows = [DataRow("back to room 407", "refund"), DataRow("what is it", "price")]
    found = golden_cases.candidates(PrivacySection(), TASK, rows, redactor(tmp_path))
    texts = [row.text for row in found.rows]
    assert (2, []) == (len(texts), [text for text in texts if "407" in text])
    assert "redaction rules of version 2 and pii@1.0.0" == found.finders


def test_findings_are_cached_up_to_a_limit(tmp_path: Path) -> None:
    """The model reads a text once while its findings are cached. Over the limit the cache is cleared, and texts are
    read again on demand."""
    reader, read = ValueReader(redactor(tmp_path), texts_kept_max=2), list[int]()

    def newly_read(*texts: str) -> int:
        before = len(read)
        reader.read(texts, lambda _what, done, _all: read.append(done))
        findings = reader.findings(texts)
        assert findings is not None
        assert {"7"} == {text[value.start : value.end] for text in texts for value in findings.of(text)}
        return sum(read[before:])

    assert [2, 0] == [newly_read("room 7", "hall 7"), newly_read("hall 7", "room 7")]
    assert [1, 1] == [newly_read("loft 7"), newly_read("room 7")]


def test_a_row_that_the_model_cannot_read_is_left_out(tmp_path: Path) -> None:
    """A row that the model cannot read is left out, and the sentence for the manifest counts it."""
    broken = redactor(tmp_path, "2.0.0", task={"prompt": {"template": "!fail {input}"}})
    rows = [DataRow("room 407"), DataRow("room 408", composed=True)]
    assert [rows[1]] == imported_rows.redact(rows, PrivacySection(), "classify", broken)
    assert "1 imported row, made-up values in 0 (redaction rules of version 2 and pii@2.0.0), 1 left out" == (
        imported_rows.sentence(rows, PrivacySection(), "classify", broken)
    )


def test_a_bundle_that_cannot_redact_is_refused(tmp_path: Path) -> None:
    """A redaction bundle that does not exist or is of another kind is refused before any row is read."""
    with pytest.raises(InvalidRequest, match="is a bundle of kind classify"):
        imported_rows.redact([DataRow("hi")], PrivacySection(), "classify", echo_bundle(tmp_path / "other"))
    with pytest.raises(BundleUnreadable, match="is not a bundle directory"):
        imported_rows.redact([DataRow("hi")], PrivacySection(), "classify", tmp_path / "none")


def test_new_version_of_the_redaction_bundle_reruns_the_stages(tmp_path: Path) -> None:
    """The hash of the redaction bundle is an input of the stages that read rows, so a new version makes them run
    again."""
    inputs = []
    for version in ("1.0.0", "1.1.0"):
        sections = f"privacy: {{redaction_bundle: {redactor(tmp_path, version)}}}"
        recipe = recipe_of(tmp_path, sections=sections)
        inputs.append(inputs_of(STAGES["evaluate"], recipe, {}, lambda *_: None)["data.test"])
    assert inputs[0] != inputs[1]
    assert all(" redacted by " in each for each in inputs)
