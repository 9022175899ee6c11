"""doctor's rules about the large model, its key and its caps."""

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
def test_the_large_model_is_judged(changed, large, key, budget):
    """Offline is a warning, for answers go on; a refused key and an uplink that is gone are faults."""
    found = verdicts(uplink_checks.judge_large_model(replace(WELL, **changed)))
    assert (large, key, budget) == tuple(found.get(name) for name in list_of_checks())


def list_of_checks():
    return [check.name for check in (uplink_checks.LARGE_MODEL, uplink_checks.KEY, uplink_checks.BUDGET)]


@pytest.mark.parametrize(("check", "changed"), [("large-model", SILENT), ("large-model-key", REFUSED)])
def test_a_fault_says_what_to_do(check, changed):
    """As a sentence, and as a command."""
    assert ("fault", True) == told(uplink_checks.judge_large_model(replace(WELL, **changed)), check)


def test_a_large_model_that_was_not_asked_yet_has_no_usual_time():
    """A time of 0 ms is one that is not known."""
    seen = only(uplink_checks.judge_large_model(replace(WELL, usual_ms=0.0)), "large-model").seen
    assert "large-1 can be asked, and was not asked yet; for pos-intent" == seen


def test_a_mistyped_address_does_not_stop_doctor():
    """Half an IPv6 address has no host to look up: the other commands of the finding stay."""
    found = uplink_checks.judge_large_model(replace(WELL, online=False, problem="x", url="https://[fe80::1/v1"))
    assert only(found, "large-model").command.endswith("ip -brief address; ip route")


def test_what_was_spent_is_told_with_its_cap():
    """In the currency that the prices are in."""
    seen = only(uplink_checks.judge_large_model(replace(WELL, spending=CAPPED)), "large-model-budget").seen
    assert "nearly spent: 0.95 of 1.00 today" == seen


def test_a_site_without_a_large_model_hears_nothing_of_it(tmp_path):
    """Neither of the model nor of a key."""
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
def test_an_uplink_that_has_just_started_is_no_fault(tmp_path, uplink, daemon, verdict):
    """Nor a daemon that has not reached it yet; one that fails at each start is, and one that stays silent."""
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


def test_the_key_is_looked_for_where_systemd_keeps_it(tmp_path):
    """Without a daemon the model cannot be judged, its key can."""
    named = EscalationConfig(url="https://models.example/v1", model="large-1")
    case = query_daemon(place(tmp_path, escalation=named))
    assert isinstance(uplink_checks.probe_large_model(case), ProbeFailure)
    (secret,) = enrolment_checks.probe_credentials(case)
    assert ("escalation", True, "") == (secret.purpose, secret.needed, secret.file.kind)
    assert secret.file.path.endswith("etc/credstore.encrypted/edge-agent-escalation.cred")
