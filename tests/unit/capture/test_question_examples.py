"""Answers to the questions of a decide task are separate examples: stored, reviewed, counted and sealed separately."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_agent.capture.capture_values import CapturedAnswer, ReviewCursor, ReviewFilter
from edge_agent.capture.person_erasure import AnswerErasure
from edge_agent.formats.example_records import ExamplePrediction
from edge_agent.formats.manifest import Manifest
from tests.support.site_cases import SiteCase, answered, judgement

QUESTIONS = [
    {"name": "intent", "type": "choice", "instructions": "Which?", "labels": ["refund", "price"]},
    {"name": "urgent", "type": "predicate", "instructions": "It cannot wait."},
]
PROVED = {
    "policy": "threshold", "temperature": 1.0, "threshold": 0.8, "target_risk": 0.05, "delta": 0.05, "n": 400,
    "bound": 0.04, "coverage": 0.5,
}  # fmt: skip
DESK = Manifest.model_validate(
    {
        "version": "1.0.0",
        "runtime": "echo",
        "task": {"name": "pos-intent", "kind": "decide", "questions": QUESTIONS},
        "question_confidence": {"urgent": PROVED},
    }
)
URGENT: dict[str, Any] = {
    "question": "urgent",
    "local_answer": "yes",
    "scores": [("yes", 0.9), ("no", 0.1)],
    "confidence": 0.9,
    "sure": True,
}


def of_question(number: int, **changes: Any) -> CapturedAnswer:
    return answered(number, manifest=DESK, **{"question": "intent", **changes})


@pytest.fixture
def site(tmp_path: Path) -> SiteCase:
    return SiteCase(tmp_path)


def test_each_question_is_a_separate_example(site: SiteCase) -> None:
    """The record names its question, is reviewed and sealed, and its figures are kept under TASK/QUESTION."""
    site.clock.draws = 0.0  # the audit draws every answer
    site.keep(of_question(1), of_question(2, **URGENT))
    series = {each.task: each for each in site.worker.monitoring.report("pos-intent")}
    assert ["pos-intent/intent", "pos-intent/urgent"] == sorted(series)
    assert (None, 0.05) == (
        series["pos-intent/intent"].guarantee,
        series["pos-intent/urgent"].guarantee and series["pos-intent/urgent"].guarantee.target,
    )
    site.worker.seal_all()
    records = site.records()
    sealed = [records[f"prediction:p-{number}"] for number in (1, 2)]
    assert all(isinstance(each, ExamplePrediction) for each in sealed)
    assert [("pos-intent", "intent", "refund"), ("pos-intent", "urgent", "yes")] == [
        (each.task, each.question, each.output) for each in sealed
    ]


def test_review_queue_of_a_task_or_one_question(site: SiteCase) -> None:
    """The name of a task selects all its questions, TASK/QUESTION one of them."""
    site.keep(of_question(1), of_question(2, **URGENT), of_question(3, **URGENT))

    def listed(name: str) -> int:
        return len(site.worker.spool.review_page(ReviewFilter(name), ReviewCursor(), 10))

    assert (3, 1, 2, 0) == tuple(map(listed, ("pos-intent", "pos-intent/intent", "pos-intent/urgent", "pos")))


def test_review_counts_only_for_its_question(site: SiteCase) -> None:
    """The risk guarantee of a question is tested with the reviewed answers to that question."""
    site.clock.draws = 0.0
    site.keep(of_question(1), of_question(2, **URGENT))
    found = site.worker.spool.find_prediction("p-2")
    with site.worker.spool.transaction():
        site.worker.store_feedback(judgement(2, value="no"), json.loads(found.record), DESK)
    site.worker.do_housekeeping()
    figures = {each.task: each for each in site.worker.monitoring.report()}
    totals = {task: sum(day.get("reviewed", 0) for day in each.days.values()) for task, each in figures.items()}
    assert {"pos-intent/intent": 0, "pos-intent/urgent": 1} == totals
    assert 1 == figures["pos-intent/urgent"].evidence["people"].wrong


def test_erasing_one_answer_names_others_with_the_same_text(site: SiteCase) -> None:
    """Answers of the same call with the same text stay unless all questions are erased, and are named."""
    site.keep(
        *(of_question(1, text="I want it back"), of_question(2, text="I want it back", **URGENT)),
        *(of_question(3, text="I want it"), of_question(4, text='"I want it back"')),
    )
    with site.worker.spool.transaction():
        assert AnswerErasure(True, False, ("p-2",)) == site.worker.erasure.erase_answer("p-1")
    site.keep(of_question(5, text="I want it back"))
    with site.worker.spool.transaction():
        assert AnswerErasure(True, False, ("p-5",)) == site.worker.erasure.erase_answer("p-2", all_questions=True)
    left = [row[0] for row in site.worker.spool.db.rows("SELECT prediction_id FROM predictions ORDER BY row")]
    assert ["p-3", "p-4"] == left
    site.clock.running += 301
    site.keep(of_question(6, text="I want it"))
    with site.worker.spool.transaction():
        assert AnswerErasure(False, False) == site.worker.erasure.erase_answer("p-1", all_questions=True)
        assert AnswerErasure(True, False) == site.worker.erasure.erase_answer("p-3", all_questions=True)


def test_same_text_in_two_calls_is_erased_separately(site: SiteCase) -> None:
    """For a task without questions each answer is erased alone."""
    site.keep(answered(1, text="refund"), answered(2, text="refund"))
    with site.worker.spool.transaction():
        assert AnswerErasure(True, False) == site.worker.erasure.erase_answer("p-1", all_questions=True)
    assert 1 == len(site.worker.spool.db.rows("SELECT 1 FROM predictions"))


@pytest.mark.parametrize("before", [False, True])
def test_retention_of_a_task_deletes_all_its_questions(tmp_path: Path, before: bool) -> None:
    """The retention of a task applies to all its questions, and the report counts them by question."""
    days, window = {"pos-intent": 2}, 300 * 86_400.0
    site = SiteCase(tmp_path, window_seconds=window, **({} if before else {"retention_days": days}))
    site.keep(of_question(1), of_question(2, **URGENT))
    if before:
        site.worker.close()
        site = SiteCase(tmp_path, window_seconds=window, retention_days=days)
    site.clock.running += 2 * 86_400 + 20
    site.worker.do_housekeeping()
    assert [] == site.worker.spool.db.rows("SELECT prediction_id FROM predictions")
    counted = [(each.task, each.number) for each in site.worker.privacy_report().counts if each.what == "retention"]
    assert [("pos-intent/intent", 1), ("pos-intent/urgent", 1)] == counted
