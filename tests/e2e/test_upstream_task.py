"""A task without a model, from task.yaml over a signed USB drive to answers of the large model, or none without it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

import convert.cli
from edge_agent.cli import app
from tests.support.escalating_site import TASK, EscalatingSite
from tests.support.eventually import eventually_sync
from tests.support.fleet_cases import CentralTeam
from tests.support.large_model import LargeModel

RECIPE = f"""
version: 1.0.0
runtime: upstream
task:
  name: {TASK}
  kind: classify
  labels: [refund, price, hours]
  prompt: {{chat: true, system: Sort what a customer says at the till by what the customer wants.}}
"""


def run(command, *arguments):
    """Run a command; return its output."""
    result = CliRunner().invoke(command, list(map(str, arguments)))
    assert 0 == result.exit_code, result.output
    return result.output


@pytest.fixture
def central(tmp_path: Path) -> CentralTeam:
    """A central team that has assembled, signed and planned the task."""
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "task.yaml").write_text(RECIPE)
    said = run(convert.cli.app, "assemble", tmp_path / "task", "--out", tmp_path / "bundle")
    assert f"{TASK} 1.0.0, upstream, 0 files" in " ".join(said.split())
    made = CentralTeam(tmp_path / "central")
    made.plan(made.offering(made.publish(tmp_path / "bundle")))
    return made


@pytest.mark.slow
def test_task_without_model_runs_in_bootstrap_mode(central: CentralTeam, tmp_path: Path):
    """An imported, signed task without a model runs in bootstrap mode regardless of agent.yaml; while the large model
    is offline it abstains with the reason."""
    (tmp_path / "root.json").write_bytes(central.root_bytes)
    sections = {
        "store": {"allow_unsigned": False},
        "update": {"root_file": str(tmp_path / "root.json"), "check_seconds": 0.1},
    }
    with LargeModel(lambda _: "hours") as oracle, EscalatingSite(tmp_path / "site", oracle, sections) as site:
        site.start_uplink()
        run(app, *site.serve.command()[3:], "import", central.drive(tmp_path / "drive"))
        eventually_sync(lambda: [task.name for task in site.admin.status().tasks if task.ready] == [TASK])
        (task,) = site.admin.status().tasks
        assert ("BOOTSTRAP", True) == (task.mode, site.admin.bundles()[0].signed)
        (answer,) = site.client.classify(TASK, ["when do you close?"])
        assert ("hours", "UPSTREAM", "MODE_BOOTSTRAP") == (answer.label, answer.route, answer.route_reason)
        assert "Sort what a customer says" in oracle.asked[0]["messages"][0]["content"]
        site.stop_uplink(signal.SIGKILL)
        site.await_online(False)
        for wish in ("as_mode", "answer", "abstain", "escalate"):
            (answer,) = site.client.classify(TASK, ["when do you close?"], on_low_confidence=wish)
            assert ("", "ABSTAINED", "UPSTREAM_OFFLINE") == (answer.label, answer.route, answer.route_reason)
            assert ("UPSTREAM_OFFLINE",) == answer.degraded
        assert 1 == len(oracle.asked)
        said = run(app, *site.serve.command()[3:], "classify", TASK, "when do you close?")
        assert "abstained" in said
