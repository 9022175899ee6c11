"""Where a verdict or an advice changes: one step on this side of a limit, one on the other."""

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
    """Return so many labels, each as frequent as the others."""
    return tuple(LabelFigures(f"label-{at}", 10, examples, compared) for at in range(number))


@pytest.mark.parametrize(("number", "wanted"), [(LABELS_NARROW_MAX, "yes"), (LABELS_NARROW_MAX + 1, "partly")])
def test_so_many_labels_are_narrow(number, wanted):
    """One label more than fifty is many."""
    assert wanted == verdict(figures(labels=plain_labels(number), days=(day(**ASKED),)), "specificity")


@pytest.mark.parametrize(("pairs", "wanted"), [(PAIRS_MIN - 1, "yes"), (PAIRS_MIN, "no")])
def test_few_comparisons_are_no_ground_to_call_a_task_unlearnt(pairs, wanted):
    """A model that is never right is called no good from thirty comparisons on."""
    said = figures(labels=plain_labels(4), days=(day(**ASKED),), shadow=ComparisonCount(pairs, 0))
    assert wanted == verdict(said, "specificity")


@pytest.mark.parametrize(("same", "wanted"), [(30, "no"), (36, "yes")])
def test_a_model_must_surely_beat_the_guess(same, wanted):
    """With four equal labels a guess is right on 25%: 30% of 100 may be chance, 36% is none."""
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
def test_data_suffices_from_a_number_on(examples, rarest, wanted):
    """A hundred to measure, five hundred to train, and twenty of each label."""
    labels = (LabelFigures("refund", 10, 480), LabelFigures("price", 10, rarest))
    assert wanted == verdict(figures(days=(day(examples=examples),), labels=labels), "data")


@pytest.mark.parametrize(
    ("calls", "priced", "wanted"),
    [(99, PRICED_MIN, "unknown"), (100, PRICED_MIN - 1, "unknown"), (100, PRICED_MIN, "partly")],
)
def test_money_is_told_from_enough_calls_on(calls, priced, wanted):
    """A hundred calls, and twenty questions with a price; before that the report says what is wanting."""
    counts = {"answers": {"local": calls - priced, "upstream": priced}, "priced": priced, "cost_micros": 1000 * priced}
    assert wanted == verdict(figures(threshold=0.9, mode="hybrid", days=(day(**counts),)), "economics")


@pytest.mark.parametrize(("months", "wanted"), [(12, "yes"), (12.5, "partly"), (36, "partly"), (36.5, "no")])
def test_a_model_pays_within_a_year(months, wanted):
    """What making it costs against what a month saves."""
    said = figures(
        threshold=0.9,
        mode="hybrid",
        days=(day(answers={"local": 900, "upstream": 100}, priced=100, cost_micros=100_000),),
    )
    a_month = judge_task(said).costs.year_gain_micros / 12
    assert wanted == verdict(said, "economics", CostAssumptions("", round(a_month * months)))


@pytest.mark.parametrize(("blocked", "wanted"), [(5, "no"), (12, "yes")])
def test_being_cut_off_counts_when_it_is_no_chance(blocked, wanted):
    """Five in a thousand may be chance, twelve are surely more than one in two hundred."""
    said = figures(days=(day(answers={"local": 1000}, blocked=blocked),), large_ms=40.0, local_ms=30.0)
    assert wanted == verdict(said, "constraints")


@pytest.mark.parametrize(("large", "wanted"), [(59.0, "no"), (60.0, "yes")])
def test_time_counts_from_twice_on(large, wanted):
    """An answer that takes twice as long speaks for the model here."""
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
def test_local_is_advised_when_hardly_anything_is_asked(sure, unsure, why):
    """From a thousand answers on, and where at least 98% are surely sure."""
    said = figures(threshold=0.9, mode="hybrid", days=(day(sure=sure, unsure=unsure),), judged=ComparisonCount(10, 10))
    assert why is judge_task(said).advice.why


def test_local_is_not_advised_while_unusual_inputs_are_asked_about():
    """In mode hybrid the large model answers those, too, however confident the answer here is."""
    days = (day(sure=5000, unusual=1000),)
    said = judge_task(figures(threshold=0.9, mode="hybrid", days=days, judged=ComparisonCount(10, 10))).advice
    assert (RecommendationReason.STILL_ASKS, True) == (said.why, "confident of 100% of its answers" in said.because)


def test_local_is_not_advised_without_a_look():
    """Where the large model was never asked about a confident answer, nobody knows whether these are right."""
    assert (
        RecommendationReason.STILL_ASKS
        is judge_task(figures(threshold=0.9, mode="hybrid", days=(day(sure=5000),))).advice.why
    )


@pytest.mark.parametrize(
    ("unsure", "why"), [(50, RecommendationReason.ASKS_NOBODY), (80, RecommendationReason.DOUBTS_ARE_GIVEN)]
)
def test_doubts_count_when_they_are_surely_many(unsure, why):
    """Five per cent of a thousand are no reason, eight are."""
    assert (
        why
        is judge_task(figures(threshold=0.9, mode="local", days=(day(sure=1000 - unsure, unsure=unsure),))).advice.why
    )


@pytest.mark.parametrize(
    ("rows", "why"), [(77, RecommendationReason.NEEDS_COMPARISONS), (78, RecommendationReason.RISK_HOLDS)]
)
def test_hybrid_needs_a_proof(rows, why):
    """77 confident answers without a difference prove nothing at 5% and 90%, 78 do, however often one looks."""
    said = figures(threshold=0.9, confident=(ConfidenceBand(0.9, rows, ComparisonCount(rows, rows)),))
    assert why is judge_task(said).advice.why


@pytest.mark.parametrize(
    ("above", "why"), [(0.9, RecommendationReason.RISK_HOLDS), (0.89, RecommendationReason.NEEDS_COMPARISONS)]
)
def test_only_what_is_at_the_threshold_counts(above, why):
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
def test_a_pace_reads_well(days, wanted):
    """How long something takes is said in days, and that nothing comes in is said."""
    assert wanted == in_days(days)


def test_a_stop_of_examples_is_said():
    """A task that nobody asked for two weeks has no pace, whatever came before."""
    before = tuple(day(f"2026-10-{at + 1:02}", examples=50) for at in range(1))
    silent = tuple(day(f"2026-11-{at + 1:02}") for at in range(14))
    advice = judge_task(figures(mode="bootstrap", has_model=False, days=(*before, *silent))).advice
    assert "Wait for 50 more examples: nothing comes in at present." == advice.then
