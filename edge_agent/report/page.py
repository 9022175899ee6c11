"""The report as one HTML page: no script, nothing from elsewhere, a table behind every chart. Pure.

Whatever comes from outside (names of tasks and labels) is escaped where it is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import get_args

from edge_agent.report import charts
from edge_agent.report.chart import Chart, Said
from edge_agent.report.figures import Alarm, Figures, Mode
from edge_agent.report.framework import Answer
from edge_agent.report.judgement import Judgement, Total, total
from edge_agent.report.next_mode import Why
from edge_agent.report.style import CSS
from edge_agent.report.words import amount, count, counted, percent

VERDICTS = {"yes": "✓ yes", "partly": "◐ partly", "no": "✗ no", "unknown": "? not known yet"}
MODES = {
    "bootstrap": "the large model answers, examples are gathered",
    "shadow": "the large model answers, the one here is compared",
    "hybrid": "the model here answers what it is sure of, the large one the rest",
    "local": "the model here answers everything",
}
_TONES = {Why.RISK_BROKEN: "bad", Why.RISK_HOLDS: "good", Why.HARDLY_ASKS: "good", Why.MAKE_A_MODEL: "good"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class About:
    """Whose report it is, and of when."""

    site: str
    """Empty = the site has no name."""
    at: str
    """2026-11-25 21:40 UTC."""
    agent_version: str
    large_model: str
    """Its name; empty = none is configured."""


def page(judged: Sequence[Judgement], about: About) -> str:
    """Write it."""
    title = f"Edge Agent at {about.site}" if about.site else "Edge Agent"
    body = [
        f"<header><h1>{escape(title)}: money and readiness</h1>",
        f'<p class="soft">{escape(_made(about))}</p>{_summary(judged)}{_contents(judged)}</header>',
        "<main>",
        *(_task(each, f"t{at}") for at, each in enumerate(judged)),
        "</main>",
        _reckoned(judged),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><title>{escape(title)}</title>'
        f"<style>{CSS}</style></head>\n<body>\n{_lines(body)}\n</body></html>\n"
    )


def headline(judged: Judgement) -> str:
    """Say in a few words what to do next."""
    advice, mode = judged.advice, judged.figures.mode
    if advice.why is Why.MAKE_A_MODEL:
        return "Next: make a model"
    return f"Stay in {mode}" if advice.mode == mode else f"Next: {advice.mode}"


def other_alarms(judged: Judgement) -> list[Alarm]:
    """Return the alarms that the advice does not speak of."""
    said = judged.advice.because.lower()
    return [alarm for alarm in judged.figures.alarms if alarm.message.lower() not in said]


def _made(about: About) -> str:
    large = f"; the large model is {about.large_model}" if about.large_model else "; no large model is configured"
    return f"{about.at}, edge-agent {about.agent_version}{large}"


def _summary(judged: Sequence[Judgement]) -> str:
    if not judged:
        return "<p>No tasks yet: <code>edge-agent install PATH</code> installs a bundle.</p>"
    return f"<p>{escape(summary(total(judged), len(judged), judged[0].currency))}</p>"


def summary(every: Total, tasks: int, currency: str) -> str:
    """Say what all tasks come to."""
    if not every.calls:
        return f"{counted(tasks, 'task')}; nothing was asked yet."
    here = percent(every.answered_here / every.calls)
    said = f"{counted(tasks, 'task')}, {counted(every.calls, 'answer')}, {here} of them given here."
    saved = "not known yet" if every.saved_micros is None else amount(every.saved_micros, currency)
    return f"{said} Spent on the large model: {amount(every.spent_micros, currency)}; saved: {saved}."


def _contents(judged: Sequence[Judgement]) -> str:
    if len(judged) < 2:
        return ""
    links = (
        f'<li><a href="#t{at}">{escape(each.figures.task)}</a> <span class="soft">{escape(headline(each))}</span></li>'
        for at, each in enumerate(judged)
    )
    return f'<nav aria-label="Tasks"><ul>{"".join(links)}</ul></nav>'


def _task(judged: Judgement, name: str) -> str:
    figures = judged.figures
    parts = [
        f'<section id="{name}" aria-labelledby="{name}-h">',
        f'<div class="head"><h2 id="{name}-h">{escape(figures.task)}</h2>'
        f'<span class="soft">{figures.kind}; {escape(MODES[figures.mode])}</span></div>',
        _way(judged),
        _advice(judged),
        *(
            f'<div class="advice wait"><p>{escape(alarm.message)}</p><p>{command(alarm.remedy)}</p></div>'
            for alarm in other_alarms(judged)
        ),
        _tiles(judged),
        "<h3>Should this task have a small model?</h3>",
        _questions(judged.framework),
        "<h3>In pictures</h3>",
        f'<div class="charts">{"".join(figure(chart) for chart in charts.charts(judged, name))}</div>',
        "</section>",
    ]
    return _lines(parts)


def _way(judged: Judgement) -> str:
    now, following = judged.figures.mode, judged.advice.mode
    return (
        f'<ol class="way" aria-label="Modes">{"".join(_station(mode, now, following) for mode in get_args(Mode))}</ol>'
    )


def _station(mode: Mode, now: Mode, following: Mode) -> str:
    if mode == now:
        return f'<li class="now" aria-current="step">{mode}: now</li>'
    return f'<li class="next">{mode}: next</li>' if mode == following else f"<li>{mode}</li>"


def _advice(judged: Judgement) -> str:
    advice = judged.advice
    tone = _TONES.get(advice.why, "wait" if advice.more else "")
    return (
        f'<div class="advice {tone}"><p>{escape(headline(judged))}</p>'
        f"<p>{escape(advice.because)}</p><p>{command(advice.then)}</p></div>"
    )


def command(said: str) -> str:
    """Write a sentence as HTML: what stands between quotes as something to type."""
    parts = escape(said, quote=False).split("'")
    if len(parts) % 2 == 0:
        return escape(said)
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))


def _tiles(judged: Judgement) -> str:
    return f'<dl class="tiles">{"".join(_tile(*each) for each in tiles(judged))}</dl>'


def tiles(judged: Judgement) -> list[tuple[str, str, str]]:
    """Return the most important numbers: what each is, the number, and what it rests on."""
    money, figures = judged.money, judged.figures
    graded = [_could(judged), _same(judged), _held_up(figures)] if figures.kind in ("classify", "extract") else []
    here = money.answered_here / money.calls if money.calls else None
    return [
        *graded,
        ("Answered here", percent(here), f"of {counted(money.calls, 'answer')}"),
        ("Spent", amount(money.spent_micros, judged.currency), f"on {counted(money.priced, 'question')}"),
        _saved(judged),
        ("Examples", count(figures.examples), f"{count(1000)} are enough for everything"),
    ]


def _could(judged: Judgement) -> tuple[str, str, str]:
    takes, what = judged.takes, "Could be answered here"
    wanted = f"at a risk of {percent(judged.figures.target)}"
    if takes.above is None:
        return what, "not yet", f"nothing is proved {wanted}"
    by = "by people and the large model" if takes.resting_on and takes.resting_on.reviewed else "by the large model"
    return what, percent(takes.share.value), f"{percent(takes.share.low)} to {percent(takes.share.high)}, {wanted} {by}"


_LIMITS = {
    "BELOW_THRESHOLD": "below the threshold",
    "BELOW_FLOOR": "below the floor",
    "OUT_OF_DISTRIBUTION": "out of distribution",
    "SCORES_VARY": "by scores that vary",
}


def _held_up(figures: Figures) -> tuple[str, str, str]:
    """Return how many answers were not confident, and what held up how many of them."""
    held_up, graded = figures.held_up, sum(day.sure + day.unsure for day in figures.recent)
    parts = [f"{count(held_up[reason])} {words}" for reason, words in _LIMITS.items() if held_up.get(reason)]
    if figures.gate == "none":
        parts.append("no gate: an input unlike the training data can get a confident answer")
    share = percent(sum(day.unsure for day in figures.recent) / graded) if graded else "not yet"
    return "Not confident", share, "; ".join(parts) or f"of {counted(graded, 'answer')}"


def _same(judged: Judgement) -> tuple[str, str, str]:
    agreed = judged.agreement
    what = "Same as the large model"
    if not agreed.rows:
        return what, "not yet", "nothing was compared"
    return (
        what,
        percent(agreed.value),
        f"{percent(agreed.low)} to {percent(agreed.high)}, of {count(agreed.rows)} compared",
    )


def _saved(judged: Judgement) -> tuple[str, str, str]:
    money = judged.money
    if money.saved_micros is None:
        return "Saved", "not known yet", "a question has no usual price yet"
    each = amount(money.price_micros, judged.currency)
    return "Saved", amount(money.saved_micros, judged.currency), f"{count(money.answered_here)} at {each} each"


def _tile(what: str, number: str, rests: str) -> str:
    return (
        f'<div class="tile"><dt>{escape(what)}</dt><dd class="big">{escape(number)}</dd>'
        f'<dd class="small">{escape(rests)}</dd></div>'
    )


def _questions(answers: Iterable[Answer]) -> str:
    rows = (
        f'<tr><th scope="row">{escape(each.question)}</th>'
        f'<td><span class="verdict {each.verdict}">{VERDICTS[each.verdict]}</span></td>'
        f"<td>{escape(each.number)}</td><td>{command(each.because)}</td></tr>"
        for each in answers
    )
    heads = "".join(f'<th scope="col">{each}</th>' for each in ("question", "verdict", "measured", "what it means"))
    return f'<table class="questions"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def figure(chart: Chart) -> str:
    """Write a chart: what it says, the picture, and the table behind it."""
    said = chart.said
    legend = "".join(f"<li>{_swatch(kind)}{escape(each)}</li>" for kind, each in said.legend)
    listed = f'<ul class="legend" aria-hidden="true">{legend}</ul>' if legend else ""
    return (
        f"<figure><figcaption><b>{escape(said.title)}</b>{escape(said.sentence)}</figcaption>{listed}{chart.picture}"
        f"<details{' open' if said.at_once else ''}><summary>as a table</summary>{_table(said)}</details></figure>"
    )


def _swatch(kind: str) -> str:
    if kind in ("target", "whisker"):
        return f'<svg viewBox="0 0 22 16"><line x1="0" x2="22" y1="8" y2="8" class="{kind}"/></svg>'
    return f'<svg viewBox="0 0 22 16"><rect width="22" height="16" class="{kind}"/></svg>'


def _table(said: Said) -> str:
    heads = "".join(f'<th scope="col"{_aligned(at, said)}>{escape(each)}</th>' for at, each in enumerate(said.columns))
    rows = "".join(f"<tr>{''.join(_cell(at, each, said) for at, each in enumerate(row))}</tr>" for row in said.rows)
    caption = f'<caption class="unseen">{escape(said.title)}</caption>'
    return f'<div class="scroll"><table>{caption}<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(at: int, written: str, said: Said) -> str:
    return f"<td{_aligned(at, said)}>{escape(written)}</td>" if at else f'<th scope="row">{escape(written)}</th>'


def _aligned(at: int, said: Said) -> str:
    return ' class="number"' if at and at not in said.words else ""


def _reckoned(judged: Sequence[Judgement]) -> str:
    days = max((each.money.days for each in judged), default=0)
    said = [
        f"Money and traffic are told of the last {counted(days, 'day')}, examples of all days that are still known."
        if days
        else "No day is known yet.",
        "Saved is the number of answers given here times the usual price of a question to the large model: what was"
        " paid, divided by the questions paid for. What the model here costs (power, making it) is not in it.",
        "The large model is the measure, not the truth: where the two differ, either may be right, and where both err"
        " alike nobody sees it. For what could be answered here the word of people counts in its place, where there is"
        " one. A share stands with its exact 95 % interval; the risk is proved by exact binomial tests.",
        "Of what is asked next the figures say as much as it is like what was asked so far.",
    ]
    lines = "".join(f"<li>{escape(each)}</li>" for each in said)
    return f'<footer><section><h3>How this is reckoned</h3><ul class="soft">{lines}</ul></section></footer>'


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(parts)
