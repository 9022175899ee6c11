"""Rows of redaction by a model: it misses more than its bundle's bound, or the bound was proved with other rules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_agent.capture.redact import RULES_VERSION
from edge_agent.client.operator_reports import missed_values
from tests.support.bundles import echo_bundle
from tests.support.eventually import eventually_sync
from tests.support.finding_cases.case import made
from tests.support.finding_cases.site import TASK, FaultySite

BOUND = {"target": 0.05, "delta": 0.1, "n": 300, "families": 300, "values": 600, "values_max": 2, "bound": 0.05}
TEXTS = 12


def _audited(_: Path) -> Mapping[str, Any]:
    examples = {"collect": {TASK: "local"}, "commit_seconds": 0.05, "disk_reserve_bytes": 0}
    return {"examples": examples, "redaction": {"task": "pii", "audit_share": 1.0}}


def _install(site: FaultySite, version: str, rules: str = RULES_VERSION) -> None:
    """Install a model that finds runs of digits, and promises 5% with a version of the rules."""
    section = {"cutoff": 0.5, "bound": {**BOUND, "rules": rules}}
    tags = ("O", "B-ROOM", "I-ROOM")
    bundle = echo_bundle(
        site.folder / f"pii-{version}", "pii", "redact", tags, version, weights=b"pii", redaction=section
    )
    site.daemon.install(bundle)


def _next_version(site: FaultySite) -> None:
    """The central team has made another bundle, and it is here."""
    _install(site, "2.0.0")


@made(
    "redaction-missed/warning/missed-and",
    settings=_audited,
    prepare=lambda site: _install(site, "1.0.0"),
    by_hand=_next_version,
    words={"FILE": "rows.jsonl"},
)
def more_than_promised(site: FaultySite) -> None:
    """Every text has a name that the model does not find, and a person marks it."""
    with site.daemon.client() as client, site.daemon.admin() as admin:
        client.classify(TASK, [f"refund {100 + number} of Anna" for number in range(TEXTS)])
        eventually_sync(lambda: len(admin.redaction_audit()) == TEXTS)
        for text in admin.redaction_audit():
            admin.judge_redaction(text.prediction_id, missed_values(text, ["Anna"], "NAME"))
    site.until_found("redaction-missed")


@made(
    "redaction-proof/note/what-promises-was-proved-with-rules-of-version-this-agent-has-version",
    settings=_audited,
    by_hand=_next_version,
)
def proved_with_other_rules(site: FaultySite) -> None:
    """The bundle was made with an older version of the toolkit."""
    _install(site, "1.0.0", rules="1")
