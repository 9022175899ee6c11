"""The daemon as the console sees it, and the awaited clients that it is seen through, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.client import AdminClient, AsyncAdminClient, AsyncClient, CallFailed, Client
from edge_agent.web.daemon_access import DaemonConnections, DaemonEndpoint
from tests.support.fake_daemon import FakeDaemon

NOBODY = "unix:/nowhere/admin.sock"


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(f"unix:{tmp_path}/x.sock") as running:
        yield running


async def test_the_operators_clients_say_the_same(fake):
    """What an operator looks at is the same awaited and not: status, bundles page by page, and the field."""
    with AdminClient(fake.targets[0]) as admin:
        expected = [admin.status(), admin.bundles(), admin.field_report()]
    async with AsyncAdminClient(fake.targets[0]) as admin:
        assert expected == [await admin.status(), await admin.bundles(), await admin.field_report()]
    assert 2 == len(expected[1])


async def test_an_awaited_client_asks_for_health(fake):
    """Both clients tell the same of the daemon and of one service, and raise alike where there is none."""
    with Client(fake.targets[0]) as client:
        expected = client.serving()
    async with AsyncClient(fake.targets[0]) as client:
        assert expected == await client.serving()
        with pytest.raises(CallFailed):
            await client.serving("no-such")
    async with AsyncClient(NOBODY) as client:
        with pytest.raises(CallFailed, match="no daemon answers"):
            await client.serving(timeout_seconds=2)


async def test_an_operators_look_has_everything(fake):
    """With the role admin the status is shown, and devices' calls are not needed."""
    async with DaemonConnections({"admin": DaemonEndpoint(fake.targets[0]), "infer": DaemonEndpoint(NOBODY)}) as daemon:
        seen = await daemon.snapshot()
        assert (True, True, {}) == (seen.answers, seen.serving, dict(seen.problems))
        assert seen.status is not None
        assert frozenset({"admin", "infer"}) == daemon.roles
        field = await daemon.monitoring()
        assert (2, "0.1.0") == (len(field.bundles), field.status.agent_version)


async def test_a_look_without_the_operators_socket_shows_tasks(fake):
    """Where admin gets no answer, or is not used, health and tasks come by the devices' socket, and why is kept."""
    async with DaemonConnections({"admin": DaemonEndpoint(NOBODY), "infer": DaemonEndpoint(fake.targets[0])}) as daemon:
        seen = await daemon.snapshot()
        assert (True, ["admin"], None) == (seen.answers, list(seen.problems), seen.status)
        assert ["assistant", "pos-intent", "product-search"] == [task.name for task in seen.tasks or ()]
    async with DaemonConnections({"infer": DaemonEndpoint(fake.targets[0])}) as daemon:
        assert {} == (await daemon.snapshot()).problems


async def test_many_looks_are_one_question(fake):
    """However many pages look at once, the daemon is asked once."""
    async with DaemonConnections({"admin": DaemonEndpoint(fake.targets[0])}) as daemon:
        looks = await asyncio.gather(*(daemon.snapshot() for _ in range(50)))
        assert 1 == len({id(seen.status) for seen in looks})


async def test_nobody_is_said_and_not_raised():
    """A daemon that was never there is a problem of each role that was asked."""
    async with DaemonConnections({"admin": DaemonEndpoint(NOBODY), "infer": DaemonEndpoint(NOBODY)}) as daemon:
        seen = await daemon.snapshot()
        assert (False, {"admin", "infer"}) == (seen.answers, set(seen.problems))
        with pytest.raises(CallFailed):
            await daemon.monitoring()


async def test_a_console_for_reviews_alone_asks_nothing_else():
    """Without the roles admin and infer nothing is asked of the daemon for the first page."""
    async with DaemonConnections({"feedback": DaemonEndpoint(NOBODY)}) as daemon:
        seen = await daemon.snapshot()
        assert (False, {}) == (seen.answers, dict(seen.problems))
        assert frozenset({"feedback"}) == daemon.roles


async def test_a_role_that_the_console_does_not_use_is_refused_by_name():
    """A signed-in person has every role; what the console leaves out in `roles` is named with the key that adds it."""
    async with DaemonConnections({"infer": DaemonEndpoint(NOBODY)}) as daemon:
        for require in (daemon.require_operator, daemon.require_reviews):
            with pytest.raises(CallFailed) as refused:
                require()
            assert ("ROLE_UNUSED", True) == (refused.value.reason, "'roles' under 'web'" in refused.value.remedy)
        with pytest.raises(CallFailed, match="does not use the role admin"):
            await daemon.monitoring()
