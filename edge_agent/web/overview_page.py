"""The first page: the daemon's health, tasks, engines, updates, alarms, captured examples; and the charts.

Charts load after the page that they are on, since drawing them may take longer.
"""

from __future__ import annotations

import hashlib
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from edge_agent.client import CallFailed
from edge_agent.web.health_summary import daemon_totals, list_hidden_sections, summarize_health, task_rows
from edge_agent.web.rendering import daemon_of, principal_of, render_page
from edge_agent.web.task_charts import draw_tasks

REFRESH_SECONDS = 3


async def show_overview(request: Request) -> Response:
    """Show the page, which refreshes its live part."""
    facts = await _facts(request)
    return render_page(request, "overview.html", {**facts, "live": _live_part(request, facts)})


async def refresh_overview(request: Request) -> Response:
    """Return the live part, or 204 when the page shows the same already."""
    part = _live_part(request, await _facts(request))
    if f'seen={request.query_params.get("seen")}"' in part:
        return Response(status_code=204)
    return HTMLResponse(part)


def _live_part(request: Request, facts: dict[str, Any]) -> str:
    """Render the live part, in an element that asks for the next refresh and carries its own digest."""
    inner = bytes(render_page(request, "live.html", facts).body)
    digest = hashlib.sha256(inner).hexdigest()[:16]
    every = f'hx-get="/live?seen={digest}" hx-trigger="every {REFRESH_SECONDS}s" hx-swap="outerHTML"'
    return f'<div id="live" {every}>{inner.decode()}</div>'


async def _facts(request: Request) -> dict[str, Any]:
    daemon, principal = daemon_of(request), principal_of(request)
    snapshot = await daemon.snapshot()
    status = snapshot.status if principal.has_role("admin") else None
    tasks = status.tasks if status else (snapshot.tasks if principal.has_role("infer") else None)
    return {
        "snapshot": snapshot,
        "status": status,
        "tasks": tasks,
        "rows": task_rows(tasks or (), status),
        "updates": [each for each in status.updates.tasks if each.candidate] if status and status.updates else [],
        **(daemon_totals(status) if status else {}),
        "health": summarize_health(snapshot, tasks, status),
        "hidden": list_hidden_sections(snapshot, principal, daemon.roles),
    }


async def show_charts(request: Request) -> Response:
    """Draw a few charts of every task; where that fails, the page shows why and asks again."""
    drawings, problem = [], ""
    try:
        drawings = draw_tasks(await daemon_of(request).monitoring())
    except CallFailed as failed:
        problem = failed.message
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


ROUTES = [
    Route("/", show_overview),
    Route("/live", refresh_overview),
    Route("/charts", show_charts),
    Route("/tasks/{task}", show_task),
]
