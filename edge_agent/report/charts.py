"""The charts of a task, as SVG in the colours of the page. Pure.

Every chart is 420 wide, so that its text is readable on a phone. Colours are CSS classes, which the page defines for
light and dark mode and for print. All text is escaped here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from edge_agent.formatting import MICROS, amount, count, count_of, interval, percent
from edge_agent.report.judgement import TaskJudgement, coverage_sentence
from edge_agent.report.readiness import STEPS, CoverageLevel
from edge_agent.report.task_figures import DayFigures
from edge_agent.statistics import CountedShare

WIDTH = 420.0
_LETTER_WIDTH = 6.6
"""Approximate width of a letter in axis labels."""


@dataclass(frozen=True)
class DrawingArea:
    """The drawing area between margins, with the ranges of its axes."""

    height: float = 230.0
    left: float = 46.0
    right: float = 14.0
    top: float = 14.0
    bottom: float = 32.0
    x_max: float = 1.0
    y_min: float = 0.0
    y_max: float = 1.0

    def x(self, value: float) -> float:
        """Return the x coordinate of a value."""
        return self.left + (WIDTH - self.left - self.right) * value / (self.x_max or 1.0)

    def y(self, value: float) -> float:
        """Return the y coordinate of a value, from the top, limited to the area."""
        part = (min(max(value, self.y_min), self.y_max) - self.y_min) / ((self.y_max - self.y_min) or 1.0)
        return self.top + (self.height - self.top - self.bottom) * (1 - part)


def picture(name: str, title: str, description: str, sheet: DrawingArea, marks: Iterable[str]) -> str:
    """Return a complete SVG with title and description; `name` is unique on the page."""
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {sheet.height:g}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(description)}</desc>'
        f"{''.join(marks)}</svg>"
    )


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """Return a text element."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(content)}</text>'


def line(x: tuple[float, float], y: tuple[float, float], kind: str) -> str:
    """Return a line element."""
    return f'<line x1="{x[0]:.1f}" x2="{x[1]:.1f}" y1="{y[0]:.1f}" y2="{y[1]:.1f}" class="{kind}"/>'


def bar(corner: tuple[float, float], size: tuple[float, float], kind: str, tooltip: str = "") -> str:
    """Return a filled rectangle with a tooltip."""
    title = f"<title>{escape(tooltip)}</title>" if tooltip else ""
    geometry = f'x="{corner[0]:.1f}" y="{corner[1]:.1f}" width="{max(size[0], 0):.1f}" height="{max(size[1], 0):.1f}"'
    return f'<rect {geometry} class="{kind}">{title}</rect>'


def dot(x: float, y: float, kind: str, tooltip: str = "", radius: float = 4.0) -> str:
    """Return a filled circle with a tooltip."""
    title = f"<title>{escape(tooltip)}</title>" if tooltip else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}">{title}</circle>'


def path(points: Sequence[tuple[float, float]], kind: str) -> str:
    """Return a line through points."""
    return f'<polyline points="{_points(points)}" class="{kind}"/>' if len(points) > 1 else ""


def area(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], kind: str) -> str:
    """Return the area between two lines."""
    return f'<polygon points="{_points([*upper, *reversed(lower)])}" class="{kind}"/>' if len(upper) > 1 else ""


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def axis(sheet: DrawingArea, values: Iterable[tuple[float, str]]) -> list[str]:
    """Return horizontal grid lines at these values, with labels."""
    span = (sheet.left, WIDTH - sheet.right)
    return [
        element
        for value, label in values
        for element in (
            line(span, (sheet.y(value),) * 2, "grid"),
            text(sheet.left - 6, sheet.y(value) + 4, label, "tick", "end"),
        )
    ]


def count_axis(sheet: DrawingArea) -> list[str]:
    """Return horizontal grid lines at the quarters of a count; a million is 1M, to save space."""
    divisor, unit = (1e6, "M") if sheet.y_max >= 1e6 else (1.0, "")
    values = [quarter * sheet.y_max for quarter in QUARTERS]
    return axis(sheet, [(value, f"{value / divisor:g}{unit if value else ''}") for value in values])


def below(sheet: DrawingArea, values: Sequence[tuple[float, str]]) -> list[str]:
    """Return the labels below the area: as many as have room, including the first and the last."""
    labels_max = max(
        1, int((WIDTH - sheet.left - sheet.right) / (_LETTER_WIDTH * max((len(s) for _, s in values), default=1) + 14))
    )
    step = max(1, math.ceil((len(values) - 1) / labels_max)) if labels_max < len(values) else 1
    shown = [values[index] for index in range(len(values) - 1, -1, -step)]
    return [text(sheet.x(value), sheet.height - sheet.bottom + 18, label, "tick", "middle") for value, label in shown]


def round_up(value: float) -> float:
    """Round up to a number whose quarters are short."""
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.2, 2, 4, 8, 12) if step * power >= value * (1 - 1e-9))


def cut(name: str, letters: int) -> str:
    """Return a name shortened to fit, with an ellipsis."""
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
LABELS_DRAWN_MAX = 12
_ROW_HEIGHT = 22.0
_UPPER_MARKS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_INTERVAL_POINTS_MAX = 3
"""Up to this many points get intervals of their own instead of a band."""
_BARS_MIN = 7
"""Bars are at most as wide as if there were this many."""
ROUTES = {
    "local": "local",
    "upstream": "by the large model",
    "deferred": "local, the large model is asked later",
    "abstained": "without an answer",
}


@dataclass(frozen=True)
class ChartText:
    """The texts of a chart."""

    title: str
    sentence: str
    legend: tuple[tuple[str, str], ...]
    """CSS classes of marks, and their meanings."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[int] = frozenset()
    """Columns with words; the others contain numbers, except the first."""
    at_once: bool = False
    """The table is short, and is shown open next to the chart."""


@dataclass(frozen=True)
class Chart:
    """One chart."""

    text: ChartText
    picture: str


def compose_chart(name: str, texts: ChartText, sheet: DrawingArea, marks: Iterable[str]) -> Chart:
    """Combine SVG and texts; `name` is unique on the page."""
    return Chart(texts, picture(name, texts.title, texts.sentence, sheet, marks))


def vertical_grid(sheet: DrawingArea) -> list[str]:
    """Return vertical grid lines at the quarters of a share."""
    bottom = sheet.height - sheet.bottom
    lines = [line((sheet.x(quarter),) * 2, (sheet.top, bottom), "grid") for quarter in QUARTERS]
    return [*lines, *(text(sheet.x(quarter), bottom + 18, percent(quarter), "tick", "middle") for quarter in QUARTERS)]


def month_and_day(date: str) -> str:
    """Return the label of a date below a chart."""
    return date[5:]


def task_charts(judgement: TaskJudgement, name: str) -> list[Chart]:
    """Draw all charts that have figures; `name` is unique on the page."""
    drawings = (draw(judgement, f"{name}-{number}") for number, draw in enumerate(_CHARTS))
    return [chart for chart in drawings if chart is not None]


def _examples_chart(judgement: TaskJudgement, name: str) -> Chart:
    """Draw the progress of examples. All steps have the same width, so that the first is visible."""
    examples, marks = judgement.figures.examples, (0, *STEPS)
    sheet = DrawingArea(height=76, left=4, right=30, x_max=len(STEPS))
    width, top, height = sheet.x(len(STEPS)) - sheet.left, 16.0, 22.0
    elements = [
        bar((sheet.left, top), (width, height), "rest"),
        bar((sheet.left, top), (sheet.x(_progress(examples, marks)) - sheet.left, height), "a"),
    ]
    for index, mark in enumerate(marks[1:], 1):
        elements.append(line((sheet.x(index),) * 2, (top - 5, top + height + 5), "mark"))
        elements.append(text(sheet.x(index), top + height + 22, count(mark), "tick", "middle"))
    next_step = next((step for step in judgement.steps if step.missing), None)
    progress = f"{count(next_step.missing)} more to {next_step.buys}" if next_step else "every step is reached"
    rows = tuple(
        (count(each.examples), each.buys, count(each.missing) if each.missing else "reached")
        for each in judgement.steps
    )
    sentence = f"{count_of(examples, 'example')}: {progress}."
    texts = ChartText("Examples", sentence, (), ("step", "enough to", "missing"), rows, frozenset({1}), at_once=True)
    return compose_chart(name, texts, sheet, elements)


def _progress(value: int, marks: Sequence[int]) -> float:
    """Return how many steps a number has reached, with fractions."""
    parts = [min(1.0, max(0.0, (value - low) / (high - low))) for low, high in itertools.pairwise(marks)]
    return sum(parts)


def _answers_chart(judgement: TaskJudgement, name: str) -> Chart | None:
    figures, days = judgement.figures, judgement.figures.recent
    if not figures.calls:
        return None
    routes = [route for route in ROUTES if figures.routed(route)]
    highest = max(sum(day.answers.values()) for day in days)
    sheet = DrawingArea(x_max=max(len(days), _BARS_MIN), y_max=round_up(max(4, highest)))
    elements = count_axis(sheet)
    for index, day in enumerate(days):
        elements += _day_bar(sheet, index, day, routes)
    elements += below(sheet, [(index + 0.5, month_and_day(day.date)) for index, day in enumerate(days)])
    local_share = percent(figures.routed("local") / figures.calls)
    texts = ChartText(
        "Who answered",
        f"Of {count_of(figures.calls, 'answer')} in {count_of(len(days), 'day')} {local_share} were local.",
        tuple((route, ROUTES[route]) for route in routes),
        ("day (UTC)", *(ROUTES[route] for route in routes)),
        tuple((day.date, *(count(day.answers.get(route, 0)) for route in routes)) for day in days),
    )
    return compose_chart(name, texts, sheet, elements)


def _day_bar(sheet: DrawingArea, index: int, day: DayFigures, routes: Sequence[str]) -> Iterator[str]:
    """Draw one day's answers as a stacked bar."""
    width, stacked = sheet.x(1) - sheet.x(0), 0
    for route in routes:
        number = day.answers.get(route, 0)
        upper, lower = sheet.y(stacked + number), sheet.y(stacked)
        stacked += number
        if number:
            message = f"{day.date}: {count(number)} {ROUTES[route]}"
            yield bar((sheet.x(index) + width * 0.08, upper), (width * 0.84, lower - upper), route, message)


def _cost_chart(judgement: TaskJudgement, name: str) -> Chart | None:
    """Draw the cumulative spending, and what the large model would have cost for all answers."""
    price, currency, days = judgement.costs.price_micros, judgement.currency, judgement.figures.recent
    if price is None:
        return None
    spent = list(itertools.accumulate(day.cost_micros for day in days))
    alone = list(itertools.accumulate(day.cost_micros + price * day.answers.get("local", 0) for day in days))
    sheet = DrawingArea(left=56, right=24, x_max=max(1, len(days) - 1), y_max=round_up(alone[-1] / MICROS))
    elements = axis(sheet, [(quarter * sheet.y_max, amount(quarter * sheet.y_max * MICROS)) for quarter in QUARTERS])
    upper = [(sheet.x(index), sheet.y(value / MICROS)) for index, value in enumerate(alone)]
    lower = [(sheet.x(index), sheet.y(value / MICROS)) for index, value in enumerate(spent)]
    elements += [area(upper, lower, "gain"), path(upper, "line b"), path(lower, "line a")]
    elements += [dot(*upper[-1], "b"), dot(*lower[-1], "a")]
    elements += below(sheet, [(index, month_and_day(day.date)) for index, day in enumerate(days)])
    comparison = f"without the local model it would have been {amount(alone[-1], currency)}"
    texts = ChartText(
        "Cumulative cost",
        f"Spent {amount(spent[-1], currency)}; {comparison if alone[-1] > spent[-1] else 'nothing was saved yet'}.",
        (("a", "spent"), ("b", "if the large model had answered everything")),
        ("until (UTC)", "spent", "with the large model alone"),
        tuple(
            (day.date, amount(a, currency), amount(b, currency)) for day, a, b in zip(days, spent, alone, strict=True)
        ),
    )
    return compose_chart(name, texts, sheet, elements)


def coverage_chart(judgement: TaskJudgement, name: str) -> Chart | None:
    """Draw the risk (disagreement of people or the large model) over the coverage of the local model."""
    coverage, target = judgement.coverage, judgement.figures.target
    if not coverage.levels:
        return None
    highest = max(target, *(level.risk for level in coverage.levels))
    sheet = DrawingArea(left=50, right=22, y_max=min(1.0, round_up(1.3 * highest)))
    bound = [(sheet.x(level.taken.value or 0.0), sheet.y(level.bound)) for level in coverage.levels]
    risk = [(sheet.x(level.taken.value or 0.0), sheet.y(level.risk)) for level in coverage.levels]
    elements = axis(sheet, [(quarter * sheet.y_max, percent(quarter * sheet.y_max)) for quarter in QUARTERS])
    elements += vertical_grid(sheet)
    elements += [area(bound, risk, "band"), path(risk, "line a")]
    for point, level in zip(risk, coverage.levels, strict=True):
        message = f"from {level.above:.2f} on: {percent(level.taken.value)} of all, {percent(level.risk)} disagree"
        elements.append(dot(*point, "a", message, 3.0))
    elements.append(line((sheet.left, WIDTH - sheet.right), (sheet.y(target),) * 2, "target"))
    if coverage.above is not None:
        elements.append(line((sheet.x(coverage.share.value or 0.0),) * 2, (sheet.top, sheet.y(0)), "mark"))
    texts = ChartText(
        "What the local model could answer",
        coverage_sentence(judgement),
        (
            ("a", coverage.levels[-1].judges),
            ("band", "up to what is proved"),
            ("target", f"wanted: {percent(target)} at most"),
        ),
        ("confidence from", "of all", "compared", "by people", "disagree", "proved bound", "holds"),
        tuple(_level_cells(level) for level in coverage.levels),
    )
    return compose_chart(name, texts, sheet, elements)


def agreement_chart(judgement: TaskJudgement, name: str) -> Chart | None:
    """Draw the agreement of both models over time."""
    periods = judgement.agreement_by_day
    if not periods:
        return None
    dates, shares = zip(*periods, strict=True)
    y_min, marks = (0.5, _UPPER_MARKS) if min(share.low for share in shares) > 0.5 else (0.0, QUARTERS)
    sheet = DrawingArea(left=50, right=24, x_max=max(1, len(periods) - 1), y_min=y_min)
    positions = [float(index) for index in range(len(periods))] if len(periods) > 1 else [0.5]
    elements = axis(sheet, [(mark, percent(mark)) for mark in marks])
    elements += _band([sheet.x(x) for x in positions], shares, sheet)
    for x, date, share in zip(positions, dates, shares, strict=True):
        elements.append(dot(sheet.x(x), sheet.y(share.value or 0.0), "a", f"{date}: {interval(share)}", 3.0))
    elements += below(sheet, [(x, month_and_day(date)) for x, date in zip(positions, dates, strict=True)])
    texts = ChartText(
        "Agreement with the large model",
        f"Both models agreed on {interval(judgement.agreement)} of {count_of(judgement.agreement.rows, 'input')}.",
        (("a", "agreed"), ("band", "95% interval")),
        ("from (UTC)", "compared", "agreed", "95% interval"),
        tuple((date, *_share_cells(share)) for date, share in periods),
    )
    return compose_chart(name, texts, sheet, elements)


def _band(xs: Sequence[float], shares: Sequence[CountedShare], sheet: DrawingArea) -> Iterator[str]:
    """Draw a line of shares with a band of intervals; with few points, separate intervals."""
    upper, lower = ([sheet.y(share.high) for share in shares], [sheet.y(share.low) for share in shares])
    yield area(list(zip(xs, upper, strict=True)), list(zip(xs, lower, strict=True)), "band")
    yield path([(x, sheet.y(share.value or 0.0)) for x, share in zip(xs, shares, strict=True)], "line a")
    for x, high, low in zip(xs, upper, lower, strict=True) if len(xs) < _INTERVAL_POINTS_MAX else ():
        yield line((x, x), (high, low), "whisker")


def label_chart(judgement: TaskJudgement, name: str) -> Chart | None:
    """Draw the agreement of both models by label."""
    compared = [label for label in judgement.labels if label.agreement.rows]
    if not compared:
        return None
    drawn_labels = compared[:LABELS_DRAWN_MAX]
    sheet = DrawingArea(height=40 + _ROW_HEIGHT * len(drawn_labels), left=118, right=22, top=8)
    elements = vertical_grid(sheet)
    for index, label in enumerate(drawn_labels):
        share, y = label.agreement, sheet.top + _ROW_HEIGHT * index + 12
        elements += [
            text(sheet.left - 8, y + 4, cut(label.name, 16), "tick", "end"),
            line((sheet.x(share.low), sheet.x(share.high)), (y, y), "whisker"),
            dot(sheet.x(share.value or 0.0), y, "a", f"{label.name}: {interval(share)}"),
        ]
    worst = min(compared, key=lambda label: label.agreement.value or 0.0)
    sentence = f"Least agreement: '{worst.name}', {interval(worst.agreement)} of {count(worst.agreement.rows)}."
    if len(compared) > len(drawn_labels):
        sentence += f" The {len(drawn_labels)} most frequent of {len(compared)} labels are drawn."
    texts = ChartText(
        "Agreement by label",
        sentence,
        (("a", "agreed with the large model"), ("whisker", "95% interval")),
        ("label", "examples", "compared", "agreed", "95% interval", "in the last week", "95% interval"),
        tuple(
            (label.name, count(label.examples), *_share_cells(label.agreement), *_share_cells(label.recent)[1:])
            for label in judgement.labels
        ),
    )
    return compose_chart(name, texts, sheet, elements)


def _level_cells(level: CoverageLevel) -> tuple[str, ...]:
    coverage, holds = percent(level.taken.value), "yes" if level.holds else "no"
    rows = count(level.rows), count(level.reviewed)
    return f"{level.above:.2f}", coverage, *rows, percent(level.risk), percent(level.bound), holds


def _share_cells(share: CountedShare) -> tuple[str, str, str]:
    interval_text = f"{percent(share.low)} to {percent(share.high)}" if share.rows else "-"
    return count(share.rows), percent(share.value), interval_text


_CHARTS: tuple[Callable[[TaskJudgement, str], Chart | None], ...] = (
    _examples_chart,
    _answers_chart,
    _cost_chart,
    coverage_chart,
    agreement_chart,
    label_chart,
)
