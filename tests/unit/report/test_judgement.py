"""The judgement of a task's figures: each recommendation and verdict, and the result of too little data."""

import math

import pytest

from edge_agent.report.judgement import TaskJudgement, judge_task, sum_costs, summary_tiles
from edge_agent.report.mode_recommendation import RecommendationReason
from edge_agent.report.readiness import STEPS
from edge_agent.report.suitability import LABELS_NARROW_MAX, CostAssumptions
from edge_agent.report.task_figures import ComparisonCount, ConfidenceBand, LabelFigures, TaskAlarm, TaskFigures
from tests.support.report_figures import BEGUN, BROKEN, HYBRID, LABELS, LITTLE, SHADOW, confident, day, figures, labels

NO_MODEL = {"mode": "bootstrap", "has_model": False}
SURE = {"threshold": 0.9, "mode": "shadow"}
MANY = {"answers": {"local": 2000}}
ALARM = TaskAlarm("errors", "people found 9 of 60 confident answers wrong", "Look at them.")
ADVICE = {
    RecommendationReason.ONLY_ON_REQUEST: ({"kind": "embed", "mode": "local"}, "local", None),
    RecommendationReason.NEEDS_EXAMPLES: (
        {**NO_MODEL, "days": (day(examples=55),), "labels": labels(55)},
        "bootstrap",
        45,
    ),
    RecommendationReason.NEEDS_LABELS: (
        {**NO_MODEL, "days": (day(examples=500),), "labels": labels(288)},
        "bootstrap",
        16,
    ),
    RecommendationReason.MAKE_A_MODEL: (
        {**NO_MODEL, "days": (day(examples=800),), "labels": labels(800)},
        "bootstrap",
        None,
    ),
    RecommendationReason.MODEL_IS_HERE: ({"mode": "bootstrap"}, "shadow", None),
    RecommendationReason.NOT_CALIBRATED: ({"confident": confident((0.9, 100, 99))}, "shadow", None),
    RecommendationReason.NEEDS_COMPARISONS: (
        {**SURE, "confident": confident((0.5, 20, 9), (0.9, 20, 20))},
        "shadow",
        116,
    ),
    RecommendationReason.RISK_HOLDS: (
        {**SURE, "confident": confident((0.5, 200, 90), (0.9, 200, 199))},
        "hybrid",
        None,
    ),
    RecommendationReason.RISK_BROKEN: ({**SURE, "confident": confident((0.9, 100, 80))}, "shadow", None),
    RecommendationReason.STILL_ASKS: ({**SURE, "mode": "hybrid", "days": (day(sure=80, unsure=20),)}, "hybrid", None),
    RecommendationReason.HARDLY_ASKS: (
        {**SURE, "mode": "hybrid", "days": (day(sure=1990, unsure=10),), "judged": ComparisonCount(50, 50)},
        "local",
        None,
    ),
    RecommendationReason.ASKS_NOBODY: ({**SURE, "mode": "local", "days": (day(**MANY, sure=2000),)}, "local", None),
    RecommendationReason.DOUBTS_ARE_GIVEN: (
        {**SURE, "mode": "local", "days": (day(**MANY, sure=1500, unsure=500),)},
        "hybrid",
        None,
    ),
}


def answer(judged, about):
    """Return the answer to one of the four questions."""
    (found,) = [each for each in judged.suitability if each.about == about]
    return found


@pytest.mark.parametrize("why", RecommendationReason)
def test_every_recommendation_can_be_reached(why):
    """Each reason has figures that lead to it, to its mode, and to what is missing."""
    said, mode, more = ADVICE[why]
    advice = judge_task(figures(**said)).advice
    assert (why, mode, more) == (advice.why, advice.mode, advice.more)
    assert advice.because.endswith(".")
    assert advice.then


@pytest.mark.parametrize("mode", ["hybrid", "local"])
def test_recommendation_for_a_task_without_calls(mode):
    """A new site is told that nothing is captured yet, or that the task is not collected, and to keep its mode."""
    advice = judge_task(figures(mode=mode)).advice
    assert (mode, "No answer of this task has been captured yet") == (advice.mode, advice.because.partition(",")[0])
    advice = judge_task(figures(mode=mode, collected=False)).advice
    assert (mode, "This task is not collected") == (advice.mode, advice.because.partition(",")[0])


@pytest.mark.parametrize(("mode", "says"), [("hybrid", "shadow"), ("local", "shadow")])
def test_refuted_guarantee_recommends_shadow(mode, says):
    """If people or the large model refuted the guarantee, shadow is recommended with the alarm's text."""
    advice = judge_task(figures(mode=mode, days=(day(sure=100),), alarms=(ALARM,))).advice
    assert (RecommendationReason.RISK_BROKEN, says) == (advice.why, advice.mode)
    assert "People found 9 of 60 confident answers wrong." == advice.because
    assert "Look at them." in advice.then


def test_an_alarm_keeps_a_task_in_shadow():
    """A refuted guarantee is not trusted before there is a new bundle, whatever the comparisons show."""
    held = {**SURE, "confident": confident((0.9, 100, 100))}
    assert "hybrid" == judge_task(figures(**held)).advice.mode
    assert RecommendationReason.RISK_BROKEN == judge_task(figures(**held, alarms=(ALARM,))).advice.why


def test_drift_alone_changes_no_mode():
    """An alarm about inputs is shown and does not change the recommended mode."""
    drifted = figures(
        threshold=0.9, mode="hybrid", days=(day(sure=100),), alarms=(TaskAlarm("labels", "other labels", "Look."),)
    )
    assert RecommendationReason.STILL_ASKS == judge_task(drifted).advice.why


@pytest.mark.parametrize(
    ("mode", "said"), [("hybrid", "the large model answers every input"), ("local", "no other model is asked")]
)
def test_bundle_without_a_threshold_needs_calibration(mode, said):
    """Without a threshold no answer is confident, and hybrid would escalate every input."""
    judged = judge_task(figures(mode=mode, days=(day(**MANY, unsure=2000, held_up={"BELOW_THRESHOLD": 2000}),)))
    because = f"Its bundle has no threshold, so none of its answers is confident, and {said}."
    advice = judged.advice
    assert (mode, RecommendationReason.NOT_CALIBRATED, because) == (advice.mode, advice.why, advice.because)
    assert "Calibrate it" in advice.then
    assert ("Not confident", "100%", "2\u202f000 without a threshold") in summary_tiles(judged)


def test_site_that_may_not_escalate_is_told_where_to_allow_it():
    """Hybrid requires that the task's inputs may leave the site."""
    alone = figures(threshold=0.9, mode="local", may_leave=False, days=(day(**MANY, sure=1500, unsure=500),))
    assert "'tasks' under 'escalation'" in judge_task(alone).advice.then


@pytest.mark.parametrize(
    ("examples", "missing"), [(0, (100, 500, 1000)), (1, (99, 499, 999)), (100, (0, 400, 900)), (1000, (0, 0, 0))]
)
def test_steps_name_the_missing_examples(examples, missing):
    """Each step has the number of missing examples and what it makes possible."""
    steps = judge_task(figures(days=(day(examples=examples),))).steps
    assert missing == tuple(step.missing for step in steps)
    assert STEPS == {step.examples: step.buys for step in steps}


def test_pace_gives_the_days_until_a_step():
    """At ten examples a day, 90 more take nine days; if nothing comes in, the number is unknown."""
    assert (9, 49, 99) == tuple(step.days for step in judge_task(figures(days=(day(examples=10),))).steps)
    assert {None} == {step.days for step in judge_task(figures(days=(day(),))).steps}


def test_task_without_data_has_only_unknowns():
    """Without calls every number is unknown or 0, and the interval of a share is 0 to 1."""
    judged = judge_task(BEGUN)
    assert (None, 0.0, 1.0) == (judged.agreement.value, judged.agreement.low, judged.agreement.high)
    assert (None, None) == (judged.coverage.above, judged.costs.saved_micros)
    assert ["unknown", "no", "unknown", "unknown"] == [each.verdict for each in judged.suitability]
    assert 110 == judged.coverage.more
    assert "nothing comes in at present" in judged.advice.then


@pytest.mark.parametrize(
    ("said", "because"),
    [
        ({}, "No answer of this task has been captured yet, so"),
        ({"days": (day(answers={"local": 9}), *(day() for _ in range(30)))}, "captured in the last 30 days, so"),
        ({"collected": False}, "'collect' under 'examples' in agent.yaml names the tasks that are."),
    ],
)
def test_unknown_verdict_has_a_reason(said, because):
    """The verdict is unknown because no answer was captured, none recently, or the task is not collected."""
    judged = judge_task(figures(**said))
    for about in ("specificity", "constraints"):
        assert ("unknown", True) == (answer(judged, about).verdict, because in answer(judged, about).because)


def test_interval_of_one_comparison_is_wide():
    """One matching comparison allows any agreement from 2.5% on."""
    judged = judge_task(
        figures(confident=confident((0.99, 1, 1)), days=(day(examples=1, compared=ComparisonCount(1, 1)),))
    )
    assert (1.0, 0.025, 1.0) == (judged.agreement.value, round(judged.agreement.low, 6), judged.agreement.high)
    assert (None, 109) == (judged.coverage.above, judged.coverage.more)


def test_number_of_comparisons_that_prove_the_risk():
    """At any of eight confidences 110 answers without a difference prove 5% with 90% certainty, 109 do not."""
    assert None is judge_task(figures(confident=confident((0.0, 109, 109)))).coverage.above
    takes = judge_task(figures(confident=confident((0.0, 110, 110)))).coverage
    assert (0.0, 0.0, 1.0) == (takes.above, takes.risk, takes.share.value)


def test_coverage_ends_where_the_risk_is_not_proved():
    """Levels are tested downwards and stop at the first whose risk is not proved."""
    rows = ((0.2, 200, 200), (0.5, 200, 120), (0.8, 200, 196), (0.9, 200, 200))
    takes = judge_task(figures(confident=confident(*rows))).coverage
    assert (0.8, 0.01, 0.5) == (takes.above, takes.risk, takes.share.value)
    assert [True, True, False, False] == [level.holds for level in takes.levels]


def reviewed(right: int) -> TaskFigures:
    """Return a task whose large model contradicts 8 of 100 confident answers, `right` of which people found right."""
    seen = ConfidenceBand(0.9, 100, ComparisonCount(100, 92), ComparisonCount(8, right))
    return figures(threshold=0.9, confident=(ConfidenceBand(0.2, 100, ComparisonCount(100, 40)), seen))


@pytest.mark.parametrize(
    ("right", "differ", "why", "above"),
    [(8, 0, "RISK_HOLDS", 0.9), (0, 8, "RISK_BROKEN", None), (2, 6, "RISK_BROKEN", None)],
)
def test_reviews_override_the_large_model(right, differ, why, above):
    """An answer that the large model contradicted and a person confirmed is no error."""
    judged = judge_task(reviewed(right))
    assert (100, 8, differ) == (judged.coverage.levels[0].rows, judged.coverage.levels[0].reviewed, differ_at(judged))
    assert (why, above) == (judged.advice.why, judged.coverage.above)
    assert (132, 200) == (judged.agreement.hits, judged.agreement.rows), "that is what both say, right or not"


def differ_at(judged: TaskJudgement) -> int:
    """Return the number of errors at the bundle's threshold."""
    assert judged.at_threshold is not None
    return judged.at_threshold.differ


def test_reviews_can_remove_coverage():
    """An answer on which both models agreed is an error if a person corrected it."""
    both = ConfidenceBand(0.9, 100, ComparisonCount(100, 100), ComparisonCount(20, 12), 20)
    judged = judge_task(figures(threshold=0.9, confident=(both,)))
    assert (8, None) == (differ_at(judged), judged.coverage.above)
    assert "People or the large model disagree with 8% of its 100 confident answers" in judged.advice.because


def test_audit_proves_nothing_below_the_threshold():
    """An audit compares confident answers only, so nothing is claimed for the others."""
    audited = (ConfidenceBand(0.2, 300, ComparisonCount()), ConfidenceBand(0.9, 100, ComparisonCount(80, 80)))
    assert 0.25 == judge_task(figures(confident=audited, threshold=0.9)).coverage.share.value


def test_extra_audits_do_not_dilute_errors_below_the_threshold():
    """Confident answers that are compared more often are scaled down to the compared share of the others."""
    shadow = (ConfidenceBand(0.2, 100, ComparisonCount(100, 90)), ConfidenceBand(0.9, 100, ComparisonCount(100, 100)))
    more = (ConfidenceBand(0.2, 100, ComparisonCount(50, 45)), ConfidenceBand(0.9, 100, ComparisonCount(100, 100)))
    levels = [judge_task(figures(confident=each, threshold=0.9)).coverage.levels[-1] for each in (shadow, more)]
    assert [(200, 10), (100, 5)] == [(level.rows, level.differ) for level in levels]


def test_bad_model_is_distinguished_from_too_little_data():
    """If every second answer differs, no number of comparisons helps; if few do, some number does."""
    assert None is judge_task(figures(confident=confident((0.0, 400, 200)))).coverage.more
    assert 1 <= judge_task(figures(confident=confident((0.0, 60, 59)))).coverage.more <= 700


def test_recommendation_names_the_gain_of_a_new_calibration():
    """If a lower threshold would also hold, the recommendation has it with its coverage."""
    advice = judge_task(SHADOW).advice
    assert (RecommendationReason.RISK_HOLDS, "hybrid") == (advice.why, advice.mode)
    assert "Recalibrated with a threshold of 0.75, it could answer 80%." in advice.then


def test_savings_are_local_calls_times_the_mean_price():
    """The mean price is the cost of all priced questions by their number; a month is thirty such days."""
    days = (
        day("2026-11-24", answers={"local": 60, "upstream": 40}, priced=40, cost_micros=40_000),
        day("2026-11-25", answers={"local": 100}),
    )
    money = judge_task(figures(mode="hybrid", days=days)).costs
    assert (1000, 160_000, 40_000, 100.0) == (
        money.price_micros,
        money.saved_micros,
        money.spent_micros,
        money.calls_a_day,
    )
    assert (3_000_000, 600_000, 12 * 2_400_000) == (
        money.month_all_large_micros,
        money.month_now_micros,
        money.year_gain_micros,
    )


@pytest.mark.parametrize(
    ("priced", "cost", "says"),
    [
        (0, 0, "0 questions to the large model were paid for"),
        (19, 19, "19 questions"),
        (30, 0, "set the prices under 'escalation'"),
    ],
)
def test_savings_are_unknown_without_a_price(priced, cost, says):
    """Without enough priced questions the savings are unknown, and the report says what is missing."""
    judged = judge_task(figures(days=(day(answers={"local": 500}, priced=priced, cost_micros=cost),)))
    assert (None, "unknown") == (judged.costs.saved_micros, answer(judged, "economics").verdict)
    assert says in answer(judged, "economics").because


def test_costs_cover_the_reporting_window():
    """Costs and calls are those of the window, examples those of all days."""
    days = tuple(day(f"2026-10-{at + 1:02}", answers={"local": 10}, examples=1) for at in range(31))
    judged = judge_task(figures(days=days, window=30))
    assert (300, 31) == (judged.costs.calls, judged.figures.examples)


def test_costs_of_all_tasks_are_summed():
    """A task without known savings is left out of the sum."""
    every = sum_costs(map(judge_task, (HYBRID, LITTLE, BEGUN)))
    saved = [judge_task(each).costs.saved_micros for each in (HYBRID, LITTLE)]
    assert (sum(saved), HYBRID.calls + LITTLE.calls) == (every.saved_micros, every.calls)
    assert None is sum_costs([judge_task(BEGUN)]).saved_micros


NEAR = figures(days=(day(answers={"local": 100}),), large_ms=40.0, local_ms=30.0)
AWAY = figures(days=(day(answers={"local": 100}, blocked=5),), large_ms=40.0)


@pytest.mark.parametrize(
    ("about", "said", "verdict", "number"),
    [
        ("specificity", SHADOW, "yes", "8 labels, as varied as 6.9 equally frequent ones"),
        ("specificity", figures(kind="generate"), "no", "kind generate"),
        ("specificity", figures(kind="extract"), "yes", "a fixed record"),
        ("data", LITTLE, "no", "55 examples, 0 reviewed by people"),
        ("data", figures(days=(day(examples=200, reviewed=7),)), "partly", "200 examples, 7 reviewed by people"),
        ("data", SHADOW, "yes", "2\u202f004 examples, 54 reviewed by people"),
        ("economics", LITTLE, "unknown", "11 calls a day"),
        ("constraints", figures(may_leave=False), "yes", "no large model may be asked"),
        ("constraints", NEAR, "no", "not available for 0% of 100 answers; 40 ms there; 30 ms here"),
        ("constraints", AWAY, "yes", "not available for 5% of 100 answers; 40 ms there"),
        ("constraints", HYBRID, "yes", "not available for 0.1% of 36\u202f931 answers; 1.2 s there; 29 ms here"),
    ],
)
def test_each_suitability_answer_has_its_number(about, said, verdict, number):
    """The framework gives a verdict and what it rests on."""
    found = answer(judge_task(said), about)
    assert (verdict, number) == (found.verdict, found.number)
    assert found.because.endswith(".")


def test_model_no_better_than_the_most_frequent_label():
    """A model that agrees no more often than always choosing the most frequent label has not learned the task."""
    one = labels(1000)
    said = figures(labels=one, days=(day(answers={"upstream": 1000}),), confident=confident((0.5, 400, 60)))
    assert "no" == answer(judge_task(said), "specificity").verdict


def test_many_labels_are_not_narrow():
    """More labels than a handful take many examples, whatever else."""
    many = tuple(LabelFigures(f"label-{at}", 10) for at in range(LABELS_NARROW_MAX + 1))
    assert (
        "partly" == answer(judge_task(figures(labels=many, days=(day(answers={"local": 1}),))), "specificity").verdict
    )


def test_rare_labels_are_named():
    """A thousand examples are not enough if a label has few of them."""
    found = answer(judge_task(figures(days=(day(examples=1500),), labels=labels(180))), "data")
    assert ("partly", "'other' has 5") == (found.verdict, found.because[-16:-1].strip(": "))


@pytest.mark.parametrize(("cost", "verdict"), [(None, "partly"), (100, "yes"), (300, "partly"), (5000, "no")])
def test_payback_time_decides_the_cost_verdict(cost, verdict):
    """With a given cost of a model, the verdict is whether it pays within a year, within three years, or not."""
    found = answer(judge_task(HYBRID, CostAssumptions("EUR", cost and cost * 1_000_000)), "economics")
    assert verdict == found.verdict
    assert "EUR a year" in found.because


@pytest.mark.parametrize(
    "spoil",
    [
        {"threshold": math.nan},
        {"large_ms": math.inf},
        {"target": math.nan},
        {"target": 0.0},
        {"delta": 1.0},
        {"days": (day(examples=-1),)},
        {"days": (day(answers={"local": -1}),)},
        {"labels": (LabelFigures("refund", -3),)},
        {"confident": (ConfidenceBand(math.nan, 1, ComparisonCount(1, 1)),)},
    ],
)
def test_impossible_figure_is_refused(spoil):
    """A figure that is not a number or cannot have been counted is refused by name."""
    with pytest.raises(ValueError, match=r"nobody can have measured|is no promise"):
        figures(**spoil)


def test_more_matches_than_comparisons_are_refused():
    """2 matches of 1 comparison are refused."""
    with pytest.raises(ValueError, match="2 of 1"):
        ComparisonCount(1, 2)


def test_sample_tasks_cover_every_tone():
    """The sample pages show a task with little data, one that is ready, one at work and one with a refuted
    guarantee."""
    found = {each.task: judge_task(each).advice.why for each in (LITTLE, HYBRID, BROKEN)}
    wanted = {
        "pos-intent": RecommendationReason.NEEDS_EXAMPLES,
        "product-group": RecommendationReason.STILL_ASKS,
        "complaint": RecommendationReason.RISK_BROKEN,
    }
    assert wanted == found
    assert 8 == len(LABELS)
    assert isinstance(BROKEN, TaskFigures)


@pytest.mark.parametrize(("calls", "number"), [(30, "1 call a day"), (60, "2 calls a day")])
def test_nouns_agree_with_their_numbers(calls, number):
    """A number and its noun agree."""
    month = tuple(day(answers={"local": calls // 30}, priced=int(at == 0)) for at in range(30))
    assert number == answer(judge_task(figures(days=month)), "economics").number
    few = answer(judge_task(figures(days=(day(answers={"local": 500}, priced=1, cost_micros=5),))), "economics")
    assert "1 question to the large model was paid for" in few.because


def test_unanswered_calls_are_no_savings():
    """While the large model was offline nothing was paid; without a local model that is no saving."""
    busy = day(answers={"upstream": 900, "abstained": 100}, priced=900, cost_micros=900 * 260)
    judged = judge_task(figures(mode="bootstrap", has_model=False, days=(busy,)), CostAssumptions("EUR", 1_000_000))
    assert (0, "unknown") == (judged.costs.year_gain_micros, answer(judged, "economics").verdict)
    assert "Nothing is proved yet." in answer(judged, "economics").because
