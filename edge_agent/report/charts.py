"""The charts of a task: examples, who answered, money, and how the model here compares. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from edge_agent.report import comparisons, svg
from edge_agent.report.chart import QUARTERS, Chart, Said, chart, month_and_day
from edge_agent.report.figures import Day
from edge_agent.report.judgement import Judgement
from edge_agent.report.readiness import STEPS
from edge_agent.report.svg import Sheet
from edge_agent.report.words import MICROS, amount, count, counted, percent

_DAYS_WIDE = 7
"""A bar is no wider than that many would be."""
ROUTES = {
    "local": "answered here",
    "upstream": "by the large model",
    "deferred": "here, the large one is asked later",
    "abstained": "without an answer",
}


def charts(judged: Judgement, name: str) -> list[Chart]:
    """Draw everything that there are figures for; `name` is unique on the page."""
    drawn = (draw(judged, f"{name}-{at}") for at, draw in enumerate(_CHARTS))
    return [each for each in drawn if each is not None]


def _examples(judged: Judgement, name: str) -> Chart:
    """Draw how far the examples have come. Each step is as wide as the others, so that the first can be seen."""
    examples, marks = judged.figures.examples, (0, *STEPS)
    sheet = Sheet(height=76, left=4, right=30, x_max=len(STEPS))
    whole, top, high = sheet.x(len(STEPS)) - sheet.left, 16.0, 22.0
    drawn = [
        svg.bar((sheet.left, top), (whole, high), "rest"),
        svg.bar((sheet.left, top), (sheet.x(_along(examples, marks)) - sheet.left, high), "a"),
    ]
    for at, mark in enumerate(marks[1:], 1):
        drawn.append(svg.line((sheet.x(at),) * 2, (top - 5, top + high + 5), "mark"))
        drawn.append(svg.text(sheet.x(at), top + high + 22, count(mark), "tick", "middle"))
    missing = next((step for step in judged.steps if step.missing), None)
    wanting = f"{count(missing.missing)} more to {missing.buys}" if missing else "every step is reached"
    rows = tuple((count(each.examples), each.buys, _wanting(each.missing)) for each in judged.steps)
    sentence = f"{counted(examples, 'example')}: {wanting}."
    said = Said("Examples", sentence, (), ("step", "enough to", "missing"), rows, frozenset({1}), at_once=True)
    return chart(name, said, sheet, drawn)


def _wanting(missing: int) -> str:
    return count(missing) if missing else "reached"


def _along(value: int, marks: Sequence[int]) -> float:
    """Return how many steps a number has come, parts of one included."""
    parts = [min(1.0, max(0.0, (value - low) / (high - low))) for low, high in itertools.pairwise(marks)]
    return sum(parts)


def _answers(judged: Judgement, name: str) -> Chart | None:
    figures, days = judged.figures, judged.figures.recent
    if not figures.calls:
        return None
    routes = [route for route in ROUTES if figures.routed(route)]
    most = max(sum(day.answers.values()) for day in days)
    sheet = Sheet(x_max=max(len(days), _DAYS_WIDE), y_max=svg.round_up(max(4, most)))
    drawn = svg.axis(sheet, [(part * sheet.y_max, f"{part * sheet.y_max:g}") for part in QUARTERS])
    for at, day in enumerate(days):
        drawn += _stack(sheet, at, day, routes)
    drawn += svg.below(sheet, [(at + 0.5, month_and_day(day.date)) for at, day in enumerate(days)])
    here = percent(figures.routed("local") / figures.calls)
    said = Said(
        "Who answered",
        f"Of {counted(figures.calls, 'answer')} in {counted(len(days), 'day')} {here} were given here.",
        tuple((route, ROUTES[route]) for route in routes),
        ("day (UTC)", *(ROUTES[route] for route in routes)),
        tuple((day.date, *(count(day.answers.get(route, 0)) for route in routes)) for day in days),
    )
    return chart(name, said, sheet, drawn)


def _stack(sheet: Sheet, at: int, day: Day, routes: Sequence[str]) -> Iterator[str]:
    """Draw one day's answers above each other."""
    wide, beneath = sheet.x(1) - sheet.x(0), 0
    for route in routes:
        number = day.answers.get(route, 0)
        upper, lower = sheet.y(beneath + number), sheet.y(beneath)
        beneath += number
        if number:
            said = f"{day.date}: {count(number)} {ROUTES[route]}"
            yield svg.bar((sheet.x(at) + wide * 0.08, upper), (wide * 0.84, lower - upper), route, said)


def _money(judged: Judgement, name: str) -> Chart | None:
    """Draw what was spent beside what the large model would have cost for everything, both from the first day on."""
    price, currency, days = judged.money.price_micros, judged.currency, judged.figures.recent
    if price is None:
        return None
    spent = list(itertools.accumulate(day.cost_micros for day in days))
    full = list(itertools.accumulate(day.cost_micros + price * day.answers.get("local", 0) for day in days))
    sheet = Sheet(left=56, right=24, x_max=max(1, len(days) - 1), y_max=svg.round_up(full[-1] / MICROS))
    drawn = svg.axis(sheet, [(part * sheet.y_max, amount(part * sheet.y_max * MICROS)) for part in QUARTERS])
    upper = [(sheet.x(at), sheet.y(value / MICROS)) for at, value in enumerate(full)]
    lower = [(sheet.x(at), sheet.y(value / MICROS)) for at, value in enumerate(spent)]
    drawn += [svg.area(upper, lower, "gain"), svg.path(upper, "line b"), svg.path(lower, "line a")]
    drawn += [svg.dot(*upper[-1], "b"), svg.dot(*lower[-1], "a")]
    drawn += svg.below(sheet, [(at, month_and_day(day.date)) for at, day in enumerate(days)])
    otherwise = f"without the model here it would have been {amount(full[-1], currency)}"
    said = Said(
        "Money, added up",
        f"Spent {amount(spent[-1], currency)}; {otherwise if full[-1] > spent[-1] else 'nothing was saved yet'}.",
        (("a", "spent"), ("b", "had the large model answered everything")),
        ("until (UTC)", "spent", "everything by the large model"),
        tuple(
            (day.date, amount(a, currency), amount(b, currency)) for day, a, b in zip(days, spent, full, strict=True)
        ),
    )
    return chart(name, said, sheet, drawn)


_CHARTS: tuple[Callable[[Judgement, str], Chart | None], ...] = (
    _examples,
    _answers,
    _money,
    comparisons.takes,
    comparisons.agreement,
    comparisons.labels,
)
