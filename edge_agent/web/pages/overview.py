"""The first page: how the daemon is, its tasks and engines, updates, alarms, and what is kept of examples."""

from __future__ import annotations

import hashlib
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from edge_agent.client import Status, TaskUpdate
from edge_agent.web.pages.rendered import daemon_of, page, visitor_of
from edge_agent.web.rows import rows, totals
from edge_agent.web.verdicts import health, unseen

LOOK_EVERY_SECONDS = 3


async def overview(request: Request) -> Response:
    """Show the page; it looks again by itself."""
    facts = await _facts(request)
    return page(request, "overview.html", {**facts, "live": _live(request, facts)})


async def live(request: Request) -> Response:
    """Show the part that changes, or nothing when it is as the page has it already."""
    drawn = _live(request, await _facts(request))
    if f'seen={request.query_params.get("seen")}"' in drawn:
        return Response(status_code=204)
    return HTMLResponse(drawn)


def _live(request: Request, facts: dict[str, Any]) -> str:
    """Draw it, in a frame that asks for the next look and names what it holds."""
    inner = bytes(page(request, "live.html", facts).body)
    mark = hashlib.sha256(inner).hexdigest()[:16]
    every = f'hx-get="/live?seen={mark}" hx-trigger="every {LOOK_EVERY_SECONDS}s" hx-swap="outerHTML"'
    return f'<div id="live" {every}>{inner.decode()}</div>'


async def _facts(request: Request) -> dict[str, Any]:
    daemon, visitor = daemon_of(request), visitor_of(request)
    seen = await daemon.look()
    status = seen.status if visitor.may("admin") else None
    tasks = status.tasks if status else (seen.tasks if visitor.may("infer") else None)
    return {
        "seen": seen,
        "status": status,
        "tasks": tasks,
        "rows": rows(tasks or (), status),
        "updates": _updates(status),
        **(totals(status) if status else {}),
        "verdict": health(seen, tasks, status),
        "unseen": unseen(seen, visitor, daemon.roles),
    }


def _updates(status: Status | None) -> list[TaskUpdate]:
    """Return the tasks of which the plan wants something."""
    return [each for each in status.updates.tasks if each.candidate] if status and status.updates else []


ROUTES = [Route("/", overview), Route("/live", live)]
