"""Figures of made-up tasks for tests of the report, and of tasks in every state that a person looks at.

Run `python -m tests.support.report_figures FOLDER` to see the pages.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from edge_agent.report.judgement import ReportHeader, judge_task
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

ABOUT = ReportHeader("shop-12", "2026-11-25 21:40 UTC", "0.1.0", "large-1")
VOID = {"meta", "br"}
LABELS = ("refund", "exchange", "price", "stock", "hours", "loyalty", "payment", "other")


def dates(count: int) -> list[str]:
    """Name so many days, the last of them in November 2026."""
    return [f"2026-11-{25 - at:02}" if at < 25 else f"2026-10-{56 - at:02}" for at in reversed(range(count))]


def day(date: str = "2026-11-25", **counts: Any) -> DayFigures:
    """Return one day."""
    return DayFigures(date, **counts)


def confident(*rows: tuple[float, int, int]) -> tuple[ConfidenceBand, ...]:
    """Return shadow pairs by confidence: from where on, how many, how many of them the same."""
    return tuple(ConfidenceBand(above, number, ComparisonCount(number, same)) for above, number, same in rows)


def figures(**said: Any) -> TaskFigures:
    """Return a task that is a classifier with a model of its own, in shadow, unless it is said otherwise."""
    plain: dict[str, Any] = {"task": "pos-intent", "kind": "classify", "mode": "shadow", "has_model": True}
    return TaskFigures(**{**plain, "may_leave": True, **said})


def labels(examples: int, shadow: int = 0, differ: int = 0) -> tuple[LabelFigures, ...]:
    """Share examples and comparisons out among the labels, the first ones more often than the last."""
    weights = [8, 7, 6, 5, 4, 3, 2, 1]
    parts = [weight / sum(weights) for weight in weights]
    return tuple(
        LabelFigures(
            name, round(examples * part), round(examples * part), ComparisonCount(rows, rows - min(rows, wrong))
        )
        for name, part, at in zip(LABELS, parts, range(8), strict=True)
        for rows, wrong in [(round(shadow * part), round(differ * part * (1 + at % 3) / 2))]
    )


BEGUN = figures(task="returns-triage", mode="bootstrap", has_model=False)
LITTLE = figures(
    mode="bootstrap",
    has_model=False,
    days=tuple(
        day(date, answers={"upstream": 9 + at}, examples=9 + at, priced=9 + at, cost_micros=(9 + at) * 260)
        for at, date in enumerate(dates(5))
    ),
    labels=labels(55),
    large_ms=840.0,
)
_CONFIDENT = confident(
    (0.0, 10, 3), (0.2, 20, 8), (0.3, 35, 18), (0.4, 60, 37), (0.5, 70, 49), (0.6, 90, 71), (0.7, 110, 96),
    (0.75, 120, 109), (0.8, 160, 150), (0.85, 230, 220), (0.9, 420, 411), (0.95, 675, 668),
)  # fmt: skip
SHADOW = figures(
    days=tuple(
        day(
            date,
            answers={"upstream": 90 + at % 7 * 8, "abstained": at % 3},
            examples=90 + at % 7 * 8,
            priced=90 + at % 7 * 8,
            cost_micros=(90 + at % 7 * 8) * 255,
            compared=ComparisonCount(110, 95 + at % 4 + at // 4),
            reviewed=3,
        )
        for at, date in enumerate(dates(18))
    ),
    labels=labels(2000, 2000, 200),
    confident=_CONFIDENT,
    threshold=0.8,
    large_ms=840.0,
)
HYBRID = figures(
    task="product-group",
    mode="hybrid",
    days=tuple(
        day(
            date,
            answers={"local": 900 + 40 * (at % 7), "upstream": 260 - 3 * at, "deferred": 12 if at % 9 == 4 else 0},
            sure=900 + 40 * (at % 7),
            unsure=260 - 3 * at,
            blocked=12 if at % 9 == 4 else 0,
            examples=300 - 3 * at,
            priced=280 - 3 * at,
            cost_micros=(280 - 3 * at) * 410,
            compared=ComparisonCount(20, 20 - at % 2),
            reviewed=12,
        )
        for at, date in enumerate(dates(30))
    ),
    labels=labels(8000, 2000, 120),
    confident=_CONFIDENT,
    threshold=0.8,
    judged=ComparisonCount(600, 585),
    large_ms=1240.0,
    local_ms=29.0,
)
BROKEN = figures(
    task="complaint",
    mode="hybrid",
    days=(
        day(
            answers={"local": 400, "upstream": 90}, sure=400, unsure=90, compared=ComparisonCount(60, 48), examples=700
        ),
    ),
    threshold=0.7,
    judged=ComparisonCount(60, 48),
    alarms=(
        TaskAlarm(
            "opinions",
            "the large model contradicts 12 of 60 confident answers; the bundle promises 5% at most",
            "Look at the disagreements in 'edge-agent review': is the small model wrong, or the large one?",
        ),
    ),
)
ASSISTANT = figures(task="assistant", kind="generate", mode="local", days=(day(answers={"local": 40}),), local_ms=900.0)
STATES: dict[str, Sequence[TaskFigures]] = {
    "empty": [],
    "begun": [BEGUN],
    "little": [LITTLE],
    "much": [SHADOW, HYBRID, BROKEN, ASSISTANT],
}


class Outline(HTMLParser):
    """The elements of a page with their attributes; an unclosed element is an error."""

    def __init__(self, written: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(written)
        assert [] == self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert tag == self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    def count(self, *tags: str) -> int:
        """Count elements."""
        return sum(tag in tags for tag, _ in self.elements)

    def values(self, name: str) -> list[str | None]:
        """Return all values of an attribute."""
        return [attributes[name] for _, attributes in self.elements if name in attributes]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, tasks in STATES.items():
        (folder / f"{name}.html").write_text(
            render_page([judge_task(each, CostAssumptions("EUR")) for each in tasks], ABOUT), encoding="utf-8"
        )
