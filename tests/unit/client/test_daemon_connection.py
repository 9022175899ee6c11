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
    """As a module of a web application makes it, which is imported before its server runs a loop."""
    client = AsyncClient(daemon.targets[0])

    async def ask() -> int:
        async with client:
            return len(await client.classify("pos-intent", ["hello"]))

    assert 1 == asyncio.run(ask())


def test_asyncio_client_refuses_a_second_event_loop(daemon):
    """It says what to do, in place of gRPC's future "attached to a different loop"."""
    client = AsyncClient(daemon.targets[0])

    async def ask() -> None:
        await client.classify("pos-intent", ["hello"])

    asyncio.run(ask())
    with pytest.raises(ValueError, match="made its first call in another event loop: make a client in each"):
        asyncio.run(ask())


def test_asyncio_client_whose_first_call_was_refused_belongs_to_that_loop(daemon):
    """A call without time opens the channel, too: in a second loop gRPC would only say that a loop is closed."""
    client = AsyncClient(daemon.targets[0])

    async def ask(seconds: float) -> None:
        await client.classify("pos-intent", ["hello"], timeout_seconds=seconds)

    with pytest.raises(ValueError, match="must be more than 0"):
        asyncio.run(ask(0))
    with pytest.raises(ValueError, match="made its first call in another event loop"):
        asyncio.run(ask(5))


async def test_asyncio_client_that_is_closed_opens_nothing(daemon):
    """A request that comes while a web application stops would leave a channel that nobody closes."""
    client = AsyncClient(daemon.targets[0])
    await client.close()
    with pytest.raises(ValueError, match="this client is closed"):
        await client.classify("pos-intent", ["hello"])
    assert "channel" not in vars(client)


@pytest.mark.parametrize("make", [AsyncClient, AsyncAdminClient, AsyncReviewClient])
async def test_asyncio_client_that_made_no_call_closes(make):
    """Nothing was opened, so there is nothing to wait for."""
    async with make("unix:/nowhere.sock") as client:
        pass
    with pytest.raises(ValueError, match="closed"):
        await client.serving()
