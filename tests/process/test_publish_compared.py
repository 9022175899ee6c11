"""`edge-convert publish --compare-on`: a bundle is compared with the signed version of its task before it is signed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from convert.cli import app
from tests.support.bundles import INTENTS, echo_bundle
from tests.support.fleet_cases import CentralTeam

CONFIDENT = {"policy": "threshold", "temperature": 1.0, "target_risk": 0.05, "delta": 0.1, "n": 99, "bound": 0.05}


def confidence(threshold: float, coverage: float) -> dict[str, object]:
    return {**CONFIDENT, "threshold": threshold, "coverage": coverage}


@pytest.mark.slow
def test_bundle_with_lower_coverage_is_not_signed(tmp_path: Path):
    """A bundle with the same answers but fewer confident ones is refused with the figures and not signed;
    `--accept-worse` signs it."""
    central = CentralTeam(tmp_path)
    central.publish(echo_bundle(tmp_path / "one", weights=b"w" * 900, confidence=confidence(0.1, 0.9)))
    worse = echo_bundle(tmp_path / "two", weights=b"w" * 900, version="1.1.0", confidence=confidence(1.0, 0.2))
    rows = tmp_path / "rows.jsonl"
    texts = [f"message {i} about {INTENTS[i % 8]}" if i % 2 else f"nothing known {i}" for i in range(40)]
    rows.write_text("".join(json.dumps({"text": text, "label": INTENTS[i % 8]}) + "\n" for i, text in enumerate(texts)))
    place = ["--to", str(central.folder), "--keys", str(central.keys), "--compare-on", str(rows)]
    result = CliRunner().invoke(app, ["publish", str(worse), *place], catch_exceptions=False)
    said = " ".join(result.output.split())
    assert (1, True) == (result.exit_code, "is worse than pos-intent 1.0.0" in said)
    assert "confident answers; it was not signed" in said
    assert "| confident answers |" in said
    assert 1 == len(central.publisher.read_state().bundles())
    result = CliRunner().invoke(app, ["publish", str(worse), *place, "--accept-worse"], catch_exceptions=False)
    assert 0 == result.exit_code, result.output
    assert ["1.0.0", "1.1.0"] == [each.version for each in central.publisher.read_state().bundles().values()]


def test_first_version_of_a_task_is_signed_without_comparison(tmp_path: Path):
    """If no version of the task is signed, the command reports that it compares nothing, and signs."""
    central, rows = CentralTeam(tmp_path), tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a refund", "label": "refund"}\n')
    bundle = echo_bundle(tmp_path / "one")
    place = ["--to", str(central.folder), "--keys", str(central.keys), "--compare-on", str(rows)]
    result = CliRunner().invoke(app, ["publish", str(bundle), *place], catch_exceptions=False)
    assert "No other version of pos-intent is signed, so there is nothing to compare with." in result.output
    assert 1 == len(central.publisher.read_state().bundles())


def test_missing_comparison_rows_are_refused_before_signing(tmp_path: Path):
    """If the rows do not exist, nothing is signed, even if there is no version to compare with: a mistyped path must
    not pass for a comparison."""
    central, bundle = CentralTeam(tmp_path), echo_bundle(tmp_path / "one")
    (tmp_path / "folder").mkdir()
    for name, said in (("rows.jsonl", "rows.jsonl does not exist"), ("folder", "folder is not a file")):
        place = ["--to", str(central.folder), "--keys", str(central.keys), "--compare-on", str(tmp_path / name)]
        result = CliRunner().invoke(app, ["publish", str(bundle), *place])
        assert said in "".join(result.output.split("\n")), result.output
    assert not central.publisher.read_state().bundles()
