"""Only the gateway, in the test's own loop on a free port, in front of a fake daemon.

async with serving(daemon.targets[0]) as url:
    AsyncOpenAI(base_url=url, api_key="none")
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette

from edge_agent.client import AsyncClient
from edge_agent.refusal_log import RefusalLog
from edge_agent.web.gateway.endpoints import CALLS_MAX, routes
from tests.support.eventually import eventually


@asynccontextmanager
async def serving(target: str, calls_max: int = CALLS_MAX) -> AsyncIterator[str]:
    """Serve until the block is left; yields the `base_url`."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        async with AsyncClient(target) as client:
            application = Starlette(routes=routes(client, RefusalLog(), calls_max))
            server = uvicorn.Server(uvicorn.Config(application, log_config=None, lifespan="off", ws="none"))
            task = asyncio.create_task(server.serve([listening]))
            await eventually(lambda: server.started)
            try:
                yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
            finally:
                server.should_exit = True
                await task
