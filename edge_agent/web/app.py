"""The one application: the console at /, the gateway under /v1, and the gate around both."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from edge_agent.client import CallFailed
from edge_agent.web import gateway
from edge_agent.web.daemon import Daemon
from edge_agent.web.gate import Gate, Rules
from edge_agent.web.pages import charts, entry, overview, review
from edge_agent.web.pages.refused import failed, missing

STATIC = Path(__file__).parent / "static"


def application(daemon: Daemon, rules: Rules, session_seconds_max: float) -> ASGIApp:
    """Put it together; create it inside the running event loop, as the daemon's clients."""
    calls = gateway.routes(daemon.devices) if daemon.devices else ()
    app = Starlette(routes=[*routes(), *calls], exception_handlers={CallFailed: failed, HTTPException: missing})
    app.state.daemon, app.state.rules, app.state.session_seconds_max = daemon, rules, session_seconds_max
    return Gate(app, rules)


def routes() -> list[BaseRoute]:
    """Return the routes for people; the gateway's are only where this console may infer."""
    return [
        Route("/healthz", health),
        Mount("/static", StaticFiles(directory=STATIC)),
        *entry.ROUTES,
        *overview.ROUTES,
        *charts.ROUTES,
        *review.ROUTES,
    ]


async def health(_: Request) -> Response:
    """Say that this process answers; of the daemon it says nothing."""
    return PlainTextResponse("ok\n")
