"""`doctor` about the large model, its key and its caps."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from edge_agent.client import LargeModel, Status
from edge_agent.config import EscalationConfig
from edge_agent.doctor import enrolment_checks, uplink_checks
from edge_agent.doctor.findings import ProbeFailure
from edge_agent.doctor.probe_context import UnitPhase, query_daemon
from edge_agent.doctor.uplink_checks import LargeModelFacts
from tests.support.doctor_cases import only, place, told, verdicts

WELL = LargeModelFacts("large-1", online=True, tasks=("pos-intent",), usual_ms=800.0, spending=(("today", 10, 0),))
REFUSED = {"online": False, "reason": "UPSTREAM_REFUSED", "problem": "the large model refuses the key (HTTP 401)"}
CAPPED = (("today", 950_000, 1_000_000), ("this month", 950_000, 0))
ACTIVE = "ActiveState=active\nSubState=running\nStateChangeTimestampMonotonic={}\n"
LONG = UnitPhase("", 600.0, active=True)
SILENT = {"online": False, "reason": "UPLINK_SILENT", "problem": "the uplink does not answer"}


@pytest.mark.parametrize(
    ("changed", "large", "key", "budget"),
    [
        ({}, "ok", "ok", "ok"),
        (SILENT, "fault", None, None),
        ({"tasks": ()}, "note", "ok", "ok"),
        ({"online": False, "problem": "nobody is there"}, "warning", None, "ok"),
        ({"problem": "it is overloaded"}, "note", "ok", "ok"),
        (REFUSED, "warning", "fault", "ok"),
        ({"affordable": False, "reason": "UPSTREAM_BUDGET_SPENT"}, "ok", "ok", "warning"),
        ({"spending": CAPPED}, "ok", "ok", "note"),
    ],
)
def test_large_model_is_judged(changed, large, key, budget):
    """An offline large model is a warning, because local answers continue; a refused key and a silent uplink are
    faults."""
    found = verdicts(uplink_checks.judge_large_model(replace(WELL, **changed)))
    assert (large, key, budget) == tuple(found.get(name) for name in list_of_checks())


def list_of_checks():
    return [check.name for check in (uplink_checks.LARGE_MODEL, uplink_checks.KEY, uplink_checks.BUDGET)]


@pytest.mark.parametrize(("check", "changed"), [("large-model", SILENT), ("large-model-key", REFUSED)])
def test_large_model_fault_has_a_remedy(check, changed):
    """A fault of the large model or its key has a remedy and a command."""
    assert ("fault", True) == told(uplink_checks.judge_large_model(replace(WELL, **changed)), check)


def test_unused_large_model_has_no_usual_time():
    """A usual time of 0 ms is reported as a large model that was not asked yet."""
    seen = only(uplink_checks.judge_large_model(replace(WELL, usual_ms=0.0)), "large-model").seen
    assert "large-1 can be asked, and was not asked yet; for pos-intent" == seen


def test_mistyped_large_model_address_keeps_other_commands():
    """Half an IPv6 address has no host to look up, and the finding keeps its other commands."""
    found = uplink_checks.judge_large_model(replace(WELL, online=False, problem="x", url="https://[fe80::1/v1"))
    assert only(found, "large-model").command.endswith("ip -brief address; ip route")


def test_budget_finding_has_spending_and_cap():
    """The finding of the budget states what was spent and its cap, in the currency of the prices."""
    seen = only(uplink_checks.judge_large_model(replace(WELL, spending=CAPPED)), "large-model-budget").seen
    assert "nearly spent: 0.95 of 1.00 today" == seen


def test_site_without_large_model_has_no_such_finding(tmp_path):
    """A site without a large model has no finding about the model or a key."""
    case = query_daemon(place(tmp_path))
    assert (None, []) == (uplink_checks.probe_large_model(case), list(uplink_checks.judge_large_model(None)))
    assert () == enrolment_checks.probe_credentials(case)


NOW = "the moment of the test"


@pytest.mark.parametrize(
    ("uplink", "daemon", "verdict"),
    [
        ("ActiveState=activating\nSubState=start\nNRestarts=0\n", LONG, "unseen"),
        (ACTIVE.format(NOW), LONG, "unseen"),
        (ACTIVE.format(1), UnitPhase("", 1.0, active=True), "unseen"),
        ("ActiveState=activating\nSubState=auto-restart\nNRestarts=3\n", LONG, "fault"),
        (ACTIVE.format(1), LONG, "fault"),
    ],
)
def test_uplink_that_just_started_is_unseen(tmp_path, uplink, daemon, verdict):
    """A silent uplink that just started, or whose daemon did, is unseen; one that fails at each start or stays silent
    is a fault."""
    where = place(tmp_path, escalation=EscalationConfig(url="https://models.example/v1", model="large-1"))
    case = query_daemon(replace(where, run=lambda _: uplink.replace(NOW, str(time.monotonic_ns() // 1000))))
    silent = LargeModel(False, True, "", SILENT["reason"], SILENT["problem"], 0.0, 0, 0, 0, 0, (), {}, 0.0, 0, {})
    status = Status("1", datetime.now(UTC), True, 0, (), (), (), 0, 0, large_model=silent)
    facts = uplink_checks.probe_large_model(
        replace(case, daemon=replace(case.daemon, managed=True, status=status, phase=daemon))
    )
    found = (
        uplink_checks.LARGE_MODEL.unseen(facts)
        if isinstance(facts, ProbeFailure)
        else only(uplink_checks.judge_large_model(facts), "large-model")
    )
    assert verdict == found.verdict


def test_large_model_key_is_searched_in_credstore(tmp_path):
    """Without a daemon, the large model is not judged, but its key is searched in systemd's credential store."""
    named = EscalationConfig(url="https://models.example/v1", model="large-1")
    case = query_daemon(place(tmp_path, escalation=named))
    assert isinstance(uplink_checks.probe_large_model(case), ProbeFailure)
    (secret,) = enrolment_checks.probe_credentials(case)
    assert ("escalation", True, "") == (secret.purpose, secret.needed, secret.file.kind)
    assert secret.file.path.endswith("etc/credstore.encrypted/edge-agent-escalation.cred")
