"""The gateway: tasks over HTTP, as clients of OpenAI's API ask for models. docs/gateway.md has it from the outside.

    Starlette(routes=[*pages, *routes(client)])

It is a translation, and decides nothing: a request becomes a call of `edge_agent.v1`, its answer OpenAI's JSON. Limits,
routing, capture, confidence and errors are the daemon's. What is not understood is refused by its name. Who may ask is
settled before: see `edge_agent/web/gate.py`.
"""

from __future__ import annotations

from typing import NoReturn

from starlette.routing import Route

from edge_agent.client import AsyncClient
from edge_agent.web.gateway import chat
from edge_agent.web.gateway.calls import Call, Endpoint, Places
from edge_agent.web.gateway.chat import Chat
from edge_agent.web.gateway.reading import SHOWN_CHARS_MAX
from edge_agent.web.gateway.refusals import FOUND_NOTHING, Refused
from edge_agent.web.gateway.tasks import Tasks

CALLS_MAX = 32
"""In progress at a time, streams among them: half of the connections of the console's listener, so that programs do
not lock people out."""
PATHS = (
    "POST /v1/chat/completions",
    "POST /v1/embeddings",
    "GET /v1/models",
    "GET /v1/models/TASK",
    "POST /v1/tasks/TASK:classify",
)


def routes(client: AsyncClient, calls_max: int = CALLS_MAX) -> list[Route]:
    """Return the paths below /v1, answered by a daemon's client for devices."""
    places, tasks = Places(calls_max), Tasks(client)
    return [
        Route("/v1/chat/completions", Endpoint(Chat(client).complete, places, chat.INPUTS), methods=["POST"]),
        Route("/v1/embeddings", Endpoint(tasks.embed, places, "input"), methods=["POST"]),
        Route("/v1/models", Endpoint(tasks.models, places), methods=["GET"]),
        Route("/v1/models/{task}", Endpoint(tasks.model, places), methods=["GET"]),
        Route("/v1/tasks/{task}:classify", Endpoint(tasks.classify, places, "texts"), methods=["POST"]),
        Route("/v1/{path:path}", Endpoint(_nothing, places)),
    ]


async def _nothing(call: Call) -> NoReturn:
    said = f"no call of this gateway is /v1/{call.path['path'][:SHOWN_CHARS_MAX]}, or not by that method"
    refused = Refused(said, remedy=f"There are {', '.join(PATHS)}.", reason="PATH_UNKNOWN")
    refused.status = FOUND_NOTHING
    raise refused
