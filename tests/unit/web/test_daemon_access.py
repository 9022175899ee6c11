"""The daemon as the console accesses it, and the asyncio clients over real gRPC."""

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


async def test_both_admin_clients_return_the_same(fake):
    """The synchronous and the asyncio client return the same status, bundles (all pages) and monitoring report."""
    with AdminClient(fake.targets[0]) as admin:
        expected = [admin.status(), admin.bundles(), admin.field_report()]
    async with AsyncAdminClient(fake.targets[0]) as admin:
        assert expected == [await admin.status(), await admin.bundles(), await admin.field_report()]
    assert 2 == len(expected[1])


async def test_both_clients_return_the_same_health(fake):
    """Both clients return the same health of daemon and services, and raise for an unknown service."""
    with Client(fake.targets[0]) as client:
        expected = client.serving()
    async with AsyncClient(fake.targets[0]) as client:
        assert expected == await client.serving()
        with pytest.raises(CallFailed):
            await client.serving("no-such")
    async with AsyncClient(NOBODY) as client:
        with pytest.raises(CallFailed, match="no daemon answers"):
            await client.serving(timeout_seconds=2)


async def test_snapshot_with_the_admin_role_is_complete(fake):
    """With the role admin the snapshot has the status and needs no call on the inference socket."""
    async with DaemonConnections({"admin": DaemonEndpoint(fake.targets[0]), "infer": DaemonEndpoint(NOBODY)}) as daemon:
        seen = await daemon.snapshot()
        assert (True, True, {}) == (seen.answers, seen.serving, dict(seen.problems))
        assert seen.status is not None
        assert frozenset({"admin", "infer"}) == daemon.roles
        field = await daemon.monitoring()
        assert (2, "0.1.0") == (len(field.bundles), field.status.agent_version)


async def test_snapshot_without_the_admin_role_has_tasks(fake):
    """If the admin socket does not answer or is not used, health and tasks come from the inference socket, with the
    problem."""
    async with DaemonConnections({"admin": DaemonEndpoint(NOBODY), "infer": DaemonEndpoint(fake.targets[0])}) as daemon:
        seen = await daemon.snapshot()
        assert (True, ["admin"], None) == (seen.answers, list(seen.problems), seen.status)
        assert ["assistant", "pos-intent", "product-search"] == [task.name for task in seen.tasks or ()]
    async with DaemonConnections({"infer": DaemonEndpoint(fake.targets[0])}) as daemon:
        assert {} == (await daemon.snapshot()).problems


async def test_simultaneous_snapshots_share_one_call(fake):
    """However many pages request a snapshot at once, the daemon is asked once."""
    async with DaemonConnections({"admin": DaemonEndpoint(fake.targets[0])}) as daemon:
        looks = await asyncio.gather(*(daemon.snapshot() for _ in range(50)))
        assert 1 == len({id(seen.status) for seen in looks})


async def test_missing_daemon_is_a_problem_of_each_role():
    """A daemon that does not answer is a problem of each role in the snapshot, and raises only for monitoring."""
    async with DaemonConnections({"admin": DaemonEndpoint(NOBODY), "infer": DaemonEndpoint(NOBODY)}) as daemon:
        seen = await daemon.snapshot()
        assert (False, {"admin", "infer"}) == (seen.answers, set(seen.problems))
        with pytest.raises(CallFailed):
            await daemon.monitoring()


async def test_review_console_asks_nothing_for_the_overview():
    """A console with only the role feedback makes no call for the first page."""
    async with DaemonConnections({"feedback": DaemonEndpoint(NOBODY)}) as daemon:
        seen = await daemon.snapshot()
        assert (False, {}) == (seen.answers, dict(seen.problems))
        assert frozenset({"feedback"}) == daemon.roles


async def test_unused_role_is_refused_by_name():
    """The error names the key that adds the role."""
    async with DaemonConnections({"infer": DaemonEndpoint(NOBODY)}) as daemon:
        for require in (daemon.require_operator, daemon.require_reviews):
            with pytest.raises(CallFailed) as refused:
                require()
            assert ("ROLE_UNUSED", True) == (refused.value.reason, "'roles' under 'web'" in refused.value.remedy)
        with pytest.raises(CallFailed, match="does not use the role admin"):
            await daemon.monitoring()
