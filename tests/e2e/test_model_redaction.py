"""A site with a redaction model: captured and escalated texts pass through it, and wait while it does not answer.

The model is the echo runtime's, which takes every run of digits as personal data.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_agent.cli import app
from edge_agent.cli.privacy import export_rows
from edge_agent.client import CallFailed, ReviewClient
from edge_agent.client.operator_reports import missed_values
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.web_console import RunningConsole

TAGS = ("O", "B-ROOM", "I-ROOM")
SETTINGS = {
    "examples": {"collect": {"intent": "local", "talk": "local"}, "commit_seconds": 0.05},
    "redaction": {"task": "pii", "without_model": {"talk": "rules"}},
}


def redactor(folder: Path, version: str = "1.0.0", **more: object) -> Path:
    """Write a redaction bundle that finds digits on its own engine."""
    return echo_bundle(folder / version, "pii", "redact", TAGS, version, weights=b"pii", **more)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A daemon with two tasks and without a redaction bundle."""
    with RunningDaemon(tmp_path / "site", **SETTINGS) as daemon:
        daemon.install(echo_bundle(tmp_path / "intent", "intent", "classify", ("refund", "price")))
        daemon.install(echo_bundle(tmp_path / "talk", "talk", "generate"))
        yield daemon


def kept(daemon: RunningDaemon, prediction: str) -> str:
    """Return the stored input of an answer, or an empty string if it is not stored."""
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as reviewer:
        try:
            return reviewer.prediction(prediction).input
        except CallFailed as failed:
            assert "PREDICTION_UNKNOWN" == failed.reason
            return ""


def ask(daemon: RunningDaemon, text: str) -> str:
    """Classify a text; return the id of the answer."""
    with daemon.client() as client:
        return client.classify("intent", [text])[0].prediction_id


def test_captured_text_waits_for_redaction_model(site, tmp_path):
    """Until the redaction bundle is installed, captured texts wait and status has a warning; then they are stored
    redacted. A task for which rules suffice is captured at once."""
    waiting = ask(site, "a refund for room 407")
    with site.client() as client:
        said = client.generate("talk", "mail a@example.org about room 12")
        list(said)
    eventually_sync(lambda: kept(site, said.finish.prediction_id) == "mail [EMAIL_1] about room 12")
    with site.admin() as admin:
        status = admin.status()
        state = status.redaction
        assert ("", 1, 1) == (state.model, state.waiting, state.counts["passed_by_rules"])
        assert ["REDACTION"] == [each.kind for each in status.warning_details if each.kind == "REDACTION"]
    assert "" == kept(site, waiting)
    site.install(redactor(tmp_path))
    eventually_sync(lambda: kept(site, waiting) == "a refund for room [ROOM_1]")
    with site.admin() as admin:
        tried = admin.try_redaction("room 407, a@example.org")
        assert "room [ROOM_1], [EMAIL_1]" == tried.redacted
        assert [("model", 5), ("rules", 10)] == [(each.source, each.start) for each in tried.spans]
        assert not [each for each in admin.status().warning_details if each.kind == "REDACTION"]


@pytest.mark.slow
def test_example_waits_for_killed_redaction_engine(site, tmp_path):
    """An example that is captured after the redaction model's engine was killed is stored redacted."""
    site.install(redactor(tmp_path))
    with site.admin() as admin:
        (engine,) = [each for each in admin.status().engines if each.tasks == ("pii",)]
    os.kill(engine.pid, signal.SIGKILL)
    prediction = ask(site, "a refund for room 407")
    eventually_sync(lambda: kept(site, prediction) == "a refund for room [ROOM_1]")


@pytest.mark.slow
def test_feedback_that_cannot_be_redacted_is_refused(site, tmp_path):
    """When the redaction model fails on a reviewer's reason, the call fails with REDACTION_HELD and nothing is
    stored."""
    site.install(redactor(tmp_path, task={"prompt": {"template": "!fail after 1 {input}"}}))
    prediction = ask(site, "a refund for room 407")
    eventually_sync(lambda: kept(site, prediction) == "a refund for room [ROOM_1]")
    with ReviewClient(f"unix:{site.run_dir}/review.sock") as reviewer, pytest.raises(CallFailed) as caught:
        reviewer.reject(prediction, reviewer="anna", reason="ask room 408")
    assert "REDACTION_HELD" == caught.value.reason
    with ReviewClient(f"unix:{site.run_dir}/review.sock") as reviewer:
        assert () == reviewer.prediction(prediction).feedback


@pytest.mark.slow
def test_redaction_audit_reveals_missed_names(tmp_path):
    """A reviewer's audit reveals that a redaction bundle with a bound of 5% misses every name: status and a warning
    report it, training rows can be exported, and the originals can be erased by a missed value."""
    bound = {"target": 0.05, "delta": 0.1, "n": 300, "families": 300, "values": 600, "values_max": 2, "bound": 0.05}
    section = {"cutoff": 0.5, "bound": {**bound, "rules": "1"}}
    settings = {**SETTINGS, "redaction": {"task": "pii", "audit_share": 1.0}}
    with RunningDaemon(tmp_path / "site", **settings) as daemon, daemon.admin() as admin:
        daemon.install(echo_bundle(tmp_path / "intent", "intent", "classify", ("refund", "price")))
        daemon.install(redactor(tmp_path, redaction=section))
        for number in range(100, 112):
            ask(daemon, f"room {number} of Anna")
        eventually_sync(lambda: admin.status().redaction.audit.waiting == 12)
        # A value and a number that the first text does not have are asked again; the last text is skipped.
        said = ["Bob", "Anna", "NAME", "7", "", *["Anna", "NAME", ""] * 10, "s"]
        judging = CliRunner().invoke(app, [*daemon.command()[3:], "redact", "--audit"], "\n".join([*said, ""]))
        assert (0, 1, True) == (
            judging.exit_code, judging.output.count("'Bob' is not in the text"), "Judged 11" in judging.output,
        ), judging.output  # fmt: skip
        [text] = admin.redaction_audit()
        admin.judge_redaction(text.prediction_id, missed_values(text, ["Anna"], "NAME"))
        audit = admin.status().redaction.audit
        assert (0, 12, 24, 12, 0.5, 0.05) == (
            audit.waiting, audit.texts, audit.values, audit.missed, audit.share, audit.target,
        )  # fmt: skip
        assert audit.exceeded
        assert admin.status().redaction.is_proved_otherwise
        shown = CliRunner().invoke(app, [*daemon.command()[3:], "status"], terminal_width=400)
        assert "its promise was proved with rules of version 1" in " ".join(shown.output.split())
        assert ["pii@1.0.0"] == [
            each.about for each in admin.status().warning_details if each.kind == "REDACTION_MISSED"
        ]
        assert 12 == export_rows(admin, tmp_path / "rows.jsonl")
        rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
        spans = [{"start": 5, "end": 8, "label": "ROOM"}, {"start": 12, "end": 16, "label": "NAME"}]
        assert ("room 100 of Anna", spans) == (rows[0]["text"], rows[0]["spans"])
        assert 0o600 == stat.S_IMODE((tmp_path / "rows.jsonl").stat().st_mode)
        assert 12 == admin.erase_values(["Anna"]).found
        assert () == admin.redaction_audit(judged=True)


def test_redaction_audit_in_console(tmp_path):
    """The console's redaction audit shows an original with the found values marked, stores the missed values that a
    reviewer enters, and shows the next text. It refuses a value that is not in the text, and a text that was judged
    meanwhile."""
    settings = {**SETTINGS, "redaction": {"task": "pii", "audit_share": 1.0}}
    with RunningDaemon(tmp_path / "site", **settings) as daemon, daemon.admin() as admin:
        daemon.install(echo_bundle(tmp_path / "intent", "intent", "classify", ("refund", "price")))
        daemon.install(redactor(tmp_path))
        for number in (101, 102, 103):
            ask(daemon, f"room {number} of Anna <b>")
        eventually_sync(lambda: admin.status().redaction.audit.waiting == 3)
        first, second, third = admin.redaction_audit()
        with RunningConsole(daemon) as console:
            console.sign_in()
            page = console.get("/redaction/audit").text
            assert re.search(r'room <mark class="model" title="\[ROOM_1\]: [^"]*">101</mark> of Anna &lt;b&gt;', page)
            fields = {"row": str(first.row), "prediction_id": first.prediction_id, "label": "NAME"}
            refused = console.post("/redaction/audit", {**fields, "values": "Bob"})
            assert (422, True) == (refused.status, "'Bob' is not in the text" in refused.text)
            judged = console.post("/redaction/audit", {**fields, "values": "Anna", "wrong": "0"})
            assert (200, True, False) == (judged.status, ">102</mark>" in judged.text, ">101</mark>" in judged.text)
            for gone in (fields, {**fields, "row": "0"}):
                assert 409 == console.post("/redaction/audit", {**gone, "values": "Anna"}).status
            assert ">103</mark>" in console.get(f"/redaction/audit?after={second.row}").text
            assert "Show the skipped ones again" in console.get(f"/redaction/audit?after={third.row}").text
            for wrong in ({"row": "x"}, {"row": str(second.row), "prediction_id": second.prediction_id, "wrong": "-1"}):
                assert 422 == console.post("/redaction/audit", wrong).status
            assert 422 == console.get("/redaction/audit?after=-1").status
        [text] = admin.redaction_audit(judged=True)
        assert (first.prediction_id, [(12, 16, "NAME")], (0,)) == (
            text.prediction_id, [(each.start, each.end, each.label) for each in text.missed], text.wrong,
        )  # fmt: skip
        audit = admin.status().redaction.audit
        assert (2, 1, 1) == (audit.waiting, audit.texts, audit.missed)


def test_classifier_as_redaction_task_holds_everything(tmp_path):
    """If the configured redaction task is a classifier, no example is stored, and status and the trial give the
    reason."""
    settings = {**SETTINGS, "redaction": {"task": "intent"}}
    with RunningDaemon(tmp_path / "site", **settings) as daemon:
        daemon.install(echo_bundle(tmp_path / "intent", "intent", "classify", ("refund", "price")))
        prediction = ask(daemon, "a refund")
        with daemon.admin() as admin:
            assert "its bundle is of kind classify" in admin.try_redaction("hi").held_because
            eventually_sync(lambda: admin.status().redaction.held_because != "")
        assert "" == kept(daemon, prediction)
