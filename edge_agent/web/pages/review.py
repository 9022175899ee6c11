"""The review queue: its streams in turns, one key for each label, the next ones fetched before."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote, urlencode

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from edge_agent.client import AsyncReviewClient, CallFailed
from edge_agent.web.desk import Unclear, Word, item, word
from edge_agent.web.pages.entry import form
from edge_agent.web.pages.rendered import daemon_of, page, visitor_of

REVIEWER_COOKIE = "edge_agent_reviewer"
REVIEWER_CHARS_MAX = 100
REVIEWER_SECONDS = 365 * 86_400
FETCHED_FIRST, FETCHED_NEXT = 8, 20
"""Answers on the desk when it is opened, and those that come whenever few are left."""
LOOK_SECONDS_MAX = 5.0
JUDGE_SECONDS_MAX = 12.0
"""A daemon that is being started anew is waited for that long."""


async def review(request: Request) -> Response:
    """Show the desk, or first ask who judges."""
    facts = {"tasks": await _tasks(request), "task": _task(request), "reviewer": _reviewer(request)}
    if not facts["reviewer"] or "rename" in request.query_params:
        return page(request, "reviewer.html", facts)
    return page(request, "review.html", {**facts, **await _desk(request, FETCHED_FIRST)})


async def desk(request: Request) -> Response:
    """Show the desk alone: it is asked for again and again while the daemon does not answer."""
    return page(request, "desk.html", {"task": _task(request), **await _desk(request, FETCHED_FIRST)})


async def more(request: Request) -> Response:
    """Show the next answers, or say that there are none."""
    facts = await _desk(request, FETCHED_NEXT)
    if facts["problem"]:
        return PlainTextResponse(str(facts["problem"].message), 503)
    return page(request, "items.html", {"task": _task(request), **facts})


async def again(request: Request) -> Response:
    """Lay an answer on the desk once more: the last word of a reviewer is the one that counts."""
    shown = await _reviews(request).prediction(request.query_params.get("id", ""), timeout_seconds=LOOK_SECONDS_MAX)
    return page(request, "item.html", {"item": item(shown)})


async def judge(request: Request) -> Response:
    """Hand on what the reviewer says; it is on the daemon's disk when this answers."""
    given, reviewer = await form(request), _reviewer(request)
    if not reviewer:
        return PlainTextResponse("Say first who judges: load this page again.", 409)
    try:
        said = word(given)
    except Unclear as unclear:
        return PlainTextResponse(str(unclear), 422)
    prediction_id = given.get("prediction_id", "")
    await _say(_reviews(request), prediction_id, said, reviewer)
    return page(request, "said.html", {"prediction_id": prediction_id, "said": said, "about": given.get("about", "")})


async def _say(client: AsyncReviewClient, prediction_id: str, said: Word, reviewer: str) -> None:
    seconds = JUDGE_SECONDS_MAX
    if said.verdict == "accept":
        await client.accept(prediction_id, reviewer=reviewer, timeout_seconds=seconds)
    elif said.verdict == "correct":
        await client.correct(prediction_id, said.value, reviewer=reviewer, timeout_seconds=seconds)
    else:
        await client.reject(prediction_id, said.value, reviewer=reviewer, timeout_seconds=seconds)


async def name(request: Request) -> Response:
    """Remember in this browser who judges."""
    given = (await form(request)).get("reviewer", "").strip()[:REVIEWER_CHARS_MAX]
    if not given:
        return PlainTextResponse("A name is needed.", 422)
    answer = Response(status_code=204, headers={"hx-redirect": f"/review?{urlencode({'task': _task(request)})}"})
    answer.set_cookie(REVIEWER_COOKIE, quote(given), max_age=REVIEWER_SECONDS, httponly=True, samesite="strict")
    return answer


async def _desk(request: Request, size: int) -> dict[str, Any]:
    """Fetch answers; what keeps the daemon from giving them is said on the desk."""
    after = request.query_params.get("after", "")
    try:
        found, token = await _reviews(request).page(
            _task(request), page_token=after, page_size=size, timeout_seconds=LOOK_SECONDS_MAX
        )
    except CallFailed as problem:
        return {"items": [], "after": "", "problem": problem}
    return {"items": [item(each) for each in found], "after": token, "problem": None}


async def _tasks(request: Request) -> list[str]:
    """Return the tasks that a visitor may know of, for choosing one."""
    seen, visitor = await daemon_of(request).look(), visitor_of(request)
    if seen.status and visitor.may("admin"):
        return sorted(seen.status.examples.collect) if seen.status.examples else []
    return [task.name for task in seen.tasks or ()] if visitor.may("infer") else []


def _task(request: Request) -> str:
    return str(request.query_params.get("task", ""))


def _reviewer(request: Request) -> str:
    """Return who judges: the holder of the certificate, or who this browser was told it is."""
    return visitor_of(request).name or unquote(request.cookies.get(REVIEWER_COOKIE, ""))[:REVIEWER_CHARS_MAX]


def _reviews(request: Request) -> AsyncReviewClient:
    client = daemon_of(request).reviews
    if client is None:
        said, remedy = "this console does not use the role feedback", "'roles' under 'web' in agent.yaml says which."
        raise CallFailed("UNIMPLEMENTED", "ROLE_UNUSED", said, remedy=remedy, metadata={})
    return client


ROUTES = [
    Route("/review", review),
    Route("/review/desk", desk),
    Route("/review/more", more),
    Route("/review/again", again),
    Route("/review/judge", judge, methods=["POST"]),
    Route("/review/name", name, methods=["POST"]),
]
