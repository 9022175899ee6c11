"""The gateway: tasks over HTTP, for clients of OpenAI's API and of System One; docs/gateway.md is for callers.

    Starlette(routes=[*pages, *routes(client)])

It translates a request into a call of `edge_agent.v1`, and the answer into OpenAI's JSON; the daemon decides limits,
routing, capture, confidence and errors. It refuses an unknown member by its name. The request guard authenticates the
caller before.
"""

from __future__ import annotations

from typing import NoReturn

from starlette.routing import Route

from edge_agent.client import AsyncClient
from edge_agent.refusal_log import RefusalLog
from edge_agent.web.gateway import chat_request, decision_requests
from edge_agent.web.gateway.endpoints import ChatCompletionEndpoint, DecisionEndpoints, TaskEndpoints
from edge_agent.web.gateway.http_calls import CallSlots, GatewayCall, GatewayEndpoint
from edge_agent.web.gateway.openai_responses import NOT_FOUND, GatewayError
from edge_agent.web.gateway.request_json import SHOWN_CHARS_MAX

CALLS_MAX = 32
"""Calls in progress, streams included: half of the console's connections, so that programs do not lock people out."""
PATHS = (
    "POST /v1/chat/completions",
    "POST /v1/decisions",
    "POST /v1/embeddings",
    "POST /v1/systemone",
    "GET /v1/models",
    "GET /v1/models/TASK",
    "POST /v1/tasks/TASK:classify",
)


def routes(client: AsyncClient, refusals: RefusalLog, calls_max: int = CALLS_MAX) -> list[Route]:
    """Return the routes below /v1, which use a daemon's client for devices."""
    slots, tasks, decisions = CallSlots(calls_max), TaskEndpoints(client), DecisionEndpoints(client)
    return [
        Route(
            "/v1/chat/completions",
            GatewayEndpoint(ChatCompletionEndpoint(client).complete, slots, refusals, chat_request.MESSAGES),
            methods=["POST"],
        ),
        Route(
            "/v1/decisions",
            GatewayEndpoint(decisions.decide, slots, refusals, decision_requests.INPUT),
            methods=["POST"],
        ),
        Route(
            "/v1/systemone",
            GatewayEndpoint(decisions.system_one, slots, refusals, decision_requests.STATE, detailed=True),
            methods=["POST"],
        ),
        Route("/v1/embeddings", GatewayEndpoint(tasks.embed, slots, refusals, "input"), methods=["POST"]),
        Route("/v1/models", GatewayEndpoint(tasks.models, slots, refusals), methods=["GET"]),
        Route("/v1/models/{task}", GatewayEndpoint(tasks.model, slots, refusals), methods=["GET"]),
        Route("/v1/tasks/{task}:classify", GatewayEndpoint(tasks.classify, slots, refusals, "texts"), methods=["POST"]),
        Route("/v1/{path:path}", GatewayEndpoint(_refuse_path, slots, refusals)),
    ]


async def _refuse_path(call: GatewayCall) -> NoReturn:
    message = f"this gateway has no call /v1/{call.path['path'][:SHOWN_CHARS_MAX]} by that method"
    error = GatewayError(message, remedy=f"It has {', '.join(PATHS)}.", reason="PATH_UNKNOWN")
    error.status = NOT_FOUND
    raise error
