"""Deferred escalations to the large model and the audit of confident answers, with real daemons that are killed in
between."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from contextlib import contextmanager

import pytest

from convert.calibrate.threshold import Risk
from convert.dataset.assessment import assess
from convert.dataset.dataset_files import write
from convert.dataset.selection import DatasetSelection
from edge_agent.formats.signed_document import public_key_hex
from tests.e2e.test_escalation import CALIBRATED, SURE, oracle_of
from tests.support.bundles import echo_bundle
from tests.support.escalating_site import TASK, EscalatingSite
from tests.support.eventually import eventually_sync
from tests.support.examples import CENTRAL_KEY, RECIPIENT
from tests.support.large_model import LargeModel
from tests.support.segments import CentralTeam

SECTIONS = {
    "site": {"id": "shop-1", "recipients": [RECIPIENT], "receipt_keys": [public_key_hex(CENTRAL_KEY)]},
    "examples": {"collect": {TASK: "upstream"}, "commit_seconds": 0.01},
}


@contextmanager
def site_of(folder, **settings):
    """Run both daemons on a site with deferred escalations; the uplink is not started yet."""
    with LargeModel(oracle_of) as oracle, EscalatingSite(folder, oracle, SECTIONS, **settings) as site:
        site.admin.install(echo_bundle(folder / "pos", confidence=CALIBRATED))
        yield site, oracle


def ask(site, *texts):
    return site.client.classify(TASK, list(texts))


def settled(site, waiting=0):
    """Wait until this number of questions is pending; return how many were answered and abandoned."""
    eventually_sync(lambda: sum(site.large_model().waiting.values()) == waiting, seconds=60)
    return site.large_model().opinions, dict(site.large_model().given_up)


def asked_about(oracle):
    """Count how often the large model received each input, without second attempts after a bad answer."""
    first = [body for body in oracle.asked if not any(turn["role"] == "assistant" for turn in body["messages"])]
    return Counter(turn["content"] for body in first for turn in body["messages"] if turn["role"] == "user")


def collected(site, folder):
    """Seal the examples, carry the outbox to the central team, and collect it."""
    site.admin.seal_examples()
    shutil.copytree(site.serve.state_dir / "outbox", folder / "store" / "site=shop-1", dirs_exist_ok=True)
    central = CentralTeam(folder)
    assert central.collect(folder / "store").clean
    return central


@pytest.mark.slow
def test_deferred_teacher_labels_reach_training_data(tmp_path):
    """While the large model is offline, answers that are not confident are returned at once and marked DEFERRED. Once
    it is online, its labels reach the dataset."""
    texts = [f"hmm {word}" for word in ("red", "blue", "green")]
    with site_of(tmp_path, later_questions_max=10) as (site, oracle):
        answers = ask(site, *texts, SURE, "mail anna@example.org hmm")
        expected = [("DEFERRED", "UPSTREAM_OFFLINE")] * 3 + [("LOCAL", "SURE"), ("DEFERRED", "UPSTREAM_OFFLINE")]
        assert expected == [(each.route, each.route_reason) for each in answers]
        assert all(each.label for each in answers)
        eventually_sync(lambda: site.large_model().waiting == {"deferred": 4, "audit": 0})
        site.start_uplink()
        assert (4, {}) == settled(site)
        assert {**dict.fromkeys(texts, 1), "mail [EMAIL_1] hmm": 1} == asked_about(oracle)
        central = collected(site, tmp_path)
    rows = central.query(
        "SELECT input, opinion, opinion_why, opinion_model, truth FROM examples WHERE opinion IS NOT NULL"
    )
    assert {(text, "hours", "deferred", "oracle-1", None) for text in texts} < set(rows)
    written = write(
        DatasetSelection(central.out, TASK, "opinions", shares={"train": 1.0}), "text-label", tmp_path / "data"
    )
    assert {"train": 4} == written.rows
    learnt = [json.loads(line) for line in (tmp_path / "data" / "train.jsonl").read_text().splitlines()]
    assert {(text, "hours") for text in texts} < {(row["text"], row["label"]) for row in learnt}


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["serve", "uplink"])
def test_daemon_kill_sends_no_question_twice(tmp_path, victim):
    """If either daemon is killed during an escalation, that question is abandoned and the other two are sent once
    each."""
    with site_of(tmp_path, later_questions_max=10) as (site, oracle):
        ask(site, *(f"hmm {word}" for word in ("one", "two", "three")))
        eventually_sync(lambda: site.large_model().waiting.get("deferred") == 3)
        oracle.seconds = 5.0
        site.start_uplink()
        eventually_sync(lambda: oracle.asked, seconds=60)
        if victim == "serve":
            site.serve.kill()
            oracle.seconds = 0.0
            site.serve.start(TASK)
        else:
            site.uplink.kill()
            site.uplink.wait()
            site.await_online(False)
            oracle.seconds = 0.0
            site.start_uplink()
        assert (2, {"lost" if victim == "serve" else "failed": 1}) == settled(site)
        assert {"hmm one": 1, "hmm two": 1, "hmm three": 1} == asked_about(oracle)


@pytest.mark.slow
def test_confident_answers_are_audited(tmp_path):
    """With an audit share of 1, every confident answer is later sent to the large model without degrading the answer;
    the assessment counts how many were right."""
    with site_of(tmp_path, later_questions_max=10, audit_share=1.0) as (site, oracle):
        site.start_uplink()
        answers = ask(site, SURE, "refund the kettle", "refund it now")
        assert [("refund", "LOCAL", "SURE", ())] * 3 == [
            (each.label, each.route, each.route_reason, each.degraded) for each in answers
        ]
        eventually_sync(lambda: site.large_model().opinions == 3, seconds=60)
        assert 3 == len(oracle.asked)
        central = collected(site, tmp_path)
    found = assess(central.out, TASK, Risk(0.05, 0.1))
    assert (3, 0, 3) == (found.audit.answers, found.audit.by_people, found.audit.by_opinion)
    assert (1.0, 0) == (found.audit.right.value, found.reviewed)
