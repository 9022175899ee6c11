"""docs/report.md agrees with the code."""

import re
from pathlib import Path

import pytest

from edge_agent.report import mode_recommendation, readiness, suitability
from edge_agent.report.judgement import SCHEMA, judge_task, report_json
from edge_agent.report.mode_recommendation import RecommendationReason
from edge_agent.report.suitability import PRICED_MIN, CostAssumptions
from edge_agent.report.task_figures import DELTA, TARGET, WINDOW_DAYS
from edge_agent.statistics import anytime_proof, anytime_rows_needed, upper_bound
from tests.support.repeated_looks import false_proofs
from tests.support.report_figures import ABOUT, HYBRID, SHADOW

PAGE = (Path(__file__).parents[3] / "docs" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("why", RecommendationReason)
def test_every_reason_has_a_row(why):
    """Whoever reads `why` in JSON finds it in the page."""
    assert re.search(rf"^\|.*\| `{why}` \| \w+", PAGE, re.MULTILINE)


def names(plain, above=""):
    """Yield the fields of a document that have no list or mapping below them worth naming alone."""
    for name, value in plain.items():
        yield name
        if name in ("advice", "money", "could_take", "judged_by", "examples", "wanted_risk", "total"):
            yield from names(value, name)


def test_every_field_is_named():
    """Each field of the document, and of its parts, stands in the table."""
    plain = report_json([judge_task(SHADOW)], ABOUT)
    known = set(re.findall(r"`(?:tasks\[\]\.)?([a-z_]+)(?:\[\])?`", PAGE))
    assert set() == {*names(plain), *names(plain["tasks"][0])} - known - {"schema", "tasks", "money", "total"}
    assert SCHEMA in PAGE


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (readiness.LABEL_EXAMPLES_MIN, "20 of each label"),
        (suitability.LABELS_NARROW_MAX, "up to 50 labels"),
        (suitability.PAIRS_MIN, "where 30 inputs or more were compared"),
        (100 * suitability.BLOCKED_SHARE_MIN, "not available for 0.5% of the answers or more"),
        (100 * mode_recommendation.LOCAL_SHARE_MIN, "confident of 98% or more"),
        (mode_recommendation.LOCAL_ANSWERS_MIN, "at least 1,000 answers"),
        (100 * mode_recommendation.UNSURE_SHARE_MAX, "at most 5% are below the threshold"),
        (PRICED_MIN, "from 20\n  questions on"),
        (WINDOW_DAYS, "in the last 30 days"),
        (100 * TARGET, "5% without either"),
    ],
)
def test_the_numbers_are_those_of_the_code(number, sentence):
    """A limit that is changed in the code is changed in the page."""
    assert sentence in PAGE
    assert f"{number:g}" in sentence.replace(",", "")


def test_the_steps_are_named_with_what_they_buy():
    """100, 500 and 1,000, in the words of the page."""
    assert "100, 500 and 1,000: enough to measure a model, to fine-tune one, to fine-tune and calibrate" in PAGE
    assert [100, 500, 1000] == list(readiness.STEPS)


def test_looking_every_day_costs_no_certainty():
    """Fifty looks together prove a risk that is the target with probability delta at most.

    A test that is made for one look does so as often as the page says.
    """
    assert 0 < false_proofs(50, 20, TARGET, lambda *seen: anytime_proof(*seen, TARGET, DELTA)) <= DELTA
    once = false_proofs(50, 20, TARGET, lambda errors, rows: upper_bound(errors, rows, DELTA) <= TARGET)
    assert f"would find a false proof for {100 * once:.0f}% of the tasks" in re.sub(r"\s+", " ", PAGE)


def test_the_rows_of_a_proof_are_those_of_the_page():
    """What the certainty costs, for the bundle's own threshold: without a difference, and at half the target."""
    part = readiness.rows_min(SHADOW), anytime_rows_needed(TARGET / 2, TARGET, DELTA / 2)
    assert "{} comparisons without a difference, {} at half".format(*part) in re.sub(r"\s+", " ", PAGE)


def test_the_sample_is_what_the_command_prints():
    """The figures of the sample are those of the made-up task that it shows."""
    judged = judge_task(SHADOW, CostAssumptions("EUR"))
    said = re.sub(r"\s+", " ", PAGE)
    for wanted in (judged.advice.because, judged.advice.then):
        assert re.sub(r"\s+", " ", wanted) in said
    answers = {answer.about: answer for answer in judged.suitability}
    assert set(answers) == set(re.findall(r"^  (specificity|data|economics|constraints) ", PAGE, re.MULTILINE))


def test_economics_of_the_busy_task_are_told_in_a_sentence():
    """A task at work: what it saves, and when that has paid for making the model."""
    (found,) = [
        each
        for each in judge_task(HYBRID, CostAssumptions("EUR", 100_000_000)).suitability
        if each.about == "economics"
    ]
    assert "a year. The model pays for itself after 9 months." in found.because
