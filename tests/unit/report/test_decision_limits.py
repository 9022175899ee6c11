"""The limits at which a verdict or a recommendation changes, tested on both sides."""

import pytest

from edge_agent.formatting import in_days
from edge_agent.report.judgement import judge_task
from edge_agent.report.mode_recommendation import RecommendationReason
from edge_agent.report.suitability import LABELS_NARROW_MAX, PAIRS_MIN, PRICED_MIN, CostAssumptions
from edge_agent.report.task_figures import ComparisonCount, ConfidenceBand, LabelFigures
from tests.support.report_figures import day, figures

ASKED = {"answers": {"upstream": 100}}


def verdict(said, about, wish=None):
    """Return a verdict."""
    (found,) = [each for each in judge_task(said, wish or CostAssumptions()).suitability if each.about == about]
    return found.verdict


def plain_labels(number, examples=20, compared=ComparisonCount()):  # noqa: B008 - a frozen value
    """Return equally frequent labels."""
    return tuple(LabelFigures(f"label-{at}", 10, examples, compared) for at in range(number))


@pytest.mark.parametrize(("number", "wanted"), [(LABELS_NARROW_MAX, "yes"), (LABELS_NARROW_MAX + 1, "partly")])
def test_limit_of_labels_of_a_narrow_task(number, wanted):
    """More than fifty labels are many."""
    assert wanted == verdict(figures(labels=plain_labels(number), days=(day(**ASKED),)), "specificity")


@pytest.mark.parametrize(("pairs", "wanted"), [(PAIRS_MIN - 1, "yes"), (PAIRS_MIN, "no")])
def test_task_is_not_called_unlearnable_after_few_comparisons(pairs, wanted):
    """A model that is never right is judged from thirty comparisons on."""
    said = figures(labels=plain_labels(4), days=(day(**ASKED),), shadow=ComparisonCount(pairs, 0))
    assert wanted == verdict(said, "specificity")


@pytest.mark.parametrize(("same", "wanted"), [(30, "no"), (36, "yes")])
def test_model_must_beat_the_most_frequent_label_significantly(same, wanted):
    """With four equally frequent labels 30 of 100 may be chance, 36 are not."""
    said = figures(labels=plain_labels(4), days=(day(**ASKED),), shadow=ComparisonCount(100, same))
    assert wanted == verdict(said, "specificity")


@pytest.mark.parametrize(
    ("examples", "rarest", "wanted"),
    [
        (99, 0, "no"),
        (100, 0, "partly"),
        (499, 0, "partly"),
        (500, 20, "yes"),
        (500, 19, "partly"),
        (1000, 19, "partly"),
    ],
)
def test_limits_of_sufficient_data(examples, rarest, wanted):
    """100 examples are enough to measure, 500 to train, with 20 of each label."""
    labels = (LabelFigures("refund", 10, 480), LabelFigures("price", 10, rarest))
    assert wanted == verdict(figures(days=(day(examples=examples),), labels=labels), "data")


@pytest.mark.parametrize(
    ("calls", "priced", "wanted"),
    [(99, PRICED_MIN, "unknown"), (100, PRICED_MIN - 1, "unknown"), (100, PRICED_MIN, "partly")],
)
def test_limits_of_calls_and_prices_for_a_cost_verdict(calls, priced, wanted):
    """The report needs a hundred calls and twenty priced questions; before that it says what is missing."""
    counts = {"answers": {"local": calls - priced, "upstream": priced}, "priced": priced, "cost_micros": 1000 * priced}
    assert wanted == verdict(figures(threshold=0.9, mode="hybrid", days=(day(**counts),)), "economics")


@pytest.mark.parametrize(("months", "wanted"), [(12, "yes"), (12.5, "partly"), (36, "partly"), (36.5, "no")])
def test_a_model_pays_within_a_year(months, wanted):
    """The cost of making a model is compared with what a month saves."""
    said = figures(
        threshold=0.9,
        mode="hybrid",
        days=(day(answers={"local": 900, "upstream": 100}, priced=100, cost_micros=100_000),),
    )
    a_month = judge_task(said).costs.year_gain_micros / 12
    assert wanted == verdict(said, "economics", CostAssumptions("", round(a_month * months)))


@pytest.mark.parametrize(("blocked", "wanted"), [(5, "no"), (12, "yes")])
def test_outages_count_if_they_are_significant(blocked, wanted):
    """Five blocked questions in a thousand may be chance, twelve are significantly above one in 200."""
    said = figures(days=(day(answers={"local": 1000}, blocked=blocked),), large_ms=40.0, local_ms=30.0)
    assert wanted == verdict(said, "constraints")


@pytest.mark.parametrize(("large", "wanted"), [(59.0, "no"), (60.0, "yes")])
def test_latency_counts_from_a_factor_of_two_on(large, wanted):
    """A large model that takes twice as long speaks for a local model."""
    said = figures(days=(day(answers={"local": 1000}),), large_ms=large, local_ms=30.0)
    assert wanted == verdict(said, "constraints")


@pytest.mark.parametrize(
    ("sure", "unsure", "why"),
    [
        (979, 21, RecommendationReason.STILL_ASKS),
        (1000, 0, RecommendationReason.HARDLY_ASKS),
        (999, 0, RecommendationReason.STILL_ASKS),
        (5000, 50, RecommendationReason.HARDLY_ASKS),
    ],
)
def test_local_is_recommended_if_few_answers_are_unsure(sure, unsure, why):
    """Mode local needs a thousand answers, of which significantly at least 98% are confident."""
    said = figures(threshold=0.9, mode="hybrid", days=(day(sure=sure, unsure=unsure),), judged=ComparisonCount(10, 10))
    assert why is judge_task(said).advice.why


def test_local_is_not_recommended_while_unusual_inputs_are_escalated():
    """In mode hybrid the large model answers unusual inputs at any confidence."""
    days = (day(sure=5000, unusual=1000),)
    said = judge_task(figures(threshold=0.9, mode="hybrid", days=days, judged=ComparisonCount(10, 10))).advice
    assert (RecommendationReason.STILL_ASKS, True) == (said.why, "confident of 100% of its answers" in said.because)


def test_local_is_not_recommended_without_an_audit():
    """If no confident answer was ever audited, nothing is known about their risk."""
    assert (
        RecommendationReason.STILL_ASKS
        is judge_task(figures(threshold=0.9, mode="hybrid", days=(day(sure=5000),))).advice.why
    )


@pytest.mark.parametrize(
    ("unsure", "why"), [(50, RecommendationReason.ASKS_NOBODY), (80, RecommendationReason.DOUBTS_ARE_GIVEN)]
)
def test_unsure_answers_count_if_they_are_significantly_many(unsure, why):
    """5% of a thousand answers are no reason to change the mode, 8% are."""
    assert (
        why
        is judge_task(figures(threshold=0.9, mode="local", days=(day(sure=1000 - unsure, unsure=unsure),))).advice.why
    )


@pytest.mark.parametrize(
    ("rows", "why"), [(77, RecommendationReason.NEEDS_COMPARISONS), (78, RecommendationReason.RISK_HOLDS)]
)
def test_hybrid_needs_a_proof(rows, why):
    """At 5% and 90% certainty 77 confident answers without a difference prove nothing, 78 do, however often they are
    tested."""
    said = figures(threshold=0.9, confident=(ConfidenceBand(0.9, rows, ComparisonCount(rows, rows)),))
    assert why is judge_task(said).advice.why


@pytest.mark.parametrize(
    ("above", "why"), [(0.9, RecommendationReason.RISK_HOLDS), (0.89, RecommendationReason.NEEDS_COMPARISONS)]
)
def test_only_answers_at_or_above_the_threshold_count(above, why):
    """An answer at the threshold is sure, one a hundredth below it is not."""
    said = figures(threshold=0.9, confident=(ConfidenceBand(above, 80, ComparisonCount(80, 80)),))
    assert why is judge_task(said).advice.why


@pytest.mark.parametrize(
    ("days", "wanted"),
    [
        (None, "nothing comes in at present"),
        (0, "about a day at the present pace"),
        (1, "about a day at the present pace"),
        (12, "about 12 days at the present pace"),
        (1500, "about 1\u202f500 days at the present pace"),
    ],
)
def test_pace_is_stated_in_days(days, wanted):
    """The text says how many days it takes, or that nothing comes in."""
    assert wanted == in_days(days)


def test_missing_recent_examples_are_stated():
    """A task without calls for two weeks has no pace, whatever came before."""
    before = tuple(day(f"2026-10-{at + 1:02}", examples=50) for at in range(1))
    silent = tuple(day(f"2026-11-{at + 1:02}") for at in range(14))
    advice = judge_task(figures(mode="bootstrap", has_model=False, days=(*before, *silent))).advice
    assert "Wait for 50 more examples: nothing comes in at present." == advice.then
