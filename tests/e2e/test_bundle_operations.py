"""Install, switch, roll back and remove bundles on a running daemon, with kills and damaged files in between."""

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
def test_bundle_update_rollback_restart_and_removal(tmp_path: Path) -> None:
    """An install activates version 2, rollback restores version 1, which survives a kill, and removal of the task
    deletes all its blobs."""
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


def test_unsigned_bundle_is_refused_by_default(tmp_path: Path) -> None:
    """Without allow_unsigned the daemon refuses an unsigned bundle, and the remedy names the setting."""
    with RunningDaemon(tmp_path, store={"allow_unsigned": False}) as daemon, daemon.admin() as admin:
        with pytest.raises(CallFailed) as caught:
            admin.install(str(echo_bundle(tmp_path / "a")))
        assert "BUNDLE_UNSIGNED" == caught.value.reason
        assert "allow_unsigned: true" in caught.value.remedy
        assert [] == admin.bundles()


def spoil(bundle: Path, bytes_left: float) -> Path:
    """Cut the weights to this share and correct their hash in the manifest, so that only the model loader can
    notice."""
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
def test_unloadable_model_file_is_refused(tmp_path: Path, build: Callable[..., Path], share: float) -> None:
    """The daemon refuses a truncated or empty model file with a correct hash, and the previous version keeps
    answering."""
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
def test_install_of_missing_file_or_relative_path_is_refused(tmp_path: Path) -> None:
    """The daemon refuses to install from a missing path, a plain file or, over the wire, a relative path."""
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
def test_bundle_hidden_by_systemd_unit_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under systemd the daemon reports CONFIG_INVALID for a bundle in a home folder, which its unit hides, and suggests
    a copy in /srv."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with RunningDaemon(tmp_path) as daemon, daemon.admin() as admin, pytest.raises(CallFailed) as caught:
        admin.install("/home/kim/bundle-that-is-not-there")
    assert "CONFIG_INVALID" == caught.value.reason
    assert "the daemon cannot see /home/kim/bundle-that-is-not-there" in caught.value.message
    assert "'sudo cp -r /home/kim/bundle-that-is-not-there /srv/ && sudo chmod" in caught.value.remedy


@pytest.mark.slow
def test_killed_engine_restarts_automatically(tmp_path: Path) -> None:
    """When an engine process is killed, its task's health is NOT_SERVING until it restarts, calls get a retryable
    error, and the daemon's own health stays SERVING."""
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
    """Two bundles with the same weights, which share one engine."""
    return [tiny_onnx_bundle(tmp_path / name, "classify", name=name) for name in ("intent", "other")]


def blobs(daemon: RunningDaemon) -> list[Path]:
    """The stored files, largest first, so that the weights are the first."""
    files = (daemon.state_dir / "blobs" / "sha256").rglob("?" * 64)
    return sorted(files, key=lambda path: -path.stat().st_size)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["gone", "spoilt"])
def test_reinstall_repairs_damaged_store_without_restart(tmp_path: Path, damage: str) -> None:
    """Status and calls report missing or corrupt weights; installing one bundle again makes both tasks with these
    weights answer without a restart."""
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
def test_unreadable_bundle_stops_only_its_own_task(tmp_path: Path) -> None:
    """After a downgrade, a bundle that the older agent cannot read stops only its own task: status and calls report the
    cause, and the other task answers."""
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
def test_bundle_that_fails_to_load_is_not_stored(tmp_path: Path) -> None:
    """The daemon deletes a bundle whose model does not load; the error names the task and the version."""
    bad = spoil(tiny_onnx_bundle(tmp_path / "bad", "classify", name="intent", version="2.0.0"), 0.5)
    with RunningDaemon(tmp_path) as daemon, daemon.admin() as admin:
        with pytest.raises(CallFailed, match=r"bundle intent 2\.0\.0: "):
            admin.install(str(bad))
        assert ([], []) == (admin.bundles(), blobs(daemon))
