"""The connection of a client, and the event loop that an asyncio client belongs to."""

import asyncio
from collections.abc import Iterator

import pytest

from edge_agent.client import AsyncAdminClient, AsyncClient, AsyncReviewClient
from tests.support.fake_daemon import FakeDaemon


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon("127.0.0.1:0") as running:
        yield running


def test_asyncio_client_made_before_the_event_loop_works_in_it(daemon):
    """An asyncio client can be made before the event loop runs, as a module of a web application does when it is
    imported."""
    client = AsyncClient(daemon.targets[0])

    async def ask() -> int:
        async with client:
            return len(await client.classify("pos-intent", ["hello"]))

    assert 1 == asyncio.run(ask())


def test_asyncio_client_refuses_a_second_event_loop(daemon):
    """An asyncio client that is used in a second event loop raises a ValueError with the remedy, instead of gRPC's
    "attached to a different loop"."""
    client = AsyncClient(daemon.targets[0])

    async def ask() -> None:
        await client.classify("pos-intent", ["hello"])

    asyncio.run(ask())
    with pytest.raises(ValueError, match="made its first call in another event loop: make a client in each"):
        asyncio.run(ask())


def test_asyncio_client_whose_first_call_was_refused_belongs_to_that_loop(daemon):
    """A call that is refused for its timeout also binds the client to its event loop, so a second loop gets the same
    explanation."""
    client = AsyncClient(daemon.targets[0])

    async def ask(seconds: float) -> None:
        await client.classify("pos-intent", ["hello"], timeout_seconds=seconds)

    with pytest.raises(ValueError, match="must be more than 0"):
        asyncio.run(ask(0))
    with pytest.raises(ValueError, match="made its first call in another event loop"):
        asyncio.run(ask(5))


async def test_closed_asyncio_client_opens_no_channel(daemon):
    """A call of a closed client is refused without opening a channel, which nobody would close while a web application
    stops."""
    client = AsyncClient(daemon.targets[0])
    await client.close()
    with pytest.raises(ValueError, match="this client is closed"):
        await client.classify("pos-intent", ["hello"])
    assert "channel" not in vars(client)


@pytest.mark.parametrize("make", [AsyncClient, AsyncAdminClient, AsyncReviewClient])
async def test_asyncio_client_without_calls_can_be_closed(make):
    """An asyncio client that made no call can be closed; calls after that are refused."""
    async with make("unix:/nowhere.sock") as client:
        pass
    with pytest.raises(ValueError, match="closed"):
        await client.serving()
