"""`edge-agent report`: the readiness and cost of each task, printed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from edge_agent.cli.daemon_target import DaemonTarget, target_of
from edge_agent.cli.output import AsJson, err, out, print_json, print_trimmed
from edge_agent.cli.terminal import advice, table
from edge_agent.client import AdminClient
from edge_agent.durable.atomic_files import write_durably
from edge_agent.errors import EdgeAgentError, MediaFailed, SiteError, UnknownTask
from edge_agent.errors.base import first_task_remedy
from edge_agent.formatting import MICROS, amount, count, percent
from edge_agent.report.judgement import (
    VERDICTS,
    ReportHeader,
    TaskJudgement,
    headline,
    judge_task,
    other_alarms,
    report_json,
    summary,
)
from edge_agent.report.report_page import render_page
from edge_agent.report.suitability import CostAssumptions
from edge_agent.report.task_figures import DaemonReports, ReportRequest, collect_figures, usual_local_ms

_AMOUNT = re.compile(r"([0-9]{1,15}|[0-9]{1,3}(,[0-9]{3}){1,4})(\.[0-9]{1,6})?")
"""Commas only separate thousands; an ambiguous amount such as '1500,50' is refused."""
_STYLES = {"yes": "green", "partly": "yellow", "no": "red", "unknown": "dim"}

Tasks = Annotated[list[str] | None, typer.Argument(metavar="TASK", help="Only these tasks.")]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with charts, one file.")]
Risk = Annotated[
    float | None,
    typer.Option(
        "--risk", metavar="SHARE", min=0.001, max=0.5, help="Accepted risk; without it the guarantee of the bundle."
    ),
]
ModelCost = Annotated[
    str,
    typer.Option(
        "--model-cost",
        metavar="AMOUNT",
        help="Cost of making a model, as in '1500 EUR'; the report shows when the savings cover it.",
    ),
]


def run(
    ctx: typer.Context,
    tasks: Tasks = None,
    html: Html = None,
    as_json: AsJson = False,
    risk: Risk = None,
    model_cost: ModelCost = "",
) -> None:
    """Show each task's readiness, cost and savings, and recommend its next mode.

    The figures come from captured answers: a task that 'collect' under 'examples' in agent.yaml does not name has none.

    Example: [bold]edge-agent report pos-intent --html report.html[/bold]
    """
    site, request, wish = target_of(ctx), ReportRequest(tuple(tasks or ()), risk), _wish(model_cost)
    with site.admin() as admin:
        judged, about = _judged(admin, site, request, wish)
    if html:
        _write(html, render_page(judged, about, first_task_remedy(about.site)))
        console = err() if as_json else out()
        console.print(f"{html.absolute()}: open it in a browser.", soft_wrap=True)
    if as_json:
        print_json(report_json(judged, about), indent=2)
    elif not html:
        show(out(), judged, at_length=bool(tasks), site=about.site)


def _wish(model_cost: str) -> CostAssumptions:
    """Read an amount, with or without the name of a currency."""
    written, _, currency = model_cost.strip().partition(" ")
    if not written:
        return CostAssumptions()
    if not _AMOUNT.fullmatch(written) or currency.strip()[:1].isdecimal():
        raise typer.BadParameter(
            f"{model_cost!r} is not an amount; write it as in '1500 EUR'", param_hint="--model-cost"
        )
    return CostAssumptions(currency.strip(), round(float(written.replace(",", "")) * MICROS))


class FiguresUnusable(EdgeAgentError):
    """The counters of the daemon contradict each other."""

    reason = "FIGURES_UNUSABLE"
    remedy_default = "This is a bug: send the file of 'edge-agent support-bundle' to support."


def _judged(
    admin: AdminClient, site: DaemonTarget, request: ReportRequest, wish: CostAssumptions
) -> tuple[list[TaskJudgement], ReportHeader]:
    status, field = admin.status(), admin.field_report()
    unknown = [task for task in request.tasks if task not in {each.name for each in field.tasks}]
    if unknown:
        known = ", ".join(each.name for each in field.tasks) or "none"
        raise UnknownTask(f"there is no task '{unknown[0]}'; there are: {known}")
    told = DaemonReports(field, tuple(admin.bundles()), usual_local_ms(status))
    try:
        judged = [judge_task(figures, wish) for figures in collect_figures(told, request)]
    except ValueError as error:
        raise FiguresUnusable(str(error)) from None
    model = field.large_model.model if field.large_model else ""
    name = "" if site.remote_path else site.config().site.id
    return judged, ReportHeader(name, f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", status.agent_version, model)


def _write(path: Path, content: str) -> None:
    try:
        write_durably(path, content.encode(), 0o644)
    except SiteError as error:
        raise MediaFailed(error.message, remedy="Name another file with --html.") from None


def show(console: Console, judged: Sequence[TaskJudgement], *, at_length: bool, site: str = "") -> None:
    """Print a line for each task, then the advice; `at_length` with the evidence."""
    if not judged:
        print_trimmed(console, advice(f"No tasks yet. {first_task_remedy(site)}"))
        return
    print_trimmed(console, Text(summary(judged)))
    console.print()
    _show_table(console, judged)
    for each in judged:
        console.print()
        _show_advice(console, each)
        if at_length:
            _show_framework(console, each)
    console.print()
    print_trimmed(console, Text("With --html FILE: a page with charts, and how each figure is computed.", "dim"))


def _show_table(console: Console, judged: Sequence[TaskJudgement]) -> None:
    numbers = ("examples", "agreement", "coverage", "local", "spent", "saved")
    made = table("task", "mode", "next", *numbers, right=numbers, wrap=("task",))
    for each in judged:
        figures, money, takes = each.figures, each.costs, each.coverage
        made.add_row(
            Text(figures.subject),
            figures.mode,
            Text(each.advice.mode, style="" if each.advice.mode == figures.mode else "bold green"),
            count(figures.examples),
            _between(each.agreement.low, each.agreement.high) if each.agreement.rows else "-",
            _between(takes.share.low, takes.share.high) if takes.above is not None else "-",
            percent(money.answered_here / money.calls) if money.calls else "-",
            amount(money.spent_micros, each.currency),
            amount(money.saved_micros, each.currency),
        )
    print_trimmed(console, made)


def _between(low: float, high: float) -> str:
    return f"{percent(low).removesuffix('%')}-{percent(high)}"


def _show_advice(console: Console, judged: TaskJudgement) -> None:
    title = Text.assemble((judged.figures.subject, "bold"), ": ", (headline(judged), "bold"))
    print_trimmed(console, title)
    lines = [Text(judged.advice.because), Text(judged.advice.then)]
    lines += [
        Text.assemble(("alarm: ", "yellow"), f"{alarm.message}. {alarm.remedy}") for alarm in other_alarms(judged)
    ]
    for line in lines:
        print_trimmed(console, Padding(line, (0, 0, 0, 2)))


def _show_framework(console: Console, judged: TaskJudgement) -> None:
    made = table("  question", "verdict", "measured", "what it means", wrap=("measured", "what it means"))
    for answer in judged.suitability:
        verdict = Text(VERDICTS[answer.verdict], style=_STYLES[answer.verdict])
        made.add_row(Text(f"  {answer.about}"), verdict, Text(answer.number), Text(answer.because))
    console.print()
    print_trimmed(console, made)
