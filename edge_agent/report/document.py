"""The report as JSON: every figure and every verdict. docs/report.md says what each field means. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edge_agent.report.comparisons import measured_by
from edge_agent.report.judgement import Judgement, total
from edge_agent.report.page import About
from edge_agent.report.readiness import Takes
from edge_agent.report.shares import LEVEL, Share

SCHEMA = "edge-agent/report/v1"


def document(judged: Sequence[Judgement], about: About) -> dict[str, Any]:
    """Return it as JSON has it. Amounts are millionths of the currency; what is not known is null."""
    return {
        "schema": SCHEMA,
        **asdict(about),
        "currency": judged[0].currency if judged else "",
        "total": asdict(total(judged)),
        "tasks": [_task(each) for each in judged],
    }


def _task(judged: Judgement) -> dict[str, Any]:
    figures = judged.figures
    return {
        "task": figures.task,
        "kind": figures.kind,
        "mode": figures.mode,
        "has_model": figures.has_model,
        "threshold": figures.threshold,
        "gate": figures.gate or None,
        "held_up": dict(figures.held_up),
        "wanted_risk": {"target": figures.target, "delta": figures.delta},
        "advice": asdict(judged.advice),
        "framework": [asdict(answer) for answer in judged.framework],
        "examples": {"number": figures.examples, "steps": [asdict(step) for step in judged.steps]},
        "agreement": _share(judged.agreement),
        "agreement_by_day": [{"from": date, **_share(share)} for date, share in judged.agreement_by_day],
        "labels": [
            {**asdict(label), "agreement": _share(label.agreement), "recent": _share(label.recent)}
            for label in judged.labels
        ],
        "could_take": _could_take(judged.takes),
        "at_threshold": asdict(judged.at_threshold) if judged.at_threshold else None,
        "judged": _share(judged.judged),
        "checked": _share(judged.checked),
        "alarms": [asdict(alarm) for alarm in figures.alarms],
        "money": {**asdict(judged.money), "year_gain_micros": judged.money.year_gain_micros},
        "days": [asdict(day) for day in figures.days],
        "large_ms": figures.large_ms or None,
        "local_ms": figures.local_ms or None,
        "may_leave": figures.may_leave,
    }


def _could_take(takes: Takes) -> dict[str, Any]:
    level = takes.resting_on
    people = level.reviewed if level else 0
    judges = {"people": people, "large_model": level.rows - people if level else 0, "note": measured_by(takes)}
    return {**asdict(takes), "share": _share(takes.share), "judged_by": judges}


def _share(share: Share) -> dict[str, Any]:
    return {"value": share.value, **asdict(share), "level": LEVEL}
