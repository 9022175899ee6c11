"""A bundle of several questions, measured question by question."""

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
    """Return an answer with these probabilities of the first outputs."""
    return ServedPrediction(question_scores=((intent, 1 - intent), (urgent, 1 - urgent), severity or (1.0, 0.0, 0.0)))


def row(text: str, **answers: str) -> DataRow:
    return DataRow(text, answers=tuple(RowAnswer(question, label) for question, label in answers.items()))


ROWS = [row("a", intent="refund", severity="low"), row("b", intent="price"), row("c", intent="price", severity="high")]
SAID = [answer(0.9, 0.5), answer(0.7, 0.5), answer(0.1, 0.5, 0.0, 0.5, 0.5)]


def test_an_answer_is_seen_as_that_of_a_classifier():
    """Label, confidence and log-probabilities at temperature 1 are the question's own."""
    view = views(manifest())[0]
    said = view.prediction(SAID[0])
    assert ("refund", 0.9, (0.9, pytest.approx(0.1))) == (said.answer, said.confidence, said.scores)
    sharper = [0.9**2 / (0.9**2 + 0.1**2), 0.1**2 / (0.9**2 + 0.1**2)]  # it was served at temperature 2
    assert pytest.approx(np.log(sharper)) == said.log_probabilities
    assert ("classify", ("no", "yes")) == ((task := views(manifest())[1].manifest.task).kind, task.labels)
    failed = ServedPrediction(failure="INPUT_TOO_LONG")
    assert failed == view.prediction(failed)


def test_each_question_is_measured_on_the_rows_that_answer_it():
    """One has a threshold, one has no row, and of a score the expected level counts, too."""
    report = measure(manifest(), ROWS, SAID)
    intent, urgent, severity = report["questions"].values()
    assert (3, 2 / 3, 2 / 3) == (intent["rows"], intent["accuracy"]["value"], intent["sure"]["coverage"]["value"])
    assert {"price": {"price": 1, "refund": 1}, "refund": {"refund": 1}} == intent["confusion"]
    assert {"type": "predicate", "rows": 0} == urgent
    assert (2, {"mean": 0.25, "constant": 1.0}) == (severity["rows"], severity["score_error"])
    assert "sure" not in severity
    assert {"rows", "failed", "latency_ms", "questions"} == set(report)


def test_a_score_that_never_answered_has_no_error():
    """A figure that is not a number would make the report no JSON."""
    failed = [ServedPrediction(failure="X")]
    assert {} == score_error(("a", "b"), [DataRow("x", label="a")], failed)


def test_the_expected_answer_has_what_the_row_answers():
    """In predictions.jsonl it stands as JSON."""
    assert {"intent": "refund", "severity": "low"} == json.loads(expected_answer("decide", ROWS[0]))


def test_delta_is_divided_among_questions_with_enough_rows():
    """A question without enough rows for any proof takes no part of it."""
    assert 22 == rows_min(0.1, 0.1)
    assert (0.05, ["a", "b"]) == divided_delta({"a": 22, "b": 500, "c": 21}, 0.1, 0.1)
    assert (0.1, []) == divided_delta({"c": 3}, 0.1, 0.1)


def test_the_budget_holds_for_each_question():
    """A candidate is outside when one question is; the reason names it."""
    good = {"agreement": {"value": 1.0}, "kl_mean": 0.0, "accuracy_loss": 0.0}
    bad = good | {"agreement": {"value": 0.9}, "accuracy_loss": 0.1}
    line = bad | {"questions": {"intent": good, "urgent": bad}}
    assert ["urgent: agreement under 0.98", "urgent: accuracy loss over 0.02"] == judge(line, BudgetSection())
    assert [] == judge(good | {"questions": {"intent": good}}, BudgetSection())


def test_golden_cases_cover_the_answers_of_every_question():
    """A case has the answers to all questions; served again, it is the same, and another answer is a difference."""
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
    """Only questions that both have, with the same answers, are compared, and p-values count them all."""
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


def test_the_report_has_a_table_of_questions_and_the_figures_of_each():
    """Sentence, table and warnings name the question."""
    report = measure(manifest(), ROWS, SAID)
    said = markdown.evaluation("desk 1.0.0", report)
    assert "'intent' is right on 66.7%" in said
    assert "| urgent | predicate | 0 | - | - | - | - | - |" in said
    assert "| severity | score | 2 |" in said
    assert "always escalates" in said
    assert "The expected level of 'severity' is 0.25 levels from the true one on average" in said
    assert "- urgent: No test row answers this question, so its quality is unknown." in said
    assert "### Answers to 'intent'" in said


def test_the_quality_that_is_signed_has_each_question():
    """Only numbers and names of questions are copied."""
    report = measure(manifest(), ROWS, SAID)
    signed = publishable_bundle.headline_figures(
        report | {"questions": report["questions"] | {"<b>": report["questions"]["intent"]}}
    )
    assert ["intent", "severity"] == list(signed["questions"])
    assert signed == publishable_bundle.decode(publishable_bundle.encode(signed))
    assert ["'intent'", "'severity'"] == [said.split()[0] for said in markdown.headline(signed)]


def test_a_report_by_question_has_names_only_where_there_are_several():
    """The report of a classify task is one part without a name."""
    assert [("", {"rows": 1})] == list(run_summary.by_question({"rows": 1}))
