"""`media export` and `status` against a real daemon without reviews, or on a new machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_agent.cli import app
from edge_agent.formats.signed_document import public_key_hex
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.examples import CENTRAL_KEY, RECIPIENT
from tests.support.fleet_cases import CentralTeam

SITE = {"id": "site-1", "recipients": [RECIPIENT], "receipt_keys": [public_key_hex(CENTRAL_KEY)]}
CONFIDENT = {
    **{"policy": "threshold", "temperature": 1.0, "threshold": 0.01, "target_risk": 0.05, "delta": 0.1},
    **{"n": 100, "bound": 0.04, "coverage": 0.9},
}


def runner(daemon: RunningDaemon) -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(app, [*daemon.command()[3:], *arguments])


@pytest.mark.slow
def test_new_machine_explains_how_to_collect_examples(tmp_path: Path) -> None:
    """On a new machine `status` and `media export` report that no examples are stored and name the setting."""
    (tmp_path / "root.json").write_bytes(CentralTeam(tmp_path / "central").root_bytes)
    with RunningDaemon(tmp_path / "site", site=SITE, update={"root_file": str(tmp_path / "root.json")}) as daemon:
        run = runner(daemon)
        assert "no examples are kept: 'examples.collect' in agent.yaml names no task" in run("status").stdout
        done = " ".join(run("media", "export", str(tmp_path)).stdout.split())
    assert "the status of this site, and no examples. No examples are kept here: 'examples.collect'" in done


def test_export_json_has_same_keys_without_site(tmp_path: Path) -> None:
    """`media export --json` has the same keys with and without a site id, and gives the reason for no examples."""
    local = {"collect": {"pos": "local"}}
    keys = {"site", "copied", "unchanged", "bytes", "no_examples", "no_drive"}
    with RunningDaemon(tmp_path / "none", examples=local) as daemon:
        without = json.loads(runner(daemon)("media", "export", str(tmp_path), "--json").stdout)
    with RunningDaemon(tmp_path / "site", examples=local, site=SITE) as daemon:
        with_site = json.loads(runner(daemon)("media", "export", str(tmp_path), "--json").stdout)
    assert (keys, keys) == (without.keys(), with_site.keys())
    assert ("", "Nothing leaves this site: 'site.id' in agent.yaml is not set") == (
        without["site"],
        without["no_examples"],
    )


@pytest.mark.slow
def test_export_before_reviews_reports_waiting_answers(tmp_path: Path) -> None:
    """Before any review, an export writes only status.json and reports how many confident answers wait for review."""
    examples = {"collect": {"pos": "upstream"}, "commit_seconds": 0.05, "routine_share": 0.0}
    with RunningDaemon(tmp_path / "site", examples=examples, site=SITE) as daemon:
        daemon.install(echo_bundle(tmp_path / "pos", "pos", labels=("refund", "price"), confidence=CONFIDENT))
        run = runner(daemon)
        with daemon.client() as client, daemon.admin() as admin:
            client.classify("pos", [f"a refund {number}" for number in range(4)])
            eventually_sync(lambda: sum(admin.status().examples.review_waiting.values()) == 4)
        done = " ".join(run("media", "export", str(tmp_path)).stdout.split())
        again = json.loads(run("media", "export", str(tmp_path), "--json").stdout)
    assert [tmp_path / "site=site-1" / "status.json"] == [
        path for path in tmp_path.glob("site=*/**/*") if path.is_file()
    ]
    assert "4 answers wait for review" in done
    assert "4 answers wait for review" in again["no_examples"]
    assert f"{tmp_path} is on this machine's own disk; is the drive mounted?" == again["no_drive"]
