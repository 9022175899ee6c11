"""What the report promises holds: by simulation, and for figures that nobody thought of."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.report.judgement import VERDICTS, TaskJudgement, judge_task, report_json, sum_costs
from edge_agent.report.mode_recommendation import RecommendationReason
from edge_agent.report.readiness import achievable_coverage, at_threshold
from edge_agent.report.report_page import render_page
from edge_agent.report.suitability import CostAssumptions
from edge_agent.report.task_figures import (
    ComparisonCount,
    ConfidenceBand,
    DayFigures,
    LabelFigures,
    TaskAlarm,
    TaskFigures,
)
from edge_agent.statistics import anytime_proof, anytime_rows_needed, counted_share
from tests.support.report_figures import ABOUT, Outline, figures

TRIALS, TARGET, DELTA = 150, 0.1, 0.1
COUNTS = st.integers(0, 3000)
ROUTES = ("local", "upstream", "abstained", "deferred")


@st.composite
def compared(draw):
    """Return any comparison."""
    rows = draw(COUNTS)
    return ComparisonCount(rows, draw(st.integers(0, rows)))


@st.composite
def confidents(draw):
    """Return answers by confidence, as many bins as there are."""
    bins = draw(st.lists(st.integers(0, 100), unique=True, max_size=12))
    found = []
    for above in sorted(bins):
        pairs = draw(compared())
        found.append(ConfidenceBand(above / 100, pairs.rows + draw(COUNTS), pairs))
    return tuple(found)


@st.composite
def days(draw):
    """Return some days."""
    found = []
    for at in range(draw(st.integers(0, 5))):
        answers = draw(st.dictionaries(st.sampled_from(ROUTES), COUNTS))
        numbers = {name: draw(COUNTS) for name in ("sure", "unsure", "priced", "cost_micros", "examples", "reviewed")}
        blocked = draw(st.integers(0, sum(answers.values())))
        found.append(DayFigures(f"2026-11-{at + 1:02}", answers, blocked=blocked, compared=draw(compared()), **numbers))
    return tuple(found)


@st.composite
def tasks(draw) -> TaskFigures:
    """Return any task that can be."""
    names = draw(st.lists(st.text(min_size=1, max_size=12), unique=True, max_size=4))
    return TaskFigures(
        task=draw(st.text(min_size=1, max_size=20)),
        kind=draw(st.sampled_from(("classify", "extract", "generate", "embed"))),
        mode=draw(st.sampled_from(("bootstrap", "shadow", "hybrid", "local"))),
        has_model=draw(st.booleans()),
        days=draw(days()),
        labels=tuple(LabelFigures(name, draw(COUNTS), draw(COUNTS), draw(compared())) for name in names),
        confident=draw(confidents()),
        shadow=draw(compared()),
        judged=draw(compared()),
        alarms=draw(st.sampled_from(((), (TaskAlarm("errors", "said", "do"),), (TaskAlarm("length", "said", "do"),)))),
        threshold=draw(st.none() | st.floats(0, 1)),
        target=draw(st.floats(0.005, 0.5)),
        may_leave=draw(st.booleans()),
        large_ms=draw(st.floats(0, 60_000)),
        local_ms=draw(st.floats(0, 60_000)),
    )


def checked(judged: TaskJudgement) -> None:
    """Hold a judgement against what must be so, whatever the figures."""
    takes, advice, figures = judged.coverage, judged.advice, judged.figures
    assert isinstance(advice.why, RecommendationReason)
    assert advice.because.endswith(".")
    assert 4 == len(judged.suitability)
    assert {answer.verdict for answer in judged.suitability} <= VERDICTS.keys()
    assert (takes.above is None) is (not any(level.holds for level in takes.levels))
    assert_sequences_begin_where_they_may(judged)
    for level in takes.levels:
        assert level.risk <= level.bound <= 1
        assert level.bound <= figures.target + 1e-6 or not level.holds
    if advice.why is RecommendationReason.RISK_HOLDS:
        assert judged.at_threshold is not None
        assert judged.at_threshold.bound <= figures.target + 1e-6
    if advice.more is not None:
        assert advice.more > 0


def assert_sequences_begin_where_they_may(judged: TaskJudgement) -> None:
    """A level holds because a stricter one does, or because a sequence begins at it that was fixed before."""
    takes, figures = judged.coverage, judged.figures
    held = [level.holds for level in takes.levels]
    starts = [0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, *([] if figures.threshold is None else [figures.threshold])]
    below = [*(level.above for level in takes.levels[1:]), -1.0]
    for level, lower, before in zip(takes.levels, below, (False, *held), strict=False):
        begins = any(lower + 1e-9 < start <= level.above + 1e-9 for start in starts)
        assert not level.holds or before or begins


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tasks(), st.sampled_from(("", "EUR")), st.none() | st.integers(0, 10**12))
def test_any_figures_give_a_judgement_a_page_and_json(task, currency, cost):
    """Whatever was counted: a judgement that contradicts nothing, whole HTML, JSON without a number that is none."""
    judged = judge_task(task, CostAssumptions(currency, cost))
    checked(judged)
    assert 1 == Outline(render_page([judged], ABOUT)).count("h2")
    json.dumps(report_json([judged], ABOUT), allow_nan=False)
    assert sum_costs([judged]).calls == judged.costs.calls


def shadowed(chance: random.Random, rows: int) -> tuple[tuple[ConfidenceBand, ...], dict[float, float]]:
    """Let a model be compared whose confidence is about right; return what was seen, and the true risk from each on.

    The model errs in one of two ways: rightly unsure, or sure and wrong, a little more often than it says.
    """
    bins = {level / 20: [0, 0] for level in range(20)}
    errors = {above: min(1.0, 1.15 * (1 - above - 0.025)) for above in bins}
    for _ in range(rows):
        above = int(20 * chance.betavariate(5, 1.2)) / 20
        bins[above][0] += 1
        bins[above][1] += chance.random() >= errors[above]
    weights = {above: (above + 0.05) ** 5 - above**5 for above in bins}
    risks = {
        start: sum(weights[above] * errors[above] for above in bins if above >= start)
        / sum(weights[above] for above in bins if above >= start)
        for start in bins
    }
    return tuple(
        ConfidenceBand(above, number, ComparisonCount(number, same)) for above, (number, same) in bins.items()
    ), risks


@pytest.mark.slow
def test_what_it_could_take_keeps_the_wanted_risk():
    """Over many shadows, what the report says could be taken errs more often than wanted in hardly more than delta."""
    chance, broken, proved = random.Random(8), 0, 0
    for _ in range(TRIALS):
        seen, _ = shadowed(chance, 1200)
        takes = judge_task(figures(confident=seen, target=TARGET, delta=DELTA)).coverage
        if takes.above is not None:
            proved += 1
            again, _ = shadowed(chance, 4000)
            beyond = [each.compared for each in again if each.above >= takes.above]
            rows, same = sum(each.rows for each in beyond), sum(each.same for each in beyond)
            broken += (rows - same) / rows > TARGET + 0.01  # what 4,000 rows can tell from it
    assert proved > TRIALS / 2
    assert broken / TRIALS <= DELTA + 2 * (DELTA * (1 - DELTA) / TRIALS) ** 0.5


@pytest.mark.slow
def test_a_reader_who_looks_all_the_time_finds_hardly_more_false_proofs():
    """A risk of just the target at every confidence, and a report after every 25 answers: one false proof in ten."""
    chance, trials, ever = random.Random(11), 60, 0
    for _ in range(trials):
        bins = {above: [0, 0] for above in (0.5, 0.6, 0.7, 0.8, 0.9)}
        for _ in range(24):
            for _ in range(25):
                seen = bins[chance.choice(list(bins))]
                seen[0] += 1
                seen[1] += chance.random() >= TARGET
            bands = tuple(
                ConfidenceBand(above, rows, ComparisonCount(rows, same)) for above, (rows, same) in bins.items()
            )
            judged = figures(confident=bands, target=TARGET, delta=DELTA, threshold=0.7)
            if achievable_coverage(judged).above is not None or at_threshold(judged).holds:
                ever += 1
                break
    assert ever / trials <= DELTA


def test_a_looser_risk_takes_no_less():
    """Who accepts more errors gets no smaller share."""
    chance = random.Random(3)
    seen, _ = shadowed(chance, 2000)
    targets = (0.05, 0.1, 0.2, 0.3)
    shares = [judge_task(figures(confident=seen, target=target)).coverage.share.value for target in targets]
    assert sorted(shares) == shares
    assert shares[-1] > 0.5


def test_the_number_wanting_is_about_enough():
    """Who waits for as many inputs as the report says has proved the threshold in about half of the cases."""
    chance, enough = random.Random(5), 0
    error, said = 0.02, []
    for _ in range(100):
        differ = sum(chance.random() < error for _ in range(100))
        first = judge_task(
            figures(
                mode="shadow", threshold=0.5, confident=(ConfidenceBand(0.5, 100, ComparisonCount(100, 100 - differ)),)
            )
        )
        if first.advice.more is None:
            continue
        said.append(first.advice.more)
        more = sum(chance.random() < error for _ in range(first.advice.more))
        rows, wrong = 100 + first.advice.more, differ + more
        enough += anytime_proof(wrong, rows, 0.05, 0.05)
    assert len(said) > 20
    assert enough / len(said) > 0.4


@pytest.mark.parametrize(
    ("share_of_errors", "target", "wanted"),
    [(0.0, 0.05, 62), (0.0, 0.01, 315), (0.025, 0.05, 399), (0.05, 0.05, None), (0.0499999, 0.05, None)],
)
def test_rows_needed_are_the_first_with_which_it_is_proved(share_of_errors, target, wanted):
    """Found by counting up, to a few rows; where no reasonable number proves it, none."""
    found = anytime_rows_needed(share_of_errors, target, 0.1)
    assert (wanted is None) is (found is None)
    assert found is None or abs(found - wanted) <= 25


def test_a_share_of_too_much_is_none():
    """More hits than rows is a bug of whoever counts."""
    with pytest.raises(ValueError, match="3 of 2"):
        counted_share(3, 2)
