"""From figures to a judgement: each recommendation and verdict, and the result of too little data."""

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
def test_every_advice_is_given(why):
    """Each reason has figures that lead to it, to its mode, and to what is wanting."""
    said, mode, more = ADVICE[why]
    advice = judge_task(figures(**said)).advice
    assert (why, mode, more) == (advice.why, advice.mode, advice.more)
    assert advice.because.endswith(".")
    assert advice.then


@pytest.mark.parametrize("mode", ["hybrid", "local"])
def test_a_task_without_a_call_has_no_share_in_its_advice(mode):
    """A new site is told that nothing is captured yet, or that the task is not collected, and to stay in its mode."""
    advice = judge_task(figures(mode=mode)).advice
    assert (mode, "No answer of this task has been captured yet") == (advice.mode, advice.because.partition(",")[0])
    advice = judge_task(figures(mode=mode, collected=False)).advice
    assert (mode, "This task is not collected") == (advice.mode, advice.because.partition(",")[0])


@pytest.mark.parametrize(("mode", "says"), [("hybrid", "shadow"), ("local", "shadow")])
def test_an_alarm_about_the_promise_sends_a_task_back(mode, says):
    """When people or the large model have refuted the promise, the advice is shadow, in the alarm's words."""
    advice = judge_task(figures(mode=mode, days=(day(sure=100),), alarms=(ALARM,))).advice
    assert (RecommendationReason.RISK_BROKEN, says) == (advice.why, advice.mode)
    assert "People found 9 of 60 confident answers wrong." == advice.because
    assert "Look at them." in advice.then


def test_an_alarm_keeps_a_task_in_shadow():
    """What was compared may look well: a promise that was refuted is not trusted before there is a new bundle."""
    held = {**SURE, "confident": confident((0.9, 100, 100))}
    assert "hybrid" == judge_task(figures(**held)).advice.mode
    assert RecommendationReason.RISK_BROKEN == judge_task(figures(**held, alarms=(ALARM,))).advice.why


def test_drift_alone_changes_no_mode():
    """An alarm about inputs is shown, and does not say that answers are wrong."""
    drifted = figures(
        threshold=0.9, mode="hybrid", days=(day(sure=100),), alarms=(TaskAlarm("labels", "other labels", "Look."),)
    )
    assert RecommendationReason.STILL_ASKS == judge_task(drifted).advice.why


@pytest.mark.parametrize(
    ("mode", "said"), [("hybrid", "the large model answers every input"), ("local", "no other model is asked")]
)
def test_a_bundle_without_a_threshold_is_to_be_calibrated(mode, said):
    """No answer is below a threshold that does not exist, and hybrid would ask the large model about every input."""
    judged = judge_task(figures(mode=mode, days=(day(**MANY, unsure=2000, held_up={"BELOW_THRESHOLD": 2000}),)))
    because = f"Its bundle has no threshold, so none of its answers is confident, and {said}."
    advice = judged.advice
    assert (mode, RecommendationReason.NOT_CALIBRATED, because) == (advice.mode, advice.why, advice.because)
    assert "Calibrate it" in advice.then
    assert ("Not confident", "100%", "2\u202f000 without a threshold") in summary_tiles(judged)


def test_a_site_that_may_not_ask_is_told_to_allow_it():
    """Hybrid needs the task's inputs to leave: the advice says where that is allowed."""
    alone = figures(threshold=0.9, mode="local", may_leave=False, days=(day(**MANY, sure=1500, unsure=500),))
    assert "'tasks' under 'escalation'" in judge_task(alone).advice.then


@pytest.mark.parametrize(
    ("examples", "missing"), [(0, (100, 500, 1000)), (1, (99, 499, 999)), (100, (0, 400, 900)), (1000, (0, 0, 0))]
)
def test_examples_are_held_against_the_steps(examples, missing):
    """Each step says how many examples are wanting, and what it buys."""
    steps = judge_task(figures(days=(day(examples=examples),))).steps
    assert missing == tuple(step.missing for step in steps)
    assert STEPS == {step.examples: step.buys for step in steps}


def test_the_pace_says_when_a_step_is_reached():
    """At ten examples a day it takes nine days more from ten to a hundred; where nothing comes in, nobody knows."""
    assert (9, 49, 99) == tuple(step.days for step in judge_task(figures(days=(day(examples=10),))).steps)
    assert {None} == {step.days for step in judge_task(figures(days=(day(),))).steps}


def test_without_anything_nothing_is_claimed():
    """A task that nobody has asked yet: every number is unknown or none, and the interval of a share is all of it."""
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
def test_a_question_without_answers_says_why(said, because):
    """None was captured yet or lately, or the site does not collect the task; the verdict is unknown."""
    judged = judge_task(figures(**said))
    for about in ("specificity", "constraints"):
        assert ("unknown", True) == (answer(judged, about).verdict, because in answer(judged, about).because)


def test_one_comparison_says_nearly_nothing():
    """One input that both models answered alike: all of one, and anything from 2.5% on is possible."""
    judged = judge_task(
        figures(confident=confident((0.99, 1, 1)), days=(day(examples=1, compared=ComparisonCount(1, 1)),))
    )
    assert (1.0, 0.025, 1.0) == (judged.agreement.value, round(judged.agreement.low, 6), judged.agreement.high)
    assert (None, 109) == (judged.coverage.above, judged.coverage.more)


def test_complete_agreement_is_proved_as_far_as_its_number_bears():
    """110 answers without a difference prove 5% with 90% certainty at any of eight confidences, 109 do not."""
    assert None is judge_task(figures(confident=confident((0.0, 109, 109)))).coverage.above
    takes = judge_task(figures(confident=confident((0.0, 110, 110)))).coverage
    assert (0.0, 0.0, 1.0) == (takes.above, takes.risk, takes.share.value)


def test_what_it_could_take_ends_where_the_risk_does():
    """The walk goes down as long as the wanted risk is proved, and no further, whatever comes below."""
    rows = ((0.2, 200, 200), (0.5, 200, 120), (0.8, 200, 196), (0.9, 200, 200))
    takes = judge_task(figures(confident=confident(*rows))).coverage
    assert (0.8, 0.01, 0.5) == (takes.above, takes.risk, takes.share.value)
    assert [True, True, False, False] == [level.holds for level in takes.levels]


def reviewed(right: int) -> TaskFigures:
    """Return a task whose large model contradicts 8 of 100 confident answers, of which people found so many right."""
    seen = ConfidenceBand(0.9, 100, ComparisonCount(100, 92), ComparisonCount(8, right))
    return figures(threshold=0.9, confident=(ConfidenceBand(0.2, 100, ComparisonCount(100, 40)), seen))


@pytest.mark.parametrize(
    ("right", "differ", "why", "above"),
    [(8, 0, "RISK_HOLDS", 0.9), (0, 8, "RISK_BROKEN", None), (2, 6, "RISK_BROKEN", None)],
)
def test_people_have_the_last_word_on_what_it_could_take(right, differ, why, above):
    """Where the large model contradicted a right answer, and a person has said so, that is no error any more."""
    judged = judge_task(reviewed(right))
    assert (100, 8, differ) == (judged.coverage.levels[0].rows, judged.coverage.levels[0].reviewed, differ_at(judged))
    assert (why, above) == (judged.advice.why, judged.coverage.above)
    assert (132, 200) == (judged.agreement.hits, judged.agreement.rows), "that is what both say, right or not"


def differ_at(judged: TaskJudgement) -> int:
    """Return what counts as wrong at the bundle's threshold."""
    assert judged.at_threshold is not None
    return judged.at_threshold.differ


def test_people_s_word_may_take_it_away():
    """An answer on which both erred alike is an error once a person has said so."""
    both = ConfidenceBand(0.9, 100, ComparisonCount(100, 100), ComparisonCount(20, 12), 20)
    judged = judge_task(figures(threshold=0.9, confident=(both,)))
    assert (8, None) == (differ_at(judged), judged.coverage.above)
    assert "People or the large model disagree with 8% of its 100 confident answers" in judged.advice.because


def test_an_audit_says_nothing_of_what_it_does_not_look_at():
    """An audit compares confident answers only: nothing is claimed of those below the threshold."""
    audited = (ConfidenceBand(0.2, 300, ComparisonCount()), ConfidenceBand(0.9, 100, ComparisonCount(80, 80)))
    assert 0.25 == judge_task(figures(confident=audited, threshold=0.9)).coverage.share.value


def test_audits_on_top_of_shadow_do_not_make_the_rest_look_better():
    """Sure answers that are compared more often than others count below the threshold as often as others only."""
    shadow = (ConfidenceBand(0.2, 100, ComparisonCount(100, 90)), ConfidenceBand(0.9, 100, ComparisonCount(100, 100)))
    more = (ConfidenceBand(0.2, 100, ComparisonCount(50, 45)), ConfidenceBand(0.9, 100, ComparisonCount(100, 100)))
    levels = [judge_task(figures(confident=each, threshold=0.9)).coverage.levels[-1] for each in (shadow, more)]
    assert [(200, 10), (100, 5)] == [(level.rows, level.differ) for level in levels]


def test_a_model_that_is_no_good_is_told_apart_from_too_little_data():
    """Where every second answer differs, no number of comparisons helps; where a few do, some number does."""
    assert None is judge_task(figures(confident=confident((0.0, 400, 200)))).coverage.more
    assert 1 <= judge_task(figures(confident=confident((0.0, 60, 59)))).coverage.more <= 700


def test_the_large_model_is_still_told_of_when_the_bundle_has_a_lower_threshold():
    """Shadow with a careful threshold: the recommendation shows the gain of a new calibration."""
    advice = judge_task(SHADOW).advice
    assert (RecommendationReason.RISK_HOLDS, "hybrid") == (advice.why, advice.mode)
    assert "Recalibrated with a threshold of 0.75, it could answer 80%." in advice.then


def test_saved_is_calls_here_times_the_usual_price():
    """The usual price is what was paid for questions by how many these were; a month is thirty days like these."""
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
def test_without_a_price_nothing_is_saved(priced, cost, says):
    """No price, or too few questions for one: saved is not known, and the report says what is wanting."""
    judged = judge_task(figures(days=(day(answers={"local": 500}, priced=priced, cost_micros=cost),)))
    assert (None, "unknown") == (judged.costs.saved_micros, answer(judged, "economics").verdict)
    assert says in answer(judged, "economics").because


def test_only_the_last_days_count_as_money():
    """Money and traffic are told of the window; examples of all days."""
    days = tuple(day(f"2026-10-{at + 1:02}", answers={"local": 10}, examples=1) for at in range(31))
    judged = judge_task(figures(days=days, window=30))
    assert (300, 31) == (judged.costs.calls, judged.figures.examples)


def test_tasks_are_added_up():
    """All tasks together: what is not known of one is left out of what was saved."""
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
def test_each_question_is_answered_by_a_number(about, said, verdict, number):
    """The framework gives a verdict and what it rests on."""
    found = answer(judge_task(said), about)
    assert (verdict, number) == (found.verdict, found.number)
    assert found.because.endswith(".")


def test_a_model_that_beats_no_guess_is_said_to():
    """When it agrees no more often than the most frequent label would, the task is not learnt."""
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
    """A thousand examples are not enough when a label has hardly any."""
    found = answer(judge_task(figures(days=(day(examples=1500),), labels=labels(180))), "data")
    assert ("partly", "'other' has 5") == (found.verdict, found.because[-16:-1].strip(": "))


@pytest.mark.parametrize(("cost", "verdict"), [(None, "partly"), (100, "yes"), (300, "partly"), (5000, "no")])
def test_the_volume_pays_when_the_model_has_paid_for_itself(cost, verdict):
    """If the cost of a model is given, the report shows whether it pays: within a year, within three, or not."""
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
def test_a_figure_that_is_none_is_refused(spoil):
    """What is no number, or cannot have been counted, is refused by name instead of being judged."""
    with pytest.raises(ValueError, match=r"nobody can have measured|is no promise"):
        figures(**spoil)


def test_more_of_the_same_than_there_is_is_refused():
    """Two alike of one cannot be."""
    with pytest.raises(ValueError, match="2 of 1"):
        ComparisonCount(1, 2)


def test_the_made_up_tasks_are_what_their_names_say():
    """The pages that a person looks at show every tone: little data, ready, at work, broken."""
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
def test_one_call_a_day_is_one(calls, number):
    """A number and its noun agree."""
    month = tuple(day(answers={"local": calls // 30}, priced=int(at == 0)) for at in range(30))
    assert number == answer(judge_task(figures(days=month)), "economics").number
    few = answer(judge_task(figures(days=(day(answers={"local": 500}, priced=1, cost_micros=5),))), "economics")
    assert "1 question to the large model was paid for" in few.because


def test_calls_that_nobody_answered_are_no_saving():
    """While the large model was offline nothing was paid: without a model here that proves nothing."""
    busy = day(answers={"upstream": 900, "abstained": 100}, priced=900, cost_micros=900 * 260)
    judged = judge_task(figures(mode="bootstrap", has_model=False, days=(busy,)), CostAssumptions("EUR", 1_000_000))
    assert (0, "unknown") == (judged.costs.year_gain_micros, answer(judged, "economics").verdict)
    assert "Nothing is proved yet." in answer(judged, "economics").because
