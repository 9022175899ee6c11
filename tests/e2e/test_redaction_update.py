"""A redaction bundle from publication to rollback: signed, planned, downloaded, used, replaced, and rolled back.

The models are the echo runtime's, which takes every run of digits as personal data; each version has its own label.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convert.cli import app
from edge_agent.capture.redact import RULES_VERSION
from edge_agent.client import CallFailed, ReviewClient
from edge_agent.formats import plan as plans
from edge_agent.formats.plan import ProbationRules
from edge_agent.formats.signed_document import public_key_hex
from tests.support.bundles import echo_bundle
from tests.support.eventually import eventually_sync
from tests.support.examples import CENTRAL_KEY
from tests.support.fleet_cases import CentralTeam
from tests.support.fleet_site import TASK, FleetSite

SECRET = "407193825"
TEXT = f"a refund for room {SECRET}"
BOUND = {"target": 0.05, "delta": 0.1, "n": 300, "families": 300, "values": 600, "values_max": 2, "bound": 0.05}
SETTINGS: dict[str, Any] = {
    "examples": {"collect": {TASK: "upstream"}, "commit_seconds": 0.05, "disk_reserve_bytes": 0},
    "redaction": {"task": "pii"},
    "site": {"receipt_keys": [public_key_hex(CENTRAL_KEY)]},
}


def redactor(folder: Path, version: str, label: str) -> Path:
    """Write a redaction bundle with a risk bound that labels runs of digits."""
    section = {"cutoff": 0.5, "bound": {**BOUND, "rules": RULES_VERSION}}
    tags = ("O", f"B-{label}", f"I-{label}")
    return echo_bundle(
        folder / f"pii-{version}", "pii", "redact", tags, version, weights=version.encode(), redaction=section
    )


def is_kept_as(site: FleetSite, text: str) -> bool:
    """Classify a text with the secret; return whether the stored example has this text."""
    with site.daemon.client() as client:
        prediction = client.classify(TASK, [TEXT])[0].prediction_id
    kept: list[str] = []

    def is_kept() -> bool:
        with ReviewClient(f"unix:{site.daemon.run_dir}/review.sock") as reviewer:
            try:
                kept.append(reviewer.prediction(prediction).input)
            except CallFailed:
                return False
            return True

    eventually_sync(is_kept)
    return kept == [text]


def reported(site: FleetSite, folder: Path, central: CentralTeam) -> list[tuple[str, str]]:
    """Return site and redaction model of each line of `edge-convert fleet`."""
    (folder / "plan.json").write_bytes(plans.encode(central.held.plan))
    said = CliRunner().invoke(app, ["fleet", str(site.store), "--plan", str(folder / "plan.json"), "--json"])
    return [(each["site"], each["model"]) for each in json.loads(said.stdout)["redaction"]]


@pytest.mark.slow
def test_redaction_bundle_update_and_rollback(tmp_path: Path):
    """Examples are redacted by the planned version, then by its update, then by the earlier one after a rollback, and
    `edge-convert fleet` shows which. The personal value is in no file of the site or the store."""
    central = CentralTeam(tmp_path / "central")
    labels = ("refund", "price")
    answering = central.publish(echo_bundle(tmp_path / "intent", TASK, labels=labels, version="1.0.0"))
    first = central.publish(redactor(tmp_path, "1.0.0", "ROOM"))
    rules = ProbationRules(calls=0)
    central.plan(central.offering(answering, first, probation=rules))
    with FleetSite(tmp_path / "site", central, **SETTINGS) as site, site.daemon.admin() as admin:
        eventually_sync(lambda: admin.status().redaction.model == "pii@1.0.0", 60)
        assert [True, True] == [task.signed for task in admin.status().tasks]
        assert is_kept_as(site, "a refund for room [ROOM_1]")
        central.plan(
            central.offering(answering, central.publish(redactor(tmp_path, "2.0.0", "SUITE")), probation=rules)
        )
        eventually_sync(lambda: admin.status().redaction.model == "pii@2.0.0", 60)
        assert is_kept_as(site, "a refund for room [SUITE_1]")
        eventually_sync(lambda: reported(site, tmp_path, central) == [("shop-1", "pii@2.0.0")], 60)
        admin.rollback("pii")
        eventually_sync(lambda: admin.status().redaction.model == "pii@1.0.0", 60)
        assert is_kept_as(site, "a refund for room [ROOM_1]")
        admin.seal_examples()
        eventually_sync(lambda: [*site.store.rglob("*.age")] != [], 60)
        eventually_sync(lambda: reported(site, tmp_path, central) == [("shop-1", "pii@1.0.0")], 60)
        written = [path for folder in (site.daemon.state_dir, site.store) for path in folder.rglob("*")]
        found = [path for path in written if path.is_file() and SECRET.encode() in path.read_bytes()]
        assert [] == found
        assert SECRET not in site.daemon.log.read_text()
