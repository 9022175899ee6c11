"""The overview page: the daemon's health in one sentence, the figures of each task, its charts, and what is hidden.

Charts load after the page that they are on, since drawing them may take longer. The charts of a task are those of the
report, and one of how confident its answers were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from edge_agent.client import CallFailed, Status, Task, TaskCounts
from edge_agent.config import Role
from edge_agent.errors.base import first_task_remedy
from edge_agent.formatting import UNKNOWN, count, count_of, milliseconds, percent
from edge_agent.report import charts
from edge_agent.report.charts import QUARTERS, Chart, ChartText, DrawingArea, compose_chart
from edge_agent.report.judgement import headline, judge_task, summary_tiles
from edge_agent.report.report_page import render_figure
from edge_agent.report.task_figures import (
    NO_DURATIONS,
    ComparisonCount,
    ConfidenceBand,
    DaemonReports,
    ReportRequest,
    TaskFigures,
    collect_figures,
    histogram_quantile,
    usual_local_ms,
)
from edge_agent.web.daemon_access import DaemonSnapshot, MonitoringSnapshot
from edge_agent.web.rendering import daemon_of, principal_of, render_page
from edge_agent.web.request_guard import Principal

REFRESH_SECONDS = 3


async def show_overview(request: Request) -> Response:
    """Show the page, which refreshes its live part."""
    context = await _page_context(request)
    return render_page(request, "overview.html", {**context, "live": _live_part(request, context)})


async def refresh_overview(request: Request) -> Response:
    """Return the live part, or 204 when the page shows the same already."""
    part = _live_part(request, await _page_context(request))
    if f'seen={request.query_params.get("seen")}"' in part:
        return Response(status_code=204)
    return HTMLResponse(part)


def _live_part(request: Request, context: dict[str, Any]) -> str:
    """Render the live part, in an element that asks for the next refresh and carries its own digest."""
    html = bytes(render_page(request, "live.html", context).body)
    digest = hashlib.sha256(html).hexdigest()[:16]
    refresh = f'hx-get="/live?seen={digest}" hx-trigger="every {REFRESH_SECONDS}s" hx-swap="outerHTML"'
    return f'<div id="live" {refresh}>{html.decode()}</div>'


async def _page_context(request: Request) -> dict[str, Any]:
    daemon, principal = daemon_of(request), principal_of(request)
    snapshot = await daemon.snapshot()
    status = snapshot.status if principal.has_role("admin") else None
    tasks = status.tasks if status else (snapshot.tasks if principal.has_role("infer") else None)
    return {
        "snapshot": snapshot,
        "status": status,
        "tasks": tasks,
        "rows": task_rows(tasks or (), status),
        "updates": [task for task in status.updates.tasks if task.candidate] if status and status.updates else [],
        **(daemon_totals(status) if status else {}),
        "health": summarize_health(snapshot, tasks, status),
        "hidden": list_hidden_sections(snapshot, principal, daemon.roles),
    }


async def show_charts(request: Request) -> Response:
    """Draw a few charts of every task; where that fails, the page shows why and asks again."""
    drawings, problem = [], ""
    try:
        drawings = draw_tasks(await daemon_of(request).monitoring())
    except CallFailed as error:
        problem = error.message
    except ValueError as error:
        problem = str(error)
    return render_page(request, "charts.html", {"drawings": drawings, "problem": problem})


async def show_task(request: Request) -> Response:
    """Draw all charts of one task."""
    name = request.path_params["task"]
    monitoring = await daemon_of(request).monitoring()
    if name not in {each.name for each in monitoring.report.tasks}:
        raise HTTPException(404, f"there is no task '{name}'")
    try:
        return render_page(request, "task.html", {"name": name, "drawings": draw_tasks(monitoring, name)})
    except ValueError as error:
        raise HTTPException(500, str(error)) from None


_STATUS_HINT = "'edge-agent status' on the machine shows how to install the first one."
Tone = Literal["good", "warn", "bad"]
SECTIONS: dict[Role, str] = {
    "admin": "Health of engines, updates, alarms and charts",
    "feedback": "The review queue",
    "infer": "Tasks, and the gateway under /v1",
}
"""What a page shows with each role."""


@dataclass(frozen=True)
class HealthSummary:
    """The banner of the first page."""

    tone: Tone
    headline: str
    sentence: str
    remedy: str = ""


@dataclass(frozen=True)
class HiddenSection:
    """A section that this principal does not see."""

    what: str
    why: str
    remedy: str


def summarize_health(snapshot: DaemonSnapshot, tasks: Sequence[Task] | None, status: Status | None) -> HealthSummary:
    """Judge the daemon from what the principal may see of it."""
    if not snapshot.answers:
        return _summarize_silence(snapshot, has_figures=bool(tasks or status))
    if not snapshot.serving:
        return HealthSummary(
            "warn",
            "The daemon takes no new work",
            "It finishes running calls. It is stopping, or an operator drained it.",
        )
    unready = [task.name for task in tasks or () if not task.ready]
    alarms = len(status.alarms) if status else 0
    if unready:
        return HealthSummary(
            "bad", f"{count_of(len(unready), 'task')} not ready", f"No answers from {', '.join(unready)}."
        )
    if alarms:
        return HealthSummary(
            "warn", f"{count_of(alarms, 'alarm')} of production monitoring", "What to do is shown below."
        )
    if tasks is None:
        return HealthSummary("good", "The daemon answers", "Other roles see more.")
    if not tasks:
        return HealthSummary("warn", "No tasks yet", _first_steps(status))
    return HealthSummary("good", "Healthy", f"{count_of(len(tasks), 'task')}, all ready.")


def _first_steps(status: Status | None) -> str:
    return first_task_remedy(status.site) if status else _STATUS_HINT


def _summarize_silence(snapshot: DaemonSnapshot, *, has_figures: bool) -> HealthSummary:
    problem = next(iter(snapshot.problems.values()), None)
    note = " The figures below are older." if has_figures else ""
    if problem is None:
        return HealthSummary(
            "warn", "The daemon's state is unknown", f"This console uses the role feedback only.{note}"
        )
    sentence = f"{problem.message[:1].upper()}{problem.message[1:]}. The console retries every few seconds.{note}"
    return HealthSummary("bad", "The daemon does not answer", sentence, problem.remedy)


def list_hidden_sections(snapshot: DaemonSnapshot, principal: Principal, roles: frozenset[Role]) -> list[HiddenSection]:
    """List hidden sections and why: a missing role of the principal or of the console, or a failed call."""
    sections = []
    for role, what in SECTIONS.items():
        if not principal.has_role(role):
            why = f"your certificate lacks the role {role}"
            sections.append(
                HiddenSection(what, why, f"'sudo edge-agent certs issue NAME --role {role}' makes one that has it.")
            )
        elif role not in roles:
            why = f"this console does not use the role {role}"
            sections.append(HiddenSection(what, why, "'roles' under 'web' in agent.yaml lists the roles that it uses."))
        elif snapshot.answers and role in snapshot.problems:
            sections.append(HiddenSection(what, snapshot.problems[role].message, snapshot.problems[role].remedy))
    return sections


@dataclass(frozen=True)
class TaskRow:
    """A task, with its figures since the daemon started."""

    task: Task
    answers: int = 0
    below_threshold: str = UNKNOWN
    """Share of answers below the threshold, of those with a confidence."""
    median_time: str = UNKNOWN
    """Median time of an answer."""

    @property
    def threshold(self) -> str:
        """The threshold; of a decide task how many of its questions have one."""
        if self.task.kind == "DECIDE":
            with_threshold = sum(each.threshold is not None for each in self.task.questions)
            return f"{with_threshold} of {len(self.task.questions)} questions"
        return UNKNOWN if self.task.threshold is None else f"{self.task.threshold:.2f}"


def task_rows(tasks: Sequence[Task], status: Status | None) -> list[TaskRow]:
    """Return a row for each task."""
    counts = {each.task: each for each in status.counts} if status else {}
    return [_task_row(task, counts.get(task.name)) for task in tasks]


def _task_row(task: Task, counts: TaskCounts | None) -> TaskRow:
    if counts is None:
        return TaskRow(task)
    median = histogram_quantile(0.5, NO_DURATIONS, counts.total)
    return TaskRow(
        task=task,
        answers=sum(counts.answers.values()),
        below_threshold=percent(counts.below_threshold / counts.graded if counts.graded else None),
        median_time=UNKNOWN if median is None else milliseconds(1000 * median),
    )


def daemon_totals(status: Status) -> dict[str, int]:
    """Return sums over all tasks: answers, errors, bytes of memory, captured examples."""
    retained = status.examples.retained if status.examples else {}
    return {
        "answers": sum(sum(each.answers.values()) for each in status.counts),
        "errors": sum(sum(each.errors.values()) for each in status.counts),
        "memory": status.resident_bytes + sum(engine.resident_bytes for engine in status.engines),
        "kept": sum(number for name, number in retained.items() if name != "feedback"),
    }


AT_A_GLANCE = frozenset({"Who answered", "Agreement with the large model"})
"""Charts of the first page, in addition to the one of confidence."""
BANDS = 20
"""Number of bands of confidence, each 0.05 wide."""


@dataclass(frozen=True)
class TaskDrawing:
    """The charts and figures of one task."""

    name: str
    """TASK, or TASK/QUESTION of a question of a decide task."""
    task: str
    question: str
    """Empty for a task that is one question."""
    html_id: str
    """Unique on the page."""
    headline: str
    because: str
    then: str
    tiles: tuple[tuple[str, str, str], ...]
    figures: tuple[str, ...]
    """HTML of each chart, with its sentence and table."""


def draw_tasks(monitoring: MonitoringSnapshot, task: str = "") -> list[TaskDrawing]:
    """Draw all charts of one task, or a few of every task. Raises ValueError: a figure is not a number."""
    reports = DaemonReports(monitoring.report, monitoring.bundles, usual_local_ms(monitoring.status))
    tasks = collect_figures(reports, ReportRequest((task,) if task else ()))
    return [_draw_task(figures, f"c{at}", whole=bool(task)) for at, figures in enumerate(tasks) if figures.days]


def _draw_task(figures: TaskFigures, html_id: str, *, whole: bool) -> TaskDrawing:
    judgement = judge_task(figures)
    task_charts = charts.task_charts(judgement, html_id)
    shown_charts = [each for each in task_charts if whole or each.text.title in AT_A_GLANCE]
    confidence = confidence_chart(figures, f"{html_id}-confidence")
    return TaskDrawing(
        name=figures.subject,
        task=figures.task,
        question=figures.question,
        html_id=html_id,
        headline=headline(judgement),
        because=judgement.advice.because,
        then=judgement.advice.then,
        tiles=tuple(summary_tiles(judgement)),
        figures=tuple(render_figure(each) for each in [*shown_charts, *([confidence] if confidence else [])]),
    )


def confidence_chart(figures: TaskFigures, name: str) -> Chart | None:
    """Draw the distribution of confidence; None without answers. `name` is unique on the page."""
    bands = band_answers(figures.confident, figures.threshold)
    total = sum(band.answers for band in bands)
    if not total:
        return None
    area = DrawingArea(y_max=charts.round_up(max(4, *(band.answers for band in bands))))
    marks = charts.count_axis(area)
    width = area.x(1 / BANDS) - area.x(0) - 2
    for band in bands:  # the confident answers on top of those below the threshold
        for kind, base, number in (("b", 0, band.below), ("a", band.below, band.confident)):
            if number:
                upper, lower = area.y(base + number), area.y(base)
                label = f"{band.low:.2f} to {band.low + 1 / BANDS:.2f}: {count_of(number, 'answer')}"
                marks.append(charts.bar((area.x(band.low) + 1, upper), (width, lower - upper), kind, label))
    marks += charts.below(area, [(tick, f"{tick:g}") for tick in QUARTERS])
    if figures.threshold is not None:
        marks.append(charts.line((area.x(figures.threshold),) * 2, (area.top, area.y(0)), "mark"))
    text = ChartText(
        "Confidence of the answers",
        _confidence_sentence(bands, total, figures.threshold),
        (("a", "at or above the threshold"), ("b", "below the threshold")) if figures.threshold is not None else (),
        ("confidence from", "answers", "of all", "the large model agreed"),
        tuple(_band_row(band, total) for band in bands if band.answers),
    )
    return compose_chart(name, text, area, marks)


@dataclass(frozen=True)
class ChartBand:
    """Answers with about the same confidence."""

    low: float
    confident: int
    """Answers at or above the threshold."""
    below: int
    """Answers below the threshold."""
    compared: ComparisonCount

    @property
    def answers(self) -> int:
        """All answers of the band."""
        return self.confident + self.below


def band_answers(levels: Sequence[ConfidenceBand], threshold: float | None) -> list[ChartBand]:
    """Sum counts of answers by hundredths of confidence into bands of five."""
    bands = [ChartBand(number / BANDS, 0, 0, ComparisonCount()) for number in range(BANDS)]
    for level in levels:
        index = min(BANDS - 1, int(level.above * BANDS + 1e-9))
        band, is_below = bands[index], threshold is not None and level.above < threshold
        confident, below = band.confident + level.answers * (not is_below), band.below + level.answers * is_below
        bands[index] = ChartBand(band.low, confident, below, band.compared + level.compared)
    return bands


def _confidence_sentence(bands: Sequence[ChartBand], total: int, threshold: float | None) -> str:
    if threshold is None:
        return f"Of {count_of(total, 'answer')}; the bundle has no threshold, so no answer counts as confident."
    confident = sum(band.confident for band in bands)
    share = f"{percent(confident / total)} of {count_of(total, 'answer')}"
    return f"{share} were at the threshold of {threshold:.2f} or above."


def _band_row(band: ChartBand, total: int) -> tuple[str, str, str, str]:
    agreement = percent(band.compared.same / band.compared.rows) if band.compared.rows else "-"
    return f"{band.low:.2f}", count(band.answers), percent(band.answers / total), agreement


ROUTES = [
    Route("/", show_overview),
    Route("/live", refresh_overview),
    Route("/charts", show_charts),
    Route("/tasks/{task}", show_task),
]
