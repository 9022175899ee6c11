"""Production monitoring: both daemons, a scripted large model, and the views of operator, Prometheus and central
team."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_agent.cli import app
from edge_agent.client import ReviewClient
from tests.support.bundles import INTENTS, echo_bundle
from tests.support.escalating_site import TASK, EscalatingSite
from tests.support.eventually import eventually_sync
from tests.support.examples import RECIPIENT
from tests.support.fleet_cases import CentralTeam
from tests.support.free_ports import free_port
from tests.support.large_model import LargeModel
from tests.support.scraped import scrape

CALIBRATED = {
    **{"policy": "threshold", "temperature": 1.0, "threshold": 0.9, "target_risk": 0.05, "delta": 0.1},
    **{"n": 100, "bound": 0.04, "coverage": 0.9},
}
UNSURE = "hmm"
ANSWERED = {label: label for label in INTENTS} | {"refund": "price"}


class AlarmSite:
    """A site with every view that shows an alarm, and the central team whose plans it trusts."""

    def __init__(self, folder: Path, oracle: LargeModel) -> None:
        self.folder, self.port, self.central = folder, free_port(), CentralTeam(folder / "central")
        (folder / "root.json").write_bytes(self.central.root_bytes)
        sections = {
            "examples": {"collect": {TASK: "local"}, "commit_seconds": 0.01, "review_share": 1.0},
            "metrics": {"address": f"127.0.0.1:{self.port}"},
            "site": {"id": "shop-1", "recipients": [RECIPIENT]},
            "update": {"root_file": str(folder / "root.json"), "check_seconds": 0.1},
        }
        self.site = EscalatingSite(folder / "site", oracle, sections, modes={})
        self.digest = self.central.publish(echo_bundle(folder / "pos", confidence=CALIBRATED))
        self.drives = 0

    def plan(self, **said) -> None:
        """Publish a plan and import it from a USB drive."""
        self.central.plan(self.central.offering(self.digest, **said))
        self.drives += 1
        self.site.admin.import_update(self.central.copy(self.folder / f"drive-{self.drives}"))

    def series(self):
        (found,) = self.site.admin.field_report(TASK).series
        return found

    def mode(self) -> tuple[str, str]:
        (task,) = self.site.admin.status().tasks
        return task.mode, task.mode_by

    def run(self, *arguments: str) -> str:
        result = CliRunner().invoke(app, [*self.site.serve.command()[3:], *arguments])
        return " ".join(result.output.split())

    def heartbeat(self) -> list[dict]:
        """Return the task's alarms in the status object that the central team reads."""
        path = self.site.serve.state_dir / "outbox" / "status.json"
        return json.loads(path.read_bytes())["body"]["tasks"][0]["alarms"] if path.exists() else []


@pytest.fixture(scope="module")
def fielded(tmp_path_factory):
    """A site whose large model answers with the label in the text, but answers "price" to a refund."""
    folder = tmp_path_factory.mktemp("field")
    with LargeModel(lambda text: next((ANSWERED[label] for label in INTENTS if label in text), "hours")) as oracle:
        made = AlarmSite(folder, oracle)
        with made.site as site:
            made.plan(mode="shadow")
            eventually_sync(lambda: made.mode() == ("SHADOW", "plan"))
            site.start_uplink()
            yield made


def answer_in_shadow(fielded):
    """Let both models answer four texts, unless an earlier test did."""
    if not fielded.site.admin.field_report(TASK).series:
        sent = [label for label in INTENTS if label != "other"][:4]
        fielded.site.client.classify(TASK, [f"{label} please" for label in sent])
    eventually_sync(lambda: fielded.series().totals.get("answers") == 4)


def test_shadow_mode_reports_agreement(fielded):
    """In shadow mode the report has the agreement of both models by label, with an interval, and lists the answers on
    which they differ."""
    answer_in_shadow(fielded)
    found = fielded.series()
    agreed = {each.label: each.agreed for each in found.agreement if each.source == "shadow"}
    assert ((3, 4), (0, 1)) == tuple((agreed[label].hits, agreed[label].rows) for label in ("", "refund"))
    assert (0.75, pytest.approx(0.1941, abs=1e-4), pytest.approx(0.9937, abs=1e-4)) == (
        agreed[""].value, agreed[""].low, agreed[""].high)  # fmt: skip
    assert [("refund", "price")] == [(each.ours, each.theirs) for each in found.disagreements]
    assert {"people": 0, "large-model": 4} == {test.judge: test.wrong.rows for test in found.tests}
    assert ([4], 0.9) == ([day.agreement.rows for day in found.days], found.threshold)
    report = fielded.site.admin.field_report(TASK)
    assert (["oracle-1"], {TASK: "local"}) == ([report.large_model.model], report.collect)


def test_human_label_overrides_teacher_label(fielded):
    """When the large model contradicts a right answer, the report counts no error after a reviewer has confirmed the
    answer."""
    answer_in_shadow(fielded)
    (found,) = fielded.series().disagreements
    assert 1 == counted_wrong(fielded)
    with ReviewClient(f"unix:{fielded.site.serve.run_dir}/review.sock") as expert:
        expert.correct(found.prediction_id, "refund", reviewer="anna")
    assert (1, 1, 0) == reviewed(fielded.series().confidences[-1])
    assert (0, {"people": 1, "large_model": 3}) == (counted_wrong(fielded), judged_by(fielded))


def reviewed(found):
    """Return the numbers of answers that people reviewed, found right, and on which both models agreed."""
    return found.reviewed.rows, found.reviewed.hits, found.reviewed_agreed


def could_take(fielded):
    """Return the section of `edge-agent report` on the answers that the small model could give."""
    ran = CliRunner().invoke(app, [*fielded.site.serve.command()[3:], "report", TASK, "--json"])
    return json.loads(ran.stdout)["tasks"][0]["could_take"]


def counted_wrong(fielded):
    return could_take(fielded)["levels"][-1]["differ"]


def judged_by(fielded):
    return {who: number for who, number in could_take(fielded)["judged_by"].items() if who != "note"}


def drift(fielded):
    """Lower the confidence of answers until the drift alarm is raised; it stays raised."""
    fielded.plan(mode="local")
    for _ in range(8):
        fielded.site.client.classify(TASK, [UNSURE] * 64)
    eventually_sync(lambda: [alarm.alarm for alarm in fielded.site.admin.status().alarms] == ["confidence"])


def test_drift_raises_alarm_without_changing_mode(fielded):
    """Status, metrics, doctor and the status object show the drift alarm; without the plan's permission the mode stays
    unchanged."""
    drift(fielded)
    shown = fielded.run("status")
    assert "alarm: pos-intent, confidence for" in shown
    assert "in calibration they were 90.0%" in shown
    eventually_sync(lambda: [alarm["alarm"] for alarm in fielded.heartbeat()] == ["confidence"])
    stands = ("edge_agent_field_alarm", frozenset({"task": TASK, "alarm": "confidence"}.items()))
    eventually_sync(lambda: scrape(fielded.port).get(stands) == 1, seconds=60)
    assert "field-drift" in fielded.run("doctor")
    assert ("LOCAL", "plan") == fielded.mode()


@pytest.mark.slow
def test_alarm_demotes_task_to_shadow_once_if_plan_permits(fielded):
    """If the plan permits it, the alarm sets the mode to shadow and every view shows the cause. After the operator
    reverts it, the alarm does not demote again, even after a restart."""
    drift(fielded)
    fielded.plan(mode="local", demote_on=("confidence",))
    eventually_sync(lambda: fielded.mode() == ("SHADOW", "alarm"))
    assert "'edge-agent mode pos-intent planned' takes that back" in fielded.run("status")
    assert "set by an alarm, as the plan allows" in fielded.run("mode", TASK)
    eventually_sync(lambda: [alarm["demoted"] for alarm in fielded.heartbeat()] == [True])
    assert "task_demoted" in fielded.site.serve.log.read_text()
    fielded.run("mode", TASK, "planned")
    assert ("LOCAL", "plan") == fielded.mode()
    fielded.site.serve.stop()
    fielded.site.serve.start(TASK)
    eventually_sync(lambda: len(fielded.site.admin.status().alarms) == 1)
    assert ("LOCAL", "plan") == fielded.mode()
