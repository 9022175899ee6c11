"""The report as one self-contained HTML page, without scripts, with a table for every chart.

The templates escape every value. `judgement` has the sentences, `charts` the SVG.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edge_agent.formatting import count_of
from edge_agent.report import charts
from edge_agent.report.charts import Chart
from edge_agent.report.judgement import (
    MODES,
    VERDICTS,
    ReportHeader,
    TaskJudgement,
    headline,
    other_alarms,
    summary,
    summary_tiles,
)
from edge_agent.report.mode_recommendation import RecommendationReason, sentence

TEMPLATES = Path(__file__).parent / "templates"
_QUOTED = re.compile(r"(?<!\w)'([^'\n]+)'(?!\w)")
"""An apostrophe, as in "the server's clock", is not a quote."""
_TONES = {
    RecommendationReason.RISK_BROKEN: "bad",
    RecommendationReason.RISK_HOLDS: "good",
    RecommendationReason.HARDLY_ASKS: "good",
    RecommendationReason.MAKE_A_MODEL: "good",
}


def render_page(judgements: Sequence[TaskJudgement], header: ReportHeader, first_steps: str = "") -> str:
    """Return the page of all tasks; without tasks it shows the `first_steps`."""
    days = max((judgement.costs.days for judgement in judgements), default=0)
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=f"Edge Agent at {header.site}" if header.site else "Edge Agent",
            header=header,
            judgements=judgements,
            summary=summary(judgements) if judgements else "",
            first_steps=render_commands(first_steps),
            days=count_of(days, "day") if days else "",
        )
    )


def render_figure(chart: Chart) -> str:
    """Return one chart as HTML: sentence, SVG and table."""
    # The macro is typed as Any by Jinja.
    return str(_environment().get_template("figure.html").module.figure(chart))  # type: ignore[attr-defined]


def render_commands(text: str) -> str:
    """Return a sentence as escaped HTML, with text in single quotes as code."""
    return _QUOTED.sub(r"<code>\1</code>", escape(text, quote=False))


def _tone(judgement: TaskJudgement) -> str:
    return _TONES.get(judgement.advice.why, "wait" if judgement.advice.more else "")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(commands=render_commands, sentence=sentence)
    environment.globals.update(
        modes=MODES,
        verdicts=VERDICTS,
        headline=headline,
        other_alarms=other_alarms,
        tiles=summary_tiles,
        tone=_tone,
        charts=charts.task_charts,
    )
    return environment
