"""Updates from the central team to an answer: published, downloaded, verified, tested, activated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convert.cli import app
from edge_agent.client import Classification
from edge_agent.formats import plan as plans
from edge_agent.formats.plan import ProbationRules
from tests.support.answering_server import AnsweringServer
from tests.support.bundles import echo_bundle
from tests.support.callers import Callers
from tests.support.eventually import eventually_sync
from tests.support.fleet_cases import CentralTeam
from tests.support.fleet_site import TASK, FleetSite

LABELS = ("refund", "price")
BASE, ADAPTER = b"weights" * 100_000, b"adapter" * 1000
THRESHOLD: dict[str, Any] = {
    "policy": "threshold",
    "temperature": 1.0,
    "threshold": 0.75,
    "target_risk": 0.05,
    "delta": 0.1,
    "n": 100,
    "bound": 0.04,
    "coverage": 0.8,
}


@pytest.fixture
def central(tmp_path: Path) -> CentralTeam:
    """A central team that has published nothing."""
    return CentralTeam(tmp_path / "central")


@pytest.fixture
def site(tmp_path: Path, central: CentralTeam) -> Iterator[FleetSite]:
    """A site with both its processes."""
    with FleetSite(tmp_path / "site", central) as started:
        yield started


def release(central: CentralTeam, folder: Path, version: str, **more: Any) -> str:
    """Publish a version and plan it for every site; return its digest."""
    bundle = echo_bundle(folder / version, TASK, labels=LABELS, version=version, **{"weights": BASE, **more})
    digest = central.publish(bundle)
    central.plan(central.offering(digest, probation=ProbationRules(calls=1)))
    return digest


def serve(server: AnsweringServer, central: CentralTeam) -> None:
    """Let a server offer the central team's published files."""
    files = (path for path in central.folder.rglob("*") if path.is_file())
    server.objects.update({f"/fleet/{path.relative_to(central.folder)}": path.read_bytes() for path in files})


@pytest.mark.slow
def test_published_update_is_activated_without_lost_calls(tmp_path: Path, central: CentralTeam, site: FleetSite):
    """A site activates the first published version and the next one without a lost call; status shows the active and
    the previous version."""
    release(central, tmp_path, "1.0.0")
    site.until("1.0.0")
    with Callers(site.daemon, TASK, 2) as callers:
        release(central, tmp_path, "2.0.0", weights=BASE + b"2")
        site.until("2.0.0")
        site.until_state("done")
    assert [] == callers.lost
    assert all(versions in (["1.0.0", "2.0.0"], ["2.0.0"]) for versions in callers.versions)
    found = site.update()
    assert found
    assert found.active
    assert found.previous
    assert ("2.0.0", "1.0.0") == (found.active.version, found.previous.version)
    with site.daemon.admin() as admin:
        assert [True] == [task.signed for task in admin.status().tasks]


@pytest.mark.slow
def test_update_with_swap_pause_loses_no_retried_call(tmp_path: Path, central: CentralTeam):
    """With `swap: pause` the old version stops before the new one loads, and callers that retry after the given delay
    lose no call."""
    with FleetSite(tmp_path / "site", central, engine={"swap": "pause"}) as site:
        release(central, tmp_path, "1.0.0")
        site.until("1.0.0")
        with Callers(site.daemon, TASK, 2) as callers:
            release(central, tmp_path, "2.0.0", weights=BASE + b"2")
            site.until("2.0.0")
            site.until_state("done")
        assert [] == callers.lost
        assert '"task_pauses"' in site.daemon.log.read_text()


@pytest.mark.slow
def test_existing_blobs_are_not_downloaded_again(tmp_path: Path, central: CentralTeam):
    """For a new adapter the site downloads only the adapter and the manifest, and for a new threshold only the
    manifest, not the weights."""
    other = {"adapter": ADAPTER[::-1]}
    moved: list[set[int]] = []
    with AnsweringServer() as server:
        uplink = {"updates_url": f"{server.address}/fleet", "updates_options": {"allow_http": "true"}}
        with FleetSite(tmp_path / "site", central, uplink=uplink) as site:
            for number, change in enumerate([{"adapter": ADAPTER}, other, {**other, "confidence": THRESHOLD}]):
                digest = release(central, tmp_path, f"1.0.{number}", **change)
                server.sent.clear()
                serve(server, central)
                site.until(f"1.0.{number}")
                ours = {hashlib.sha256(content).hexdigest() for content in (BASE, ADAPTER, other["adapter"])} | {digest}
                moved.append({size for path, size in server.sent.items() if path.rpartition("/")[2] in ours - {digest}})
                assert f"/fleet/blobs/{digest}" in server.sent
            with site.daemon.client() as client:
                [answer] = client.classify(TASK, ["refund"])
    assert [{len(BASE), len(ADAPTER)}, {len(ADAPTER)}, set()] == moved
    assert isinstance(answer, Classification)
    assert THRESHOLD["threshold"] == answer.threshold


@pytest.mark.slow
def test_fleet_status_shows_failed_update(tmp_path: Path, central: CentralTeam, site: FleetSite):
    """A bundle that fails its golden cases appears in `edge-convert fleet` as failed with the reason and a recommended
    halt, and the previous version keeps answering."""
    release(central, tmp_path, "1.0.0")
    site.until_state("done", "probation")
    golden = b'{"input": "refund", "answer": "neither"}\n'
    wanted = release(central, tmp_path, "2.0.0", weights=BASE + b"2", golden=golden)
    site.until_state("failed")
    assert "1.0.0" == site.version()
    (tmp_path / "plan.json").write_bytes(plans.encode(central.held.plan))

    def fleet() -> dict[str, Any]:
        result = CliRunner().invoke(app, ["fleet", str(site.store), "--plan", str(tmp_path / "plan.json"), "--json"])
        tasks = json.loads(result.stdout)["tasks"]
        return tasks[0] if tasks else {}

    eventually_sync(lambda: fleet().get("failed") == 1)
    found = fleet()
    assert ({wanted: "2.0.0"}, True) == (found["bundles"], found["halt_recommended"])
    assert ["GOLDEN_DIFFERS"] == [reason["reason"] for reason in found["reasons"]]


@pytest.mark.slow
def test_halted_bundle_is_not_activated(tmp_path: Path, central: CentralTeam, site: FleetSite):
    """A site does not activate a bundle that the plan halts; it waits with the reason HALTED."""
    release(central, tmp_path, "1.0.0")
    site.until("1.0.0")
    site.until_state("done")
    bundle = echo_bundle(tmp_path / "next", TASK, labels=LABELS, version="2.0.0", weights=BASE + b"2")
    central.plan(central.offering(central.publish(bundle), halted=True))
    site.until_state("waiting")
    found = site.update()
    assert found
    assert ("HALTED", "1.0.0") == (found.reason, site.version())


@pytest.mark.slow
def test_manual_rollback_holds_until_next_release(tmp_path: Path, central: CentralTeam, site: FleetSite):
    """After a manual rollback the site keeps the previous version until the plan names a new one."""
    for number in (1, 2):
        release(central, tmp_path, f"{number}.0.0", weights=BASE + bytes([number]))
        site.until(f"{number}.0.0")
    assert 0 == site.command("rollback", TASK).returncode
    assert "1.0.0" == site.version()
    site.until_state("held")
    release(central, tmp_path, "3.0.0")
    site.until("3.0.0")
