"""The way in and out: a link or a form with the token, which becomes a session in a cookie."""

from __future__ import annotations

import secrets
import time
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from edge_agent.web.pages.rendered import page, rules_of

FORM_FIELDS_MAX = 20


async def form(request: Request) -> dict[str, str]:
    """Read the fields of a form; of a field that comes twice the last. Raises ValueError: too many."""
    body = (await request.body()).decode(errors="replace")
    return {key: values[-1] for key, values in parse_qs(body, max_num_fields=FORM_FIELDS_MAX).items()}


async def come_in(request: Request) -> Response:
    """Let a browser in that shows the token, by the link that the console prints or by the form."""
    given = request.query_params.get("token", "")
    if request.method == "POST":
        given = (await form(request)).get("token", "").strip()
    rules = rules_of(request)
    if rules.certified is not None:
        return page(request, "login.html", {"wrong": False, "certified": True}, 401)
    if not given:
        return page(request, "login.html", {"wrong": False, "certified": False})
    if not rules.seal.is_token(given):
        return page(request, "login.html", {"wrong": True, "certified": False}, 401)
    return _welcome(request)


def _welcome(request: Request) -> Response:
    seconds = request.app.state.session_seconds_max
    seal = rules_of(request).seal
    cookie = seal.session(time.time() + seconds, secrets.token_urlsafe(12))
    # Another 303, so that the token does not stay in the address, the history or what the page hands on.
    answer = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(seal.cookie_name, cookie, max_age=int(seconds), httponly=True, samesite="strict", secure=secure)
    return answer


async def leave(request: Request) -> Response:
    """End the session in this browser."""
    answer = Response(status_code=204, headers={"hx-redirect": "/login"})
    answer.delete_cookie(rules_of(request).seal.cookie_name, httponly=True, samesite="strict")
    return answer


ROUTES = [Route("/login", come_in, methods=["GET", "POST"]), Route("/logout", leave, methods=["POST"])]
