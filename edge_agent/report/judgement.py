"""One task's figures as a judgement: all that the page, the JSON and the table show. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge_agent.report import framework, money, next_mode, readiness
from edge_agent.report.figures import Figures
from edge_agent.report.framework import NOTHING_SAID, Answer, Wish
from edge_agent.report.money import Money
from edge_agent.report.next_mode import Advice
from edge_agent.report.readiness import LabelState, Level, Step, Takes
from edge_agent.report.shares import Share

DAYS_DRAWN_MAX = 60


@dataclass(frozen=True)
class Judgement:
    """One task."""

    figures: Figures
    advice: Advice
    framework: tuple[Answer, ...]
    steps: tuple[Step, ...]
    agreement: Share
    agreement_by_day: tuple[tuple[str, Share], ...]
    labels: tuple[LabelState, ...]
    takes: Takes
    at_threshold: Level | None
    judged: Share
    """Of its sure answers that the large model answered, too, those where it said the same."""
    checked: Share
    """Of its sure answers that people judged, those that they found right."""
    money: Money
    currency: str = ""
    """What amounts are called; empty = nothing is said of it."""


@dataclass(frozen=True)
class Total:
    """All tasks together."""

    calls: int
    answered_here: int
    spent_micros: int
    saved_micros: int | None
    """Of the tasks with a known price; None = no task has one."""


def judge(figures: Figures, wish: Wish = NOTHING_SAID) -> Judgement:
    """Judge one task."""
    takes = readiness.takes(figures)
    reckoned = money.money(figures, takes)
    return Judgement(
        figures=figures,
        advice=next_mode.advise(figures),
        framework=framework.framework(figures, reckoned, wish),
        steps=readiness.steps(figures),
        agreement=readiness.agreement(figures.alike),
        agreement_by_day=tuple(readiness.by_day(figures, DAYS_DRAWN_MAX)),
        labels=readiness.labels(figures),
        takes=takes,
        at_threshold=readiness.at_threshold(figures),
        judged=readiness.agreement(figures.judged),
        checked=readiness.agreement(figures.checked),
        money=reckoned,
        currency=wish.currency,
    )


def total(judged: Iterable[Judgement]) -> Total:
    """Add the money up."""
    every = [each.money for each in judged]
    saved = [each.saved_micros for each in every if each.saved_micros is not None]
    return Total(
        calls=sum(each.calls for each in every),
        answered_here=sum(each.answered_here for each in every),
        spent_micros=sum(each.spent_micros for each in every),
        saved_micros=sum(saved) if saved else None,
    )
