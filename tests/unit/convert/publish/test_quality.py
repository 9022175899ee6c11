"""Quality figures of a bundle: signed with it and shown to each signer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convert.publish import publishable_bundle, staged_change
from convert.publish.repository_reader import newest
from edge_agent.errors import HashMismatch
from tests.support.bundles import echo_bundle
from tests.support.fleet_cases import CentralTeam

SHARE = {"value": 0.9, "low": 0.85, "high": 0.94, "level": 0.95}
FIGURES = {
    "rows": 300,
    "families": 100,
    "accuracy": SHARE,
    "sure": {"coverage": SHARE, "wrong": {"value": 0.02, "low": 0.0, "high": 0.05, "level": 0.95}},
    "calibration": {"calibration_error": {"value": 0.03, "low": 0.0, "high": 0.07, "level": 0.95}},
    "near_copies": {"rows": 3},
    "without_near_copies": {"rows": 297, "accuracy": SHARE},
}


def reported(folder: Path, version: str, **changed: Any) -> Path:
    evaluate = {**FIGURES, "per_label": {"refund": {}}, **changed}
    return echo_bundle(folder, version=version, report=json.dumps({"evaluate": evaluate}).encode())


def test_quality_figures_are_signed_with_the_bundle(tmp_path: Path):
    """The headline figures of a bundle's report are in the signed metadata and read back unchanged."""
    central = CentralTeam(tmp_path)
    central.publish(reported(tmp_path / "one", "1.9.0"))
    central.publish(reported(tmp_path / "two", "1.10.0", rows=400))
    held = central.publisher.read_state().bundles()
    assert [FIGURES, FIGURES | {"rows": 400}] == sorted(
        (dict(each.quality) for each in held.values()), key=lambda q: q["rows"]
    )
    assert "1.10.0" == getattr(newest(held, "pos-intent"), "version", "")


def test_signer_sees_figures_of_new_and_previous_version(tmp_path: Path):
    """The description of a change has the headline figures of the new bundle and of the newest signed version."""
    central = CentralTeam(tmp_path)
    central.publish(reported(tmp_path / "one", "1.0.0"))
    before = central.publisher.read_state().targets.signed
    central.publish(reported(tmp_path / "two", "1.1.0", rows=400))
    lines = list(staged_change.describe_targets(before, central.publisher.read_state().targets.signed, lambda key: key))
    said = "It is right on 90.0% (95% interval 85.0% to 94.0%) of"
    assert f"    {said} 400 test rows in 100 families." == lines[1]
    assert f"      {said} 300 test rows in 100 families." in lines
    assert any(line.startswith("    before, pos-intent 1.0.0") for line in lines)
    assert any("90.0% (95% interval 85.0% to 94.0%) of the answers are confident" in line for line in lines)


def test_bundle_without_report_has_no_figures(tmp_path: Path):
    """A bundle without a report, or with one that is not JSON, has no quality figures."""
    with publishable_bundle.open_bundle(echo_bundle(tmp_path / "one")) as bundle:
        assert {} == publishable_bundle.quality_figures(bundle)
    with publishable_bundle.open_bundle(echo_bundle(tmp_path / "two", report=b"not JSON")) as bundle:
        assert {} == publishable_bundle.quality_figures(bundle)


@pytest.mark.parametrize(
    "spoilt",
    [
        None, [], "x", {"rows": 3}, {"rows": True, "accuracy": SHARE}, {"rows": -1, "accuracy": SHARE},
        {"rows": 3, "accuracy": SHARE | {"low": "0"}}, {"rows": 3, "accuracy": SHARE | {"value": 7.0}},
        {"rows": 3, "accuracy": SHARE | {"high": float("nan")}},
    ],
)  # fmt: skip
def test_only_valid_figures_are_copied(spoilt: object):
    """Invalid headline figures are dropped as a whole, and keys whose value is not a figure are not copied."""
    assert {} == publishable_bundle.headline_figures(spoilt)
    assert {"rows": 3, "accuracy": SHARE} == publishable_bundle.headline_figures(
        {"rows": 3, "accuracy": SHARE, "families": "\x1b[2J", "sure": 4}
    )
    assert {} == publishable_bundle.decode("{") == publishable_bundle.decode(7)


def test_bundle_is_fetched_from_a_repository(tmp_path: Path):
    """A bundle is fetched byte for byte from a repository, and a damaged blob is an error."""
    central, made = CentralTeam(tmp_path), reported(tmp_path / "one", "1.0.0")
    central.publish(made)
    digest = next(iter(central.publisher.read_state().bundles()))
    publishable_bundle.fetch(central.publisher.storage, digest, tmp_path / "copy")
    assert {path.name: path.read_bytes() for path in made.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()
    }
    blob = next(
        path for path in central.folder.rglob("*") if path.is_file() and path.read_bytes().startswith(b'{"evaluate')
    )
    blob.write_bytes(b"x")
    with pytest.raises(HashMismatch, match="is damaged"):
        publishable_bundle.fetch(central.publisher.storage, digest, tmp_path / "again")
