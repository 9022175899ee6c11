"""Rows of production monitoring: confidences that fall, wrong answers, a task that an alarm put into shadow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_agent.client import Classification, ReviewClient
from tests.support.bundles import INTENTS, echo_bundle
from tests.support.finding_cases.case import made
from tests.support.finding_cases.large_model_rows import ORACLES, escalating
from tests.support.finding_cases.site import TASK, FaultySite
from tests.support.finding_cases.update_rows import CENTRAL_TEAMS, by_drive, take_drive, write_drive

CALIBRATED = {
    **{"policy": "threshold", "temperature": 1.0, "threshold": 0.9, "target_risk": 0.05, "delta": 0.1},
    **{"n": 100, "bound": 0.04, "coverage": 0.9},
}
UNSURE, WINDOW = "hmm", 64
CENTRAL = "central team"


def watched(folder: Path) -> Mapping[str, Any]:
    """Capture every answer and select each for review; the site takes plans from drives."""
    examples = {"collect": {TASK: "local"}, "commit_seconds": 0.05, "disk_reserve_bytes": 0, "review_share": 1.0}
    return {**by_drive(folder), "examples": examples}


def _plan(site: FaultySite, *demote_on: str) -> None:
    """Publish a plan with a calibrated version, and import it from a drive."""
    central = CENTRAL_TEAMS[site.folder]
    digest = central.publish(echo_bundle(site.folder / "calibrated", TASK, confidence=CALIBRATED))
    central.plan(central.offering(digest, mode="local", demote_on=demote_on))
    write_drive(site)
    take_drive(site)
    with site.daemon.admin() as admin:
        site.until(lambda: any(task.ready for task in admin.status().tasks))


def _drift(site: FaultySite) -> None:
    """Send inputs with low confidence until an alarm is raised."""

    def is_raised() -> bool:
        with site.daemon.client() as client, site.daemon.admin() as admin:
            client.classify(TASK, [UNSURE] * WINDOW)
            return bool(admin.status().alarms)

    site.until(is_raised)


monitored: Mapping[str, Any] = {"settings": watched, "has_task": False, "prepare": _plan}
made("field-drift/warning/f", person=CENTRAL, **monitored)(_drift)


@made("field-promise/fault/alarm-message", person=CENTRAL, **monitored)
def people_contradict(site: FaultySite) -> None:
    """A person finds that confident answers are wrong."""
    labels = [label for label in INTENTS if label != "other"]

    def is_raised() -> bool:
        with (
            site.daemon.client() as client,
            site.daemon.admin() as admin,
            ReviewClient(f"unix:{site.daemon.run_dir}/review.sock") as expert,
        ):
            for label, answer in zip(labels, client.classify(TASK, [f"{each} please" for each in labels]), strict=True):
                assert isinstance(answer, Classification), answer
                expert.correct(answer.prediction_id, next(each for each in labels if each != label), reviewer="anna")
            return bool(admin.status().alarms)

    site.until(is_raised)


def _with_large_model(folder: Path) -> Mapping[str, Any]:
    """Publish a plan that sets the mode of the task; shadow mode needs a large model."""
    return {**watched(folder), **escalating(folder, modes={})}


def _drifted(site: FaultySite) -> None:
    site.ends.enter_context(ORACLES[site.folder])
    _plan(site)
    site.serve("uplink", "large-model")
    _drift(site)


@made("field-demoted/warning/seen", **{**monitored, "settings": _with_large_model, "prepare": _drifted})
def plan_that_demotes(site: FaultySite) -> None:
    """The central team allows an alarm to put the task into shadow, and the alarm stands."""
    _plan(site, "confidence")
    site.until_found("field-demoted")
