"""Jumps of the system clock, as on a till without a clock battery when it synchronizes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.bundles import echo_bundle
from tests.support.callers import Callers
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.wall_clock import WallClock, needs_gcc

DAY = 86_400


@pytest.mark.slow
@needs_gcc
def test_clock_jumps_lose_no_call(tmp_path: Path) -> None:
    """Clock jumps of a day forward and back under load cause no lost call, no retry and no forgotten request id, and a
    killed engine restarts."""
    clock = WallClock(tmp_path)
    engine = {"heartbeat_seconds_max": 3.0, "restart_seconds_first": 0.05}
    daemon = RunningDaemon(tmp_path, engine=engine, service={"request_id_seconds": 60})
    daemon.environment |= clock.environment
    with daemon, daemon.admin() as admin, daemon.client() as client:
        daemon.install(echo_bundle(tmp_path / "a", "intent", labels=("refund", "price")))
        started = admin.status().start_time
        with Callers(daemon, "intent", 2, "!slow 100 refund") as callers:
            [first] = client.classify("intent", ["refund"], request_id="remembered")
            for jump in (DAY, -DAY, 0):
                clock.jump(jump)
                callers.wait_for_answers(10, seconds=10)
                [again] = client.classify("intent", ["refund"], request_id="remembered")
                assert first.prediction_id == again.prediction_id
        assert ([], 0) == (callers.lost, callers.retries)
        clock.jump(DAY)
        pid = admin.status().engines[0].pid
        os.kill(pid, 9)
        eventually_sync(lambda: admin.status().tasks[0].ready and admin.status().engines[0].pid != pid, 5)
        status = admin.status()
        assert (1, started) == (status.engines[0].restarts, status.start_time)
        # The jumps did reach the daemon: this is installed tomorrow.
        installed = admin.install(echo_bundle(tmp_path / "b", "later", labels=("refund", "price")))[0].install_time
        assert DAY / 2 < (installed - started).total_seconds()
