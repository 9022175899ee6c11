"""What the operator and the central team see of a site's updates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import pytest

from edge_agent.config import EngineConfig
from edge_agent.engine.pool import EnginePool
from edge_agent.errors import UpdateExpired
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.formats.status_object import SiteUpdates, TaskStatus, UpdateState, UpdateStatus
from edge_agent.server import messages, task_modes
from edge_agent.store.state_database import UpdateProgress
from edge_agent.update.blocked_update_messages import CopyProgress
from edge_agent.v1 import admin_pb2
from tests.support.examples import NOW
from tests.support.updating_site import TASK, UpdatingSite


class CollectsLocally:
    """A capture that collects every task locally."""

    def consent(self, task: str) -> str:
        return "local"


class NoAlarms:
    """Monitoring without alarms."""

    def report(self, task: str) -> tuple[()]:
        return ()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[UpdatingSite]:
    """Return a site that has just switched from 1.0.0 to 2.0.0, and where another task is being updated."""
    site = UpdatingSite(tmp_path)
    await site.install("1.0.0")
    new = site.publish("2.0.0")
    site.want(new, "2.0.0")
    await site.look()
    yield site
    await site.stop()


def test_every_update_state_has_an_api_value():
    """Every update state has an API value, in the order of the enumeration."""
    states = get_args(UpdateState)
    assert [f"UPDATE_STATE_{state.upper()}" for state in states] == [
        admin_pb2.UpdateState.Name(messages.UPDATE_STATES[state]) for state in states
    ]
    assert len(states) == len(admin_pb2.UpdateState.keys()) - 1


async def test_operator_sees_previous_active_and_candidate_bundles(site: UpdatingSite):
    """For each task the message has the previous, active and candidate bundles with versions and digests."""
    old, new = site.activation.inventory.rollbacks[TASK], site.active()
    said = messages.updates_message(site.activation, site.updater.overview, site.updater.copy_progress)
    (task,) = said.tasks
    assert ("stable", 1, "") == (said.channel, said.plan_version, said.problem)
    assert [("1.0.0", old), ("2.0.0", new), ("2.0.0", new)] == [
        (ref.version, ref.digest) for ref in (task.previous, task.active, task.candidate)
    ]
    assert (admin_pb2.UPDATE_STATE_PROBATION, int(NOW)) == (task.state, task.since_time.seconds)


async def test_operator_sees_the_progress_of_a_copy(site: UpdatingSite):
    """While a bundle is copied into the store, the message has its name and bytes; afterwards they are empty."""
    copied = CopyProgress("pos 3.0.0", 40, 100)
    said = messages.updates_message(site.activation, site.updater.overview, copied)
    assert ("pos 3.0.0", 40, 100) == (said.copying, said.copied_bytes, said.total_bytes)
    after = messages.updates_message(site.activation, site.updater.overview, site.updater.copy_progress)
    assert ("", 0, 0) == (after.copying, after.copied_bytes, after.total_bytes)


async def test_operator_sees_why_a_repository_is_refused(site: UpdatingSite):
    """The message has the problem with its remedy, and the version of the plan that was verified last."""
    site.published.problem = UpdateExpired("it expired yesterday")
    await site.updater.check()
    said = messages.updates_message(site.activation, site.updater.overview, site.updater.copy_progress)
    assert 1 == said.plan_version
    assert said.problem.startswith("it expired yesterday. Check this machine's clock")


async def test_a_task_without_plan_has_no_candidate(site: UpdatingSite):
    """A task that the plan does not name is listed without a candidate."""
    site.plan({}, 2)
    site.seen.clear()
    await site.activation.rollback(TASK)
    await site.updater.check()  # a probation ends before its row is forgotten
    await site.updater.check()
    (task,) = messages.updates_message(site.activation, site.updater.overview, site.updater.copy_progress).tasks
    assert not task.HasField("candidate")
    assert admin_pb2.UPDATE_STATE_UNSPECIFIED == task.state


async def test_status_object_has_the_same_facts(site: UpdatingSite):
    """The status object has the same facts, and the site's consent."""
    engines = EnginePool(EngineConfig(), lambda: None)
    (said,) = task_modes.task_statuses(engines, site.activation, site.updater.overview, CollectsLocally(), NoAlarms())
    row = site.row()
    assert said == TaskStatus(
        task=TASK,
        kind="classify",
        version="2.0.0",
        digest=row.candidate,
        ready=False,
        collect="local",
        previous=row.incumbent,
        update=task_modes.update_status(row),
    )
    assert SiteUpdates(channel="stable", plan_version=1) == task_modes.site_updates(
        site.activation, site.updater.overview
    )


async def test_status_object_lists_tasks_without_a_bundle(site: UpdatingSite):
    """The status object has the state of tasks without an active bundle, and why the newest repository is refused,
    truncated to its limit."""
    await site.activation.remove(TASK, "")
    site.published.problem = UpdateExpired("x" * 2000)
    await site.updater.check()
    said = task_modes.site_updates(site.activation, site.updater.overview)
    assert ({TASK: "held"}, "x" * 1000) == ({t: each.state for t, each in said.arriving.items()}, said.update_problem)


def test_long_message_is_truncated_in_the_status_object():
    """A message of 5,000 characters is truncated to 1,000 in the status object."""
    row = UpdateProgress(TASK, "1e" * 32, "2.0.0", "w", 3, "", "failed", NOW, "GOLDEN_DIFFERS", "y" * 5000, 1)
    expected = UpdateStatus(
        candidate="1e" * 32,
        version="2.0.0",
        state="failed",
        since=format_timestamp(NOW),
        plan_version=3,
        reason="GOLDEN_DIFFERS",
        message="y" * 1000,
        attempts=1,
    )
    assert expected == task_modes.update_status(row)
