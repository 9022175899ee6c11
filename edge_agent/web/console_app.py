"""The ASGI application: the console's pages at /, the gateway under /v1, signing in, and error pages."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from edge_agent.client import CallFailed
from edge_agent.web import gateway, overview_page, redaction_page, review_page
from edge_agent.web.authentication import HTTP, client_name
from edge_agent.web.daemon_access import DaemonConnections
from edge_agent.web.rendering import guard_settings_of, read_form, render_page
from edge_agent.web.request_guard import GuardSettings, RequestGuard

STATIC = Path(__file__).parent / "static"


def application(daemon: DaemonConnections, settings: GuardSettings, session_seconds_max: float) -> ASGIApp:
    """Build the application, inside the running event loop. The gateway needs a console that may infer."""
    routes = [
        Route("/healthz", show_liveness),
        Mount("/static", StaticFiles(directory=STATIC)),
        Route("/login", sign_in, methods=["GET", "POST"]),
        Route("/logout", sign_out, methods=["POST"]),
        *overview_page.ROUTES,
        *review_page.ROUTES,
        *redaction_page.ROUTES,
        *(gateway.routes(daemon.devices, settings.refusals) if daemon.devices else ()),
    ]
    app = Starlette(
        routes=routes, exception_handlers={CallFailed: show_daemon_failure, HTTPException: show_missing_page}
    )
    app.state.daemon, app.state.guard, app.state.session_seconds_max = daemon, settings, session_seconds_max
    return RequestGuard(app, settings)


async def show_liveness(_: Request) -> Response:
    """Answer that this process runs; the state of the daemon is not checked."""
    return PlainTextResponse("ok\n")


async def sign_in(request: Request) -> Response:
    """Start a session for a browser that sends the token, by the printed link or by the form."""
    given = request.query_params.get("token", "")
    if request.method == "POST":
        given = (await read_form(request)).get("token", "").strip()
    settings = guard_settings_of(request)
    if settings.certified is not None:
        return render_page(request, "login.html", {"wrong": False, "certified": True}, 401)
    if not given:
        return render_page(request, "login.html", {"wrong": False, "certified": False})
    if not settings.signer.is_token(given):
        settings.refusals.record(HTTP, client_name(request.scope), "TOKEN_WRONG")
        return render_page(request, "login.html", {"wrong": True, "certified": False}, 401)
    return _start_session(request)


def _start_session(request: Request) -> Response:
    seconds = request.app.state.session_seconds_max
    signer = guard_settings_of(request).signer
    cookie = signer.sign_session(time.time() + seconds, secrets.token_urlsafe(12))
    # The redirect keeps the token out of the address bar, the history and the Referer header.
    answer = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(signer.cookie_name, cookie, max_age=int(seconds), httponly=True, samesite="strict", secure=secure)
    return answer


async def sign_out(request: Request) -> Response:
    """End the session in this browser."""
    answer = Response(status_code=204, headers={"hx-redirect": "/login"})
    answer.delete_cookie(guard_settings_of(request).signer.cookie_name, httponly=True, samesite="strict")
    return answer


async def show_daemon_failure(request: Request, problem: Exception) -> Response:
    """Explain why a call to the daemon failed: as text for a part of a page, otherwise as a page."""
    assert isinstance(problem, CallFailed), "it is registered for these"
    status = 503 if problem.code == "UNAVAILABLE" else 422
    if request.headers.get("hx-request"):
        message = f"{problem.message[:1].upper()}{problem.message[1:]}"
        return PlainTextResponse(f"{message}. {problem.remedy}".strip(), status)
    facts = {"headline": "The daemon refused this request", "message": problem.message, "remedy": problem.remedy}
    return render_page(request, "error.html", facts, status)


async def show_missing_page(request: Request, problem: Exception) -> Response:
    """Report that a page does not exist."""
    assert isinstance(problem, HTTPException), "it is registered for these"
    facts = {"headline": "Page not found", "message": str(problem.detail), "remedy": "Open the overview for all pages."}
    return render_page(request, "error.html", facts, problem.status_code)
