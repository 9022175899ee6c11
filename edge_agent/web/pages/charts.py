"""Charts, which come after the page that they are on: reckoning them may take longer than a glance."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_agent.client import CallFailed
from edge_agent.web.pages.rendered import daemon_of, page
from edge_agent.web.pictures import Drawn, drawn


async def at_a_glance(request: Request) -> Response:
    """Draw every task that there are figures for, a few charts each; the page asks again where it cannot be."""
    try:
        return page(request, "charts.html", {"drawn": await _drawn(request), "problem": ""})
    except (CallFailed, ValueError) as failed:
        said = failed.message if isinstance(failed, CallFailed) else str(failed)
        return page(request, "charts.html", {"drawn": [], "problem": said})


async def task(request: Request) -> Response:
    """Draw one task in full."""
    name = request.path_params["task"]
    field = await daemon_of(request).field()
    if name not in {each.name for each in field.report.tasks}:
        raise HTTPException(404, f"there is no task '{name}'")
    try:
        return page(request, "task.html", {"name": name, "drawn": drawn(field, name)})
    except ValueError as unusable:
        raise HTTPException(500, str(unusable)) from None


async def _drawn(request: Request) -> list[Drawn]:
    return drawn(await daemon_of(request).field())


ROUTES = [Route("/charts", at_a_glance), Route("/tasks/{task}", task)]
