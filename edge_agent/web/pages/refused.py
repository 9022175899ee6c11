"""What a page says when the daemon does not do what was asked, and when there is no such page."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from edge_agent.client import CallFailed
from edge_agent.web.pages.rendered import page


async def failed(request: Request, problem: Exception) -> Response:
    """Say why the daemon did not do it: a part of a page as text, a page as a page."""
    assert isinstance(problem, CallFailed), "it is registered for these"
    status = 503 if problem.code == "UNAVAILABLE" else 422
    if request.headers.get("hx-request"):
        return PlainTextResponse(
            f"{problem.message[:1].upper()}{problem.message[1:]}. {problem.remedy}".strip(), status
        )
    facts = {"headline": "The daemon does not give this", "said": problem.message, "remedy": problem.remedy}
    return page(request, "refused.html", facts, status)


async def missing(request: Request, problem: Exception) -> Response:
    """Say that there is no such page."""
    assert isinstance(problem, HTTPException), "it is registered for these"
    facts = {"headline": "There is nothing here", "said": str(problem.detail), "remedy": "The overview leads on."}
    return page(request, "refused.html", facts, problem.status_code)
