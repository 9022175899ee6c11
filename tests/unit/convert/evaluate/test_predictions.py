"""Evaluation of bundles with several questions: each question is measured and compared separately."""

import json
from typing import Any

import numpy as np
import pytest

from convert.data.data_row import DataRow, RowAnswer
from convert.evaluate import scoring
from convert.evaluate.predictions import ServedPrediction, views
from convert.evaluate.scoring import expected_answer, measure, score_error
from convert.package import golden_cases
from convert.pipeline.recipe import BudgetSection
from convert.publish import publishable_bundle
from convert.quantize.candidate_selection import judge
from convert.report import comparison, markdown, run_summary
from edge_agent.formats.golden_cases import differences, is_binding
from edge_agent.formats.manifest import Manifest
from edge_agent.statistics import divided_delta, rows_min
from tests.support.bundles import fields_of

AT_08 = {"policy": "threshold", "temperature": 2.0, "threshold": 0.8, "target_risk": 0.1, "delta": 0.05, "n": 50}
QUESTIONS: list[dict[str, Any]] = [
    {"name": "intent", "type": "choice", "instructions": "What?", "labels": ["refund", "price"]},
    {"name": "urgent", "type": "predicate", "instructions": "It cannot wait."},
    {"name": "severity", "type": "score", "instructions": "How bad?", "labels": ["low", "middle", "high"]},
]


def manifest(questions: list[dict[str, Any]] = QUESTIONS) -> Manifest:
    fields = fields_of("echo", "desk", "decide")
    fields["task"]["questions"] = questions
    return Manifest.model_validate(
        json.loads(json.dumps(fields | {"question_confidence": {"intent": AT_08 | {"bound": 0.1, "coverage": 0.5}}}))
    )


def answer(intent: float, urgent: float, *severity: float) -> ServedPrediction:
    """Return an answer whose questions have these probabilities for their first outputs."""
    return ServedPrediction(question_scores=((intent, 1 - intent), (urgent, 1 - urgent), severity or (1.0, 0.0, 0.0)))


def row(text: str, **answers: str) -> DataRow:
    return DataRow(text, answers=tuple(RowAnswer(question, label) for question, label in answers.items()))


ROWS = [row("a", intent="refund", severity="low"), row("b", intent="price"), row("c", intent="price", severity="high")]
SAID = [answer(0.9, 0.5), answer(0.7, 0.5), answer(0.1, 0.5, 0.0, 0.5, 0.5)]


def test_question_view_converts_an_answer_to_a_classification():
    """The view of a question returns that question's label, confidence and log-probabilities at temperature 1, and
    passes failures on unchanged."""
    view = views(manifest())[0]
    said = view.prediction(SAID[0])
    assert ("refund", 0.9, (0.9, pytest.approx(0.1))) == (said.answer, said.confidence, said.scores)
    sharper = [0.9**2 / (0.9**2 + 0.1**2), 0.1**2 / (0.9**2 + 0.1**2)]  # it was served at temperature 2
    assert pytest.approx(np.log(sharper)) == said.log_probabilities
    assert ("classify", ("no", "yes")) == ((task := views(manifest())[1].manifest.task).kind, task.labels)
    failed = ServedPrediction(failure="INPUT_TOO_LONG")
    assert failed == view.prediction(failed)


def test_each_question_is_measured_on_the_rows_that_answer_it():
    """A question is measured on the rows that answer it: without rows it has no figures, without a threshold no
    coverage, and a score question also has its mean error."""
    report = measure(manifest(), ROWS, SAID)
    intent, urgent, severity = report["questions"].values()
    assert (3, 2 / 3, 2 / 3) == (intent["rows"], intent["accuracy"]["value"], intent["sure"]["coverage"]["value"])
    assert {"price": {"price": 1, "refund": 1}, "refund": {"refund": 1}} == intent["confusion"]
    assert {"type": "predicate", "rows": 0} == urgent
    assert (2, {"mean": 0.25, "constant": 1.0}) == (severity["rows"], severity["score_error"])
    assert "sure" not in severity
    assert {"rows", "failed", "latency_ms", "questions"} == set(report)


def test_failed_answers_give_no_score_error():
    """If every answer failed, the report has no score error, because NaN is not valid JSON."""
    failed = [ServedPrediction(failure="X")]
    assert {} == score_error(("a", "b"), [DataRow("x", label="a")], failed)


def test_expected_answer_has_the_questions_of_the_row():
    """In predictions.jsonl, the expected answer of a `decide` task is JSON with the questions that the row answers."""
    assert {"intent": "refund", "severity": "low"} == json.loads(expected_answer("decide", ROWS[0]))


def test_delta_is_divided_among_questions_with_enough_rows():
    """delta is divided equally among the questions with enough rows for a proof (22 at target and delta 0.1); other
    questions get no share."""
    assert 22 == rows_min(0.1, 0.1)
    assert (0.05, ["a", "b"]) == divided_delta({"a": 22, "b": 500, "c": 21}, 0.1, 0.1)
    assert (0.1, []) == divided_delta({"c": 3}, 0.1, 0.1)


def test_budget_applies_to_each_question():
    """A candidate exceeds the budget if one of its questions does, and the reason names that question."""
    good = {"agreement": {"value": 1.0}, "kl_mean": 0.0, "accuracy_loss": 0.0}
    bad = good | {"agreement": {"value": 0.9}, "accuracy_loss": 0.1}
    line = bad | {"questions": {"intent": good, "urgent": bad}}
    assert ["urgent: agreement under 0.98", "urgent: accuracy loss over 0.02"] == judge(line, BudgetSection())
    assert [] == judge(good | {"questions": {"intent": good}}, BudgetSection())


def test_golden_cases_cover_the_answers_of_every_question():
    """A golden case records the answers to all questions; the same served answer gives no difference, another answer
    does, and labels without a case are listed."""
    rows = [row(f"t{n}", intent="refund", urgent="yes", severity="low") for n in range(9)] + ROWS
    assert 11 == len(golden_cases.choose_rows(manifest().task, rows))  # eight of a label are tried
    cases = golden_cases.cases(manifest(), rows, [answer(0.9, 0.1)] * 9 + SAID)
    assert {"refund": 7, "price": 1} == {
        label: sum(each.answers["intent"] == label for each in cases) for label in ("refund", "price")
    }
    first = cases[0]
    assert {"intent": "refund", "urgent": "yes", "severity": "low"} == first.answers
    assert (is_binding(first), (0.9, 0.1)) == (True, first.question_scores["intent"])
    assert [] == differences(first, golden_cases.answer_of(manifest(), answer(0.9, 0.1)))
    assert differences(first, golden_cases.answer_of(manifest(), answer(0.2, 0.1)))
    assert ["severity/high"] == golden_cases.labels_without_case(manifest().task, cases)


def test_two_versions_are_compared_question_by_question():
    """Two versions are compared on the questions that both have with the same answers, and p-values are adjusted for
    all of these comparisons."""
    other = [QUESTIONS[0], QUESTIONS[2] | {"labels": ["low", "high"]}]
    assert ["intent"] == scoring.common_questions(manifest().task, manifest(other).task)
    rows = [row(f"t{n}", intent="refund", severity="low") for n in range(30)]
    pair = (manifest(), manifest())
    report = scoring.compare(pair, rows, [answer(0.9, 0.5)] * 30, [answer(0.1, 0.5)] * 30)
    assert ["accuracy", "wrong", "calibration_error"] == report["questions"]["intent"]["worse"]
    gap = report["questions"]["intent"]["differences"]["accuracy"]
    assert gap["p_value"] * 3 < gap["p_adjusted"]
    said = comparison.comparison({"bundles": ["a", "b"], **report})
    assert "## intent" in said
    assert ["right answers of 'intent'"] == comparison.worse_figures(report)[:1]
    assert "## urgent" not in said  # no row answers it


def test_evaluation_report_has_figures_per_question():
    """The Markdown report has a table of questions, and sentences and warnings that name the question."""
    report = measure(manifest(), ROWS, SAID)
    said = markdown.evaluation("desk 1.0.0", report)
    assert "'intent' is right on 66.7%" in said
    assert "| urgent | predicate | 0 | - | - | - | - | - |" in said
    assert "| severity | score | 2 |" in said
    assert "always escalates" in said
    assert "The expected level of 'severity' is 0.25 levels from the true one on average" in said
    assert "- urgent: No test row answers this question, so its quality is unknown." in said
    assert "### Answers to 'intent'" in said


def test_signed_quality_has_each_measured_question():
    """The quality figures that are signed contain only questions with valid names, and survive encoding and
    decoding."""
    report = measure(manifest(), ROWS, SAID)
    signed = publishable_bundle.headline_figures(
        report | {"questions": report["questions"] | {"<b>": report["questions"]["intent"]}}
    )
    assert ["intent", "severity"] == list(signed["questions"])
    assert signed == publishable_bundle.decode(publishable_bundle.encode(signed))
    assert ["'intent'", "'severity'"] == [said.split()[0] for said in markdown.headline(signed)]


def test_single_question_report_is_one_unnamed_part():
    """`by_question` returns the report of a classify task as one part without a name."""
    assert [("", {"rows": 1})] == list(run_summary.by_question({"rows": 1}))
