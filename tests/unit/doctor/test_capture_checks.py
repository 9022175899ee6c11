"""`doctor` about redaction by a model: the audit's findings, and the rules with which its bound was proved."""

from dataclasses import replace

import pytest

from edge_agent.client import RedactionAuditState, RedactionState
from edge_agent.doctor import capture_checks
from edge_agent.doctor.probe_context import query_daemon
from tests.support.doctor_cases import only, place, told, verdicts

AUDIT = RedactionAuditState(
    waiting=3, texts=12, values=24, missed=12, share=0.5, low=0.3, high=0.7, target=0.02, exceeded=True
)
STATE = RedactionState("pii", "pii@1.0.0", 0, 0.0, "", {}, AUDIT, rules="2", proved_rules="2")


@pytest.mark.parametrize(
    ("changed", "missed", "proof"),
    [
        ({}, "warning", "ok"),
        ({"audit": replace(AUDIT, exceeded=False)}, "ok", "ok"),
        ({"audit": replace(AUDIT, texts=0, values=0, exceeded=False)}, None, "ok"),
        ({"audit": replace(AUDIT, target=None, exceeded=False), "proved_rules": ""}, "ok", None),
        ({"audit": None, "proved_rules": "1"}, None, "note"),
        ({"model": ""}, None, None),
    ],
)
def test_redaction_model_is_judged_by_its_audit_and_proof(changed, missed, proof):
    """More missed values than the bundle allows are a warning, and a proof with other rules is a note; without a model
    there is no finding."""
    found = verdicts(capture_checks.judge_redaction(replace(STATE, **changed)))
    assert (missed, proof) == (found.get("redaction-missed"), found.get("redaction-proof"))


def test_redaction_finding_has_figures_and_a_remedy():
    """A finding about redaction has the counts, the interval and the target, and a remedy with a command."""
    found = list(capture_checks.judge_redaction(replace(STATE, proved_rules="1")))
    seen = "pii@1.0.0 missed 12 of 24 values in 12 audited texts (30.0% to 70.0%) and promises at most 2%"
    assert seen == only(found, "redaction-missed").seen
    assert [("warning", True), ("note", True)] == [
        told(found, name) for name in ("redaction-missed", "redaction-proof")
    ]


def test_site_without_redaction_model_has_no_redaction_finding(tmp_path):
    """A site without a redaction model has no finding about an audit or a proof."""
    assert capture_checks.probe_redaction(query_daemon(place(tmp_path))) is None
    assert [] == list(capture_checks.judge_redaction(None))
