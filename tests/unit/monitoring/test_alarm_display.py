"""Where a monitoring alarm is shown: metrics, doctor, fleet report."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from typer.testing import CliRunner

from convert.cli import app
from edge_agent.client import FieldAlarm
from edge_agent.doctor import daemon_checks as doctor
from edge_agent.formats import plan as plans
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.formats.status_object import REMEDIES, RaisedAlarm
from edge_agent.metrics import site_metrics as metrics
from edge_agent.metrics.metric_catalogue import CATALOGUE, page
from edge_agent.monitoring.answer_observations import AlarmState, BundleSummary
from edge_agent.monitoring.risk_and_drift import RiskEvidence, RiskGuarantee
from tests.support.doctor_cases import told
from tests.support.examples import NOW
from tests.support.heartbeats import heartbeat, lay_down
from tests.support.plans import OLD, plan, task
from tests.support.scraped import parse

PROMISE = RiskGuarantee(0.05, 0.05)
EVIDENCE = {"people": RiskEvidence(20, 6, PROMISE.limit), "large-model": RiskEvidence(4, 0, 0.0)}
ALARM = AlarmState("till", "ab", "errors", NOW, "people found 6 of 20 sure answers wrong")


def scraped(serving: str):
    lines = [BundleSummary("till", "ab", PROMISE, EVIDENCE, 10, 9), BundleSummary("till", "cd", None, EVIDENCE, 1, 1)]
    samples = metrics.monitoring_samples(lines, {"till": serving}, {"till": [(ALARM, True)]})
    return parse("".join(page(list(samples), CATALOGUE)))


def test_metrics_describe_the_active_bundle():
    """Metrics have the active bundle's alarms, its agreement with the large model, and its evidence as a share of what
    refutes the guarantee."""
    found = scraped("ab")
    assert (1, 0) == tuple(found.value("field_alarm", task="till", alarm=name) for name in ("errors", "labels"))
    assert (10, 9) == tuple(found.value(f"field_{name}_total", task="till") for name in ("pairs", "agreed"))
    assert (20, 6, 1) == tuple(
        found.value(f"field_{name}", task="till", judge="people")
        for name in ("judged_total", "wrong_total", "evidence_ratio")
    )
    assert 1 == found.value("field_demoted", task="till")


def test_bundle_without_a_guarantee_has_no_evidence():
    """A bundle without a risk guarantee has agreement and drift metrics only."""
    assert [] == scraped("cd").labels("field_judged_total")


def test_doctor_has_a_finding_for_each_alarm():
    """A refuted guarantee is a fault, drift a warning, and a demotion names how it is reversed."""
    since = datetime.fromtimestamp(NOW, UTC)
    alarms = [
        FieldAlarm("till", "ab", "errors", since, None, "6 of 20 wrong", REMEDIES["errors"], demoted=True),
        FieldAlarm("till", "ab", "length", since, None, "longer", REMEDIES["length"], demoted=False),
    ]
    found = [each for alarm in alarms for each in doctor.judge_alarms([alarm])]
    assert [("fault", True), ("warning", True), ("warning", True)] == [
        told(found, name) for name in ("field-promise", "field-demoted", "field-drift")
    ]
    assert "edge-agent mode till planned" == next(each.command for each in found if each.check == "field-demoted")


def test_fleet_report_lists_alarms_of_sites(tmp_path):
    """The fleet report has site, task, alarm, date and remedy, and no line for a site without alarms."""
    raised = RaisedAlarm(
        alarm="errors", since=format_timestamp(NOW), message="people found 6 of 20 wrong", demoted=True
    )
    said = heartbeat("shop-1")
    lay_down(
        tmp_path / "store", said.model_copy(update={"tasks": (said.tasks[0].model_copy(update={"alarms": (raised,)}),)})
    )
    lay_down(tmp_path / "store", heartbeat("shop-2"))
    (tmp_path / "plan.json").write_bytes(plans.encode(plan(task(OLD, version="1.0.0"))))
    command = ["fleet", str(tmp_path / "store"), "--plan", str(tmp_path / "plan.json")]
    shown = " ".join(CliRunner().invoke(app, command).stdout.split())
    assert (
        "alarm: shop-1, pos-intent 1.0.0, errors since 2026-09-21: people found 6 of 20 wrong. In shadow there."
        in shown
    )
    (alarm,) = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["alarms"]
    assert ("shop-1", "errors", True, REMEDIES["errors"]) == (
        alarm["site"], alarm["alarm"], alarm["demoted"], alarm["remedy"])  # fmt: skip
