"""Engine processes killed and stopped under load, and bundles swapped under load: a caller that retries gets its
answer."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.client import AdminClient, CallFailed
from edge_agent.client.site_state import Engine
from tests.support.bundles import digest_of, echo_bundle, tiny_onnx_bundle
from tests.support.callers import Callers
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync

LABELS = ("refund", "price")
ENGINE = {"heartbeat_seconds_max": 2.0, "restart_seconds_first": 0.05, "restart_seconds_max": 0.2}
KILLS = 3


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A daemon with two tasks, each on its own engine."""
    with RunningDaemon(tmp_path, engine=ENGINE) as running:
        running.install(
            echo_bundle(tmp_path / "a", "victim", labels=LABELS, weights=b"a"),
            echo_bundle(tmp_path / "b", "neighbour", labels=LABELS, weights=b"b"),
        )
        yield running


def engine_of(admin: AdminClient, task: str) -> Engine:
    return next(engine for engine in admin.status().engines if task in engine.tasks)


@pytest.mark.slow
@pytest.mark.parametrize(
    "signum", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.release)], ids=["kill", "stop"]
)
def test_killed_or_stopped_engine_loses_no_call(daemon: RunningDaemon, signum: signal.Signals) -> None:
    """An engine that is killed or stopped three times under load costs its callers only retries, and callers of the
    other engine nothing."""
    with daemon.admin() as admin, Callers(daemon, "victim") as victims, Callers(daemon, "neighbour") as neighbours:
        for _ in range(KILLS):
            victims.wait_for_answers(20)
            before = engine_of(admin, "victim").pid
            os.kill(before, signum)
            eventually_sync(lambda: engine_of(admin, "victim").pid not in (0, before))  # noqa: B023 - called at once
        victims.wait_for_answers(20)
        assert KILLS == engine_of(admin, "victim").restarts
        assert 0 == engine_of(admin, "neighbour").restarts
    assert [] == victims.lost
    assert ([], 0) == (neighbours.lost, neighbours.retries)


@pytest.mark.slow
def test_input_is_not_blamed_for_external_kills(daemon: RunningDaemon) -> None:
    """A call whose engine is killed from outside twice is answered or gets a retryable error, and its input is accepted
    afterwards."""
    outcomes: list[str] = []

    def call() -> None:
        with daemon.client() as client:
            try:
                outcomes.append(client.classify("victim", ["!slow 1000 refund"])[0].label)
            except CallFailed as failed:
                outcomes.append(failed.code)

    with daemon.admin() as admin:
        caller = threading.Thread(target=call)
        caller.start()
        for _ in range(2):
            eventually_sync(
                lambda: (engine_of(admin, "victim").state, engine_of(admin, "victim").pending) == ("READY", 1)
            )
            os.kill(engine_of(admin, "victim").pid, signal.SIGKILL)
            eventually_sync(lambda: engine_of(admin, "victim").state != "READY")
        caller.join()
    assert outcomes in (["refund"], ["UNAVAILABLE"])
    with Callers(daemon, "victim", 1, "!slow 1000 refund") as again:
        again.wait_for_answers(1)
    assert [] == again.lost


def two_echos(folder: Path) -> list[Path]:
    return [echo_bundle(folder / v, "intent", labels=LABELS, version=v, weights=v.encode()) for v in ("1.0.0", "2.0.0")]


def two_onnx(folder: Path) -> list[Path]:
    """Two bundles with the same weights that are loaded differently, so that they have separate engines."""
    return [
        tiny_onnx_bundle(folder / "1", "classify", "intent"),
        tiny_onnx_bundle(folder / "2", "classify", "intent", version="2.0.0", engine={"context_tokens": 2048}),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("build", [two_echos, two_onnx], ids=["echo", "onnx"])
def test_swapping_bundles_under_load_fails_no_call(tmp_path: Path, build: Callable[[Path], list[Path]]) -> None:
    """During a switch to version 2 and back under four callers, no call is refused or retried, and each caller sees
    versions 1, 2 and 1 in this order."""
    one, two = build(tmp_path)
    with RunningDaemon(tmp_path) as daemon, daemon.admin() as admin:
        daemon.install(one)
        admin.install(two, activate=False)
        with Callers(daemon, "intent") as callers:
            for digest in (digest_of(two), digest_of(one)):
                callers.wait_for_answers(200)
                admin.activate("intent", digest)
            callers.wait_for_answers(200)
    assert ([], 0) == (callers.lost, callers.retries)
    # Each caller for itself: what two of them note at the same time may cross.
    assert [["1.0.0", "2.0.0", "1.0.0"]] * 4 == callers.versions
