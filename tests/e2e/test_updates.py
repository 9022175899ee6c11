"""From the central team to an answer: published, brought by the uplink, believed, tested, switched to."""

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
    """Return a central team with nothing published yet."""
    return CentralTeam(tmp_path / "central")


@pytest.fixture
def site(tmp_path: Path, central: CentralTeam) -> Iterator[FleetSite]:
    """Yield a site with both its processes."""
    with FleetSite(tmp_path / "site", central) as started:
        yield started


def release(central: CentralTeam, folder: Path, version: str, **more: Any) -> str:
    """Publish a version, and want it everywhere; returns its digest."""
    bundle = echo_bundle(folder / version, TASK, labels=LABELS, version=version, **{"weights": BASE, **more})
    digest = central.publish(bundle)
    central.plan(central.offering(digest, probation=ProbationRules(calls=1)))
    return digest


def serve(server: AnsweringServer, central: CentralTeam) -> None:
    """Let a server give what the central team has published."""
    files = (path for path in central.folder.rglob("*") if path.is_file())
    server.objects.update({f"/fleet/{path.relative_to(central.folder)}": path.read_bytes() for path in files})


@pytest.mark.slow
def test_a_published_bundle_answers(tmp_path: Path, central: CentralTeam, site: FleetSite):
    """The first one and the next one, without a lost call; status shows the active and the previous version."""
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
def test_a_task_that_pauses_is_updated_too(tmp_path: Path, central: CentralTeam):
    """With `swap: pause` the old one stops first; callers who come back when they are told to lose nothing."""
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
def test_what_a_site_has_is_not_fetched_again(tmp_path: Path, central: CentralTeam):
    """A new adapter moves the adapter and a manifest; a new threshold the manifest; the weights stay where they are."""
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
def test_the_central_team_sees_what_became_of_it(tmp_path: Path, central: CentralTeam, site: FleetSite):
    """Through the status object that the uplink sends: a bundle that answers wrongly has failed, for that reason."""
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
def test_a_halt_reaches_who_has_not_switched(tmp_path: Path, central: CentralTeam, site: FleetSite):
    """The plan alone stops it, without the keys of bundles; the site says that it waits, and why."""
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
def test_a_rollback_by_hand_stays(tmp_path: Path, central: CentralTeam, site: FleetSite):
    """At once, and until the plan wants something else of the task."""
    for number in (1, 2):
        release(central, tmp_path, f"{number}.0.0", weights=BASE + bytes([number]))
        site.until(f"{number}.0.0")
    assert 0 == site.command("rollback", TASK).returncode
    assert "1.0.0" == site.version()
    site.until_state("held")
    release(central, tmp_path, "3.0.0")
    site.until("3.0.0")
