"""doctor and support-bundle against a real daemon with real faults."""

import json
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from edge_agent.client import CallFailed
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync

PROMPT = "Mrs Miller wants her money back for the blue kettle"
SECONDS_MAX = 60.0


def run(daemon: RunningDaemon, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*daemon.command(), *words], capture_output=True, text=True, timeout=SECONDS_MAX, check=False)


def doctor(daemon: RunningDaemon) -> dict[str, dict[str, str]]:
    """Return the worst finding of each check."""
    order = ["ok", "note", "warning", "unseen", "fault"]
    found = json.loads(run(daemon, "doctor", "--json").stdout)["findings"]
    return {each["check"]: each for each in sorted(found, key=lambda each: order.index(each["verdict"]))}


def verdict(daemon: RunningDaemon, *checks: str) -> tuple[str, ...]:
    found = doctor(daemon)
    return tuple(found[check]["verdict"] for check in checks)


@pytest.fixture
def daemon(tmp_path: Path):
    """A daemon that answers one task and stores examples."""
    with RunningDaemon(tmp_path / "site", examples={"collect": {"pos-intent": "local"}}) as running:
        running.install(echo_bundle(tmp_path / "bundle"))
        yield running


@pytest.mark.release
def test_doctor_finds_nothing_on_healthy_site(daemon):
    """On a healthy site doctor exits with 0, and its checks of engine, tasks, sockets and spool are ok."""
    assert 0 == run(daemon, "doctor").returncode
    checks = (
        "daemon",
        "daemon-version",
        "engine",
        "confinement",
        "tasks",
        "socket",
        "state-dir",
        "spool",
        "clock-jump",
    )
    assert set(verdict(daemon, *checks)) == {"ok"}


@pytest.mark.slow
def test_doctor_distinguishes_hanging_from_stopped_daemon(daemon):
    """doctor names the pid of a stopped process and the command that kills it; for a killed daemon it reports that
    nothing listens on the socket."""
    pid = daemon.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        found = doctor(daemon)["daemon"]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ("fault", f"pid {pid} listens") == (found["verdict"], found["seen"].partition(" at ")[0])
    assert ("its process is stopped" in found["seen"], f"sudo kill -KILL {pid}" in found["command"]) == (True, True)
    daemon.kill()
    found = doctor(daemon)
    assert ("fault", "fault") == (found["daemon"]["verdict"], found["socket"]["verdict"])
    assert ("does not run" in found["daemon"]["seen"], "no process listens" in found["socket"]["seen"]) == (True, True)


@pytest.mark.release
def test_doctor_warns_of_config_changed_after_start(daemon):
    """doctor warns that a configuration file newer than the daemon is not in force, and reports an invalid one as a
    fault with a suggestion."""
    config = Path(daemon.command()[4])
    later = time.time() + 60
    os.utime(config, (later, later))
    assert ("warning", "ok") == verdict(daemon, "config-not-in-force", "daemon")
    good = config.read_text()
    config.write_text("stor: {}\n")
    found = doctor(daemon)["config"]
    config.write_text(good)
    assert ("fault", "Did you mean 'store'?") == (found["verdict"], found["remedy"])


@pytest.mark.release
def test_doctor_warns_of_restarted_engine(daemon):
    """After a killed engine answers again, doctor reports the engine as ok and warns of its restart."""
    with daemon.admin() as admin:
        os.kill(admin.status().engines[0].pid, signal.SIGKILL)
        eventually_sync(lambda: admin.status().engines[0].restarts == 1 and admin.status().tasks[0].ready)
    assert ("ok", "warning") == verdict(daemon, "engine", "engine-restarts")


@pytest.mark.release
def test_doctor_reports_task_with_missing_bundle_files(tmp_path):
    """When the daemon starts without a bundle's files, doctor reports a fault of that task with the rollback
    command."""
    with RunningDaemon(tmp_path / "site") as daemon:
        daemon.install(echo_bundle(tmp_path / "bundle", weights=b"weights"))
        daemon.stop()
        for blob in daemon.state_dir.glob("blobs/sha256/**/*"):
            if blob.is_file():
                blob.unlink()
        daemon.start()
        eventually_sync(lambda: doctor(daemon)["tasks"]["verdict"] == "fault", seconds=SECONDS_MAX)
        found = doctor(daemon)["tasks"]
    assert ("pos-intent", "edge-agent rollback pos-intent") == (found["about"], found["command"])


@pytest.mark.release
def test_doctor_notes_draining_daemon(daemon):
    """During a drain doctor reports a note with its duration, not a fault."""
    with daemon.admin() as admin:
        admin.drain()
    assert ("note", True) == (verdict(daemon, "daemon")[0], "draining for" in doctor(daemon)["daemon"]["seen"])


@pytest.mark.release
def test_doctor_reports_damaged_spool(tmp_path):
    """With a damaged spool database doctor reports faults of the database and of stored examples, while the tasks check
    is ok."""
    with RunningDaemon(tmp_path / "site", examples={"collect": {"pos-intent": "local"}}) as daemon:
        daemon.install(echo_bundle(tmp_path / "bundle"))
        daemon.stop()
        for path in daemon.state_dir.glob("spool.db*"):
            path.write_bytes(b"no database" * 1000)
        daemon.start("pos-intent")
        found = doctor(daemon)
        assert ("fault", "fault", "ok") == tuple(found[c]["verdict"] for c in ("examples-kept", "database", "tasks"))


@pytest.mark.release
def test_doctor_reports_configured_uplink_that_does_not_run(tmp_path):
    """doctor reports a fault when the configured uplink has never run."""
    uplink = {"url": str(tmp_path / "central")}
    with RunningDaemon(tmp_path / "site", uplink=uplink, site={"id": "shop-7"}) as daemon:
        assert ("fault", "ok") == verdict(daemon, "uplink", "enrolment")


@pytest.mark.slow
def test_support_bundle_contains_no_inputs(daemon, tmp_path):
    """A support bundle contains status, findings and folder lists, but no inputs, also when a client used an input as a
    task name."""
    with daemon.client() as client:
        client.classify("pos-intent", [PROMPT, "4111 1111 1111 1111"])
        with pytest.raises(CallFailed):
            client.classify(f"{PROMPT} as a task", ["x"])
    target = tmp_path / "bundle.tar.gz"
    done = run(daemon, "support-bundle", "--yes", "--output", str(target))
    assert 0 == done.returncode, done.stderr
    with tarfile.open(target) as archive:
        content = {name.partition("/")[2]: archive.extractfile(name).read().decode() for name in archive.getnames()}
    assert {"doctor.json", "status.json", "folders.txt", "machine.txt", "updates.json"} <= set(content)
    everything = "\n".join(content.values())
    assert [] == [word for word in ("Miller", "kettle", "4111") if word in everything]
    assert "pos-intent" == json.loads(content["status.json"])["tasks"][0]["name"]


@pytest.mark.release
def test_support_bundle_works_with_hanging_daemon(daemon, tmp_path):
    """With a hanging daemon support-bundle exits with 0 and lists status.json as left out; the file has mode 0600."""
    target = tmp_path / "bundle.tar.gz"
    os.kill(daemon.process.pid, signal.SIGSTOP)
    try:
        done = run(daemon, "support-bundle", "--yes", "--output", str(target))
    finally:
        os.kill(daemon.process.pid, signal.SIGCONT)
    assert (0, True) == (done.returncode, "left out: status.json" in done.stdout)
    assert 0o600 == target.stat().st_mode & 0o777
