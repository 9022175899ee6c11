"""The report as one HTML page: no script, nothing from elsewhere, a table behind every chart. Pure.

Whatever comes from outside (names of tasks and labels) is escaped where it is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import get_args

from edge_agent.report import charts
from edge_agent.report.charts import Chart, ChartText
from edge_agent.report.judgement import ReportHeader, SiteTotal, TaskJudgement, sum_costs
from edge_agent.report.mode_recommendation import RecommendationReason
from edge_agent.report.number_format import amount, count, counted, percent
from edge_agent.report.suitability import SuitabilityAnswer
from edge_agent.report.task_figures import Mode, TaskAlarm, TaskFigures

VERDICTS = {"yes": "✓ yes", "partly": "◐ partly", "no": "✗ no", "unknown": "? not known yet"}
MODES = {
    "bootstrap": "the large model answers, examples are gathered",
    "shadow": "the large model answers, the one here is compared",
    "hybrid": "the model here answers what it is sure of, the large one the rest",
    "local": "the model here answers everything",
}
_TONES = {
    RecommendationReason.RISK_BROKEN: "bad",
    RecommendationReason.RISK_HOLDS: "good",
    RecommendationReason.HARDLY_ASKS: "good",
    RecommendationReason.MAKE_A_MODEL: "good",
}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --sheet: #f6f7f9; --edge: #d5dae1; --ink: #1b2430; --soft: #566273;
  --a: #1f5fbf; --b: #b35309; --c: #6b7280; --d: #8b5cf6; --good: #17713f; --warn: #8a5a00; --bad: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12161c; --sheet: #1b212a; --edge: #364150; --ink: #e8ecf2; --soft: #a5b1c2;
    --a: #7db2ff; --b: #f0a35e; --c: #9aa5b5; --d: #b79cff; --good: #63cf8f; --warn: #e6b450; --bad: #ff8a80;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; max-width: 46rem; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
a { color: var(--a); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: .75rem 0; list-style: none; }
section { border-top: 1px solid var(--edge); margin-top: 2.5rem; padding-top: 1.5rem; }
.head { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem; }
.way { display: flex; flex-wrap: wrap; gap: .35rem; padding: 0; margin: .75rem 0; list-style: none; font-size: .9rem; }
.way li { padding: .15rem .7rem; border: 1px solid var(--edge); border-radius: 1rem; color: var(--soft); }
.way li.now { background: var(--sheet); color: var(--ink); font-weight: 600; }
.way li.next { border-color: var(--a); color: var(--a); font-weight: 600; }
.advice { background: var(--sheet); border-left: .35rem solid var(--a); border-radius: .3rem; padding: .75rem 1rem; }
.advice p:first-child { font-size: 1.15rem; font-weight: 600; margin-top: 0; }
.advice.bad { border-color: var(--bad); } .advice.wait { border-color: var(--warn); }
.advice.good { border-color: var(--good); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.tile { background: var(--sheet); border-radius: .4rem; padding: .7rem .9rem; margin: 0; }
.tile dt { font-size: .85rem; color: var(--soft); }
.tile dd { margin: 0; }
.tile .big { font-size: 1.6rem; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile .small { font-size: .82rem; color: var(--soft); line-height: 1.35; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--edge); }
thead th { color: var(--soft); font-weight: 600; font-size: .85rem; }
tbody th { font-weight: 600; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
thead th.number { text-align: right; }
.verdict { display: inline-block; white-space: nowrap; font-weight: 600; }
.verdict.yes { color: var(--good); } .verdict.partly { color: var(--warn); } .verdict.no { color: var(--ink); }
.verdict.unknown { color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1.5rem 2rem; }
figure { margin: 0; min-width: 0; max-width: 36rem; }
figcaption { font-size: .92rem; }
figcaption b { display: block; font-size: 1rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; padding: 0; margin: .2rem 0; list-style: none; }
.legend { font-size: .82rem; }
.legend svg { width: 1.1rem; height: .8rem; margin-right: .35rem; vertical-align: -.05rem; }
figure > svg { display: block; width: 100%; height: auto; }
details { font-size: .88rem; margin-top: .2rem; }
summary { cursor: pointer; color: var(--soft); }
code { font: .9em/1.4 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
svg text { font-size: 12px; fill: var(--ink); } svg .tick { font-size: 11.5px; fill: var(--soft); }
svg .strong { font-size: 14px; font-weight: 600; }
svg .grid { stroke: var(--edge); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2; } svg .line.a { stroke: var(--a); } svg .line.b { stroke: var(--b); }
svg .a, svg .local { fill: var(--a); } svg .b, svg .upstream { fill: var(--b); } svg .line { fill: none; }
svg .deferred { fill: var(--d); } svg .abstained { fill: var(--c); }
svg .rest { fill: var(--edge); } svg .band { fill: var(--a); opacity: .2; } svg .gain { fill: var(--b); opacity: .15; }
svg .whisker { stroke: var(--a); stroke-width: 2; opacity: .55; } svg .none { display: none; }
svg .target { stroke: var(--b); stroke-width: 2; stroke-dasharray: 6 4; }
svg .mark { stroke: var(--ink); stroke-width: 1.5; }
@media (max-width: 34rem) {
  body { padding-top: 1rem; } .tile .big { font-size: 1.35rem; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .5rem; }
  .questions thead { display: none; }
  .questions tr { display: block; border-bottom: 1px solid var(--edge); padding: .5rem 0; }
  .questions th, .questions td { display: block; border: 0; padding: .1rem 0; }
}
@media print {
  :root {
    --paper: #fff; --sheet: #f4f4f4; --edge: #bbb; --ink: #000; --soft: #444; --a: #1f5fbf; --b: #b35309;
    --c: #6b7280; --d: #8b5cf6; --good: #17713f; --warn: #8a5a00; --bad: #b3261e;
  }
  body { max-width: none; padding: 0; font-size: 10.5pt; } nav, details:not([open]), summary { display: none; }
  section { break-before: page; border: 0; margin: 0; padding: 0; } section:first-of-type { break-before: auto; }
  figure, .advice, .tile, tr { break-inside: avoid; } .charts { grid-template-columns: 1fr 1fr; }
  .tile, .advice { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""


def render_page(judged: Sequence[TaskJudgement], about: ReportHeader) -> str:
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


def headline(judged: TaskJudgement) -> str:
    """Say in a few words what to do next."""
    advice, mode = judged.advice, judged.figures.mode
    if advice.why is RecommendationReason.MAKE_A_MODEL:
        return "Next: make a model"
    return f"Stay in {mode}" if advice.mode == mode else f"Next: {advice.mode}"


def other_alarms(judged: TaskJudgement) -> list[TaskAlarm]:
    """Return the alarms that the advice does not speak of."""
    said = judged.advice.because.lower()
    return [alarm for alarm in judged.figures.alarms if alarm.message.lower() not in said]


def _made(about: ReportHeader) -> str:
    large = f"; the large model is {about.large_model}" if about.large_model else "; no large model is configured"
    return f"{about.at}, edge-agent {about.agent_version}{large}"


def _summary(judged: Sequence[TaskJudgement]) -> str:
    if not judged:
        return "<p>No tasks yet: <code>edge-agent install PATH</code> installs a bundle.</p>"
    return f"<p>{escape(summary(sum_costs(judged), len(judged), judged[0].currency))}</p>"


def summary(every: SiteTotal, tasks: int, currency: str) -> str:
    """Say what all tasks come to."""
    if not every.calls:
        return f"{counted(tasks, 'task')}; nothing was asked yet."
    here = percent(every.answered_here / every.calls)
    said = f"{counted(tasks, 'task')}, {counted(every.calls, 'answer')}, {here} of them given here."
    saved = "not known yet" if every.saved_micros is None else amount(every.saved_micros, currency)
    return f"{said} Spent on the large model: {amount(every.spent_micros, currency)}; saved: {saved}."


def _contents(judged: Sequence[TaskJudgement]) -> str:
    if len(judged) < 2:
        return ""
    links = (
        f'<li><a href="#t{at}">{escape(each.figures.task)}</a> <span class="soft">{escape(headline(each))}</span></li>'
        for at, each in enumerate(judged)
    )
    return f'<nav aria-label="Tasks"><ul>{"".join(links)}</ul></nav>'


def _task(judged: TaskJudgement, name: str) -> str:
    figures = judged.figures
    parts = [
        f'<section id="{name}" aria-labelledby="{name}-h">',
        f'<div class="head"><h2 id="{name}-h">{escape(figures.task)}</h2>'
        f'<span class="soft">{figures.kind}; {escape(MODES[figures.mode])}</span></div>',
        _way(judged),
        _advice(judged),
        *(
            f'<div class="advice wait"><p>{escape(alarm.message)}</p><p>{render_commands(alarm.remedy)}</p></div>'
            for alarm in other_alarms(judged)
        ),
        _tiles(judged),
        "<h3>Should this task have a small model?</h3>",
        _questions(judged.framework),
        "<h3>In pictures</h3>",
        f'<div class="charts">{"".join(render_figure(chart) for chart in charts.task_charts(judged, name))}</div>',
        "</section>",
    ]
    return _lines(parts)


def _way(judged: TaskJudgement) -> str:
    now, following = judged.figures.mode, judged.advice.mode
    return (
        f'<ol class="way" aria-label="Modes">{"".join(_station(mode, now, following) for mode in get_args(Mode))}</ol>'
    )


def _station(mode: Mode, now: Mode, following: Mode) -> str:
    if mode == now:
        return f'<li class="now" aria-current="step">{mode}: now</li>'
    return f'<li class="next">{mode}: next</li>' if mode == following else f"<li>{mode}</li>"


def _advice(judged: TaskJudgement) -> str:
    advice = judged.advice
    tone = _TONES.get(advice.why, "wait" if advice.more else "")
    return (
        f'<div class="advice {tone}"><p>{escape(headline(judged))}</p>'
        f"<p>{escape(advice.because)}</p><p>{render_commands(advice.then)}</p></div>"
    )


def render_commands(said: str) -> str:
    """Write a sentence as HTML: what stands between quotes as something to type."""
    parts = escape(said, quote=False).split("'")
    if len(parts) % 2 == 0:
        return escape(said)
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))


def _tiles(judged: TaskJudgement) -> str:
    return f'<dl class="tiles">{"".join(_tile(*each) for each in summary_tiles(judged))}</dl>'


def summary_tiles(judged: TaskJudgement) -> list[tuple[str, str, str]]:
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


def _could(judged: TaskJudgement) -> tuple[str, str, str]:
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


def _held_up(figures: TaskFigures) -> tuple[str, str, str]:
    """Return how many answers were not confident, and what held up how many of them."""
    held_up, graded = figures.held_up, sum(day.sure + day.unsure for day in figures.recent)
    parts = [f"{count(held_up[reason])} {words}" for reason, words in _LIMITS.items() if held_up.get(reason)]
    if figures.gate == "none":
        parts.append("no gate: an input unlike the training data can get a confident answer")
    share = percent(sum(day.unsure for day in figures.recent) / graded) if graded else "not yet"
    return "Not confident", share, "; ".join(parts) or f"of {counted(graded, 'answer')}"


def _same(judged: TaskJudgement) -> tuple[str, str, str]:
    agreed = judged.agreement
    what = "Same as the large model"
    if not agreed.rows:
        return what, "not yet", "nothing was compared"
    return (
        what,
        percent(agreed.value),
        f"{percent(agreed.low)} to {percent(agreed.high)}, of {count(agreed.rows)} compared",
    )


def _saved(judged: TaskJudgement) -> tuple[str, str, str]:
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


def _questions(answers: Iterable[SuitabilityAnswer]) -> str:
    rows = (
        f'<tr><th scope="row">{escape(each.question)}</th>'
        f'<td><span class="verdict {each.verdict}">{VERDICTS[each.verdict]}</span></td>'
        f"<td>{escape(each.number)}</td><td>{render_commands(each.because)}</td></tr>"
        for each in answers
    )
    heads = "".join(f'<th scope="col">{each}</th>' for each in ("question", "verdict", "measured", "what it means"))
    return f'<table class="questions"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def render_figure(chart: Chart) -> str:
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


def _table(said: ChartText) -> str:
    heads = "".join(f'<th scope="col"{_aligned(at, said)}>{escape(each)}</th>' for at, each in enumerate(said.columns))
    rows = "".join(f"<tr>{''.join(_cell(at, each, said) for at, each in enumerate(row))}</tr>" for row in said.rows)
    caption = f'<caption class="unseen">{escape(said.title)}</caption>'
    return f'<div class="scroll"><table>{caption}<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(at: int, written: str, said: ChartText) -> str:
    return f"<td{_aligned(at, said)}>{escape(written)}</td>" if at else f'<th scope="row">{escape(written)}</th>'


def _aligned(at: int, said: ChartText) -> str:
    return ' class="number"' if at and at not in said.words else ""


def _reckoned(judged: Sequence[TaskJudgement]) -> str:
    days = max((each.money.days for each in judged), default=0)
    said = [
        f"Money and traffic are told of the last {counted(days, 'day')}, examples of all days that are still known."
        if days
        else "No day is known yet.",
        "Saved is the number of answers given here times the usual price of a question to the large model: what was"
        " paid, divided by the questions paid for. What the model here costs (power, making it) is not in it.",
        "The large model is the measure, not the truth: where the two differ, either may be right, and where both err"
        " alike nobody sees it. For what could be answered here the word of people counts in its place, where there is"
        " one. A share stands with its exact 95% interval; the risk is proved by exact binomial tests.",
        "Of what is asked next the figures say as much as it is like what was asked so far.",
    ]
    lines = "".join(f"<li>{escape(each)}</li>" for each in said)
    return f'<footer><section><h3>How this is reckoned</h3><ul class="soft">{lines}</ul></section></footer>'


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(parts)
