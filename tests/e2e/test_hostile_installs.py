"""The install of a hostile bundle: other bundles keep working, and the call can be cancelled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from edge_agent.server.audit_log import FILE_NAME
from edge_agent.v1 import admin_pb2 as pb
from edge_agent.v1.admin_pb2_grpc import AdminServiceStub
from tests.support import hostile_models
from tests.support.bundles import echo_bundle, tiny_onnx_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync

ATTACH_SECONDS = 600


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A daemon that waits long for a bundle to attach."""
    with RunningDaemon(tmp_path / "site", engine={"attach_seconds_max": ATTACH_SECONDS}) as running:
        yield running


def outcomes(daemon: RunningDaemon) -> list[tuple[str, str]]:
    """Return the call and the outcome of each line of the audit log."""
    lines = (daemon.state_dir / FILE_NAME).read_text().splitlines()
    return [(line["call"], line["outcome"]) for line in map(json.loads, lines) if line["call"] == "InstallBundle"]


def test_bundles_install_while_hostile_one_attaches(daemon: RunningDaemon, tmp_path: Path) -> None:
    """While a bundle with an endless graph attaches, bundles of other tasks can be installed and answer, also on the
    same runtime. After its call is cancelled nothing of it stays, and the audit log has CANCELLED."""
    hostile = hostile_models.bundle(tmp_path / "hostile", hostile_models.endless_graph(), name="hostile")
    good = [echo_bundle(tmp_path / "a", "echoed", "classify"), tiny_onnx_bundle(tmp_path / "b", name="encoded")]
    with grpc.insecure_channel(daemon.admin_target) as channel, daemon.admin() as admin:
        request = pb.InstallBundleRequest(path=str(hostile))
        call = AdminServiceStub(channel).InstallBundle.future(request, timeout=ATTACH_SECONDS)
        eventually_sync(lambda: [True] == [bool(engine.pid) for engine in admin.status().engines])
        daemon.install(*good)
        assert not call.done()
        with daemon.client() as client:
            assert [1, 1] == [len(client.classify(task, ["hello"])) for task in ("echoed", "encoded")]
        assert 3 == len(admin.status().engines)
        call.cancel()
        eventually_sync(lambda: len(outcomes(daemon)) == 3)
        assert ("InstallBundle", "CANCELLED") == outcomes(daemon)[-1]
        assert {"echoed", "encoded"} == {bundle.ref.task for bundle in admin.bundles()}
        eventually_sync(lambda: len(admin.status().engines) == 2)
