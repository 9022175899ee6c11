"""`edge-convert fleet`: reads the sites' status objects, accepts only signed ones, and prints the rollout status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from convert.cli import app
from convert.fleet.site_registry import SiteRegistry
from edge_agent.formats import plan as plans
from edge_agent.formats.plan import RolloutPlan
from edge_agent.formats.signed_document import format_timestamp, public_key_hex
from tests.support.examples import NOW, SITE_KEY
from tests.support.heartbeats import heartbeat, lay_down, update
from tests.support.plans import NEW, OLD, plan, task

STRANGER = Ed25519PrivateKey.from_private_bytes(b"x" * 32)


class Fleet:
    """A folder with status objects of sites, a plan and a registry."""

    def __init__(self, root: Path) -> None:
        self.store, self.plan, self.registry = root / "store", root / "plan.json", root / "sites.json"
        self.store.mkdir()

    def want(self, wanted: RolloutPlan) -> None:
        self.plan.write_bytes(plans.encode(wanted))

    def run(self, *more: str) -> Result:
        return CliRunner().invoke(app, ["fleet", str(self.store), "--plan", str(self.plan), *more])

    def json(self, *more: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.run("--json", *more).stdout)
        return found


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """Return a fleet of ten shops: one runs the new bundle, one failed to."""
    made = Fleet(tmp_path)
    made.want(plan(task(waves=[(format_timestamp(NOW - 60), 50), (format_timestamp(NOW + 10**9), 100)])))
    for number in range(8):
        lay_down(made.store, heartbeat(f"shop-{number}", OLD, update("waiting", "WAVE_LATER")))
    lay_down(made.store, heartbeat("shop-8", NEW, update("probation")))
    message = "its golden answers agree on 31 of 40; the bundle asks for 38"
    lay_down(made.store, heartbeat("shop-9", OLD, update("failed", "GOLDEN_DISAGREES", message=message)))
    return made


def test_fleet_prints_the_rollout_status(fleet: Fleet):
    """`edge-convert fleet` prints sites, waves and each failure with site and reason; as one of two sites failed, it
    recommends a halt and exits with 1."""
    found = fleet.run()
    assert 1 == found.exit_code, found.output
    said = " ".join(found.stdout.split())
    assert "plan 1: 10 of 10 sites have read it; their signatures were not checked" in said
    assert "up to 50%" in said
    head = next(line for line in found.stdout.splitlines() if line.startswith("task"))
    assert ["due", "there", "waiting"] == [word for word in head.split() if word in ("due", "there", "waiting", "held")]
    assert "…" not in head
    assert "failed: pos-intent on stable, 1 site (shop-9), GOLDEN_DISAGREES: its golden answers agree on 31" in said
    assert "halt recommended: pos-intent on stable: 1 of the 2 sites that tried it failed (50.0%" in said


def test_fleet_prints_the_rollout_status_as_json(fleet: Fleet):
    """`--json` has the figures of the table, the reasons and the recommendation to halt."""
    [found] = fleet.json()["tasks"]  # type: ignore[misc]
    assert (10, 1, 1, 2) == (found["sites"], found["there"], found["failed"], found["tried"])
    assert found["halt_recommended"]
    assert ["GOLDEN_DISAGREES", "WAVE_LATER"] == [reason["reason"] for reason in found["reasons"]]


def test_plan_in_yaml_is_refused(fleet: Fleet):
    """A plan in YAML is refused by its path, with `edge-convert plan show --json` as the remedy."""
    fleet.plan.write_text("channels: {}\n")
    done = fleet.run()
    said = " ".join(done.output.split())
    assert (2, True) == (done.exit_code, f"{fleet.plan} is not a plan as the sites receive it" in said), said
    assert "edge-convert plan show --json" in said


def test_exit_code_is_0_without_a_recommended_halt(fleet: Fleet):
    """If the plan allows 50% of the sites to fail and one of two failed, `edge-convert fleet` exits with 0."""
    fleet.want(plan(task(failure_percent_max=50)))
    assert 0 == fleet.run().exit_code


def test_with_registry_only_registered_keys_count(fleet: Fleet):
    """With a registry, a status that is signed by another key or comes from an unknown site is refused, and registered
    sites without a status are listed."""
    for site in ("shop-8", "shop-9", "shop-77"):
        SiteRegistry(fleet.registry).accept(site, public_key_hex(SITE_KEY))
    lay_down(fleet.store, heartbeat("shop-9", NEW, update("done")), STRANGER)
    found = fleet.json("--sites", str(fleet.registry))
    assert (1, ["shop-77"]) == (found["sites"], found["unheard"])
    refused = found["refused"]
    assert isinstance(refused, dict)
    assert 9 == len(refused)
    assert "another key than the site's" in refused["shop-9"]
    assert "not registered" in refused["shop-0"]


def test_invalid_status_is_listed_as_refused(fleet: Fleet):
    """A damaged status object, or one stored under another site's name, is listed as refused, and the other sites still
    count."""
    (fleet.store / "site=shop-0" / "status.json").write_bytes(b"{")
    lay_down(fleet.store, heartbeat("shop-2"), site="shop-1")
    found = fleet.json()
    assert (8, {"shop-0", "shop-1"}) == (found["sites"], set(found["refused"]))  # type: ignore[call-overload]


def test_control_characters_in_a_status_are_escaped(fleet: Fleet):
    """Control characters and line breaks in a site's messages are escaped, so a site can neither control the terminal
    nor forge a line."""
    evil = update("failed", "WHY", message="\x1b]0;owned\x07\x9b31mred\nhalt recommended: everything")
    lay_down(fleet.store, heartbeat("shop-9", OLD, evil, update_problem="\x1b[2J"))
    said = fleet.run().stdout
    assert not {"\x1b", "\x07", "\x9b"} & set(said)
    assert "\nhalt recommended: everything" not in said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--sites", "missing.json"], 2, "missing.json is not a file"),
        (["--sites", "a", "--collected", "b"], 2, "either --collected or --sites"),
        (["--store-option", "region"], 2, "KEY=VALUE"),
    ],
)
def test_invalid_options_are_refused(fleet: Fleet, arguments: list[str], code: int, said: str):
    """A missing registry, contradicting options or an invalid store option exits with 2 and a message that names the
    problem."""
    found = fleet.run(*arguments)
    assert (code, True) == (found.exit_code, said in found.output), found.output


def test_invalid_or_missing_plan_is_an_error(fleet: Fleet):
    """An invalid plan.json exits with 2 and a missing one with 3; neither is read as an empty plan."""
    fleet.plan.write_text('{"version": "x"}')
    found = fleet.run()
    assert (2, True) == (found.exit_code, "plan.json" in found.output)
    fleet.plan.unlink()
    assert 3 == fleet.run().exit_code


@pytest.mark.slow
def test_thousand_sites_are_read_in_one_run(tmp_path: Path):
    """One run reads the status of 1,000 sites and counts each of them."""
    made = Fleet(tmp_path)
    made.want(plan(task(waves=[(format_timestamp(NOW), 10)])))
    for number in range(1000):
        lay_down(made.store, heartbeat(f"shop-{number}"))
    assert 1000 == made.json()["sites"]
