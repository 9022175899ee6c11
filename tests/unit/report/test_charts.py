"""The charts of the report: marks at the position of their figure, and the same figures in the table."""

import re

import pytest

from edge_agent.report import charts
from edge_agent.report.charts import LABELS_DRAWN_MAX, DrawingArea, task_charts
from edge_agent.report.judgement import judge_task
from edge_agent.report.suitability import CostAssumptions
from edge_agent.report.task_figures import ComparisonCount, LabelFigures
from tests.support.report_figures import BEGUN, HYBRID, LITTLE, SHADOW, confident, day, figures


def drawn(task, title):
    """Return one chart of a task."""
    (found,) = [each for each in task_charts(judge_task(task, CostAssumptions("EUR")), "t") if each.text.title == title]
    return found


def places(picture, tag, kind, name):
    """Return the positions of marks of a kind."""
    return [float(found) for found in re.findall(rf'<{tag} [^>]*{name}="([\d.-]+)"[^>]*class="{kind}"', picture)]


@pytest.mark.parametrize(
    ("task", "titles"),
    [
        (BEGUN, ["Examples"]),
        (LITTLE, ["Examples", "Who answered", "Cumulative cost"]),
        (
            SHADOW,
            [
                *("Examples", "Who answered", "Cumulative cost", "What the local model could answer"),
                *("Agreement with the large model", "Agreement by label"),
            ],
        ),
    ],
)
def test_chart_without_figures_is_not_drawn(task, titles):
    """No chart is empty: what is not known yet has none."""
    assert titles == [each.text.title for each in task_charts(judge_task(task), "t")]


@pytest.mark.parametrize(("examples", "part"), [(0, 0.0), (50, 1 / 6), (100, 1 / 3), (750, 5 / 6), (5000, 1.0)])
def test_examples_bar_is_filled_by_steps(examples, part):
    """Each step is a third of the bar, whatever number of examples it takes; beyond the last it is full."""
    picture = drawn(figures(days=(day(examples=examples),)), "Examples").picture
    (whole,), (filled,) = places(picture, "rect", "rest", "width"), places(picture, "rect", "a", "width")
    assert part == pytest.approx(filled / whole, abs=0.001)


def test_answers_of_a_day_are_stacked():
    """A bar is as high as its number and begins where the one below ends."""
    picture = drawn(figures(days=(day(answers={"local": 30, "upstream": 10}),)), "Who answered").picture
    (local,), (upstream,) = places(picture, "rect", "local", "height"), places(picture, "rect", "upstream", "height")
    (top,), (above,) = places(picture, "rect", "local", "y"), places(picture, "rect", "upstream", "y")
    assert 3 == pytest.approx(local / upstream, abs=0.02)
    assert top == pytest.approx(above + upstream, abs=0.2)


def test_bar_has_its_number_as_a_tooltip():
    """The numbers are in the picture, too."""
    picture = drawn(figures(days=(day(answers={"local": 30}),)), "Who answered").picture
    assert "<title>2026-11-25: 30 local</title>" in picture


def test_cost_chart_is_cumulative():
    """The last row of the table has the spent amount, and the sum of spent and saved."""
    money, chart = judge_task(HYBRID).costs, drawn(HYBRID, "Cumulative cost")
    assert ("2026-11-25", "2.91 EUR", "15.37 EUR") == chart.text.rows[-1]
    assert 15.37 == round((money.spent_micros + money.saved_micros) / 1e6, 2)
    assert "nothing was saved yet" in drawn(SHADOW, "Cumulative cost").text.sentence


def test_coverage_is_marked():
    """A line marks the share of inputs that the local model could answer; without one there is no line."""
    chart = drawn(SHADOW, "What the local model could answer")
    (x,) = places(chart.picture, "line", "mark", "x1")
    assert DrawingArea(left=50, right=22).x(judge_task(SHADOW).coverage.share.value) == pytest.approx(x, abs=0.06)
    nothing = drawn(figures(confident=confident((0.5, 100, 50))), "What the local model could answer")
    assert [] == places(nothing.picture, "line", "mark", "x1")
    assert "the model has to improve" in nothing.text.sentence


def test_table_has_every_threshold():
    """Each threshold has a row with its coverage, disagreement, proved risk, and whether that holds."""
    rows = drawn(SHADOW, "What the local model could answer").text.rows
    assert 12 == len(rows)
    assert ("0.95", "34%", "675", "0", "1%", "3%", "yes") == rows[0]
    assert "no" == rows[-1][-1]


@pytest.mark.parametrize(("days", "whiskers"), [(1, 1), (2, 2), (3, 0)])
def test_one_or_two_days_have_separate_intervals(days, whiskers):
    """A band needs three points; with one or two days each has its own interval."""
    every = tuple(day(f"2026-11-{at + 1:02}", compared=ComparisonCount(20, 18)) for at in range(days))
    picture = drawn(figures(days=every), "Agreement with the large model").picture
    assert (days, whiskers) == (
        len(places(picture, "circle", "a", "cx")),
        len(places(picture, "line", "whisker", "x1")),
    )


def test_many_days_are_grouped():
    """If there are more days than the chart has space for, several days make one point and none is omitted."""
    every = tuple(day(f"day {at:03}", compared=ComparisonCount(10, 9)) for at in range(150))
    found = judge_task(figures(days=every)).agreement_by_day
    assert (50, 1500) == (len(found), sum(share.rows for _, share in found))


def test_agreement_axis_starts_at_one_half_if_possible():
    """If all values are above one half, the axis starts there, so that differences are visible."""
    high = figures(days=(day(compared=ComparisonCount(100, 95)),))
    low = figures(days=(day(compared=ComparisonCount(10, 4)),))
    assert [True, False] == [
        ">0%<" not in drawn(task, "Agreement with the large model").picture for task in (high, low)
    ]


def test_the_most_frequent_labels_are_drawn_and_all_are_in_the_table():
    """A task with many labels has a readable chart and a complete table."""
    many = tuple(LabelFigures(f"a-rather-long-label-{at:02}", 100 - at, 20, ComparisonCount(10, 9)) for at in range(30))
    chart = drawn(figures(labels=many), "Agreement by label")
    assert (LABELS_DRAWN_MAX, 30) == (len(places(chart.picture, "circle", "a", "cx")), len(chart.text.rows))
    assert "The 12 most frequent of 30 labels are drawn." in chart.text.sentence
    assert ">a-rather-long-l…<" in chart.picture


def test_label_has_its_last_week_beside_the_total():
    """The table shows whether a label has become worse."""
    worse = LabelFigures("refund", 100, 20, ComparisonCount(100, 90), ComparisonCount(10, 4))
    (row,) = drawn(figures(labels=(worse,)), "Agreement by label").text.rows
    assert ("refund", "20", "100", "90%", "82% to 95%", "40%", "12% to 74%") == row


def test_value_beyond_the_axis_is_drawn_at_its_edge():
    """A bound of 100% on an axis that ends at 20% is drawn at the top."""
    sheet = DrawingArea(y_max=0.2)
    assert (sheet.top, sheet.height - sheet.bottom) == (sheet.y(1.0), sheet.y(-1.0))


@pytest.mark.parametrize("mark", [charts.path([(1, 2)], "line"), charts.area([(1, 2)], [(1, 3)], "band")])
def test_line_or_area_needs_two_points(mark):
    """A line or an area needs two."""
    assert "" == mark


@pytest.mark.parametrize(
    ("answers", "ticks"),
    [(900, "0 300 600 900 1200"), (30_000, "0 10000 20000 30000 40000"), (900_000, "0 0.3M 0.6M 0.9M 1.2M")],
)
def test_an_axis_of_many_answers_has_plain_numbers(answers, ticks):
    """A million answers a day are written as 1M, never with an exponent."""
    picture = drawn(figures(days=(day(answers={"local": answers}),)), "Who answered").picture
    assert ticks.split() == re.findall(r'text-anchor="end">([^<]*)<', picture)
