"""Installing, switching, rolling back and losing bundles on a running daemon, with power cuts in between."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from edge_agent.client import CallFailed
from edge_agent.v1.admin_pb2 import InstallBundleRequest
from edge_agent.v1.admin_pb2_grpc import AdminServiceStub
from tests.support.bundles import digest_of, echo_bundle, smollm2_bundle, tiny_onnx_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.store_cases import as_of_another_agent

LABELS = ("refund", "price")


def version_that_answers(daemon: RunningDaemon) -> str:
    with daemon.client() as client:
        return client.classify("intent", ["refund"])[0].bundle.version


@pytest.mark.slow
def test_a_bundle_lives_through_update_rollback_restart_and_removal(tmp_path: Path) -> None:
    """Version 2 takes over, rollback brings 1 back, a restart keeps it, and removal gives the disk back."""
    one, two = (
        echo_bundle(tmp_path / v, "intent", "classify", LABELS, version=v, weights=v.encode())
        for v in ("1.0.0", "2.0.0")
    )
    with RunningDaemon(tmp_path) as daemon, daemon.admin() as admin:
        daemon.install(one)
        assert "1.0.0" == version_that_answers(daemon)
        assert (False, True) == (admin.install(str(one))[1], admin.install(str(two))[1])
        assert "2.0.0" == version_that_answers(daemon)
        assert "1.0.0" == admin.rollback("intent").ref.version
        assert "1.0.0" == version_that_answers(daemon)
        daemon.kill()
        daemon.start()
        eventually_sync(lambda: admin.status().tasks[0].ready)
        assert "1.0.0" == version_that_answers(daemon)
        assert "2.0.0" == admin.activate("intent", digest_of(two)[:8]).ref.version
        with pytest.raises(CallFailed) as caught:
            admin.remove("intent", "1.0.0")
        assert "BUNDLE_IN_USE" == caught.value.reason
        assert admin.remove("intent") > 0
        assert () == admin.status().tasks
        assert [] == list((daemon.state_dir / "blobs" / "sha256").rglob("?" * 64))


def test_an_unsigned_bundle_needs_permission(tmp_path: Path) -> None:
    """Without allow_unsigned nothing is installed, and the error names the setting."""
    with RunningDaemon(tmp_path, store={"allow_unsigned": False}) as daemon, daemon.admin() as admin:
        with pytest.raises(CallFailed) as caught:
            admin.install(str(echo_bundle(tmp_path / "a")))
        assert "BUNDLE_UNSIGNED" == caught.value.reason
        assert "allow_unsigned: true" in caught.value.remedy
        assert [] == admin.bundles()


def spoil(bundle: Path, bytes_left: float) -> Path:
    """Cut the weights to that share, and let the manifest name what is left, so that only the loader can tell."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    (entry,) = (artifact for artifact in manifest["artifacts"] if artifact["role"] == "weights")
    weights = bundle / entry["path"]
    data = weights.read_bytes()
    data = data[: int(len(data) * bytes_left)]
    weights.write_bytes(data)
    entry.update(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5], ids=["empty", "truncated"])
@pytest.mark.parametrize("build", [smollm2_bundle, tiny_onnx_bundle], ids=["gguf", "onnx"])
def test_a_model_file_that_does_not_load(tmp_path: Path, build: Callable[..., Path], share: float) -> None:
    """A truncated or zero-length model with the right hash is refused, and the version before goes on answering."""
    good = echo_bundle(tmp_path / "good", "intent", "classify", LABELS)
    bad = spoil(build(tmp_path / "bad", "classify", name="intent", version="2.0.0"), share)
    with RunningDaemon(tmp_path) as daemon, daemon.admin() as admin:
        daemon.install(good)
        with pytest.raises(CallFailed) as caught:
            admin.install(str(bad))
        assert ("FAILED_PRECONDITION", "MODEL_LOAD_FAILED") == (caught.value.code, caught.value.reason)
        assert "1.0.0" == version_that_answers(daemon)
        assert 1 == len(admin.status().engines)


@pytest.mark.slow
def test_paths_that_are_no_bundle(tmp_path: Path) -> None:
    """A path that is not there and a plain file are refused; over the wire a relative path is, too."""
    (tmp_path / "file").write_text("hello")
    with RunningDaemon(tmp_path) as daemon, daemon.admin() as admin:
        for name in ("gone", "file"):
            with pytest.raises(CallFailed) as caught:
                admin.install(str(tmp_path / name))
            assert "BUNDLE_UNREADABLE" == caught.value.reason
        stub = AdminServiceStub(admin.channel)
        with pytest.raises(grpc.RpcError, match="not absolute"):
            stub.InstallBundle(InstallBundleRequest(path="file"), timeout=5)


@pytest.mark.slow
def test_a_bundle_that_the_unit_hides_is_a_fault_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon under systemd names the cause, and a folder that it can read."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with RunningDaemon(tmp_path) as daemon, daemon.admin() as admin, pytest.raises(CallFailed) as caught:
        admin.install("/home/kim/bundle-that-is-not-there")
    assert "CONFIG_INVALID" == caught.value.reason
    assert "the daemon cannot see /home/kim/bundle-that-is-not-there" in caught.value.message
    assert "'sudo cp -r /home/kim/bundle-that-is-not-there /srv/ && sudo chmod" in caught.value.remedy


@pytest.mark.slow
def test_a_killed_model_comes_back_by_itself(tmp_path: Path) -> None:
    """The task's health turns bad and good again; the daemon's own stays good; calls in between may be retried."""
    with RunningDaemon(tmp_path) as daemon, daemon.admin() as admin, daemon.client() as client:
        daemon.install(echo_bundle(tmp_path / "a", "intent", "classify", LABELS))
        os.kill(admin.status().engines[0].pid, signal.SIGKILL)
        eventually_sync(lambda: not client.serving("intent"))
        assert client.serving()
        with pytest.raises(CallFailed) as caught:
            client.classify("intent", ["refund"])
        assert ("UNAVAILABLE", "ENGINE_NOT_READY") == (caught.value.code, caught.value.reason)
        eventually_sync(lambda: client.serving("intent"))
        assert "1.0.0" == version_that_answers(daemon)
        assert 1 == admin.status().engines[0].restarts


def two_tasks_on_one_model(tmp_path: Path) -> list[Path]:
    """Two bundles with the same weights, and so with one engine."""
    return [tiny_onnx_bundle(tmp_path / name, "classify", name=name) for name in ("intent", "other")]


def blobs(daemon: RunningDaemon) -> list[Path]:
    """The stored files, largest first: the weights."""
    files = (daemon.state_dir / "blobs" / "sha256").rglob("?" * 64)
    return sorted(files, key=lambda path: -path.stat().st_size)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["gone", "spoilt"])
def test_installing_again_mends_a_damaged_store_without_a_restart(tmp_path: Path, damage: str) -> None:
    """The reason is in status and reaches callers; installing the bundle again brings back both tasks on its model."""
    bundles = two_tasks_on_one_model(tmp_path)
    daemon = RunningDaemon(tmp_path, engine={"load_failures_max": 1})
    with daemon:
        daemon.install(*bundles)
        weights = blobs(daemon)[0]
        daemon.kill()
        if damage == "gone":
            weights.unlink()
        else:
            weights.chmod(0o600)
            weights.write_bytes(b"\0" * weights.stat().st_size)
        daemon.start()
        with daemon.admin() as admin, daemon.client() as client:
            eventually_sync(lambda: sum("does not answer" in warning for warning in admin.status().warnings) == 2)
            with pytest.raises(CallFailed) as caught:
                client.classify("intent", ["refund"])
            assert ("STORE_DAMAGED" if damage == "gone" else "MODEL_LOAD_FAILED") == caught.value.reason
            admin.install(str(bundles[0]))
            assert client.classify("intent", ["refund"])
            eventually_sync(lambda: client.serving("other"))
            assert client.classify("other", ["refund"])
            assert not any("does not answer" in warning for warning in admin.status().warnings)


@pytest.mark.slow
def test_a_bundle_of_another_agent_stops_its_own_task_only(tmp_path: Path) -> None:
    """After a downgrade: status and callers hear why, health says NOT_SERVING, and the other task answers."""
    daemon = RunningDaemon(tmp_path)
    with daemon:
        daemon.install(echo_bundle(tmp_path / "new", "intent", "classify", LABELS, version="2.0.0"))
        daemon.install(echo_bundle(tmp_path / "other", "other", "classify", LABELS, version="1.0.0"))
        daemon.kill()
        as_of_another_agent(daemon.state_dir, "2.0.0")
        daemon.start()
        with daemon.admin() as admin, daemon.client() as client:
            eventually_sync(lambda: client.serving("other"))
            assert client.classify("other", ["refund"])
            assert not client.serving("intent")
            assert ["Task intent does not answer"] == [w[:27] for w in admin.status().warnings if "cannot read" in w]
            with pytest.raises(CallFailed, match="cannot read the installed bundle") as caught:
                client.classify("intent", ["refund"])
            assert "STORE_DAMAGED" == caught.value.reason
            daemon.install(echo_bundle(tmp_path / "old", "intent", "classify", LABELS, version="1.0.0"))
            assert "1.0.0" == version_that_answers(daemon)
            assert ["Bundle intent 2.0.0 ("] == [w[:21] for w in admin.status().warnings if "cannot read" in w]


@pytest.mark.slow
def test_a_bundle_that_does_not_load_is_not_kept(tmp_path: Path) -> None:
    """The error names the task and the version, and the store is as it was before."""
    bad = spoil(tiny_onnx_bundle(tmp_path / "bad", "classify", name="intent", version="2.0.0"), 0.5)
    with RunningDaemon(tmp_path) as daemon, daemon.admin() as admin:
        with pytest.raises(CallFailed, match=r"bundle intent 2\.0\.0: "):
            admin.install(str(bad))
        assert ([], []) == (admin.bundles(), blobs(daemon))
