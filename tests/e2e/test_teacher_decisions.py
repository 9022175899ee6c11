"""A large model that answers typed questions: another appliance, reached over HTTP by its gateway."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_agent.client import Classification, Decision
from edge_agent.formats import example_records
from tests.support.bundles import echo_bundle
from tests.support.escalating_site import TASK, EscalatingSite
from tests.support.eventually import eventually_sync
from tests.support.gateway_site import GatewaySite, gateway_site

DESK, LABELS = "front-desk", ("refund", "price", "hours")
SECRET = "anna@example.org"
COLLECTED: dict[str, Any] = {"examples": {"collect": {TASK: "local"}}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewaySite]:
    """An appliance with a task of the same labels, once under the same name and once under another."""
    folder = tmp_path_factory.mktemp("teacher")
    bundles = (
        echo_bundle(folder / "same", TASK, labels=LABELS[::-1], version="9.0.0"),
        echo_bundle(folder / "other", "intent-large", labels=LABELS),
        echo_bundle(folder / "desk", DESK, "decide"),
    )
    with gateway_site(folder / "site", *bundles) as running:
        yield running


def student(folder: Path, teacher: Any, token_file: Path, **settings: Any) -> EscalatingSite:
    return EscalatingSite(
        folder, teacher, COLLECTED, credentials_file=str(token_file), model=TASK, modes={TASK: "shadow"}, **settings
    )


def stored_prediction(site: EscalatingSite, prediction_id: str) -> dict[str, Any]:
    """Return the record of a prediction in the spool."""

    def read() -> list[Any]:
        with closing(sqlite3.connect(site.serve.state_dir / "spool.db")) as db:
            return db.execute("SELECT record FROM predictions WHERE prediction_id = ?", (prediction_id,)).fetchall()

    eventually_sync(lambda: len(read()) == 1)
    found: dict[str, Any] = json.loads(read()[0][0])
    return found


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"protocol": "decisions", "task_models": {TASK: "intent-large"}}, marks=pytest.mark.slow),
        pytest.param({"protocol": "systemone"}, marks=pytest.mark.slow),
    ],
)
def test_teacher_probabilities_are_stored_with_label(tmp_path: Path, teacher: GatewaySite, settings: Any) -> None:
    """The answer has the large model's likeliest label, and the stored example has the redacted input and the
    probability of each label."""
    text = f"the price for {SECRET}"
    with student(tmp_path, teacher, teacher.console.token_file, **settings) as site:
        site.admin.install(echo_bundle(tmp_path / "bundle", labels=LABELS))
        site.start_uplink()
        [answer] = site.client.classify(TASK, [text])
        assert isinstance(answer, Classification)
        record = stored_prediction(site, answer.prediction_id)
    with teacher.daemon.client() as direct:
        [same] = direct.classify(settings.get("task_models", {}).get(TASK, TASK), [record["input"]])
    assert isinstance(same, Classification)
    assert ("UPSTREAM", same.label) == (answer.route, answer.label)
    assert dict(same.scores) == pytest.approx(dict(record["teacher_scores"]))
    assert list(LABELS) == [label for label, _ in record["teacher_scores"]]
    assert SECRET not in record["input"]
    read = example_records.ExamplePrediction.model_validate({"kept": {"because": "escalated"}, **record})
    assert same.label == read.teacher_answer


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["decisions", "systemone"])
def test_only_unconfident_questions_are_sent_to_teacher(tmp_path: Path, teacher: GatewaySite, protocol: str) -> None:
    """A confident answer stays local; the other questions are answered by the large model, and their examples have its
    probabilities."""
    sure = {"policy": "threshold", "temperature": 1.0, "threshold": 0.5, "target_risk": 0.05, "delta": 0.1}
    confidence = {"intent": {**sure, "n": 100, "bound": 0.05, "coverage": 0.9}}
    modes = {"tasks": [DESK], "modes": {DESK: "hybrid"}}
    credentials = str(teacher.console.token_file)
    collected = {"examples": {"collect": {DESK: "local"}}}
    with EscalatingSite(
        tmp_path, teacher, collected, credentials_file=credentials, model=DESK, protocol=protocol, **modes
    ) as site:
        site.admin.install(echo_bundle(tmp_path / "bundle", DESK, "decide", question_confidence=confidence))
        site.start_uplink()
        [found] = site.client.decide(DESK, ["an urgent refund"])
        assert isinstance(found, Decision)
        records = {each.question: stored_prediction(site, each.prediction_id) for each in found.answers}
    with teacher.daemon.client() as direct:
        [same] = direct.decide(DESK, ["an urgent refund"])
    assert isinstance(same, Decision)
    routes = {each.question: each.route for each in found.answers}
    assert {"intent": "LOCAL", "urgent": "UPSTREAM", "severity": "UPSTREAM"} == routes
    assert records["intent"].get("teacher_scores") in (None, [])
    for question in ("urgent", "severity"):
        kept = {label: pytest.approx(share) for label, share in records[question]["teacher_scores"]}
        assert kept == dict(same[question].probabilities)
