"""Calls cancelled at every await: the sweep, and checks that it detects injected defects.

The calls of the operator are in test_cancellation_operator.py, so that two workers share the sweep. The same sweep is
`scripts/bench cancellation`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.cancelling.calls import CALLS, Call, missing
from tests.support.cancelling.groups import findings, groups
from tests.support.cancelling.site import ADMIN, Outcome, Site
from tests.support.cancelling.sweep import sweep

SAMPLE = ("Classify, a request_id", "Generate", "SubmitFeedback", "InstallBundle")
SAMPLE_EVERY = 8


def named(name: str) -> Call:
    """Return the call with this name from the table."""
    return next(call for call in CALLS if str(call) == name)


def test_every_method_of_the_daemon_is_swept():
    """The sweep covers every method in the daemon's protobuf descriptors."""
    assert [] == missing()


async def test_cancelled_sample_calls_leave_nothing_behind(tmp_path: Path):
    """After a sample of calls was cancelled at a sample of awaits, the daemon answers every call and holds no task or
    file of theirs."""
    points, found = await findings(tmp_path, [named(name) for name in SAMPLE], SAMPLE_EVERY)
    assert [] == found
    assert points >= 2 * len(SAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("calls", groups(lambda service: service != ADMIN))
async def test_device_calls_can_be_cancelled_at_every_await(tmp_path: Path, calls: Sequence[Call]):
    """Calls of devices and reviewers can be cancelled at every await: nothing blocks, leaks or is lost."""
    points, found = await findings(tmp_path, calls)
    assert [] == found
    assert points >= 3 * len(calls)


@pytest.mark.slow
async def test_sweep_detects_leaks_and_lost_results(tmp_path: Path):
    """The sweep detects an injected call that leaves a task or an open file behind, or withdraws a result that it
    acknowledged."""
    kept: list[object] = []

    async def leaves(site: Site) -> None:
        await named("InstallBundle").restore(site)
        if armed:
            kept.append(asyncio.create_task(asyncio.Event().wait()))
            kept.append((site.config.state_dir / "staging").open("wb"))

    async def takes_back(site: Site, messages: Sequence[bytes], outcome: Outcome) -> str:
        return "it was acknowledged and is gone"

    armed = False
    async with Site(tmp_path) as site:
        call = replace(named("InstallBundle"), restore=leaves, claims=takes_back)
        undisturbed = [swept async for swept in sweep(site, [named("InstallBundle")], every=100)]
        armed = True
        [swept] = [swept async for swept in sweep(site, [call], every=100, settled_seconds_max=0.1)]
        for each in kept:
            each.cancel() if isinstance(each, asyncio.Task) else each.close()
    assert [[]] == [each.findings for each in undisturbed]
    assert 1 == swept.points
    [left] = swept.leaked
    assert "1 more of task Event.wait" in left
    assert "1 more open: " in left
