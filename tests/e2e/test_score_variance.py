"""A bundle whose scores depend on other inputs of the batch, from its install to the answer of a client device."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from edge_agent.client import Classification, Extraction
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync

CALIBRATED = {"policy": "threshold", "temperature": 1.0, "threshold": 0.5, "target_risk": 0.05, "delta": 0.1}
CALIBRATED |= {"n": 100, "bound": 0.04, "coverage": 0.9}
SECONDS_MAX = 60.0
WHY = "the echo model was told to let scores depend on the batch"


def run(daemon: RunningDaemon, *words: str) -> str:
    return subprocess.run([*daemon.command(), *words], capture_output=True, text=True, timeout=60, check=False).stdout


def told(daemon: RunningDaemon, task: str) -> Classification | Extraction:
    with daemon.client() as client:
        asked = client.extract if task == "numbers" else client.classify
        (answer,) = asked(task, ["a refund of 5"])
    assert isinstance(answer, Classification | Extraction)
    return answer


def require_unconfident(daemon: RunningDaemon, task: str) -> None:
    """Require that an answer with a high score has no threshold, is below it and names the reason."""
    answer = told(daemon, task)
    assert answer.confidence > CALIBRATED["threshold"]
    assert (None, True) == (answer.threshold, answer.below_threshold)
    assert ("SCORES_VARY", ("SCORES_VARY",)) == (answer.route_reason, answer.degraded)


def confidence_findings(daemon: RunningDaemon) -> dict[str, dict[str, str]]:
    """Return doctor's findings about confidence by task, or nothing while the daemon is too busy."""
    found = json.loads(run(daemon, "doctor", "--json"))["findings"]
    return {each["about"]: each for each in found if each["check"] == "confidence"}


def require_found(daemon: RunningDaemon) -> None:
    """Require that doctor warns of both tasks, with a remedy."""
    found: dict[str, dict[str, str]] = {}

    def complete() -> bool:
        found.update(confidence_findings(daemon))
        return {"varying", "numbers"} == set(found)

    eventually_sync(complete, SECONDS_MAX)
    assert {"warning"} == {each["verdict"] for each in found.values()}
    assert all("edge-convert quantize" in each["remedy"] for each in found.values())


@pytest.mark.slow
def test_bundle_with_varying_scores_is_never_confident(tmp_path: Path) -> None:
    """A bundle whose scores vary with the batch gives no confident answer; install, the task list, status, the log and
    doctor give the reason. A bundle on the same engine is unaffected."""
    varying = {"confidence": CALIBRATED, "task": {"prompt": {"template": "!vary {input}"}}}
    labels = ("refund", "price")
    with RunningDaemon(tmp_path / "site") as daemon:
        said = run(daemon, "install", str(echo_bundle(tmp_path / "a", "varying", labels=labels, **varying)))
        daemon.install(
            echo_bundle(tmp_path / "b", "numbers", "extract", ("number",), **varying),
            echo_bundle(tmp_path / "c", "steady", labels=labels, confidence=CALIBRATED),
        )
        require_unconfident(daemon, "varying")
        require_unconfident(daemon, "numbers")
        steady = told(daemon, "steady")
        assert (0.5, False, ()) == (steady.threshold, steady.below_threshold, steady.degraded)
        with daemon.client() as client, daemon.admin() as admin:
            blockers = {task.name: task.confidence_blocker for task in client.tasks()}
            status = admin.status()
            listed = {each.ref.task: each.confidence_blocker for each in admin.bundles()}
        require_found(daemon)
    assert 1 == len(status.engines)
    assert {"varying": WHY, "numbers": WHY, "steady": ""} == blockers == listed
    assert f"warning: no answer of it is confident: {WHY}" in " ".join(said.split())
    assert [f"Task {task} answers, but no answer is confident: {WHY}." for task in ("numbers", "varying")] == [
        each for each in status.warnings if each.startswith("Task ")
    ]
    logged = [json.loads(line) for line in daemon.log.read_text().splitlines() if '"scores_vary"' in line]
    assert [("varying", WHY), ("numbers", WHY)] == [(each["task"], each["message"]) for each in logged]
