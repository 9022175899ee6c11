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
    target, request = target_of(ctx), ReportRequest(tuple(tasks or ()), risk)
    assumptions = _parse_model_cost(model_cost)
    with target.admin() as admin:
        judgements, header = _judge_tasks(admin, target, request, assumptions)
    if html:
        page = render_page(judgements, header, first_task_remedy(header.site))
        try:
            write_durably(html, page.encode(), 0o644)
        except SiteError as error:
            raise MediaFailed(error.message, remedy="Name another file with --html.") from None
        console = err() if as_json else out()
        console.print(f"{html.absolute()}: open it in a browser.", soft_wrap=True)
    if as_json:
        print_json(report_json(judgements, header), indent=2)
    elif not html:
        show(out(), judgements, at_length=bool(tasks), site=header.site)


def _parse_model_cost(model_cost: str) -> CostAssumptions:
    """Read an amount, with or without the name of a currency."""
    digits, _, currency = model_cost.strip().partition(" ")
    if not digits:
        return CostAssumptions()
    if not _AMOUNT.fullmatch(digits) or currency.strip()[:1].isdecimal():
        raise typer.BadParameter(
            f"{model_cost!r} is not an amount; write it as in '1500 EUR'", param_hint="--model-cost"
        )
    return CostAssumptions(currency.strip(), round(float(digits.replace(",", "")) * MICROS))


class FiguresUnusable(EdgeAgentError):
    """The counters of the daemon contradict each other."""

    reason = "FIGURES_UNUSABLE"
    remedy_default = "This is a bug: send the file of 'edge-agent support-bundle' to support."


def _judge_tasks(
    admin: AdminClient, target: DaemonTarget, request: ReportRequest, assumptions: CostAssumptions
) -> tuple[list[TaskJudgement], ReportHeader]:
    status, field_report = admin.status(), admin.field_report()
    unknown = [task for task in request.tasks if task not in {task_report.name for task_report in field_report.tasks}]
    if unknown:
        names = ", ".join(task_report.name for task_report in field_report.tasks) or "none"
        raise UnknownTask(f"there is no task '{unknown[0]}'; there are: {names}")
    reports = DaemonReports(field_report, tuple(admin.bundles()), usual_local_ms(status))
    try:
        judgements = [judge_task(figures, assumptions) for figures in collect_figures(reports, request)]
    except ValueError as error:
        raise FiguresUnusable(str(error)) from None
    model = field_report.large_model.model if field_report.large_model else ""
    name = "" if target.remote_path else target.config().site.id
    return judgements, ReportHeader(name, f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", status.agent_version, model)


def show(console: Console, judgements: Sequence[TaskJudgement], *, at_length: bool, site: str = "") -> None:
    """Print a line for each task, then the advice; `at_length` with the evidence."""
    if not judgements:
        print_trimmed(console, advice(f"No tasks yet. {first_task_remedy(site)}"))
        return
    print_trimmed(console, Text(summary(judgements)))
    console.print()
    _show_table(console, judgements)
    for judgement in judgements:
        console.print()
        _show_advice(console, judgement)
        if at_length:
            _show_suitability(console, judgement)
    console.print()
    print_trimmed(console, Text("With --html FILE: a page with charts, and how each figure is computed.", "dim"))


def _show_table(console: Console, judgements: Sequence[TaskJudgement]) -> None:
    numbers = ("examples", "agreement", "coverage", "local", "spent", "saved")
    listing = table("task", "mode", "next", *numbers, right=numbers, wrap=("task",))
    for judgement in judgements:
        figures, costs, coverage = judgement.figures, judgement.costs, judgement.coverage
        listing.add_row(
            Text(figures.subject),
            figures.mode,
            Text(judgement.advice.mode, style="" if judgement.advice.mode == figures.mode else "bold green"),
            count(figures.examples),
            _range_text(judgement.agreement.low, judgement.agreement.high) if judgement.agreement.rows else "-",
            _range_text(coverage.share.low, coverage.share.high) if coverage.above is not None else "-",
            percent(costs.answered_here / costs.calls) if costs.calls else "-",
            amount(costs.spent_micros, judgement.currency),
            amount(costs.saved_micros, judgement.currency),
        )
    print_trimmed(console, listing)


def _range_text(low: float, high: float) -> str:
    return f"{percent(low).removesuffix('%')}-{percent(high)}"


def _show_advice(console: Console, judgement: TaskJudgement) -> None:
    print_trimmed(console, Text.assemble((judgement.figures.subject, "bold"), ": ", (headline(judgement), "bold")))
    lines = [Text(judgement.advice.because), Text(judgement.advice.then)]
    lines += [
        Text.assemble(("alarm: ", "yellow"), f"{alarm.message}. {alarm.remedy}") for alarm in other_alarms(judgement)
    ]
    for line in lines:
        print_trimmed(console, Padding(line, (0, 0, 0, 2)))


def _show_suitability(console: Console, judgement: TaskJudgement) -> None:
    listing = table("  question", "verdict", "measured", "what it means", wrap=("measured", "what it means"))
    for answer in judgement.suitability:
        verdict = Text(VERDICTS[answer.verdict], style=_STYLES[answer.verdict])
        listing.add_row(Text(f"  {answer.about}"), verdict, Text(answer.number), Text(answer.because))
    console.print()
    print_trimmed(console, listing)
